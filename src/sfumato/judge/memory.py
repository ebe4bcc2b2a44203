"""Has a model learned, or memorised? What its samples are compared with."""

import numpy as np

from ..errors import UserError
from ..model import Model
from .metrics.neighbours import copies
from .opened import opened

__all__ = ["copies", "originals"]


def originals(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The pictures (N, H, W, C) that a model was trained on, and those held out.

    Raises UserError if they are no longer where they were, or none were held out.
    """
    if model.facts.train and not model.facts.held_out:
        raise UserError("Copies are judged against held-out pictures, and this run held none out.")
    if model.config.crop:
        raise UserError(f"{model.path} was trained on windows cut at random, among which no nearest one can be looked for.")
    train, held_out = opened(model)
    return train.array.transpose(0, 2, 3, 1), held_out.array.transpose(0, 2, 3, 1)
