"""What a person chooses for training, wherever it is asked for: data, recipe, settings, a run to go on from."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from .. import flags, recipes, trainer
from ..config import Config, with_options
from ..errors import UserError
from ..finetune import Parent
from ..run import Run

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


def label(recipe: str, faithful: bool, parent: Parent | None, config: Config) -> str:
    """What stands behind DATA- in the name of a run folder."""
    if parent is not None and recipe == "default":
        return "-".join(["from", parent.run.path.resolve().name, *filter(None, [config.only_class])])
    return recipe + "-faithful" * faithful


def folder(data: str, run: Path | None, recipe: str, faithful: bool, parent: Parent | None, config: Config) -> Run:
    """The run, there or not, that training with these choices is about."""
    if run is not None:
        return Run.of(run)
    name = trainer.opened(data, trainer.validated(config)).name
    return Run.of(Path("runs", f"{name}-{label(recipe, faithful, parent, config)}"))


def base(recipe: str | None, faithful: bool, start: "str | Path | None") -> tuple[Config, Parent | None]:
    """The settings that others change: those of a recipe, or of the run that is gone on from; and that run."""
    asked = recipes.recipe(recipe or "default", faithful) if recipe or faithful else None
    if start is not None:
        parent = Parent.of(start)
        return parent.default(asked), parent
    if asked is not None and asked.only_class:
        raise UserError(f"The recipe {recipe} goes on from a run that knows more classes: name it, as in --from runs/cifar10.")
    return asked or recipes.default(), None


def configured(
    recipe: str | None, faithful: bool, start: "str | Path | None", options: Mapping[str, Any]
) -> tuple[Config, Parent | None]:
    """The settings of a recipe, or of the run that is gone on from, with others in some fields; and that run."""
    config, parent = base(recipe, faithful, start)
    return recipes.budgeted(with_options(config, options), config), parent


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
