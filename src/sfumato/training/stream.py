"""The training stream: which picture, which label and which mirror stand at each position, for ever and anywhere."""

from collections.abc import Iterable
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
        self,
        images: Images,
        codec: AffineCodec,
        placement: Placement,
        conditions: Iterable[str] = (),  # what the network has declared; what else the data knows is left out
        seed: int = 0,
        flip: bool = False,
        label_dropout: float = 0.0,
    ):
        self.images, self.codec, self.placement, self.declared = images, codec, placement, frozenset(conditions)
        self.seed, self.flip, self.label_dropout = seed, flip, label_dropout
        self._block: tuple[int, Tensor] = (-1, torch.empty(0))

    def batch(self, positions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """x0 (B, C, H, W) in model space and the conditions, both on the device, for neighbouring positions (B,)."""
        found = self.images.batch(self.order(positions))
        if "label" in found:  # some are replaced by 'not told', so that the network also learns to do without
            withheld = draws.uniform(draws.keys(self.seed, "label dropout", positions)) < self.label_dropout
            found["label"] = torch.where(withheld, len(self.images.label_names or ()), found["label"])
        x0, cond = self.read(found)
        if self.flip:
            mirror = draws.uniform(draws.keys(self.seed, "flip", positions)) < 0.5
            x0 = torch.where(mirror.to(x0.device, non_blocking=True)[:, None, None, None], x0.flip(-1), x0)
        return x0, cond

    def read(self, found: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Stored pictures and labels as x0 and conditions, on the device."""
        cond = {name: found[name].to(self.placement.device, non_blocking=True) for name in self.declared & found.keys()}
        return self.codec.encode(self.placement.images(found["image"])), cond

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
