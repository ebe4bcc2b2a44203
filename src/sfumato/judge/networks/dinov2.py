"""DINOv2's vision transformers S/14, B/14 and L/14, with registers or without: the class token of the last layer.

Oquab et al. 2023, "DINOv2: Learning Robust Visual Features without Supervision"; registers by Darcet et al. 2023, "Vision
Transformers Need Registers". Names are those of Meta's files (dinov2_vits14_pretrain.pth, dinov2_vits14_reg4_pretrain.pth).
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PATCH, HEAD = 14, 64  # pixels of a side, channels of a head
SIDE = 224  # of the pictures, as Stein et al. 2023 measure distances
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for values in [0, 1]
WIDTHS = {384: "S", 768: "B", 1024: "L"}


class DINOv2(nn.Module):
    """Features of pictures x (B, 1 or 3, H, W) in [-1, 1], (B, width); gray is repeated.

    positions   patches along a side of the pictures it was trained on: 37 for 518 pixels
    """

    def __init__(self, width: int, depth: int, positions: int, registers: int = 0):
        super().__init__()
        self.positions, self.registers = positions, registers
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + positions**2, width))
        if registers:
            self.register_tokens = nn.Parameter(torch.zeros(1, registers, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.blocks = nn.ModuleList(_Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, side: int = SIDE) -> Tensor:
        x = F.interpolate(x.expand(-1, 3, -1, -1), (side, side), mode="bicubic", antialias=True)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (MEAN, STD))
        x = ((x + 1) / 2 - mean) / std  # (B, 3, side, side)
        x = self.patch_embed["proj"](x).flatten(2).transpose(1, 2)  # (B, L, width)
        first = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        tokens = [first, x + self.places(side // PATCH)]
        if self.registers:
            tokens.insert(1, self.register_tokens.expand(len(x), -1, -1))  # which have no place
        x = torch.cat(tokens, 1)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 0])

    def places(self, side: int) -> Tensor:
        """The code of each patch's place, (1, side^2, width), resized from those learned as each kind was published."""
        n = self.positions
        if side == n:
            return self.pos_embed[:, 1:]
        grid = self.pos_embed[:, 1:].unflatten(1, (n, n)).permute(0, 3, 1, 2)  # (1, width, n, n)
        if self.registers:
            grid = F.interpolate(grid, (side, side), mode="bicubic", antialias=True)
        else:  # a tenth of a patch was added against rounding, and has been part of the features ever since
            grid = F.interpolate(grid, scale_factor=((side + 0.1) / n,) * 2, mode="bicubic")
        return grid.flatten(2).transpose(1, 2)


class _Block(nn.Module):
    """Attention and a perceptron, each added to what it sees times a learned scale."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls1 = nn.ParameterDict({"gamma": torch.ones(width)})
        self.ls2 = nn.ParameterDict({"gamma": torch.ones(width)})

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(2, (3, -1, HEAD))  # (B, L, 3, heads, 64)
        y = F.scaled_dot_product_attention(*qkv.permute(2, 0, 3, 1, 4))  # (B, heads, L, 64)
        x = x + self.ls1["gamma"] * self.attn["proj"](y.transpose(1, 2).flatten(2))
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


def read(weights: Mapping[str, Tensor]) -> DINOv2:
    """The network with these weights, whose sizes they tell; raises ValueError if they are another's."""
    sizes = {name: tuple(weights[name].shape) for name in ("cls_token", "pos_embed", "register_tokens") if name in weights}
    width = sizes.get("cls_token", (0,))[-1]
    if width not in WIDTHS or len(sizes.get("pos_embed", ())) != 3:
        raise ValueError(f"DINOv2's S/14, B/14 or L/14 in the names of Meta's files; the first name is {next(iter(weights))}")
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    positions = round((sizes["pos_embed"][1] - 1) ** 0.5)
    with torch.device("meta"):  # numbers that are replaced at once need not be drawn
        net = DINOv2(width, depth, positions, sizes.get("register_tokens", (0, 0))[1]).to_empty(device="cpu")
    own = {name: tensor for name, tensor in weights.items() if name != "mask_token"}  # which only training needs
    try:
        net.load_state_dict(own)
    except RuntimeError as error:
        raise ValueError(f"DINOv2's {WIDTHS[width]}/14; {str(error).splitlines()[1].strip()}") from None
    return net
