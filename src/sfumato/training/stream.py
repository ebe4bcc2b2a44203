"""The training stream: which picture stands at each position, with which label and how moved, for ever and anywhere."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..config import Settled
from ..data import AffineCodec, Images
from . import augment as moving
from .device import Placement

_BLOCK = 8192  # positions drawn for at once: batch by batch, the order costs five times as much and a mirror thirty times
_KEPT = 2  # blocks remembered: batches walk on, and one may lie across two


class _Drawn(NamedTuple):
    """What chance says of positions (B,): columns of one table (B, 14) of whole numbers, which is looked up at once."""

    order: np.ndarray  # (B,) which picture
    withheld: np.ndarray  # (B,) 1 where its label is not told
    window: np.ndarray  # (B, 2) where its window begins
    plain: np.ndarray  # (B, 5) how the window is moved; see augment.py
    told: np.ndarray  # (B, 5) how it is moved then, and the network told

    @classmethod
    def of(cls, table: np.ndarray) -> "_Drawn":
        """Views of a table."""
        return cls(table[:, 0], table[:, 1], table[:, 2:4], table[:, 4:9], table[:, 9:14])


class Stream:
    """An endless stream of shuffled epochs; a position holds the same picture in whatever batch it is asked for.

    conditions   what the network has declared; what else the data knows is left out
    flip         and all that follow: as in Config, with None for False
    Raises ValueError if pictures are to be moved by `augment` and the network has not declared that it can be told.
    """

    def __init__(
        self,
        images: Images,
        codec: AffineCodec,
        placement: Placement,
        conditions: Iterable[str] = (),
        seed: int = 0,
        flip: bool | None = False,
        label_dropout: float = 0.0,
        *,
        flip_vertical: bool = False,
        rotate: bool = False,
        translate: int = 0,
        augment: float = 0.0,
        crop: tuple[int, int] | None = None,
    ):
        self.images, self.codec, self.placement, self.declared = images, codec, placement, frozenset(conditions)
        self.seed, self.label_dropout, self.augment, self.crop = seed, label_dropout, augment, crop
        self.flags: dict[str, Any] = dict(flip=bool(flip), flip_vertical=flip_vertical, rotate=rotate, translate=translate)
        if augment and "augment" not in self.declared:
            raise ValueError("augment moves pictures and tells the network so, but this network has not declared 'augment'")
        self._blocks: dict[int, np.ndarray] = {}

    @classmethod
    def of(
        cls, config: Settled, images: Images, codec: AffineCodec, placement: Placement, conditions: Iterable[str] = ()
    ) -> "Stream":
        """The stream that a config describes."""
        names = ("flip", "flip_vertical", "rotate", "translate", "augment", "crop", "label_dropout")
        options = {name: getattr(config, name) for name in names}
        return cls(images, codec, placement, conditions, config.seed, **options)

    def batch(self, positions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """x0 (B, C, H, W) in model space and the conditions, both on the device, for any positions (B,)."""
        drawn = self._drawn(positions)
        found = self.images.batch(drawn.order)
        stored, shape = found["image"], self.crop or self.images.shape
        if "label" in found:  # some are replaced by 'not told', so that the network also learns to do without
            found["label"] = torch.where(
                torch.from_numpy(drawn.withheld > 0), len(self.images.label_names or ()), found["label"]
            )
        if self.augment:
            found["augment"] = moving.vector(drawn.told, shape)
        if self.crop:
            stored = moving.cut(stored, drawn.window, self.crop)
        stored = stored.to(self.placement.device, non_blocking=True)  # moved there, and before bytes become floats
        if any(self.flags.values()):
            stored = moving.apply(stored, drawn.plain)
        if self.augment:
            stored = moving.apply(stored, drawn.told)
        return self.codec.encode(self.placement.images(stored)), self._conditions(found)

    def read(self, found: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Stored pictures and labels as x0 and conditions, on the device; never moved, and cut in the middle."""
        stored = moving.centre(found["image"], self.crop) if self.crop else found["image"]
        return self.codec.encode(self.placement.images(stored)), self._conditions(found)

    def order(self, positions: Tensor) -> Tensor:
        """The picture at each position, (B,)."""
        return torch.from_numpy(self._drawn(positions).order)

    def _conditions(self, found: dict[str, Tensor]) -> dict[str, Any]:
        return {name: found[name].to(self.placement.device, non_blocking=True) for name in self.declared & found.keys()}

    def _drawn(self, positions: Tensor) -> _Drawn:
        """The draws of any positions (B,), looked up in the blocks that they lie in."""
        at = positions.numpy()
        low, high = int(at.min()) // _BLOCK, int(at.max()) // _BLOCK
        if low == high:
            return _Drawn.of(self._block(low)[at - low * _BLOCK])
        numbers, place = np.unique(at // _BLOCK, return_inverse=True)
        blocks = np.concatenate([self._block(number) for number in numbers.tolist()])
        return _Drawn.of(blocks[place * _BLOCK + at % _BLOCK])

    def _block(self, number: int) -> np.ndarray:
        """The draws of a block of positions, (8192, 14)."""
        if number not in self._blocks:
            while len(self._blocks) >= _KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number] = self._draw(torch.arange(number * _BLOCK, (number + 1) * _BLOCK))
        return self._blocks[number]

    def _draw(self, positions: Tensor) -> np.ndarray:
        seed, table = self.seed, np.zeros((len(positions), 14), np.int64)
        drawn = _Drawn.of(table)
        drawn.order[:] = draws.shuffle(seed, "order", positions, len(self.images))
        if self.images.labels is not None and self.label_dropout:
            drawn.withheld[:] = draws.uniform(draws.keys(seed, "label dropout", positions)) < self.label_dropout
        if self.crop:
            drawn.window[:] = moving.offsets(seed, positions, self.images.shape, self.crop)
        if any(self.flags.values()):
            drawn.plain[:] = moving.plain(seed, positions, **self.flags)
        if self.augment:
            drawn.told[:] = moving.told(seed, positions, self.augment, self.crop or self.images.shape)
        return table
