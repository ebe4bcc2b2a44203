"""The course of a training run as a picture."""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from .pixels import save_png

_TRAINING, _HELD_OUT, _ALARM = "#2f6db3", "#d9772b", "#c62828"
_FAINT, _INK, _FRAME = "#9a9a9a", "#333333", "#c8c8c8"


def loss_curve(
    records: Iterable[Mapping[str, Any]], path: str | os.PathLike[str] | None = None, title: str = ""
) -> Image.Image:
    """Draw the loss against the images seen, from the lines of a training log; save it as a PNG if `path` is given.

    Each record has `images` and any of `loss`, `held_out_loss` and `lr`; other fields are passed over. What a later
    record says of the same count of images wins, so that a resumed log reads as one run. Training losses recorded as
    NaN, infinity or null are marked at the foot. y is logarithmic where the losses differ by more than a factor of 10
    and all are positive. Draws 0, 1 or 2 records too. (1600, 900) pixels.
    """
    # Imported here: it takes half a second, and most who import this package draw no curve. A canvas of its own, for
    # pyplot's figures are global.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    images, loss, held_out, lr = _columns(records)  # (R,) each, losses NaN where not known
    raw, held = np.isfinite(loss), np.isfinite(held_out)
    figure = Figure(figsize=(8, 4.5), dpi=200, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.4}  # a line of one point is not seen

    lines = []
    if raw.any():
        look: dict[str, Any] = {"alpha": 0.35, "linewidth": 0.8} if raw.sum() > 2 else dots
        lines += axes.plot(images, loss, color=_TRAINING, label="training loss", **look)
    if raw.sum() > 2:
        smooth = smoothed(loss, max(3.0, len(loss) / 30))
        lines += axes.plot(images[raw], smooth[raw], color=_TRAINING, linewidth=2, label="training loss, smoothed")
    if held.any():
        lines += axes.plot(images[held], held_out[held], color=_HELD_OUT, label="held-out loss", **dots)
    if (bad := images[np.isinf(loss)]).size:
        foot = axes.get_xaxis_transform()
        lines += axes.plot(bad, np.full(len(bad), 0.02), "^", color=_ALARM, transform=foot, label="loss not finite")
    if np.isfinite(lr).any():
        rate = axes.twinx()
        look = {"linewidth": 1, "linestyle": (0, (4, 2))} if np.isfinite(lr).sum() > 2 else dots
        lines += rate.plot(images, lr, color=_FAINT, alpha=0.7, label="learning rate", **look)
        rate.set_ylim(0, 1.25 * (lr[np.isfinite(lr)].max() or 1))
        rate.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        rate.set_ylabel("learning rate", color=_FAINT)
        rate.tick_params(colors=_FAINT, labelsize=8, length=0)
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value)))
        rate.spines[:].set_visible(False)
        axes.set_zorder(rate.get_zorder() + 1)  # the losses lie on top,
        axes.patch.set_visible(False)  # and the rate shows through

    losses = np.concatenate([loss[raw], held_out[held]])
    if losses.size and losses.min() > 0 and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if losses.max() < 1000 * losses.min() else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.set_xlim(0, 1.02 * images.max() if images.any() else 1)
    axes.set_xlabel("images seen", color=_INK)
    axes.set_ylabel("loss", color=_INK)
    axes.set_title(title, loc="left", color=_INK, fontsize=12, parse_math=False)  # a '$' in a name is a '$'
    axes.tick_params(colors=_INK, labelsize=9, length=3, color=_FRAME)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_color(_FRAME)
    axes.spines[["top", "right"]].set_visible(False)
    if lines:
        axes.legend(handles=lines, loc="upper right", fontsize=8.5, framealpha=0.85, edgecolor="none", labelcolor=_INK)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", color=_FAINT)

    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if path is not None:
        save_png(path, picture)
    return picture


def smoothed(values: np.ndarray, span: float) -> np.ndarray:
    """Exponential moving average of `values` (R,) over about `span` >= 1 of them, corrected for its start.

        n_i = d_i n_(i-1) + x_i,  w_i = d_i w_(i-1) + 1,  y_i = n_i / w_i,  d_i = 1 - 1/min(span, 1 + i/8)

    The span grows with i, for a loss falls fastest at first and a long memory would lag behind it. Values that are not
    finite are left out; y is NaN before the first that is.
    """
    total = weight = 0.0
    means = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            decay = 1 - 1 / min(span, 1 + i / 8)
            total, weight = decay * total + value, decay * weight + 1
        if weight > 0:
            means[i] = total / weight
    return means


def _columns(records: Iterable[Mapping[str, Any]]) -> tuple[np.ndarray, ...]:
    """images, loss, held_out_loss and lr (R,), ordered by images; NaN: not recorded, inf: recorded but not finite."""
    merged: dict[float, dict[str, float]] = {}
    for record in records:
        if record.get("images") is None:
            continue
        row = merged.setdefault(record["images"], {})
        for name in ("loss", "held_out_loss", "lr"):
            if name in record:
                value = np.nan if record[name] is None else float(record[name])
                row[name] = value if np.isfinite(value) else np.inf
    counts = sorted(merged)
    fields = ("loss", "held_out_loss", "lr")
    return np.array(counts, float), *(np.array([merged[n].get(f, np.nan) for n in counts], float) for f in fields)


def _rate(value: float) -> str:
    """A learning rate as a tick: 0, 2e-4, 1.5e-4."""
    digits, _, power = f"{value:.2e}".partition("e")
    return f"{float(digits):g}e{int(power)}" if value else "0"


def _count(value: float) -> str:
    """A number of images as a tick: 500, 50k, 1.5M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{letter}"
    return f"{value:g}"
