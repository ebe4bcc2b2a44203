"""How weights begin, and why: torch's own way wherever a network does not ask for one of these."""

from torch import nn


def zero(module: nn.Module) -> nn.Module:
    """A layer whose output starts at 0: the residual branch that it ends begins as nothing and grows where it helps."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def xavier(module: nn.Module, gain: float = 1.0) -> None:
    """Weights of convolutions and linear layers U(-b, b) with b = gain sqrt(6 / (fan_in + fan_out)); biases 0.

    Signals then keep their size on the way in and gradients on the way back, as nearly as one number can have both (Glorot &
    Bengio 2010). It is the "variance scaling" of Ho et al. 2020, who begin with it everywhere but at residual ends.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(part.weight, gain)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def normal(module: nn.Module) -> nn.Module:
    """Weights N(0, 1), for the codes of labels: as large from the start as what they stand beside, or they are not heeded."""
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module
