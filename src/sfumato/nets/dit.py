"""`dit`: a transformer over patches of the picture, the diffusion transformer of Peebles & Xie 2023.

There is no U-Net: the picture is cut into squares of `patch` x `patch` pixels, each becomes a token of `width` numbers, and
blocks of attention and of a two-layer perceptron follow each other. Noise level and label scale and shift what each block
reads and gate what it adds; all gates start at zero, so that every block begins as the identity (adaLN-Zero).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import or_not_told, pad_to_multiple
from .conditions import Condition
from .init import patches, small, xavier, zero

CODE = 256  # width of the sinusoidal code of the noise level


class Embedding(nn.Module):
    """SiLU(MLP(code of c_noise) + code of the label): c_noise (B,) and label (B,) -> (B, width), float32."""

    def __init__(self, width: int, classes: int | None):
        super().__init__()
        self.mlp = small(nn.Sequential(nn.Linear(CODE, width), nn.SiLU(), nn.Linear(width, width)))
        # One row more than there are classes: the last means 'not told'.
        self.label = None if classes is None else small(nn.Embedding(classes + 1, width))

    def forward(self, c_noise: Tensor, label: Tensor | None) -> Tensor:
        with torch.autocast(c_noise.device.type, enabled=False):  # step numbers need more digits than bfloat16 has
            angles = _angles(c_noise, CODE // 2)  # (B, 128)
            h = self.mlp(torch.cat((angles.cos(), angles.sin()), 1))  # (B, width)
            return F.silu(h if self.label is None else h + self.label(label))


class Block(nn.Module):
    """x + gate attention(modulated x), then x + gate perceptron(modulated x); gates, scales and shifts by the embedding."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.affine = zero(nn.Linear(width, 6 * width))
        self.qkv = xavier(nn.Linear(width, 3 * width))
        self.out = xavier(nn.Linear(width, width))
        self.widen = xavier(nn.Linear(width, 4 * width))
        self.narrow = xavier(nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.affine(emb)[:, None].chunk(6, 2)  # (B, 1, width) each
        qkv = self.qkv(_modulated(x, shift1, scale1)).unflatten(2, (3, self.heads, -1))  # (B, N, 3, heads, width / heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # (B, heads, N, width / heads) each
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)  # (B, N, width)
        x = torch.addcmul(x, gate1, self.dropout(self.out(h)))
        h = F.gelu(self.widen(_modulated(x, shift2, scale2)), approximate="tanh")  # (B, N, 4 width)
        return torch.addcmul(x, gate2, self.narrow(self.dropout(h)))


class DiT(nn.Module):
    """The diffusion transformer.

    channels    channels of the picture
    width       numbers in a token, a multiple of 4 and of heads
    depth       blocks
    heads       attention heads
    patch       side of the square of pixels that becomes a token: 2 makes a quarter of the tokens that 1 makes
    classes     number of labels, or None for a network that knows no label
    dropout     probability that a feature is dropped in training, of what attention adds and inside the perceptron
    outputs     1, or 2 for a learned variance beside the prediction

    Weights of the published networks fit, but for their table of positions, which is computed here for the picture at hand.
    """

    # Its code was made for the step numbers 0 .. 999 of published weights; on schedules without steps it is given 1000 t,
    # which has the same range. log(sigma / alpha) / 4 would move the fastest of its sines by less than a turn.
    c_noise = "steps"
    lr_width = 128  # up to which the default's highest rate is best: tokens are wide where a U-Net's first level is narrow
    blocks_of: tuple[type[nn.Module], ...] = (Block,)  # what is recomputed in the backward pass to save memory

    def __init__(
        self,
        channels: int = 3,
        *,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        classes: int | None = None,
        dropout: float = 0.0,
        outputs: int = 1,
    ):
        super().__init__()
        if min(width, depth, heads, patch, outputs) < 1 or not 0 <= dropout < 1:
            raise ValueError("width, depth, heads, patch and outputs are at least 1, and 0 <= dropout < 1")
        if width % 4 or width % heads:
            raise ValueError(f"width is a multiple of 4 and of the {heads} heads")
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        self.classes, self.patch = classes, patch
        self.embedding = Embedding(width, classes)
        self.enter = patches(nn.Conv2d(channels, width, patch, stride=patch))
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.affine = zero(nn.Linear(width, 2 * width))
        self.leave = zero(nn.Linear(width, patch**2 * outputs * channels))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        x, crop = pad_to_multiple(x, self.patch)
        label = or_not_told(label, c_noise, self.classes)
        emb = self.embedding(c_noise, label)  # (B, width)
        h = self.enter(x)  # (B, width, H / patch, W / patch)
        rows, columns = h.shape[2:]
        h = h.flatten(2).transpose(1, 2).contiguous()  # (B, N, width), N = rows columns; all blocks keep this layout
        h = h + position_code(rows, columns, h.shape[2], h.device)
        for block in self.blocks:
            h = block(h, emb)
        shift, scale = self.affine(emb)[:, None].chunk(2, 2)  # (B, 1, width) each
        h = self.leave(_modulated(h, shift, scale))  # (B, N, patch^2 kC)
        h = h.view(len(h), rows, columns, self.patch, self.patch, -1)
        return h.permute(0, 5, 1, 3, 2, 4).reshape(len(h), -1, *x.shape[2:])[..., *crop]  # (B, kC, H, W)


def position_code(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Where each token stands: sines, then cosines, of its column, then of its row; (rows columns, width) float32.

    Nothing of it is learned, so that it goes on for pictures of any size; its cost is that of one picture's tokens.
    """
    angles = _angles(torch.arange(max(rows, columns), device=device), width // 4)  # (max, width / 4)
    code = torch.cat((angles.sin(), angles.cos()), 1)  # (max, width / 2)
    across, down = code[:columns].expand(rows, -1, -1), code[:rows, None].expand(-1, columns, -1)
    return torch.cat((across, down), 2).flatten(0, 1)


def _angles(numbers: Tensor, count: int) -> Tensor:
    """numbers (N,) times 10000^(-i / count), i = 0 .. count - 1: (N, count) float32.

    Not `blocks.sinusoidal`, which divides by count - 1: published weights were trained with these.
    """
    frequencies = torch.exp(torch.arange(count, device=numbers.device) * (-math.log(10000) / count))
    return numbers.float()[:, None] * frequencies


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) (1 + scale) + shift, where norm brings each token of x (B, N, width) to mean 0 and variance 1."""
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)
