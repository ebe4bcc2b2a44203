"""Arrays in, pictures out: grids, strips, animations and curves; knows nothing of diffusion and never prints.

Images are (N, H, W, C) or (H, W, C) of uint8, uint16 or float in [-1, 1]; call `to_uint8` first for any other range.
"""

from .contact import contact_sheet
from .curves import loss_curve
from .files import make_room, save_array, save_grid, save_samples, set_aside
from .grids import grid, sheet, strip
from .motion import gif
from .pixels import save_png, to_pil, to_uint8

__all__ = [
    "contact_sheet", "gif", "grid", "loss_curve", "make_room", "save_array", "save_grid", "save_png", "save_samples",
    "set_aside", "sheet", "strip", "to_pil", "to_uint8",
]  # fmt: skip
