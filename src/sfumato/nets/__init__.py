"""Networks: `net(x, c_noise, **cond) -> (B, kC, H, W)`. They know no schedule, no guidance and no device.

`build(name, channels=3, **options)` makes one; `names()` lists them. A network of one's own needs only the signature
above and, if it can be told anything, an attribute `conditions: dict[str, Condition]`; `c_noise` ('log_snr', 'steps' or
'time') says what its embedding of the noise level was made for.

`trace(net, (3, 64, 64))` lists what goes into every module and what comes out, in the order of execution, and `table` puts
that on a page; both are for any network, one's own included:

    rich.print(nets.table(nets.trace(net, (3, 64, 64))))
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

from torch import nn

from ..errors import unknown
from .conditions import Condition
from .convnext import ConvNextUNet
from .trace import Row, table, trace
from .tutorial import DoubleConvUNet, MaxPoolUNet, SimpleUNet
from .unet import UNet

__all__ = ["NETS", "Condition", "Row", "build", "names", "options", "parameters", "table", "trace"]

NETS: dict[str, Callable[..., nn.Module]] = {
    "convnext_unet": ConvNextUNet,
    "double_conv_unet": DoubleConvUNet,
    "maxpool_unet": MaxPoolUNet,
    "simple_unet": SimpleUNet,
    "unet": UNet,
}


def names() -> list[str]:
    """The names that `build` knows."""
    return sorted(NETS)


def build(name: str, channels: int = 3, **options: Any) -> nn.Module:
    """The network of that name for pictures of `channels` channels; raises UserError for a name there is not."""
    if name not in NETS:
        raise unknown("network", name, NETS)
    return NETS[name](channels, **options)


def options(name: str) -> set[str]:
    """The names of the options that a network can be built with."""
    return {p.name for p in signature(NETS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY}


def parameters(net: nn.Module) -> int:
    """How many numbers a network has, trainable or not."""
    return sum(p.numel() for p in net.parameters())
