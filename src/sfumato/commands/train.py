"""Train a diffusion model on pictures. Typing the same command again resumes."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from torch import nn

from .. import flags, nets, recipes, trainer
from ..config import Config, builtins, checked
from ..errors import unknown
from ..model import Model, build_net
from ..run import Run
from ..training.watch import Bar


@dataclasses.dataclass
class Choices:
    """What a person chooses for training, wherever it is asked for."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = ""
    """A folder, zip or tar of images, a manifest, an array file, a known name such as digits: see docs/data.md."""
    config: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """A name from `sfumato recipes`; other flags change its settings."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""


@dataclasses.dataclass
class Arguments(Choices):
    run: Path | None = None
    """The run folder; runs/DATA-RECIPE unless said."""
    dry_run: bool = False
    """Print the resolved settings as JSON and stop."""
    trace_shapes: bool = False
    """Print what goes into each block of the network and what comes out, and stop."""
    trace_layers: bool = False
    """The same for every layer inside the blocks."""


def main(arguments: list[str]) -> int:
    name = recipe_name(arguments)
    default = Arguments(config=recipes.recipe(name), recipe=name)
    args = flags.parse(default, arguments, "sfumato train", __doc__ or "")
    if args.dry_run:
        plan = trainer.prepare(args.data, args.config)
        config = plan.config if plan.config.time else trainer.budget(plan.config, lambda: 0.0)
        print(json.dumps(builtins(config), indent=2))
        return 0
    if args.trace_shapes or args.trace_layers:
        plan = trainer.prepare(args.data, args.config)
        rows = nets.trace(build_net(plan.config, plan.facts), plan.facts.shape)
        Console(highlight=False).print(nets.table(rows, whole=args.trace_layers))
        return 0
    model = run_training(args.data, args.run, name, None, args.device, False, {}, args.config)
    stopped = model.images < (model.config.images or 0)
    return 128 + signal.SIGINT if stopped else 0


def run_training(
    data: Any,
    run: str | Path | None,
    recipe: str,
    net: nn.Module | None,
    device: str | None,
    quiet: bool,
    options: dict[str, Any],
    config: Config | None = None,
) -> Model:
    """Train with progress on the terminal; the run folder is the first and the last thing printed."""
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    if config is None:
        raw = builtins(recipes.recipe(recipe))
        for name in options.keys() - raw.keys():
            raise unknown("setting", name, raw)
        config = checked(raw | options)
    folder = None if run is None else Run.of(run)
    with Bar(console) as bar:
        model = trainer.train(data, config, folder, net, [bar], bar.say, device, recipe, bar.reading)
    if model.images < (model.config.images or 0):
        console.print(f"Stopped and saved after {model.images:,} images. Type the same command again to go on.")
    console.print(f"{model.path}: {model.images:,} images seen. Draw from it: sfumato sample {model.path}", markup=False)
    return model


def recipe_name(arguments: list[str]) -> str:
    """The recipe must be known before its fields can be the defaults of the other flags."""
    for i, word in enumerate(arguments):
        if word == "--recipe" and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith("--recipe="):
            return word.partition("=")[2]
    return "default"
