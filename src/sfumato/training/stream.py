"""The training stream: which picture, which label and which mirror stand at each position, for ever and anywhere."""

from typing import Any

import torch
from torch import Tensor

from .. import draws
from ..data import AffineCodec, Images
from .device import Placement

_BLOCK = 8192  # positions whose order is worked out at once: a batch at a time costs five times as much


class Stream:
    """An endless stream of shuffled epochs; position p holds the same picture whatever the batch size."""

    def __init__(
        self, images: Images, codec: AffineCodec, placement: Placement, seed: int, flip: bool, label_dropout: float
    ):
        self.images, self.codec, self.placement = images, codec, placement
        self.seed, self.flip, self.label_dropout = seed, flip, label_dropout
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, positions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """x0 (B, C, H, W) in model space and the conditions, both on the device, for neighbouring positions (B,)."""
        found = self.images.batch(self.order(positions))
        x0 = self.codec.encode(self.placement.images(found["image"]))
        if self.flip:
            mirror = draws.uniform(draws.keys(self.seed, "flip", positions)) < 0.5
            x0 = torch.where(mirror.to(x0.device)[:, None, None, None], x0.flip(-1), x0)
        return x0, self.conditions(found, positions)

    def conditions(self, found: dict[str, Tensor], positions: Tensor) -> dict[str, Any]:
        """The labels, some of them replaced by 'not told' so that the network also learns to do without."""
        if "label" not in found:
            return {}
        names = self.images.label_names
        assert names is not None
        withheld = draws.uniform(draws.keys(self.seed, "label dropout", positions)) < self.label_dropout
        label = torch.where(withheld, len(names), found["label"])
        return {"label": label.to(self.placement.device, non_blocking=True)}

    def order(self, positions: Tensor) -> Tensor:
        """The picture at each position, (B,)."""
        first = int(positions[0]) // _BLOCK
        last = int(positions[-1]) // _BLOCK
        if first != last:
            return draws.shuffle(self.seed, "order", positions, len(self.images))
        if self._block[0] != first:
            block = torch.arange(first * _BLOCK, (first + 1) * _BLOCK)
            self._block = (first, draws.shuffle(self.seed, "order", block, len(self.images)))
        return self._block[1][positions - first * _BLOCK]
