"""Train a diffusion model on pictures. Typing the same command again resumes."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console
from torch import nn

from .. import flags, nets, recipes, trainer
from ..config import Config, builtins
from ..errors import UserError
from ..finetune import Parent
from ..model import Model, build_net
from ..run import Run
from ..training.watch import Bar

C = TypeVar("C", bound="Choices")


@dataclasses.dataclass
class Choices:
    """What a person chooses for training, wherever it is asked for."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = ""
    """A folder, zip or tar of images, a manifest, an array file, a known name such as digits: see docs/data.md."""
    config: tyro.conf.OmitArgPrefixes[Config] = dataclasses.field(default_factory=Config)
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """A name from `sfumato recipes`; other flags change its settings."""
    faithful: bool = False
    """Take the recipe as it was published, with the faults that it else mends, and say which."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""


@dataclasses.dataclass
class Arguments(Choices):
    run: Path | None = None
    """The run folder; runs/DATA-RECIPE unless said."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """Begin from the weights of this run, with its network, on other pictures or on --only-class."""
    dry_run: bool = False
    """Print the resolved settings as JSON and stop."""
    trace_shapes: bool = False
    """Print what goes into each block of the network and what comes out, and stop."""
    trace_layers: bool = False
    """The same for every layer inside the blocks."""


def main(arguments: list[str]) -> int:
    args, parent = read(Arguments, arguments, "sfumato train", __doc__ or "")
    if args.dry_run:
        plan = trainer.prepare(args.data, args.config, parent=parent)
        config = plan.config if plan.config.time else trainer.budget(plan.config, lambda: 0.0)
        print(json.dumps(builtins(config), indent=2))
        return 0
    if args.trace_shapes or args.trace_layers:
        plan = trainer.prepare(args.data, args.config, parent=parent)
        rows = nets.trace(build_net(plan.config, plan.facts), plan.facts.shape)
        Console(highlight=False).print(nets.table(rows, whole=args.trace_layers))
        return 0
    model = run_training(args.data, args.run, args.recipe, args.faithful, parent, None, args.device, False, args.config)
    stopped = model.images < (model.config.images or 0)
    return 128 + signal.SIGINT if stopped else 0


def run_training(
    data: Any,
    run: str | Path | None,
    recipe: str,
    faithful: bool,
    parent: Parent | None,
    net: nn.Module | None,
    device: str | None,
    quiet: bool,
    config: Config,
) -> Model:
    """Train with progress on the terminal; the run folder is the first and the last thing printed."""
    said = recipes.kept_faults(recipe, config) if faithful else []
    name = recipe + "-faithful" * faithful
    if parent is not None and recipe == "default":
        name = "-".join(["from", parent.run.path.resolve().name, *filter(None, [config.only_class])])
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    folder = None if run is None else Run.of(run)
    with Bar(console) as bar:
        model = trainer.train(data, config, folder, net, [bar], bar.say, device, name, bar.reading, parent, said)
    if model.images < (model.config.images or 0):
        console.print(f"Stopped and saved after {model.images:,} images. Type the same command again to go on.")
    console.print(f"{model.path}: {model.images:,} images seen. Draw from it: sfumato sample {model.path}", markup=False)
    return model


def base(recipe: str | None, faithful: bool, start: "str | Path | None") -> tuple[Config, Parent | None]:
    """The settings that others change: those of a recipe, or of the run that is gone on from; and that run."""
    asked = recipes.recipe(recipe or "default", faithful) if recipe or faithful else None
    if start is not None:
        parent = Parent.of(start)
        return parent.default(asked), parent
    if asked is not None and asked.only_class:
        raise UserError(f"The recipe {recipe} goes on from a run that knows more classes: name it, as in --from runs/cifar10.")
    return asked or recipes.default(), None


def typed(flag: str, arguments: list[str]) -> str | None:
    """What stands behind a flag, as in `--recipe cars` or `--recipe=cars`: some must be known before the others are read."""
    for i, word in enumerate(arguments):
        if word == flag and i + 1 < len(arguments):
            return arguments[i + 1]
        if word.startswith(f"{flag}="):
            return word.partition("=")[2]
    return None


def read(kind: type[C], arguments: list[str], command: str, description: str) -> tuple[C, Parent | None]:
    """What was typed, with the settings of its recipe or run below it."""
    start, faithful = typed("--from", arguments), "--faithful" in arguments
    config, parent = base(typed("--recipe", arguments), faithful, start)
    args = flags.parse(kind(config=config), arguments, command, description)
    args.config = recipes.budgeted(args.config, config)
    return args, parent
