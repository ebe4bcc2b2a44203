"""Gradient checkpointing: blocks that keep their input alone and are worked out again in the backward pass.

A network's activations, which the backward pass reads, are most of the memory of training; a block that is recomputed keeps one
map of many, and costs its forward pass once more (Chen et al. 2016).
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..errors import UserError


def recompute(net: nn.Module) -> nn.Module:
    """Make the blocks of a network, those of the classes in `net.blocks_of`, recompute, in place.

    Results, gradients, dropout masks, the statistics of batch norms, and the names of weights are the same as without. Raises
    UserError for a network that does not say what its blocks are.
    """
    blocks = [module for module in net.modules() if isinstance(module, getattr(net, "blocks_of", ()))]
    if not blocks:
        raise UserError(
            "This network does not say which of its modules can be recomputed: give its class an attribute like "
            "blocks_of = (Block,), or train without --checkpointing."
        )
    for block in blocks:
        counts = any(isinstance(module, _BatchNorm) for module in block.modules())
        block.__class__ = _recomputing(type(block), counts)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    return net


@cache
def _recomputing(kind: type[nn.Module], counts: bool) -> type[nn.Module]:
    """The same kind of module, of the same name, whose forward pass keeps only what it is given.

    counts   whether batch norms in it keep statistics
    """
    if hasattr(kind, "recomputes"):
        return kind

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return kind.forward(self, *args, **kwargs)
        if counts:  # torch.compile knows no contexts
            kwargs["context_fn"] = lambda: (nullcontext(), _uncounted(self))
        return checkpoint(kind.forward, self, *args, use_reentrant=False, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward, "recomputes": True})


@contextmanager
def _uncounted(block: nn.Module) -> Iterator[None]:
    """While this lasts batch norms do not count what passes through them, for it has passed before."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
