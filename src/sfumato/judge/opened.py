"""The pictures of a run, opened again as they were when it was trained."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .. import draws, finetune, trainer
from ..data import Images
from ..errors import UserError
from ..model import Model
from ..plan import Plan
from ..training.stream import Stream


def opened(model: Model, progress: trainer.Progress | None = None, data: Any = None) -> Plan:
    """The plan that a model was trained by: its pictures, those held out, with the labels that its network knows.

    data   where they are, if that is not where they were in training: another path, or the array that was no file then
    Raises UserError if they are not known, or no longer where they were.
    """
    if model.facts.train == 0:
        raise UserError(f"{model.path} holds imported weights; the pictures that they were trained on are not known here.")
    # Labels of a run that went on from another are those that its network knows, as its own config says.
    parent = finetune.Parent.of(model.path) if model.facts.start and model.path else None
    net: Any = model.denoiser.net if model.config.net.name == "mine" else None
    try:
        plan = trainer.prepare(model.facts.data if data is None else data, model.config, net, progress, parent)
    except UserError as error:
        raise UserError(f"The pictures that {model.path} was trained on cannot be read; name them as data. {error}") from None
    if plan.facts.fingerprint != model.facts.fingerprint:
        raise UserError(f"{model.facts.data} no longer holds the pictures that {model.path} was trained on.")
    return plan


def batches(
    model: Model, images: Images, count: int, batch: int = 64, seed: int = 0
) -> Iterator[tuple[Tensor, Tensor, dict[str, Any]]]:
    """Some pictures as a model sees them: their numbers (B,) 0 .. count - 1, x0 (B, C, H, W), and their own labels.

    Which pictures, and in which order, is a function of the seed alone; folders list class after class. They are never
    moved, and cut in the middle where a run was trained on windows.
    """
    placement, conditions = model.denoiser.net.placement, model.denoiser.conditions  # type: ignore[attr-defined]
    stream = Stream.of(model.config, images, model.codec, placement, conditions)
    for numbers in torch.arange(min(count, len(images))).split(batch):
        yield numbers, *stream.read(images.batch(draws.shuffle(seed, "judged", numbers, len(images))))
