"""What all figures with axes share: paper, ink, ticks, and the way into pixels."""

import os
from typing import Any

import numpy as np
from PIL import Image

from .pixels import save_png

FAINT, INK, FRAME = "#9a9a9a", "#333333", "#c8c8c8"
COLOURS = ("#2f6db3", "#d9772b", "#2e8b57", "#8e5bb5", "#c0504d", "#7a6a53", "#c45a9c", "#5f6b7a")  # of lines, in turn


def figure(width: float, height: float) -> Any:
    """An empty white matplotlib figure, in inches of 200 pixels."""
    # Imported here: it takes half a second, and most who import this package draw no figure. A canvas of its own, for
    # pyplot's figures are global.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=200, layout="constrained", facecolor="white")
    FigureCanvasAgg(made)
    return made


def tidy(axes: Any, x: str, y: str, title: str = "") -> None:
    """Name the axes and give them a light frame."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.set_title(title, loc="left", color=INK, fontsize=12, parse_math=False)  # a '$' in a name is a '$'
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FRAME)
    axes.grid(axis="y", color="#ececec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_color(FRAME)
    axes.spines[["top", "right"]].set_visible(False)


def rendered(figure: Any, path: str | os.PathLike[str] | None = None) -> Image.Image:
    """The figure in pixels, saved as a PNG if `path` is given."""
    figure.canvas.draw()
    picture = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert("RGB")
    if path is not None:
        save_png(path, picture)
    return picture


def brief(value: float) -> str:
    """A number of two digits as a caption: 0, 12000, 120, 1.2, 0.012, 1.2e-5, 3.4e6."""
    if not np.isfinite(value) or value == 0:
        return f"{value:g}"
    digits, _, power = f"{value:.1e}".partition("e")
    if -3 <= int(power) <= 4:
        return f"{float(f'{value:.1e}'):g}"
    return f"{float(digits):g}e{int(power)}"
