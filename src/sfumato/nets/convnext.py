"""`convnext_unet`: the U-Net of the `fashion-mnist` account, of ConvNeXt blocks with attention at every size."""

from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import GroupNorm, pad_to_multiple, sinusoidal
from .conditions import Condition

HEADS, HEAD_WIDTH = 4, 32


class ConvNextBlock(nn.Module):
    """depthwise 7x7; + Linear(GELU(time)) per channel; norm, conv to twice the width, GELU, norm, conv; plus the input."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int | None):
        super().__init__()
        self.time_mlp = None if time_width is None else nn.Linear(time_width, in_channels)
        self.depthwise = nn.Conv2d(in_channels, in_channels, 7, padding=3, groups=in_channels, bias=False)
        self.norm1 = GroupNorm(1, in_channels)
        self.conv1 = nn.Conv2d(in_channels, 2 * out_channels, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(1, 2 * out_channels)
        self.conv2 = nn.Conv2d(2 * out_channels, out_channels, 3, padding=1, bias=False)
        self.skip = _skip(in_channels, out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.depthwise(x)  # (B, in, H, W)
        if self.time_mlp is not None:
            h = h + self.time_mlp(_gelu(time))[:, :, None, None]
        h = _gelu(self.conv1(self.norm1(h)))  # (B, 2 out, H, W)
        return self.skip(x) + self.conv2(self.norm2(h))  # (B, out, H, W)


class ResNetBlock(nn.Module):
    """conv, norm, scale and shift by the time, SiLU, twice; plus the input. The account names it without giving it."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int | None):
        super().__init__()
        self.time_mlp = None if time_width is None else nn.Linear(time_width, 4 * out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm1 = GroupNorm(gcd(8, out_channels), out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = GroupNorm(gcd(8, out_channels), out_channels)
        self.skip = _skip(in_channels, out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale1 = shift1 = scale2 = shift2 = torch.zeros((), device=x.device)
        if self.time_mlp is not None:
            scale1, shift1, scale2, shift2 = self.time_mlp(F.silu(time))[:, :, None, None].chunk(4, 1)  # (B, out, 1, 1) each
        h = F.silu(self.norm1(self.conv1(x)) * (1 + scale1) + shift1)  # (B, out, H, W)
        h = F.silu(self.norm2(self.conv2(h)) * (1 + scale2) + shift2)
        return self.skip(x) + h


BLOCKS: dict[str, type[ConvNextBlock] | type[ResNetBlock]] = {"convnext": ConvNextBlock, "resnet": ResNetBlock}


class ChannelNorm(nn.Module):
    """Each position's channels brought to mean 0 and variance 1, times a gain; float32 under autocast."""

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.gain, self.eps = nn.Parameter(torch.ones(1, channels, 1, 1)), eps

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(x.float(), 1, correction=0, keepdim=True)  # (B, 1, H, W)
        return ((x.float() - mean) * (variance + self.eps).rsqrt() * self.gain).to(x.dtype)


class LinearAttention(nn.Module):
    """Attention whose cost grows with the positions, not their square (Shen et al. 2021); plus the input.

    q, a softmax over features, reads from the one matrix sum_n k_n v_n^T, where k is a softmax over positions.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Sequential(nn.Conv2d(HEADS * HEAD_WIDTH, channels, 1), ChannelNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _heads(self.qkv(self.norm(x)))  # (B, heads, 32, HW) each
        q = q.float().softmax(2).to(v.dtype) * HEAD_WIDTH**-0.5
        k = k.float().softmax(3).to(v.dtype)
        context = k @ (v / v.shape[3]).transpose(2, 3)  # (B, heads, 32 of k, 32 of v)
        h = context.transpose(2, 3) @ q  # (B, heads, 32, HW)
        return x + self.out(h.reshape(len(x), -1, *x.shape[2:]))


class Attention(nn.Module):
    """Self-attention over the positions of the picture; plus the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(1, channels)
        self.qkv = nn.Conv2d(channels, 3 * HEADS * HEAD_WIDTH, 1, bias=False)
        self.out = nn.Conv2d(HEADS * HEAD_WIDTH, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.transpose(2, 3) for part in _heads(self.qkv(self.norm(x))))  # (B, heads, HW, 32) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(2, 3)  # (B, heads, 32, HW); scaled by 32^-1/2
        return x + self.out(h.reshape(len(x), -1, *x.shape[2:]))


class Stage(nn.Module):
    """Two blocks and linear attention at one size, then a change of size, if any."""

    def __init__(self, block: type[nn.Module], in_channels: int, out_channels: int, time_width: int, resize: nn.Module):
        super().__init__()
        self.block1 = block(in_channels, out_channels, time_width)
        self.block2 = block(out_channels, out_channels, time_width)
        self.attention = LinearAttention(out_channels)
        self.resize = resize

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
        """What the way up takes from this stage, and what the next stage gets."""
        h = self.attention(self.block2(self.block1(x, time), time))
        return h, self.resize(h)


class ConvNextUNet(nn.Module):
    """The U-Net of the `fashion-mnist` account; 2,992,180 parameters for gray pictures.

    dim       channels of the first level, an even number
    mults     channels of each level, as multiples of dim; each level halves the size of the last
    block     convnext or resnet
    """

    c_noise = "steps"
    blocks_of = (ConvNextBlock, ResNetBlock, LinearAttention, Attention)

    def __init__(
        self, channels: int = 3, *, dim: int = 28, mults: tuple[int, ...] = (1, 2, 4), block: str = "convnext", outputs: int = 1
    ):
        super().__init__()
        if dim < 4 or dim % 2 or min(outputs, *mults) < 1:
            raise ValueError("dim is an even number of at least 4, and mults and outputs are at least 1")
        if block not in BLOCKS:
            raise ValueError(f"block is {' or '.join(BLOCKS)}")
        self.conditions: dict[str, Condition] = {}
        self.dim, self.multiple, time_width = dim, 2 ** (len(mults) - 1), 4 * dim
        widths = [2 * (dim // 3), *(dim * mult for mult in mults)]
        self.time_mlp = nn.Sequential(nn.Linear(dim, time_width), nn.GELU("tanh"), nn.Linear(time_width, time_width))
        self.enter = nn.Conv2d(channels, widths[0], 7, padding=3)
        pairs, make = list(pairwise(widths)), BLOCKS[block]
        down = [nn.Conv2d(b, b, 4, stride=2, padding=1, bias=False) for b in widths[1:-1]]
        self.downs = nn.ModuleList(
            Stage(make, a, b, time_width, resize) for (a, b), resize in zip(pairs, [*down, nn.Identity()], strict=True)
        )
        self.middle = nn.ModuleDict(
            {
                "block1": make(widths[-1], widths[-1], time_width),
                "attention": Attention(widths[-1]),
                "block2": make(widths[-1], widths[-1], time_width),
            }
        )
        self.ups = nn.ModuleList(
            Stage(make, 2 * b, a, time_width, nn.ConvTranspose2d(a, a, 4, stride=2, padding=1, bias=False))
            for a, b in reversed(pairs[1:])
        )
        self.last = make(widths[1], dim, None)
        self.leave = nn.Conv2d(dim, outputs * channels, 1, bias=False)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        x, crop = pad_to_multiple(x, self.multiple)
        with torch.autocast(x.device.type, enabled=False):  # step numbers need more digits than bfloat16 has
            time = self.time_mlp(sinusoidal(c_noise, self.dim))  # (B, 4 dim)
        h = self.enter(x)  # (B, 2 (dim // 3), H, W)
        states = []
        for down in self.downs:
            state, h = down(h, time)
            states.append(state)  # (B, dim, H, W) .. (B, 4 dim, H / 4, W / 4)
        h = self.middle["attention"](self.middle["block1"](h, time))
        h = self.middle["block2"](h, time)
        for up in self.ups:  # the first stage's state is not used
            _, h = up(torch.cat((h, states.pop()), 1), time)
        return self.leave(self.last(h, time))[..., *crop]  # (B, kC, H, W)


def _heads(qkv: Tensor) -> tuple[Tensor, ...]:
    """(B, 3 heads 32, H, W) -> q, k and v, (B, heads, 32, HW) each."""
    return qkv.flatten(2).unflatten(1, (3, HEADS, HEAD_WIDTH)).unbind(1)


def _skip(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, bias=False)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")
