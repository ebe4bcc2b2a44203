"""`adm_unet`: the U-Nets of Dhariwal & Nichol 2021 (ADM) and of Song et al. 2021 (DDPM++), as Karras et al. 2022 train them.

Both resize inside residual blocks (BigGAN) and can attend at any size. What tells them apart is a row of FORMS; Karras et al.
put them side by side in their appendix F.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import init
from .blocks import GroupNorm, Upsample, attend, groups, or_not_told, pad_to_multiple, sinusoidal
from .conditions import Condition


class ADMEmbedding(nn.Module):
    """c_noise (B,) -> (B, 4 width): cosines and sines, plus what is told of augmentation; MLP; plus the label's code.

    Labels (B,) and augmentation (B, augment) pass through linear layers without bias, so that 'not told' adds exactly nothing.
    """

    def __init__(self, width: int, classes: int | None, augment: int):
        super().__init__()
        self.width, self.classes = width, classes or 0
        # At first nothing is told of augmentation.
        self.augment = init.zero(nn.Linear(augment, width, bias=False)) if augment else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        self.label = init.normal(nn.Linear(classes, 4 * width, bias=False)) if classes else None

    def forward(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        half = self.width // 2
        frequencies = torch.exp(torch.arange(half, device=c_noise.device) * (-math.log(10000) / half))
        angles = c_noise.float()[:, None] * frequencies  # (B, width / 2)
        emb = torch.cat((angles.cos(), angles.sin()), 1)
        if self.augment is not None and augment is not None:
            emb = emb + self.augment(augment.float())
        emb = self.mlp(emb)  # (B, 4 width)
        if self.label is not None and label is not None:
            emb = emb + self.label(_one_hot(label, self.classes))
        return F.silu(emb)


class DDPMppEmbedding(nn.Module):
    """c_noise (B,) -> (B, 4 width): sines and cosines, plus the codes of label and augmentation; then an MLP.

    A label is told as sqrt(classes) in its place among zeros.
    """

    def __init__(self, width: int, classes: int | None, augment: int):
        super().__init__()
        self.width, self.classes = width, classes or 0
        self.augment = nn.Linear(augment, width, bias=False) if augment else None
        self.label = nn.Linear(classes, width) if classes else None
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        emb = sinusoidal(c_noise, self.width)  # (B, width)
        if self.label is not None and label is not None:
            emb = emb + self.label(_one_hot(label, self.classes) * math.sqrt(self.classes))
        if self.augment is not None and augment is not None:
            emb = emb + self.augment(augment.float())
        return F.silu(self.mlp(emb))  # (B, 4 width)


class Form(NamedTuple):
    """What tells one arrangement from another."""

    embedding: type[ADMEmbedding] | type[DDPMppEmbedding]
    scales: bool  # the embedding scales and shifts what the second norm gives; else it is added before that norm
    eps: float  # of norms
    gain: float  # what each sum of input and branch is multiplied by
    head: int | None  # channels of a head of attention; None: one head of all
    project: bool  # a convolution of 1x1 stands beside every change of size, not only where channels change
    every: bool  # on the way up all blocks of a level that attends do, not only the last
    xavier: bool  # weights begin with variance scaling, those of q, k and v with a tenth of the variance; else torch's own way


FORMS = {
    "adm": Form(ADMEmbedding, scales=True, eps=1e-5, gain=1.0, head=64, project=False, every=True, xavier=False),
    "ddpmpp": Form(DDPMppEmbedding, scales=False, eps=1e-6, gain=0.5**0.5, head=None, project=True, every=False, xavier=True),
}


class Attention(nn.Module):
    """gain (x + attention(norm(x))) over the positions of the picture; the branch starts at 0."""

    def __init__(self, channels: int, form: Form):
        super().__init__()
        self.gain, self.heads = form.gain, math.gcd(channels, max(1, channels // (form.head or channels)))
        self.norm = _norm(channels, form.eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return _sum(x, self.out(attend(self.qkv(self.norm(x)), self.heads)), self.gain)


class Block(nn.Module):
    """norm, SiLU, resize, conv; norm with the embedding, SiLU, dropout, conv; plus the input, resized; then attention.

    Where the picture becomes smaller, four pixels become their mean; where it becomes larger, each is repeated four times.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        form: Form,
        emb_width: int,
        dropout: float,
        attention: bool = False,
        resize: nn.Module | None = None,
    ):
        super().__init__()
        self.scales, self.gain = form.scales, form.gain
        self.resize = resize or nn.Identity()
        self.norm1 = _norm(in_channels, form.eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.affine = nn.Linear(emb_width, out_channels * (2 if form.scales else 1))
        self.norm2 = _norm(out_channels, form.eps)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        projects = in_channels != out_channels or (form.project and resize is not None)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if projects else nn.Identity()
        self.attention = Attention(out_channels, form) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.resize(F.silu(self.norm1(x))))  # (B, out, H', W')
        affine = self.affine(emb)[:, :, None, None]
        if self.scales:
            scale, shift = affine.chunk(2, 1)  # (B, out, 1, 1) each
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + affine)
        h = self.conv2(self.dropout(F.silu(h)))
        return self.attention(_sum(self.skip(self.resize(x)), h, self.gain))


