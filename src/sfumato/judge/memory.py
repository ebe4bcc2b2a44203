"""Has a model learned, or memorised? What its samples are compared with."""

import numpy as np

from .. import trainer
from ..errors import UserError
from ..model import Model
from .metrics.neighbours import copies

__all__ = ["copies", "originals"]


def originals(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The pictures (N, H, W, C) that a model was trained on, and those held out.

    Raises UserError if they are no longer where they were, or none were held out.
    """
    if model.facts.train == 0:
        raise UserError(f"{model.path} holds imported weights; the pictures that they were trained on are not known here.")
    if not model.facts.held_out:
        raise UserError("Copies are judged against held-out pictures, and this run held none out.")
    if model.config.crop:
        raise UserError(f"{model.path} was trained on windows cut at random, among which no nearest one can be looked for.")
    try:
        plan = trainer.prepare(model.facts.data, model.config)
    except UserError as error:
        raise UserError(f"The pictures that {model.path} was trained on cannot be read. {error}") from None
    if plan.facts.fingerprint != model.facts.fingerprint:
        raise UserError(f"{model.facts.data} no longer holds the pictures that {model.path} was trained on.")
    return plan.train.array.transpose(0, 2, 3, 1), plan.held_out.array.transpose(0, 2, 3, 1)
