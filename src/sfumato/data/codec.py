"""From what is stored to what a network sees, and back: only codecs know value ranges."""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, unknown
from .images import DTYPES, Images


@dataclass(frozen=True)
class AffineCodec:
    """x0 = (stored - mid) / half per channel: low..high becomes the range `ends`, and for [-1, 1] half = (high - low) / 2.

    A channel in which low = high has half = 1. The round trip is exact for uint8 and uint16, and exact to rounding
    for float32. Raises UserError if the two ranges do not fit each other.
    """

    low: tuple[float, ...]  # the stored value that becomes ends[0], one per channel
    high: tuple[float, ...]  # the stored value that becomes ends[1]
    dtype: str  # uint8, uint16 or float32
    ends: tuple[float, float] = (-1.0, 1.0)  # others where weights or a recipe want it

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", tuple(map(float, self.low)))  # JSON brings lists and integers
        object.__setattr__(self, "high", tuple(map(float, self.high)))
        object.__setattr__(self, "ends", tuple(map(float, self.ends)))
        if self.dtype not in DTYPES:
            raise unknown("type of stored pixels called", self.dtype, DTYPES)
        ordered = all(low <= high for low, high in zip(self.low, self.high, strict=False))
        if len(self.low) != len(self.high) or not self.low or not ordered:
            raise UserError(f"A codec expects low <= high for each channel; found low {self.low}, high {self.high}.")

    @classmethod
    def fit(cls, images: Images, ends: tuple[float, float] = (-1.0, 1.0)) -> "AffineCodec":
        """The codec that brings the range that the images really have to `ends`.

        Integers: 0 to 2**b - 1, with b the bits that the maximum over all channels needs, so that 12 bits in a uint16
        file are 12 bits. float32: the minimum and maximum of each channel.
        """
        name, channels = images.dtype.name, images.shape[0]
        if images.ends is None:  # a pack has them already
            found = [(part.min(axis=(0, 2, 3)), part.max(axis=(0, 2, 3))) for _, part in images.chunks()]
            images.ends = np.min([low for low, _ in found], 0).tolist(), np.max([high for _, high in found], 0).tolist()
        low, high = images.ends
        if name != "float32":
            bits = max(1, int(max(high)).bit_length())
            return cls((0.0,) * channels, (2.0**bits - 1,) * channels, name, ends)
        return cls(tuple(low), tuple(high), name, ends)

    @property
    def clip(self) -> tuple[float, float] | None:
        """The range of x0 that stored values can have."""
        return self.ends

    @property
    def halves(self) -> tuple[float, ...]:
        """Stored units in one unit of x0, for each channel."""
        return self._numbers[1]

    def encode(self, stored: Tensor) -> Tensor:
        """Stored (B, C, H, W), low..high -> x0 (B, C, H, W) float32 in the range `ends`."""
        mid, half = self._affine(stored)
        x = stored.to(torch.float32, copy=True)  # torch has no arithmetic for uint16
        return x.sub_(mid).div_(half)  # in place: two large arrays less

    def decode(self, x0: Tensor) -> Tensor:
        """x0 (B, C, H, W), any value -> stored (B, C, H, W): rounded, saturated at low and high, NaN becomes low."""
        mid, half = self._affine(x0)
        low, high = self._column(self.low, x0), self._column(self.high, x0)
        stored = x0.to(torch.float32) * half + mid
        stored = torch.where(stored.isnan(), low, stored).clamp(low, high)  # before the cast, which would wrap
        if self.dtype == "float32":
            return stored
        return stored.round().to(torch.int32).to(getattr(torch, self.dtype))

    def _affine(self, x: Tensor) -> tuple[Tensor, Tensor] | tuple[float, float]:
        if x.ndim != 4 or x.shape[1] != len(self.low):
            raise ValueError(f"expected (B, {len(self.low)}, H, W), found {tuple(x.shape)}")
        mids, halves = self._numbers
        if len(set(mids)) == len(set(halves)) == 1:
            return mids[0], halves[0]  # a third faster than a column
        return self._column(mids, x), self._column(halves, x)

    @cached_property
    def _numbers(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        pairs = list(zip(self.low, self.high, strict=True))
        width, middle = self.ends[1] - self.ends[0], (self.ends[0] + self.ends[1]) / 2
        halves = tuple((high - low) / width or 1.0 for low, high in pairs)
        return tuple((low + high) / 2 - half * middle for (low, high), half in zip(pairs, halves, strict=True)), halves

    @staticmethod
    def _column(values: tuple[float, ...], x: Tensor) -> Tensor:
        return _constants(values, x.device)


@lru_cache(64)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Made once a device: a copy to an accelerator in every step would make the step wait."""
    return torch.tensor(values, dtype=torch.float32, device=device)[None, :, None, None]  # (1, C, 1, 1)
