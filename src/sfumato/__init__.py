"""Sfumato: train denoising diffusion models on your own images, and use them.

    import sfumato
    model = sfumato.train("photos/", images=200_000)
    images = model.sample(16, seed=0, steps=20)      # (16, H, W, C)
    model = sfumato.load("runs/photos-default")

The theory is five files, to be read in this order: schedules, denoisers, losses, samplers, guides.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from .model import Model

__version__ = "0.1.0"

_MODULES = {
    "config", "data", "defaults", "denoisers", "disk", "draws", "errors", "few", "flags", "guides", "interop", "judge",
    "losses", "model", "nets", "picture", "rates", "recipes", "run", "samplers", "schedules", "spec", "toy", "trainer",
    "training",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Modules are imported when they are first used, so that `import sfumato` costs nothing."""
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sfumato' has no attribute '{name}'")


def train(
    data: Any,
    run: str | Path | None = None,
    recipe: str | None = None,
    net: "nn.Module | str | Spec | None" = None,
    device: str | None = None,
    quiet: bool = False,
    start: str | Path | None = None,
    faithful: bool = False,
    log_to: "str | Sequence[str]" = (),
    **options: Any,
) -> "Model":
    """Train a model on pictures, or go on training it; the same call again resumes.

    data      a folder, archive, manifest or array file, a name such as 'digits', an array (N, H, W[, C]), a tensor
              (N, C, H, W), or a torch Dataset
    run       the run folder, runs/DATA-RECIPE unless said
    recipe    a name from `sfumato recipes`
    net       a network of your own, net(x, c_noise, **cond) -> (B, C, H, W), or one by name, as in "unet:width=96"
    start     a run to begin from: its weights and network, on other pictures or on only_class="ship"
    faithful  take the recipe as it was published, with the faults that it else mends
    log_to    also tell "tensorboard" or "wandb", or both
    options   any field of `sfumato.config.Config`: images=200_000, lr=3e-4, schedule="cosine"; or as typed, images="200k"
    """
    from .commands.chosen import configured
    from .commands.train import run_training

    if isinstance(net, str | Spec):
        options, net = options | {"net": net}, None
    told = [log_to] if isinstance(log_to, str) else log_to
    config, parent = configured(recipe, faithful, start, options)
    return run_training(data, run, recipe or "default", faithful, parent, net, device, quiet, config, told)


def load(
    run: str | Path | None = None,
    net: "nn.Module | None" = None,
    weights: str | float = "ema",
    device: str | None = None,
    at: int | str | None = None,
) -> "Model":
    """The model of a run folder; of the newest run under runs/ if none is named. See `sfumato.model.load`."""
    from .model import load

    return load(run, net, weights, device, at)
