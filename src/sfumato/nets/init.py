"""How weights begin, and why: torch's own way where a network asks for none of these, which return what they change."""

import torch
from torch import nn


def zero(module: nn.Module) -> nn.Module:
    """A layer whose output starts at 0: the residual branch that it ends begins as nothing and grows where it helps."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def xavier(module: nn.Module, gain: float = 1.0) -> nn.Module:
    """Weights of convolutions and linear layers U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)); biases 0.

    Signals then keep their size on the way in and gradients on the way back, as nearly as one number can have both (Glorot &
    Bengio 2010). It is the "variance scaling" of Ho et al. 2020, who begin with it everywhere but at residual ends.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(part.weight, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return module


def patches(conv: nn.Conv2d) -> nn.Module:
    """A convolution that cuts patches begins as `xavier` would have a linear layer of their pixels (Peebles & Xie 2023)."""
    nn.init.xavier_uniform_(conv.weight.flatten(1).data)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def small(module: nn.Module) -> nn.Module:
    """N(0, 0.02^2), no bias: codes of noise level and of label begin small and of like size (Peebles & Xie 2023)."""
    for name, parameter in module.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.zeros_(parameter)
    return module


def normal(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """Weights N(0, 1): codes of labels, which are not heeded unless they are from the start as large as what they stand beside.

    And layers that divide their weights by their norm themselves (Karras et al. 2024).
    """
    nn.init.normal_(layer.weight)
    return layer


def silent() -> nn.Parameter:
    """A gain of 0: what it multiplies begins as nothing, as weights of a fixed norm cannot. Sharding wants one dimension."""
    return nn.Parameter(torch.zeros(1))
