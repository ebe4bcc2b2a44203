"""Contact sheets: many small pictures of a set on one ground, a row to each class."""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
from PIL import Image

from ..errors import UserError
from .grids import grid, scale_to, sheet, shortened

LONGEST = 160  # larger pictures are reduced to this, tiny ones enlarged to about TILE
TILE, GAP = 64, 8
WIDEST = 2400  # of a row, as long as it is more than one picture
WHITE, DARK = 255, 24


def contact_sheet(displayed: np.ndarray, captions: Sequence[str] | None = None, columns: int = 8) -> Image.Image:
    """Pictures (N, H, W, C) uint8 side by side, with even spaces, on white if their edges are dark and on dark if not.

    captions   one per picture, such as its class: neighbours with the same one share a row, which begins with it

    Rows go on in the next line after `columns` pictures, or sooner if those are wide. Small pictures are enlarged by
    whole numbers without smoothing, large ones reduced. Raises UserError for no pictures.
    """
    if len(displayed) == 0:
        raise UserError("A contact sheet shows one picture or more; found none.")
    small = reduced(displayed)
    scale = scale_to(TILE, max(small.shape[1:3]))
    width = small.shape[2] * scale * (1 if small.shape[3] == 3 else small.shape[3])
    columns = max(1, min(columns, WIDEST // width))
    edges = np.concatenate([small[:, [0, -1]].ravel(), small[:, :, [0, -1]].ravel()])
    ground = WHITE if edges.mean() < 128 else DARK
    if captions is None:
        return grid(small, columns, scale, GAP, ground)
    groups = [(caption, small[list(group)]) for caption, group in groupby(range(len(small)), key=lambda i: captions[i])]
    titles = shortened([caption for caption, _ in groups])
    rows = {title: pictures for title, (_, pictures) in zip(titles, groups, strict=True)}
    return sheet(rows, columns, scale, GAP, ground)


def reduced(pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, H, W, C) uint8, the longer side brought to at most 160 pixels by averages of whole squares."""
    factor = -(-max(pictures.shape[1:3]) // LONGEST)
    if factor <= 1:
        return pictures
    planes = [[np.asarray(Image.fromarray(plane).reduce(factor)) for plane in each.transpose(2, 0, 1)] for each in pictures]
    return np.stack([np.stack(each, axis=-1) for each in planes])
