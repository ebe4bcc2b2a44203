"""Has a model learned, or memorised? What its samples are compared with."""

from collections.abc import Mapping

import numpy as np
from PIL import Image

from .. import picture
from ..data import Images
from ..errors import UserError
from ..model import Model
from .metrics.neighbours import Copies, copies
from .opened import opened

__all__ = ["Copies", "closest", "copies", "copying", "originals", "shown"]


def originals(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """The pictures (N, H, W, C) that a model was trained on, and those held out.

    Raises UserError if they are no longer where they were, or none were held out.
    """
    if model.facts.train and not model.facts.held_out:
        raise UserError("Copies are judged against held-out pictures, and this run held none out.")
    if model.config.crop:
        raise UserError(f"{model.path} was trained on windows cut at random, among which no nearest one can be looked for.")
    plan = opened(model)
    return shown(plan.train), shown(plan.held_out)


def shown(images: Images) -> np.ndarray:
    """All pictures of a set, (N, H, W, C) as they are stored; a view, which may lie in a file."""
    return images.array.transpose(0, 2, 3, 1)


def copying(found: Copies) -> bool:
    """Whether more samples are near than new pictures would be, by three deviations of a binomial count."""
    share = found.expected / len(found.distances)
    return found.count > found.expected + 3 * (found.expected * (1 - share)) ** 0.5


def closest(model: Model, samples: np.ndarray, train: np.ndarray, near: Mapping[str, Copies], most: int = 8) -> Image.Image:
    """The samples (N, H, W, C) that are nearest to training pictures, each beside that picture; a row to each measure."""
    some = {how: np.argsort(each.distances, kind="stable")[:most] for how, each in near.items()}
    left = np.concatenate([samples[chosen] for chosen in some.values()])
    right = np.concatenate([train[near[how].indices[chosen]] for how, chosen in some.items()])
    columns, heads = min(most, len(samples)), ("sample", "nearest")
    return picture.pairs(model.displayed(left), model.displayed(right), heads, columns, titles=list(some))
