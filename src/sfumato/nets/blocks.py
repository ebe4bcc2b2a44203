"""What several networks use verbatim: embeddings of the noise level, padding, attention, and what torch has gone wrong with."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoidal(c_noise: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of c_noise (B,) times exp(-log(10000) i / (half - 1)): (B, width) float32.

    The position code of Vaswani et al. 2017 as diffusion models use it; made for step numbers 0 .. T - 1.
    """
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=c_noise.device) * (-math.log(10000) / (half - 1)))
    angles = c_noise.float()[:, None] * frequencies  # (B, half)
    return torch.cat((angles.sin(), angles.cos()), 1)


def pad_to_multiple(x: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, slice]]:
    """Pad x (B, C, H, W) with zeros to sides that `multiple` divides; the slices crop a result of that size back."""
    height, width = x.shape[-2:]
    below, right = -height % multiple, -width % multiple
    top, left = below // 2, right // 2
    if below or right:
        x = F.pad(x, (left, right - left, top, below - top))
    return x, (slice(top, top + height), slice(left, left + width))


def or_not_told(label: Tensor | None, c_noise: Tensor, classes: int | None) -> Tensor | None:
    """The label (B,), or where a network knows labels and nobody said one, the index `classes` for all: 'not told'."""
    if label is None and classes is not None:
        return torch.full_like(c_noise, classes, dtype=torch.int64)
    return label


def attend(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention over the positions of a map: queries, keys and values (B, 3C, H, W) -> (B, C, H, W)."""
    q, k, v = qkv.flatten(2).unflatten(1, (3, heads, -1)).transpose(-1, -2).unbind(1)  # (B, heads, HW, C / heads) each
    h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)  # (B, heads, C / heads, HW)
    return h.reshape(len(qkv), -1, *qkv.shape[2:])


def groups(channels: int) -> int:
    """Groups of at least 4 channels, at most 32 of them, that divide evenly: a smaller group forgets what is added to it."""
    return math.gcd(channels, min(32, max(1, channels // 4)))


def is_channels_last(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies as (B, H, W, C) in memory, and in no other way."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


class Upsample(nn.Module):
    """Each pixel four times: x (B, C, H, W) -> (B, C, 2H, 2W); the layout stays as it is.

    What F.interpolate does with mode "nearest", whose backward pass torch.compile gets wrong for bfloat16 on CPUs (torch 2.13):
    whatever lies before it is left without a gradient.
    """

    def forward(self, x: Tensor) -> Tensor:
        last = is_channels_last(x)
        x = x.permute(0, 2, 3, 1) if last else x
        for dim in (1, 2) if last else (2, 3):
            x = torch.stack((x, x), dim + 1).flatten(dim, dim + 1)
        return x.permute(0, 3, 1, 2) if last else x


class GroupNorm(nn.GroupNorm):
    """Group normalisation of x (B, C, H, W) with float32 statistics under autocast; the layout stays as it is.

    torch's backward pass for channels_last inputs has crashed on CPUs (torch 2.13, an AVX-512 Xeon): there several groups take
    the way over contiguous memory, and one group is a layer normalisation of (H, W, C).
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            if x.device.type != "cpu" or torch.compiler.is_compiling():  # which fuses all of it
                return F.group_norm(x.float(), self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
            return self._on_cpu(x)  # which itself reckons bfloat16 in float32

    def _on_cpu(self, x: Tensor) -> Tensor:
        last = is_channels_last(x)
        if last and self.num_groups == 1:
            rows = x.permute(0, 2, 3, 1)  # (B, H, W, C)
            return (F.layer_norm(rows, rows.shape[1:], eps=self.eps) * self.weight + self.bias).permute(0, 3, 1, 2)
        y = F.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return y.contiguous(memory_format=torch.channels_last) if last else y
