"""`edm2_unet`: the magnitude-preserving U-Net of Karras et al. 2024, "Analyzing and Improving the Training Dynamics of
Diffusion Models", config G.

Every layer is made so that inputs of variance 1 leave with variance 1, whatever has been learned: weights are divided by
their norm, sums and concatenations are scaled, and there are no biases and no norms with statistics over the picture. The
stored weights are brought back to norm 1 before each training step, so that how far a step turns them depends on the
learning rate alone: the paper's is 0.01 (0.012 to 0.0065 from the smallest size to the largest), and falls as 1 / sqrt(steps).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Upsample, or_not_told, pad_to_multiple
from .conditions import Condition
from .init import normal, silent

EPS = 1e-4
SILU = 0.596  # sqrt(E[SiLU(x)^2]) for x ~ N(0, 1); eq. 81
# The sum of a state x and what a branch adds is (0.7 x + 0.3 h) / sqrt(0.7^2 + 0.3^2) = KEPT x + ADDED h; eq. 88.
KEPT, ADDED = 0.7 / math.hypot(0.7, 0.3), 0.3 / math.hypot(0.7, 0.3)
CLIP = 256.0  # half precision ends at 65504


def unit(x: Tensor, dim: int) -> Tensor:
    """x / (EPS + its root mean square along a dimension), the statistic in float32; along channels it is pixel norm."""
    norm = torch.linalg.vector_norm(x, dim=dim, keepdim=True, dtype=torch.float32)
    return x / (EPS + norm / math.sqrt(x.shape[dim])).to(x.dtype)


def balanced(x: Tensor, skip: Tensor) -> Tensor:
    """x and skip beside each other, scaled so that both weigh the same and variance 1 is kept; eq. 103 with t = 0.5."""
    each = (x.shape[1] + skip.shape[1]) / 2  # channels that need no scaling
    return torch.cat([h if h.shape[1] == each else h * math.sqrt(each / h.shape[1]) for h in (x, skip)], 1)


def directed(weight: Tensor, gain: float | Tensor = 1.0) -> Tensor:
    """gain w / |w| for the weights w of each output, the first dimension; eq. 47."""
    return weight * (gain / _length(weight))


@torch.no_grad()
def force(net: nn.Module) -> None:
    """Bring the stored weights of each output of a magnitude-preserving layer to a root mean square of 1; eq. 66."""
    for module in net.modules():
        if isinstance(module, MPLinear | MPConv):
            module.weight.mul_(math.sqrt(module.weight[0].numel()) / _length(module.weight))


def _length(weight: Tensor) -> Tensor:
    """|w| + EPS sqrt(n), n the weights of an output: (O, 1, ...)."""
    norm = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)), keepdim=True)
    return norm + EPS * math.sqrt(weight[0].numel())


class MPLinear(nn.Linear):
    """A magnitude-preserving linear layer, in float32 also under autocast.

    The gain of such a layer is a number or a parameter that learns. So it costs nothing to divide what goes in, or to weigh
    what comes out.
    """

    def __init__(self, inputs: int, outputs: int, gain: float | nn.Parameter = 1.0):
        super().__init__(inputs, outputs, bias=False)
        self.gain = gain
        normal(self)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float(), directed(self.weight, self.gain))


class MPConv(nn.Conv2d):
    """A magnitude-preserving convolution, padded to keep the size; its weights are cast after they are divided."""

    def __init__(self, inputs: int, outputs: int, kernel: int, gain: float | nn.Parameter = 1.0):
        super().__init__(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.gain = gain
        normal(self)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, directed(self.weight, self.gain), None)


class Embedding(nn.Module):
    """c_noise (B,) and label (B,) -> (B, width) float32: random waves of the one, a column of weights for the other.

    The waves sqrt(2) cos(f c_noise + phase), f ~ N(0, (2 pi)^2) (eq. 75), are made for log(sigma / alpha) / 4. A label that
    is not told is the zero vector, and needs no weights.
    """

    def __init__(self, waves: int, width: int, classes: int | None):
        super().__init__()
        self.frequencies: Tensor
        self.phases: Tensor
        self.register_buffer("frequencies", 2 * math.pi * torch.randn(waves))
        self.register_buffer("phases", 2 * math.pi * torch.rand(waves))
        self.noise = MPLinear(waves, width)
        # The mean square of a vector of zeros and a one is 1 / classes.
        self.label = None if classes is None else MPLinear(classes, width, gain=math.sqrt(classes))

    def forward(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        angles = c_noise.float()[:, None] * self.frequencies + self.phases  # (B, waves)
        h = self.noise(math.sqrt(2) * angles.cos())  # (B, width)
        if self.label is not None and label is not None:
            told = F.one_hot(label, self.label.in_features + 1)[:, :-1]  # (B, classes)
            h = (h + self.label(told)) / math.sqrt(2)
        return F.silu(h) / SILU


class Attention(nn.Module):
    """Self-attention over the positions of the picture, by the angle between queries and keys; heads of about 64 channels."""

    def __init__(self, channels: int):
        super().__init__()
        self.heads = math.gcd(channels, max(1, channels // 64))
        self.qkv = MPConv(channels, 3 * channels, 1)
        self.out = MPConv(channels, channels, 1, gain=ADDED)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).flatten(2).unflatten(1, (3, self.heads, -1))  # (B, 3, heads, C / heads, HW)
        qkv = qkv.transpose(-1, -2).contiguous()  # fused attention wants the features of a position side by side
        q, k, v = unit(qkv, -1).unbind(1)  # (B, heads, HW, C / heads) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)  # (B, heads, C / heads, HW)
        return torch.add(self.out(h.reshape(x.shape)), x, alpha=KEPT)


class Block(nn.Module):
    """A change of size, if any; SiLU, conv, times 1 + gain linear(embedding), SiLU, dropout, conv; plus the input; attention.

    In the encoder what the branch reads has already the block's own width, and pixel norm brings it back to variance 1.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        emb_width: int,
        dropout: float,
        encoder: bool = False,
        attention: bool = False,
        resize: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.resize = resize or nn.Identity()
        self.skip = MPConv(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.conv1 = MPConv(outputs if encoder else inputs, outputs, 3, gain=1 / SILU)
        self.scale = MPLinear(emb_width, outputs, gain=silent())
        self.dropout = nn.Dropout(dropout)
        self.conv2 = MPConv(outputs, outputs, 3, gain=ADDED / SILU)
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        x = self.resize(x)  # (B, in, H, W)
        if self.encoder:
            x = unit(self.skip(x), 1)  # (B, out, H, W)
        h = self.conv1(F.silu(x))  # (B, out, H, W)
        scale = 1 + self.scale(emb)[:, :, None, None]  # (B, out, 1, 1)
        h = self.conv2(self.dropout(F.silu(h * scale.to(h.dtype))))
        x = torch.add(h, x if self.encoder else self.skip(x), alpha=KEPT)
        return self.attention(x).clamp(-CLIP, CLIP)


class EDM2UNet(nn.Module):
    """The magnitude-preserving U-Net.

    channels    channels of the picture
    width       channels of the first level
    mults       channels of each level, as multiples of width; each level halves the size of the last
    blocks      residual blocks a level on the way down (one more on the way up)
    attention   how many of the innermost levels attend; the middle always does
    classes     number of labels, or None for a network that knows no label
    dropout     probability that a feature is dropped in training
    outputs     1, or 2 for a learned variance beside the prediction

    In training mode a forward pass begins by bringing all stored weights to norm 1, in place and without gradient, which
    changes what a layer computes by EPS at most. It happens here and not in the layers, so that blocks may be recomputed.
    Averages of weights need none of it.
    """

    c_noise = "log_snr"
    lr = 1e-2  # of any width and batch: what a step turns weights of norm 1 by depends on it alone
    blocks_of: tuple[type[nn.Module], ...] = (Block,)  # what is recomputed in the backward pass to save memory

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 128,
        mults: tuple[int, ...] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: int = 2,
        classes: int | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        if min(width, blocks, outputs, *mults) < 1 or not 0 <= dropout < 1:
            raise ValueError("width, mults, blocks and outputs are at least 1, and 0 <= dropout < 1")
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        self.classes, self.multiple = classes, 2 ** (len(mults) - 1)
        widths, emb_width = [width * mult for mult in mults], width * max(mults)
        attends = [level >= len(mults) - attention for level in range(len(mults))]
        self.embedding = Embedding(widths[0], emb_width, classes)
        self.enter = MPConv(channels + 1, widths[0], 3)  # one channel more, of ones, in place of all biases
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        skips, current = [widths[0]], widths[0]
        for level, wide in enumerate(widths):
            if level > 0:
                self.downs.append(Block(current, current, emb_width, dropout, encoder=True, resize=nn.AvgPool2d(2)))
                skips.append(current)
            for _ in range(blocks):
                self.downs.append(Block(current, wide, emb_width, dropout, encoder=True, attention=attends[level]))
                current = wide
                skips.append(current)
        self.middle = nn.ModuleList(Block(current, current, emb_width, dropout, attention=attend) for attend in (True, False))
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks + 1):
                self.ups.append(Block(current + skips.pop(), wide, emb_width, dropout, attention=attends[level]))
                current = wide
            if level > 0:
                self.ups.append(Block(current, current, emb_width, dropout, resize=Upsample()))
        self.leave = MPConv(current, outputs * channels, 3, gain=silent())

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        if self.training:  # not in a compiled graph, whose backward pass may read weights as they were before
            torch.compiler.disable(force)(self)
        x, crop = pad_to_multiple(torch.cat((x, torch.ones_like(x[:, :1])), 1), self.multiple)
        label = or_not_told(label, c_noise, self.classes)
        emb = self.embedding(c_noise, label)  # (B, max(mults) width)
        h = self.enter(x)  # (B, width, H, W)
        states = [h]
        for block in self.downs:
            h = block(h, emb)
            states.append(h)
        for block in self.middle:
            h = block(h, emb)
        for block in self.ups:
            h = block(h if isinstance(block.resize, Upsample) else balanced(h, states.pop()), emb)
        return self.leave(h)[..., *crop]  # (B, kC, H, W)
