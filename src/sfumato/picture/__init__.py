"""Arrays in, pictures out: grids, strips, animations and curves; knows nothing of diffusion and never prints.

Images are (N, H, W, C) or (H, W, C) of uint8, uint16 or float in [-1, 1]; call `to_uint8` first for any other range.
"""

from .contact import contact_sheet
from .courses import schedule_plot
from .curves import loss_curve, loss_curves
from .files import claim, make_room, save_array, save_grid, save_samples, set_aside
from .grids import STAGE, class_grid, grid, pairs, scale_to, sheet, strip
from .motion import apng, gif
from .pixels import save_png, to_pil, to_uint8

__all__ = [
    "STAGE", "apng", "claim", "class_grid", "contact_sheet", "gif", "grid", "loss_curve", "loss_curves", "make_room", "pairs",
    "save_array", "save_grid", "save_png", "save_samples", "scale_to", "schedule_plot", "set_aside", "sheet", "strip", "to_pil",
    "to_uint8",
]  # fmt: skip
