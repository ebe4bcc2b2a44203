"""The course of a training run, or of several, as a picture."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .axes import COLOURS, FAINT, INK, figure, rendered, tidy
from .grids import shortened

Record = Mapping[str, Any]

_TRAINING, _HELD_OUT, _ALARM = COLOURS[0], COLOURS[1], "#c62828"


def loss_curve(
    records: Iterable[Record], path: str | os.PathLike[str] | None = None, title: str = "", batch: int | None = None
) -> Image.Image:
    """Draw the loss against the images seen, from the lines of a training log; save it as a PNG if `path` is given.

    Each record has `images` and any of `loss`, `held_out_loss` and `lr`; other fields are passed over. What a later
    record says of the same count of images wins, so that a resumed log reads as one run. Training losses recorded as
    NaN, infinity or null are marked at the foot. y is logarithmic where the losses differ by more than a factor of 10
    and all are positive. With `batch`, x counts optimizer steps of so many images. Draws 0, 1 or 2 records too.
    (1600, 900) pixels.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    images, loss, held_out, lr = columns(records)  # (R,) each, losses NaN where not known
    x = images / (batch or 1)
    raw, held = np.isfinite(loss), np.isfinite(held_out)
    drawing = figure(8, 4.5)
    axes = drawing.add_subplot()
    dots: dict[str, Any] = {"marker": "o", "markersize": 3.5, "linewidth": 1.4}  # a line of one point is not seen

    lines = []
    if raw.any():
        look: dict[str, Any] = {"alpha": 0.35, "linewidth": 0.8} if raw.sum() > 2 else dots
        lines += axes.plot(x, loss, color=_TRAINING, label="training loss", **look)
    if raw.sum() > 2:
        smooth = smoothed(loss)
        lines += axes.plot(x[raw], smooth[raw], color=_TRAINING, linewidth=2, label="training loss, smoothed")
    if held.any():
        lines += axes.plot(x[held], held_out[held], color=_HELD_OUT, label="held-out loss", **dots)
    if (bad := x[np.isinf(loss)]).size:
        foot = axes.get_xaxis_transform()
        lines += axes.plot(bad, np.full(len(bad), 0.02), "^", color=_ALARM, transform=foot, label="loss not finite")
    if np.isfinite(lr).any():
        rate = axes.twinx()
        look = {"linewidth": 1, "linestyle": (0, (4, 2))} if np.isfinite(lr).sum() > 2 else dots
        lines += rate.plot(x, lr, color=FAINT, alpha=0.7, label="learning rate", **look)
        rate.set_ylim(0, 1.25 * (lr[np.isfinite(lr)].max() or 1))
        rate.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        rate.set_ylabel("learning rate", color=FAINT)
        rate.tick_params(colors=FAINT, labelsize=8, length=0)
        rate.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _rate(value)))
        rate.spines[:].set_visible(False)
        axes.set_zorder(rate.get_zorder() + 1)  # the losses lie on top,
        axes.patch.set_visible(False)  # and the rate shows through
    _finish(axes, x, np.concatenate([loss[raw], held_out[held]]), lines, title, batch is not None)
    return rendered(drawing, path)


def loss_curves(
    runs: Mapping[str, Iterable[Record]],
    path: str | os.PathLike[str] | None = None,
    title: str = "",
    batches: Mapping[str, int] | None = None,
) -> Image.Image:
    """Draw the smoothed training losses of several runs, by name, over each other; a run's records as in `loss_curve`.

    Held-out losses are dotted, in the colour of their run. With `batches`, which has the images in a step of each run,
    x counts optimizer steps. (1600, 900) pixels. Raises UserError for no runs.
    """
    if not runs:
        raise UserError("Loss curves are those of one run or more; found none.")
    drawing = figure(8, 4.5)
    axes = drawing.add_subplot()
    lines, xs, losses, dotted = [], [np.zeros(1)], [np.zeros(0)], False
    for i, (name, label) in enumerate(zip(runs, shortened(list(runs), 40), strict=True)):
        images, loss, held_out, _ = columns(runs[name])
        x = images / (batches[name] if batches else 1)
        known, held = np.isfinite(loss), np.isfinite(held_out)
        look: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", "--", "-.")[i // len(COLOURS) % 3]}
        smooth = smoothed(loss)[known]
        few = {"marker": "o", "markersize": 3.5} if len(smooth) < 3 else {}
        shown = label.lstrip("_") or "run"  # what begins with an underscore matplotlib leaves out
        lines += axes.plot(x[known], smooth, linewidth=1.8, label=shown, **look, **few)
        axes.plot(x[held], held_out[held], linewidth=1.2, marker=".", markersize=4, **look | {"linestyle": ":"})
        dotted |= bool(held.any())
        xs.append(x)
        losses += [smooth, held_out[held]]
    if dotted:
        lines += axes.plot([], [], color=FAINT, linewidth=1.2, linestyle=":", marker=".", label="held-out loss")
    _finish(axes, np.concatenate(xs), np.concatenate(losses), lines, title, batches is not None)
    axes.set_ylabel("loss (of training: smoothed)", color=INK)
    return rendered(drawing, path)


def _finish(axes: Any, x: np.ndarray, losses: np.ndarray, lines: list[Any], title: str, steps: bool) -> None:
    """Scales, ticks, names and the legend of a picture of losses."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    if losses.size and losses.min() > 0 and losses.max() > 10 * losses.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if losses.max() < 1000 * losses.min() else (1,)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _count(value)))
    axes.set_xlim(0, 1.02 * x.max() if x.any() else 1)
    tidy(axes, "optimizer steps" if steps else "images seen", "loss", title)
    if losses.size or lines:
        axes.legend(
            handles=lines, loc="upper right", fontsize=8.5, framealpha=0.85, edgecolor="none", labelcolor=INK,
        )  # fmt: skip
        for text in axes.get_legend().get_texts():
            text.set_parse_math(False)
    if not losses.size:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "nothing recorded yet", transform=axes.transAxes, ha="center", color=FAINT)


def smoothed(values: np.ndarray, span: float | None = None) -> np.ndarray:
    """Exponential moving average of `values` (R,) over about `span` >= 1 of them, corrected for its start.

    Unless said the span is a thirtieth of them, and at least 3.

        n_i = d_i n_(i-1) + x_i,  w_i = d_i w_(i-1) + 1,  y_i = n_i / w_i,  d_i = 1 - 1/min(span, 1 + i/8)

    The span grows with i, for a loss falls fastest at first and a long memory would lag behind it. Values that are not
    finite are left out; y is NaN before the first that is.
    """
    span = max(3.0, len(values) / 30) if span is None else span
    total = weight = 0.0
    means = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        if np.isfinite(value):
            decay = 1 - 1 / min(span, 1 + i / 8)
            total, weight = decay * total + value, decay * weight + 1
        if weight > 0:
            means[i] = total / weight
    return means


def columns(records: Iterable[Record], fields: Sequence[str] = ("loss", "held_out_loss", "lr")) -> tuple[np.ndarray, ...]:
    """images and each of `fields`, (R,) each, ordered by images; NaN: not recorded, inf: recorded but not finite.

    What a later record says of the same count of images wins.
    """
    merged: dict[float, dict[str, float]] = {}
    for record in records:
        if record.get("images") is None:
            continue
        row = merged.setdefault(record["images"], {})
        for name in fields:
            if name in record:
                value = np.nan if record[name] is None else float(record[name])
                row[name] = value if np.isfinite(value) else np.inf
    counts = sorted(merged)
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
