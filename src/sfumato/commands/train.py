"""Train a diffusion model on pictures. Typing the same command again resumes."""

import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from torch import nn

from .. import nets, recipes, trainer
from ..built import build_net
from ..config import Config, builtins
from ..finetune import Parent
from ..judge import watching
from ..model import Model
from ..run import Run
from ..training import checkpoint, loggers
from ..training.stop import flat
from ..training.watch import Bar
from .chosen import Choices, folder, label, read


@dataclasses.dataclass
class Arguments(Choices):
    run: Path | None = None
    """The run folder; runs/DATA-RECIPE unless said."""
    start: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None
    """Begin from the weights of this run, with its network, on other pictures or on --only-class."""
    log_to: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Also tell tensorboard (its files are in RUN/tensorboard) or wandb; may be given twice."""
    dry_run: bool = False
    """Print the resolved settings as JSON and stop."""
    trace_shapes: bool = False
    """Print what goes into each block of the network and what comes out, and stop."""
    trace_layers: bool = False
    """The same for every layer inside the blocks."""


def main(arguments: list[str]) -> int:
    args, parent = read(Arguments, arguments, "sfumato train", __doc__ or "")
    if args.dry_run or args.trace_shapes or args.trace_layers:
        run = folder(args.data, args.run, args.recipe, args.faithful, parent, args.config)
        asked = trainer.as_begun(args.config, run)
        plan = trainer.prepare(args.data, asked, parent=parent, device=args.device, measure=True)
    if args.dry_run:
        for reason in plan.reasons:
            print(reason, file=sys.stderr)
        found = trainer.estimate(plan, args.device, 3.0 if plan.config.time else 0.0)
        print(found, file=sys.stderr)
        print(json.dumps(builtins(found.config), indent=2))
        return 0
    if args.trace_shapes or args.trace_layers:
        rows = nets.trace(build_net(plan.config, plan.facts), plan.facts.shape)
        Console(highlight=False).print(nets.table(rows, whole=args.trace_layers))
        return 0
    model = run_training(
        args.data, args.run, args.recipe, args.faithful, parent, None, args.device, False, args.config, args.log_to
    )
    return 0 if ended(model) else 128 + signal.SIGINT


def ended(model: Model) -> bool:
    """Whether a run is at its end: it has seen its budget, or its loss no longer falls and that was to end it."""
    settled = model.config.stop_when is not None and model.path is not None and flat(Run(model.path).records())
    return settled or model.images >= (model.config.images or 0)


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
    log_to: Sequence[str] = (),
) -> Model:
    """Train with progress on the terminal; the run folder is the first and the last thing printed."""
    tell = loggers.known(log_to)
    said = recipes.kept_faults(recipe, config) if faithful else []
    name = label(recipe, faithful, parent, config)
    console = Console(quiet=quiet, highlight=False, soft_wrap=True)
    folder = None if run is None else Run.of(run)
    with Bar(console) as bar:
        watchers: trainer.Watchers = lambda run, plan: [bar, *watching.watchers(run, plan, bar.say, device, tell)]
        model = trainer.train(data, config, folder, net, watchers, bar.say, device, name, bar.reading, parent, said)
    if not ended(model):
        console.print(f"Stopped and saved after {model.images:,} images. Type the same command again to go on.")
    seen = f"{model.path}: {model.images:,} images seen, as report.html in it shows."
    if model.path is not None and (best := checkpoint.told(Run(model.path).checkpoints)):
        console.print(best)
    console.print(f"{seen} Draw from it: sfumato sample {model.path}", markup=False)
    return model
