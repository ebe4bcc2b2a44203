"""Has a model learned, or memorised? Its samples against the pictures it was trained on."""

import numpy as np

from .. import trainer
from ..errors import UserError
from ..model import Model
from .metrics import neighbours


def copies(model: Model, pictures: np.ndarray) -> neighbours.Copies:
    """How many samples (N, H, W, C) are nearer to a training image than held-out images are.

    Raises UserError if the pictures of the run are no longer where they were, or none were held out.
    """
    if model.facts.train == 0:
        raise UserError(f"{model.path} holds imported weights; the pictures that they were trained on are not known here.")
    plan = trainer.prepare(model.facts.data, model.config)
    if plan.facts.fingerprint != model.facts.fingerprint:
        raise UserError(f"{model.facts.data} no longer holds the pictures that {model.path} was trained on.")
    train, held_out = (part.array.transpose(0, 2, 3, 1) for part in (plan.train, plan.held_out))
    return neighbours.copies(pictures, train, held_out)
