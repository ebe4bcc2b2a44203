"""Networks: `net(x, c_noise, **cond) -> (B, kC, H, W)`. They know no schedule, no guidance and no device.

`build(name, channels=3, **options)` makes one; `names()` lists them, published sizes under names of their own. A network of
one's own needs only the signature above and, if it can be told anything, an attribute `conditions: dict[str, Condition]`;
`c_noise` ('log_snr', 'steps' or 'time') says what its embedding of the noise level was made for, and `blocks_of` which classes
of its modules are worked out again in the backward pass where memory is short (`training.recompute`).

`trace(net, (3, 64, 64))` lists what goes into every module and what comes out, in the order of execution, and `table` puts
that on a page; both are for any network, one's own included:

    rich.print(nets.table(nets.trace(net, (3, 64, 64))))
"""

from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

from torch import nn

from ..errors import unknown
from .adm import ADMUNet
from .conditions import Condition
from .convnext import ConvNextUNet
from .ddpm import DDPMUNet
from .dit import DiT
from .edm2 import EDM2UNet
from .trace import Row, table, trace
from .tutorial import DoubleConvUNet, MaxPoolUNet, SimpleUNet
from .unet import UNet

__all__ = ["NETS", "Condition", "Row", "build", "names", "options", "parameters", "table", "trace"]

NETS: dict[str, Callable[..., nn.Module]] = {
    "adm_unet": ADMUNet,
    "convnext_unet": ConvNextUNet,
    "ddpm_unet": DDPMUNet,
    "dit": DiT,
    "dit_b": partial(DiT, width=768, depth=12, heads=12),
    "dit_l": partial(DiT, width=1024, depth=24, heads=16),
    "dit_s": partial(DiT, width=384, depth=12, heads=6),
    "dit_xl": partial(DiT, width=1152, depth=28, heads=16),
    "double_conv_unet": DoubleConvUNet,
    "edm2_l": partial(EDM2UNet, width=320, dropout=0.1),
    "edm2_m": partial(EDM2UNet, width=256, dropout=0.1),
    "edm2_s": partial(EDM2UNet, width=192),
    "edm2_unet": EDM2UNet,
    "edm2_xl": partial(EDM2UNet, width=384, dropout=0.1),
    "edm2_xs": partial(EDM2UNet, width=128),
    "edm2_xxl": partial(EDM2UNet, width=448, dropout=0.1),
    "maxpool_unet": MaxPoolUNet,
    "simple_unet": SimpleUNet,
    "unet": UNet,
    # Sizes as they were published; each option may still be given, as in ddpm_cifar10:dropout=0.
    "adm_imagenet64": partial(ADMUNet, width=192, mults=(1, 2, 3, 4), blocks=3, attention=(0, 1, 2), dropout=0.1),
    "ddpm_256": partial(DDPMUNet, mults=(1, 1, 2, 2, 4, 4), attention=(1,)),  # CelebA-HQ and LSUN
    "ddpm_cifar10": partial(DDPMUNet, dropout=0.1),
    "ddpmpp_cifar10": partial(ADMUNet, form="ddpmpp", width=128, mults=(2, 2, 2), blocks=4, attention=(1,), dropout=0.13),
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