class ADMUNet(nn.Module):
    """The U-Nets of Dhariwal & Nichol 2021 and of Song et al. 2021 (DDPM++).

    channels    channels of the picture
    form        adm or ddpmpp: a row of FORMS
    width       channels that the picture is taken into, an even number
    mults       channels of each level, as multiples of width; each level halves the size of the last
    blocks      residual blocks a level on the way down (one more on the way up)
    attention   the levels that attend, counted from the innermost, which is 0; the middle always does
    classes     number of labels, or None for a network that knows no label
    augment     length of the vector that tells how a picture was transformed, or 0 for a network that is not told
    dropout     probability that a feature is dropped in training
    outputs     1, or 2 for a learned variance beside the prediction
    """

    c_noise = "log_snr"  # as Karras et al. tell both, though the codes were first made for step numbers
    blocks_of = (Block,)

    def __init__(
        self,
        channels: int = 3,
        *,
        form: str = "adm",
        width: int = 128,
        mults: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention: tuple[int, ...] = (0, 1),
        classes: int | None = None,
        augment: int = 0,
        dropout: float = 0.1,
        outputs: int = 1,
    ):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form is {' or '.join(FORMS)}")
        if width < 4 or width % 2 or min(blocks, outputs, *mults) < 1 or not 0 <= dropout < 1:
            raise ValueError("width is even and at least 4, mults, blocks and outputs are at least 1, and 0 <= dropout < 1")
        if not set(attention) <= set(range(len(mults))):
            raise ValueError(f"attention is a row of levels from 0, the innermost, to {len(mults) - 1}")
        if augment < 0:
            raise ValueError("augment is the length of a vector, or 0")
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        if augment:
            self.conditions["augment"] = Condition((augment,), torch.float32)
        row, self.classes, self.multiple = FORMS[form], classes, 2 ** (len(mults) - 1)
        inside = (row, 4 * width, dropout)
        self.embedding = row.embedding(width, classes, augment)
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        skips, current = [width], width
        levels = list(zip(reversed(range(len(mults))), mults, strict=True))  # from the outermost to 0
        for level, mult in levels:
            if level < len(mults) - 1:
                self.downs.append(Block(current, current, *inside, resize=nn.AvgPool2d(2)))
                skips.append(current)
            for _ in range(blocks):
                self.downs.append(Block(current, width * mult, *inside, level in attention))
                current = width * mult
                skips.append(current)
        self.middle = nn.ModuleList(Block(current, current, *inside, attend) for attend in (True, False))
        for level, mult in reversed(levels):
            if level > 0:
                self.ups.append(Block(current, current, *inside, resize=Upsample()))
            for k in range(blocks + 1):
                attend = level in attention and (row.every or k == blocks)
                self.ups.append(Block(current + skips.pop(), width * mult, *inside, attend))
                current = width * mult
        self.norm = _norm(current, row.eps)
        self.leave = nn.Conv2d(current, outputs * channels, 3, padding=1)
        self._begin(row)

    def _begin(self, form: Form) -> None:
        if form.xavier:
            init.xavier(self)
        for part in self.modules():
            if isinstance(part, Block):
                init.zero(part.conv2)
            elif isinstance(part, Attention):
                if form.xavier:
                    init.xavier(part.qkv, math.sqrt(2 * 0.1))  # three layers in one, of C outputs each
                init.zero(part.out)
        init.zero(self.leave)

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
        with torch.autocast(x.device.type, enabled=False):
            emb = self.embedding(c_noise, label, augment)  # (B, 4 width)
        h = self.enter(x)  # (B, width, H, W)
        states = [h]
        for down in self.downs:
            h = down(h, emb)
            states.append(h)
        for block in self.middle:
            h = block(h, emb)
        for up in self.ups:
            h = up(h if isinstance(up.resize, Upsample) else torch.cat((h, states.pop()), 1), emb)
        return self.leave(F.silu(self.norm(h)))[..., *crop]  # (B, kC, H, W)


def _sum(x: Tensor, branch: Tensor, gain: float) -> Tensor:
    return x + branch if gain == 1 else (x + branch) * gain


def _one_hot(label: Tensor, classes: int) -> Tensor:
    """1 in the place of the label, 0 elsewhere, and everywhere for 'not told': (B, classes)."""
    return F.one_hot(label, classes + 1)[:, :classes].float()


def _norm(channels: int, eps: float) -> GroupNorm:
    return GroupNorm(groups(channels), channels, eps)
