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
    """Group normalisation of x (B, C, H, W) with float32 statistics under autocast; the layout stays as it is.

    torch's backward pass for channels_last inputs has crashed on CPUs (torch 2.13, an AVX-512 Xeon): there several groups take
    the way over contiguous memory, and one group is a layer normalisation of (H, W, C).
    """

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return self._normalised(x.float()).to(x.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu":
            return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)
        last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if last and self.num_groups == 1:
            rows = x.permute(0, 2, 3, 1)  # (B, H, W, C)
            return (F.layer_norm(rows, rows.shape[1:], eps=self.eps) * self.weight + self.bias).permute(0, 3, 1, 2)
        y = F.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)
        return y.contiguous(memory_format=torch.channels_last) if last else y
