"""What several networks use verbatim: embeddings of the noise level, padding, and a norm that is safe everywhere."""

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


class GroupNorm(nn.GroupNorm):
    """Group normalisation with float32 statistics under autocast.

    On a CPU the input is made contiguous first: torch's backward pass for channels_last inputs crashes there on some
    processors (seen with torch 2.13 on an AVX-512 Xeon).
    """

    def forward(self, x: Tensor) -> Tensor:
        source = x.float() if x.device.type != "cpu" else x.float().contiguous()
        with torch.autocast(x.device.type, enabled=False):
            return F.group_norm(source, self.num_groups, self.weight, self.bias, self.eps).to(x.dtype)
