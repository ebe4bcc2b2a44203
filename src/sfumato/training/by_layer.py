"""Convolutions that choose their memory layout by the size of their maps, for CPUs: there no one layout serves a whole U-Net.

Large maps are fastest as channels_last. Of small maps with many channels the weights are the larger part, which is contiguous;
and where all positions of a batch are few rows, unfolding them into one matrix product beats the convolution (bench/layers.py).
The result is the same but for rounding.
"""

from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LARGE = 64  # positions; a larger map is channels_last
FEW = 256  # positions of all maps of a batch; up to so many rows are multiplied as one matrix


def by_layer(net: nn.Module) -> nn.Module:
    """Make a network's plain convolutions choose, in place; their weights, names and results stay what they are.

    A class of one's own that only makes other weights of its weights, and leaves the convolution to torch, chooses too.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and type(module)._conv_forward is nn.Conv2d._conv_forward and _simple(module):
            module.__class__ = _choosing(type(module))  # type: ignore[arg-type]  # a class can be hashed
        elif type(module) is nn.ConvTranspose2d and _simple(module):
            module.__class__ = _ConvTranspose2d
    return net


def _simple(conv: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    """Whether padding is a number of pixels, and nothing is added behind a transposed convolution or stretched by it."""
    if conv.groups != 1 or conv.padding_mode != "zeros":
        return False
    if isinstance(conv, nn.ConvTranspose2d):
        return set(conv.output_padding) == {0} and set(conv.dilation) == {1}
    return not isinstance(conv.padding, str)


@cache
def _choosing(kind: type[nn.Conv2d]) -> type[nn.Conv2d]:
    """The same class of convolutions, choosing."""
    return type(kind.__name__, (_Chooses, kind), {})


class _Chooses(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        padding = cast(tuple[int, ...], self.padding)  # never a word, see `by_layer`
        sides = zip(x.shape[2:], padding, self.dilation, self.kernel_size, self.stride, strict=True)
        high, wide = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in sides)
        if high * wide > LARGE:
            return super()._conv_forward(x.contiguous(memory_format=torch.channels_last), weight, bias)
        if len(x) * high * wide > FEW or self.kernel_size == (1, 1):
            return super()._conv_forward(x.contiguous(), weight, bias)
        columns = F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)  # (B, C k k, HW)
        rows = columns.transpose(1, 2).flatten(0, 1)  # (B HW, C k k)
        y = F.linear(rows, weight.flatten(1), bias)  # (B HW, O)
        return y.unflatten(0, (len(x), high, wide)).permute(0, 3, 1, 2)  # (B, O, H, W)


class _ConvTranspose2d(nn.ConvTranspose2d):
    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        count, (high, wide) = len(x), x.shape[2:]
        if output_size is not None or high * wide > LARGE:
            return super().forward(x.contiguous(memory_format=torch.channels_last), output_size)
        if count * high * wide > FEW:
            return super().forward(x.contiguous())
        rows = x.permute(0, 2, 3, 1).flatten(0, 2)  # (B HW, C)
        columns = (rows @ self.weight.flatten(1)).unflatten(0, (count, high * wide)).transpose(1, 2)  # (B, O k k, HW)
        padding = cast(tuple[int, ...], self.padding)
        sides = zip((high, wide), padding, self.kernel_size, self.stride, strict=True)
        size = tuple((n - 1) * s - 2 * p + k for n, p, k, s in sides)
        y = F.fold(columns, size, self.kernel_size, 1, padding, self.stride)  # (B, O, H', W')
        return y if self.bias is None else y + self.bias[:, None, None]
