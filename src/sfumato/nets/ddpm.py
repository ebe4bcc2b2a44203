"""`ddpm_unet`: the U-Net of Ho et al. 2020, from which the field set out; with its 35,746,307 parameters for CIFAR-10.

Layer by layer it is diffusers' UNet2DModel as google/ddpm-cifar10-32 configures it, and weights go from one to the other
(`interop.from_diffusers`, `interop.to_diffusers`). Labels are not Ho et al.'s; they are told as in diffusers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import init
from .blocks import GroupNorm, Upsample, attend, groups, or_not_told, pad_to_multiple, sinusoidal
from .conditions import Condition

EPS = 1e-6  # of norms


class Block(nn.Module):
    """norm, SiLU, conv, plus the embedding; norm, SiLU, dropout, conv; plus the input (Ho et al. 2020, appendix B)."""

    def __init__(self, in_channels: int, out_channels: int, emb_width: int, groups: int, dropout: float):
        super().__init__()
        self.norm1 = GroupNorm(groups, in_channels, EPS)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(emb_width, out_channels)
        self.norm2 = GroupNorm(groups, out_channels, EPS)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.shift(emb)[:, :, None, None]  # (B, out, H, W)
        return self.skip(x) + self.conv2(self.dropout(F.silu(self.norm2(h))))


class Attention(nn.Module):
    """Self-attention over the positions of the picture, of one head; plus the input."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.norm = GroupNorm(groups, channels, EPS)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(attend(self.qkv(self.norm(x)), 1))


class Stage(nn.Module):
    """A residual block, then attention if this level has it."""

    def __init__(self, in_channels: int, out_channels: int, emb_width: int, groups: int, dropout: float, attention: bool):
        super().__init__()
        self.block = Block(in_channels, out_channels, emb_width, groups, dropout)
        self.attention = Attention(out_channels, groups) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class Down(nn.Module):
    """Half the size by a convolution, with zeros below and to the right alone, as TensorFlow's 'same' has it."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H / 2, W / 2)


class Up(nn.Module):
    """Each pixel four times, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.upsample, self.conv = Upsample(), nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.upsample(x))  # (B, C, 2H, 2W)


class DDPMUNet(nn.Module):
    """The U-Net of Ho et al. 2020 (appendix B); as it stands, that for CIFAR-10.

    channels    channels of the picture
    width       channels of the first level, an even number
    mults       channels of each level, as multiples of width; each level halves the size of the last
    blocks      residual blocks a level on the way down (one more on the way up)
    attention   the levels that attend, counted from the innermost, which is 0; the middle always does
    classes     number of labels, or None for a network that knows no label
    dropout     probability that a feature is dropped in training
    outputs     1, or 2 for a learned variance beside the prediction
    """

    c_noise = "steps"
    blocks_of = (Stage,)

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 128,
        mults: tuple[int, ...] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (2,),
        classes: int | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        if width < 4 or width % 2 or min(blocks, outputs, *mults) < 1 or not 0 <= dropout < 1:
            raise ValueError("width is even and at least 4, mults, blocks and outputs are at least 1, and 0 <= dropout < 1")
        if not set(attention) <= set(range(len(mults))):
            raise ValueError(f"attention is a row of levels from 0, the innermost, to {len(mults) - 1}")
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        self.width, self.classes, self.multiple = width, classes, 2 ** (len(mults) - 1)
        emb_width, count = 4 * width, groups(width)  # of 128 channels the published 32, in all norms
        inside = (emb_width, count, dropout)
        self.time = nn.Sequential(nn.Linear(width, emb_width), nn.SiLU(), nn.Linear(emb_width, emb_width))
        # One row more than there are classes: the last means 'not told'.
        self.label = None if classes is None else nn.Embedding(classes + 1, emb_width)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        skips, current = [width], width
        levels = list(zip(reversed(range(len(mults))), mults, strict=True))  # from the outermost to 0
        for level, mult in levels:
            for _ in range(blocks):
                self.downs.append(Stage(current, width * mult, *inside, level in attention))
                current = width * mult
                skips.append(current)
            if level > 0:
                self.downs.append(Down(current))
                skips.append(current)
        self.middle = nn.ModuleList(Stage(current, current, *inside, attend) for attend in (True, False))
        for level, mult in reversed(levels):
            for _ in range(blocks + 1):
                self.ups.append(Stage(current + skips.pop(), width * mult, *inside, level in attention))
                current = width * mult
            if level < len(mults) - 1:
                self.ups.append(Up(current))
        self.norm = GroupNorm(count, current, EPS)
        self.leave = nn.Conv2d(current, outputs * channels, 3, padding=1)
        self._begin()

    def _begin(self) -> None:
        init.xavier(self)
        for part in self.modules():
            if isinstance(part, Block):
                init.zero(part.conv2)
            elif isinstance(part, Attention):
                init.xavier(part.qkv, math.sqrt(2))  # three layers in one, of C outputs each
                init.zero(part.out)
        init.zero(self.leave)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        x, crop = pad_to_multiple(x, self.multiple)
        label = or_not_told(label, c_noise, self.classes)
        with torch.autocast(x.device.type, enabled=False):  # step numbers need more digits than bfloat16 has
            emb = self.time(sinusoidal(c_noise, self.width))  # (B, 4 width)
            emb = F.silu(emb if self.label is None else emb + self.label(label))
        h = self.enter(x)  # (B, width, H, W)
        states = [h]
        for down in self.downs:
            h = down(h, emb) if isinstance(down, Stage) else down(h)
            states.append(h)
        for stage in self.middle:
            h = stage(h, emb)
        for up in self.ups:
            h = up(torch.cat((h, states.pop()), 1), emb) if isinstance(up, Stage) else up(h)
        return self.leave(F.silu(self.norm(h)))[..., *crop]  # (B, kC, H, W)
