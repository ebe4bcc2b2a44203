"""How weights begin, and why. Each function changes a module in place and returns it."""

import torch
from torch import nn


def zero(module: nn.Module) -> nn.Module:
    """A layer whose output starts at 0: the residual branch that it ends begins as nothing and grows where it helps."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def xavier(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """U(-a, a) with a^2 = 6 / (inputs + outputs): neither signals nor gradients grow from layer to layer; no bias.

    As transformers begin (Glorot & Bengio 2010); a convolution that cuts patches is a linear layer of their pixels.
    """
    nn.init.xavier_uniform_(layer.weight.flatten(1).data)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def small(module: nn.Module) -> nn.Module:
    """N(0, 0.02^2), no bias: codes of noise level and of label begin small and of like size (Peebles & Xie 2023)."""
    for name, parameter in module.named_parameters():
        if name.endswith("weight"):
            nn.init.normal_(parameter, std=0.02)
        else:
            nn.init.zeros_(parameter)
    return module


def unit_normal(layer: nn.Linear | nn.Conv2d) -> nn.Module:
    """N(0, 1), whatever the layer's size: it divides its weights by their norm itself (Karras et al. 2024)."""
    nn.init.normal_(layer.weight)
    return layer


def silent() -> nn.Parameter:
    """A gain of 0: what it multiplies begins as nothing, as weights of a fixed norm cannot. Sharding wants one dimension."""
    return nn.Parameter(torch.zeros(1))
