"""Averages of the weights: the one that pictures are drawn from, and those that others are made of."""

import copy
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

RAMP = 0.05  # of the images seen, the longest memory at first: at the end of the budget that is the one which is had by rule
ASKED = 0.5  # the same where a memory is asked for, which may be any up to half of the budget


class EMA:
    """An exponential moving average of a network's weights, with its memory counted in images.

    average += (1 - d) (weights - average),    d = 2^(-batch / half_life)

    At first the memory is short, `ramp` of the images seen, so that the random start is forgotten (Karras et al. 2022, in their
    code). Floating buffers (BatchNorm statistics) are averaged alike, integer ones copied.
    """

    def __init__(self, net: nn.Module, half_life: float, ramp: float = RAMP):
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.half_life, self.ramp = half_life, ramp
        self._mine: list[Tensor] = list(self.net.parameters())
        self._theirs = list(net.parameters())
        self._buffers = tensors(self.net).keys() - {name for name, _ in self.net.named_parameters(remove_duplicate=False)}

    @torch.no_grad()
    def update(self, net: nn.Module, images: int, batch: int) -> None:
        """Take in the weights after a step of `batch` images that made `images` in all; `net` is the network it was made of."""
        share = self.share(images, batch)
        torch._foreach_lerp_(self._mine, [p.data for p in self._theirs], share)
        if self._buffers:  # which a network may replace by others
            there, here = tensors(net), tensors(self.net)
            for name in self._buffers:
                if here[name].is_floating_point():
                    here[name].lerp_(there[name], share)
                else:
                    here[name].copy_(there[name])

    def share(self, images: int, batch: int) -> float:
        """By how much the average moves towards the weights."""
        return 1 - 0.5 ** (batch / min(self.half_life, self.ramp * images))


class PowerEMA(EMA):
    """An average whose memory grows with training: weights count in proportion to the g-th power of the images seen.

    average += (1 - (1 - batch / images)^(g + 1)) (weights - average)      (Karras et al. 2024, section 3.1)
    """

    def __init__(self, net: nn.Module, g: float):
        super().__init__(net, math.inf)
        self.g = g

    def share(self, images: int, batch: int) -> float:
        return 1 - (1 - batch / images) ** (self.g + 1)


def tensors(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and stored buffers by name, without gradient; one that has several names is listed once."""
    first: dict[int, str] = {}
    named = net.state_dict(keep_vars=True)
    return {name: tensor.detach() for name, tensor in named.items() if first.setdefault(id(tensor), name) == name}


@torch.no_grad()
def fill(net: nn.Module, saved: Mapping[str, Tensor]) -> None:
    """Put saved tensors into a network in place; raises ValueError if names or shapes are not the network's own."""
    mine = tensors(net)
    wrong = mine.keys() ^ saved.keys() or {name for name in mine if mine[name].shape != saved[name].shape}
    if wrong:
        raise ValueError(f"{len(wrong)} tensors do not fit, among them {min(wrong)}")
    for name, tensor in mine.items():
        tensor.copy_(saved[name])
