"""How signal and noise go over time, for several schedules at once, and where an image is lost in the noise."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .axes import COLOURS, FAINT, INK, brief, figure, rendered, tidy
from .grids import shortened

_LOST, _MOST = "#f3e3e1", 12.0  # the colour of the zone where nothing is left; log-SNR above which nothing is to be seen


def schedule_plot(
    names: Sequence[str],
    t: np.ndarray,
    alpha: np.ndarray,
    sigma: np.ndarray,
    log_snr: np.ndarray,
    size: tuple[int, int] = (64, 64),
    path: str | os.PathLike[str] | None = None,
) -> Image.Image:
    """Draw alpha, sigma and log-SNR = log(alpha^2 / sigma^2) of S schedules over time; save a PNG if `path` is given.

    t                      (P,) rising to 1, where sampling starts
    alpha, sigma, log_snr  (S, P) each; a log-SNR may be infinite

    Two levels are marked: SNR = 1, where there is as much noise as image, and SNR * H * W = 1 for images of `size`
    (H, W), below which not even the mean of all pixels stands out of the noise (that of H W pixels has the variance
    sigma^2 / (H W)). The legend tells where each schedule ends. (1600, 1600) pixels. Raises UserError for no schedules or
    arrays of other shapes.
    """
    shape = (len(names), len(t))
    if not names or any(np.shape(each) != shape for each in (alpha, sigma, log_snr)):
        found = ", ".join(str(np.shape(each)) for each in (alpha, sigma, log_snr))
        raise UserError(f"Schedules are drawn from arrays of the shape (schedules, times) = {shape}; found {found}.")
    lost = -np.log(size[0] * size[1])
    drawing = figure(8, 8)
    grid = drawing.add_gridspec(2, 2, height_ratios=(1, 1.7))
    signal, noise, ratio = drawing.add_subplot(grid[0, 0]), drawing.add_subplot(grid[0, 1]), drawing.add_subplot(grid[1, :])
    ends, bottom = log_snr[:, -1], lost - 5
    ratio.axhspan(bottom, lost, color=_LOST, zorder=0)
    for level, words in ((0.0, "SNR = 1: as much noise as image"), (lost, _below(size))):
        ratio.axhline(level, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        ratio.text(
            0.012, level - 0.3, words, color=INK, fontsize=8.5, va="top", transform=ratio.get_yaxis_transform(), zorder=6,
            bbox={"facecolor": "white" if level == 0 else _LOST, "alpha": 0.7, "pad": 1, "edgecolor": "none"},
        )  # fmt: skip
    for i, name in enumerate(shortened(names, 44)):
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", "-.")[i // len(COLOURS) % 3]}
        signal.plot(t, alpha[i], **look, linewidth=1.8)
        noise.plot(t, sigma[i], **look, linewidth=1.8)
        short, snr = ends[i] > lost, brief(float(np.exp(ends[i])))
        verdict = "stops short of noise" if short else "reaches noise"
        ratio.plot(t, log_snr[i], **look, linewidth=2, label=f"{name}: {verdict}, SNR {snr} at t = 1")
        if short:
            place = {"xytext": (-9, -9), "textcoords": "offset points", "ha": "right", "va": "top", "fontsize": 9}
            ratio.annotate(f"stops at SNR {snr}", (1, ends[i]), color=look["color"], weight="bold", **place)
        crossing = np.interp([0.0, -lost], -log_snr[i], t, left=np.nan, right=np.nan)  # SNR falls with t
        ratio.plot(crossing, [0.0, lost], "o", color=look["color"], markersize=5, markeredgecolor="white", zorder=4)
        mark = ("v", bottom + 0.3) if ends[i] < bottom else ("s", ends[i])  # below the picture, or where it ends
        ratio.plot([1.0], mark[1:], mark[0], color=look["color"], markersize=7, clip_on=False, zorder=5)
    if sigma.max() > 2:  # alpha = 1, as of edm: the noise grows instead
        noise.set_yscale("log")
        noise.set_ylim(1e-3, 1.5 * sigma.max())
    tidy(signal, "t", "alpha", "Share of the image: alpha")
    tidy(noise, "t", "sigma", "Share of the noise: sigma")
    tidy(ratio, "t  (0: the image, 1: where sampling starts)", "log-SNR = log(alpha² / sigma²)", "")
    for axes in (signal, noise, ratio):
        axes.set_xlim(0, 1)
    signal.set_ylim(0, 1.04 * max(1.0, float(alpha.max())))
    ratio.set_ylim(bottom, _MOST)
    ratio.set_title("What is left of the image in the noise", loc="left", color=INK, fontsize=12)
    legend = ratio.legend(loc="upper right", fontsize=8.5, framealpha=0.9, edgecolor="none", labelcolor=INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
    drawing.get_layout_engine().set(hspace=0.06, wspace=0.06)
    drawing.text(0.99, 0.004, "SNR for images of standard deviation 1", ha="right", fontsize=7.5, color=FAINT)
    return rendered(drawing, path)


def _below(size: tuple[int, int]) -> str:
    h, w = size
    return f"below, not even the mean of {h}×{w} pixels can be told: SNR · {h} · {w} = 1, SNR = {brief(1 / (h * w))}"
