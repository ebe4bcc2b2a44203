"""The network of a run: what its config names, with what the data decides."""

from typing import Any

from torch import nn

from . import nets
from .config import Facts, Settled
from .errors import UserError, unknown
from .nets.unet import folded
from .spec import Spec, make
from .training import augment


def build_net(config: Settled, facts: Facts, net: nn.Module | None = None) -> nn.Module:
    """The untrained network of a config, or one's own, with the labels of the data declared where it can take them.

    Raises UserError for options that it refuses, and if the config has it told of augmentation and it cannot be.
    """
    if net is not None:
        if config.augment and not augment.declared(getattr(net, "conditions", {})):
            raise _untold("This network")
        return net
    return make(nets.NETS, net_of(config, facts), "network", facts.shape[0])


def net_of(config: Settled, facts: Facts) -> Spec:
    """The network of a config with all that the data decides said; raises UserError as `build_net` does."""
    name, given = config.net.name, config.net.kw
    if name not in nets.NETS:
        raise unknown("network", name, nets.NETS)
    known, options = nets.options(name), dict[str, Any]()
    if "classes" in known and facts.label_names:
        options["classes"] = len(facts.label_names)
    if name == "unet":
        options["patch"] = folded(facts.shape)
    outputs = 2 if config.variance_weight else 1
    if given.get("outputs", outputs) != outputs:
        raise UserError(f"2 outputs are for a variance (--variance-weight 0.001), 1 is for all else; found {config.net}.")
    if config.variance_weight:
        options["outputs"] = 2
    if config.augment:
        if "augment" not in known or given.get("augment", augment.LENGTH) != augment.LENGTH:
            raise _untold(f"The network {config.net}")
        options["augment"] = augment.LENGTH
    return Spec(name, **(options | given))


def _untold(what: str) -> UserError:
    return UserError(
        f"{what} cannot be told how a picture was transformed, as --augment needs. Take --net unet, or the flags that need "
        "no telling: --flip, --flip-vertical, --rotate, --translate."
    )
