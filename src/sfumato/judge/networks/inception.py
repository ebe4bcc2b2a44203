"""Inception-v3 as the Frechet inception distance uses it: pool_3 of the network that Google published on 2015-12-05.

Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision"; Heusel et al. 2017 measure distances in it.
It is not torchvision's: average pooling leaves the padding out, the last block pools by the maximum, pictures are resized as
TensorFlow 1 did, and it has 1008 classes. Names are those of the file pt_inception-2015-12-05, which are torchvision's.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 299
CLASSES = 1008
UNUSED = ("fc.", "AuxLogits.")  # what classifies, behind the features
COUNTERS = ".num_batches_tracked"  # which only training reads, and some files lack

_average = partial(F.avg_pool2d, kernel_size=3, stride=1, padding=1, count_include_pad=False)
_greatest = partial(F.max_pool2d, kernel_size=3, stride=1, padding=1)
_halved = partial(F.max_pool2d, kernel_size=3, stride=2)

# The branches of a block by name: their convolutions as (channels, kernel) and a stride if it is 2. FORK stands for two of
# them side by side. What has one convolution has the branch's name, else they are numbered.
FORK = ((384, (1, 3)), (384, (3, 1)))
Branches = dict[str, list]


def _block_35(pooled: int) -> Branches:
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pooled, 1)],
    }


def _block_17(c: int) -> Branches:
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(c, 1), (c, (1, 7)), (192, (7, 1))],
        "branch7x7dbl": [(c, 1), (c, (7, 1)), (c, (1, 7)), (c, (7, 1)), (192, (1, 7))],
        "branch_pool": [(192, 1)],
    }


TO_17: Branches = {"branch3x3": [(384, 3, 2)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3, 2)], "branch_pool": []}
TO_8: Branches = {
    "branch3x3": [(192, 1), (320, 3, 2)],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, 2)],
    "branch_pool": [],
}
BLOCK_8: Branches = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), FORK],
    "branch3x3dbl": [(448, 1), (384, 3), FORK],
    "branch_pool": [(192, 1)],
}


class Inception(nn.Module):
    """Features of pictures x (B, 1 or 3, H, W) in [-1, 1], (B, 2048): the average of the last maps; gray is repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, 3)
        self.Conv2d_2b_3x3 = _Conv(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = _Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = _Conv(80, 192, 3)
        self.Mixed_5b = _Mixed(192, _block_35(32), _average)
        self.Mixed_5c = _Mixed(256, _block_35(64), _average)
        self.Mixed_5d = _Mixed(288, _block_35(64), _average)
        self.Mixed_6a = _Mixed(288, TO_17, _halved)
        self.Mixed_6b = _Mixed(768, _block_17(128), _average)
        self.Mixed_6c = _Mixed(768, _block_17(160), _average)
        self.Mixed_6d = _Mixed(768, _block_17(160), _average)
        self.Mixed_6e = _Mixed(768, _block_17(192), _average)
        self.Mixed_7a = _Mixed(768, TO_8, _halved)
        self.Mixed_7b = _Mixed(1280, BLOCK_8, _average)
        self.Mixed_7c = _Mixed(2048, BLOCK_8, _greatest)  # as it was published; 7b averages

    def forward(self, x: Tensor) -> Tensor:
        x = resized(x.expand(-1, 3, -1, -1))  # (B, 3, 299, 299)
        x = (127.5 * x - 0.5) / 128  # (stored - 128) / 128, for stored = 127.5 (x + 1)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))  # (B, 64, 147, 147)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(_halved(x)))  # (B, 192, 71, 71)
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(_halved(x))))  # (B, 288, 35, 35)
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))  # (B, 768, 17, 17)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        return x.mean((2, 3))


class _Conv(nn.Module):
    def __init__(self, channels: int, out: int, kernel: int | tuple[int, int], **how: int | tuple[int, ...]):
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, bias=False, **how)  # type: ignore[arg-type]
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_()


class _Mixed(nn.Module):
    """Branches that see the same map, `branch_pool` after a pooling; their channels stand one behind another."""

    def __init__(self, channels: int, branches: Branches, pool: Callable[[Tensor], Tensor]):
        super().__init__()
        self.pool, self.steps = pool, {branch: list[list[str]]() for branch in branches}
        for branch, layers in branches.items():
            width = channels
            for number, layer in enumerate(layers, 1):
                name = branch if len(layers) == 1 else f"{branch}_{number}"
                named = {f"{name}a": layer[0], f"{name}b": layer[1]} if layer is FORK else {name: layer}
                for each, (out, kernel, *stride) in named.items():
                    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
                    how = {"stride": 2} if stride else {"padding": (high // 2, wide // 2)}
                    self.add_module(each, _Conv(width, out, (high, wide), **how))
                self.steps[branch].append(list(named))
                width = layer[0] if layer is not FORK else 0  # nothing follows a fork

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for branch, steps in self.steps.items():
            y = self.pool(x) if branch == "branch_pool" else x
            for names in steps:
                y = torch.cat([self.get_submodule(name)(y) for name in names], 1)
            maps.append(y)
        return torch.cat(maps, 1)


def resized(x: Tensor, side: int = SIDE) -> Tensor:
    """Bilinear resizing of x (B, C, H, W) to (B, C, side, side) as TensorFlow 1 had it.

    Output i lies at the input's i H / side, cut off at H - 1: corners are kept, and everything else is a little off centre.
    """
    rows, columns = (_bilinear(length, side).to(x) for length in x.shape[2:])
    return rows @ x @ columns.T


def _bilinear(length: int, side: int) -> Tensor:
    """The weights of `length` inputs in each of `side` outputs, (side, length) float64."""
    at = torch.arange(side, dtype=torch.float64)[:, None] * length / side  # (side, 1)
    return (1 - (at.clamp_max(length - 1) - torch.arange(length)).abs()).clamp_min(0)


def read(weights: Mapping[str, Tensor]) -> Inception:
    """The network with these weights; raises ValueError if they are another's."""
    if "fc.weight" in weights and len(weights["fc.weight"]) != CLASSES:
        raise ValueError(
            f"the FID network, which has {CLASSES} classes (pt_inception-2015-12-05); found one of "
            f"{len(weights['fc.weight'])}, whose distances are others"
        )
    with torch.device("meta"):  # numbers that are replaced at once need not be drawn
        net = Inception().to_empty(device="cpu")
    own = {name: tensor for name, tensor in weights.items() if not name.startswith(UNUSED)}
    try:
        found = net.load_state_dict(own, strict=False)
    except RuntimeError as error:
        raise ValueError(f"the shapes of the FID network; {str(error).splitlines()[1].strip()}") from None
    wrong = [name for name in (*found.missing_keys, *found.unexpected_keys) if not name.endswith(COUNTERS)]
    if wrong:
        raise ValueError(f"the names of pt_inception-2015-12-05; {len(wrong)} differ, the first is {wrong[0]}")
    return net
