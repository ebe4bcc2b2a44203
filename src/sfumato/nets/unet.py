"""`unet`: the default network. A small U-Net of residual blocks that a CPU can train and a GPU is not ashamed of.

What is modern in it: residual blocks with GroupNorm and SiLU, scaled and shifted by an embedding of noise level and label
(adaptive GroupNorm, Dhariwal & Nichol 2021); attention where the picture is small; outputs that start at zero, so that every
block begins as the identity; and, for larger pictures, 2 x 2 pixels folded into channels at the door (`patch`), which
makes the first level four times cheaper.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import GroupNorm, Upsample, attend, groups, or_not_told, pad_to_multiple
from .conditions import Condition
from .init import zero


def folded(shape: tuple[int, int, int]) -> int:
    """Side of the square of pixels that is folded into channels, `patch`, for pictures (C, H, W), unless said.

    What is chosen by rule says it (`defaults.patch`); this is for a `unet` that is typed without, as older runs were.
    """
    return 1 if max(shape[1:]) < 16 else 2


class Embedding(nn.Module):
    """c_noise (B,) and label (B,) -> (B, width): Fourier features of the one beside a code of the other, through an MLP.

    What is told of augmentation, a vector (B, augment), joins them there.

    c_noise is log(sigma / alpha) / 4, which moves by less than 3; the frequencies therefore run from 1/8 to 4 turns a
    unit, fine enough to tell neighbouring noise levels apart and coarse enough to be smooth between them.
    """

    def __init__(self, width: int, classes: int | None, augment: int = 0):
        super().__init__()
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.logspace(-3, 2, 32, base=2), persistent=False)
        # Codes of labels are N(0, 1), as large as the features they stand beside: a table that starts at 0 was still
        # hardly heeded after 200,000 images. One row more than there are classes: the last means 'not told'.
        self.label = None if classes is None else nn.Embedding(classes + 1, 64)
        self.mlp = nn.Sequential(nn.Linear(64 if classes is None else 128, width), nn.SiLU(), nn.Linear(width, width))
        # Without a bias, so that zeros say exactly nothing.
        self.augment = nn.Linear(augment, width, bias=False) if augment else None

    def forward(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None = None) -> Tensor:
        with torch.autocast(c_noise.device.type, enabled=False):  # angles of many turns need float32
            angles = c_noise.float()[:, None] * self.frequencies  # (B, 32)
            features = [angles.sin(), angles.cos()] + ([] if self.label is None else [self.label(label)])
            h = self.mlp[0](torch.cat(features, 1))  # (B, width)
            if self.augment is not None and augment is not None:  # as one more of the features
                h = h + self.augment(augment.float())
            return F.silu(self.mlp[1:](h))  # (B, width)


class Block(nn.Module):
    """norm, SiLU, conv; norm scaled and shifted by the embedding, SiLU, dropout, zeroed conv; plus the input."""

    def __init__(self, in_channels: int, out_channels: int, emb_width: int, dropout: float):
        super().__init__()
        self.norm1 = GroupNorm(groups(in_channels), in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.affine = nn.Linear(emb_width, 2 * out_channels)
        self.norm2 = GroupNorm(groups(out_channels), out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, out, H, W)
        scale, shift = self.affine(emb)[:, :, None, None].chunk(2, 1)  # (B, out, 1, 1) each
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(self.dropout(F.silu(h)))


class Attention(nn.Module):
    """Self-attention over the positions of the picture, heads of about 64 channels; residual, starting at 0."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // 64))
        self.norm = GroupNorm(groups(channels), channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zero(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(attend(self.qkv(self.norm(x)), self.heads))


class Stage(nn.Module):
    """A residual block, then attention if this level has it."""

    def __init__(self, in_channels: int, out_channels: int, emb_width: int, dropout: float, attention: bool):
        super().__init__()
        self.block = Block(in_channels, out_channels, emb_width, dropout)
        self.attention = Attention(out_channels) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.attention(self.block(x, emb))


class UNet(nn.Module):
    """The default network.

    channels    channels of the picture
    width       channels of the first level
    mults       channels of each level, as multiples of width; each level halves the size of the last
    blocks      residual blocks a level on the way down (one more on the way up)
    attention   how many of the innermost levels attend; the middle always does
    patch       side of the square of pixels folded into channels at the door: 1 or 2 (or more)
    classes     number of labels, or None for a network that knows no label
    augment     length of the vector that tells how a picture was transformed, or 0 for a network that is not told
    dropout     probability that a feature is dropped in training
    outputs     1, or 2 for a learned variance beside the prediction
    """

    c_noise = "log_snr"  # what the frequencies of its embedding are made for
    blocks_of = (Stage,)

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 64,
        mults: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention: int = 1,
        patch: int = 2,
        classes: int | None = None,
        augment: int = 0,
        dropout: float = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        if min(width, blocks, patch, outputs, *mults) < 1 or not 0 <= dropout < 1:
            raise ValueError("width, mults, blocks, patch and outputs are at least 1, and 0 <= dropout < 1")
        if augment < 0:
            raise ValueError("augment is the length of a vector, or 0")
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        if augment:
            self.conditions["augment"] = Condition((augment,), torch.float32)
        self.classes, self.patch, self.multiple = classes, patch, patch * 2 ** (len(mults) - 1)
        emb_width = 4 * width
        self.embedding = Embedding(emb_width, classes, augment)
        self.enter = nn.Conv2d(channels * patch**2, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        skips, current = [width], width
        for level, mult in enumerate(mults):
            attend = level >= len(mults) - attention
            for _ in range(blocks):
                self.downs.append(Stage(current, width * mult, emb_width, dropout, attend))
                current = width * mult
                skips.append(current)
            if level < len(mults) - 1:
                self.downs.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
                skips.append(current)
        self.middle = nn.ModuleList(
            (Stage(current, current, emb_width, dropout, True), Stage(current, current, emb_width, dropout, False))
        )
        for level, mult in reversed(list(enumerate(mults))):
            attend = level >= len(mults) - attention
            for _ in range(blocks + 1):
                self.ups.append(Stage(current + skips.pop(), width * mult, emb_width, dropout, attend))
                current = width * mult
            if level > 0:
                self.ups.append(nn.Conv2d(current, current, 3, padding=1))
        self.upsample = Upsample()
        self.norm = GroupNorm(groups(current), current)
        self.leave = zero(nn.Conv2d(current, outputs * channels * patch**2, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        c_noise: Tensor,
        label: Tensor | None = None,
        augment: Tensor | None = None,
        augment_given: Tensor | None = None,
    ) -> Tensor:
        x, crop = pad_to_multiple(x, self.multiple)
        label = or_not_told(label, c_noise, self.classes)
        if augment is not None and augment_given is not None:
            augment = augment * augment_given[:, None]
        emb = self.embedding(c_noise, label, augment)  # (B, 4 width)
        h = self.enter(F.pixel_unshuffle(x, self.patch))  # (B, width, H / patch, W / patch)
        states = [h]
        for down in self.downs:
            h = down(h, emb) if isinstance(down, Stage) else down(h)
            states.append(h)
        for stage in self.middle:
            h = stage(h, emb)
        for up in self.ups:
            h = up(torch.cat((h, states.pop()), 1), emb) if isinstance(up, Stage) else up(self.upsample(h))
        h = self.leave(F.silu(self.norm(h)))  # (B, kC patch^2, H / patch, W / patch)
        return F.pixel_shuffle(h, self.patch)[..., *crop]  # (B, kC, H, W)
