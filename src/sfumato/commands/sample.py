"""Draw pictures from a trained model: a grid, single files, and what else is asked for."""

import dataclasses
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from .. import picture, trainer
from ..config import Choice
from ..errors import UserError
from ..judge.metrics import neighbours
from ..model import Model, load
from ..run import Run


@dataclasses.dataclass
class Arguments:
    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder; the newest under runs/ unless said."""
    n: Annotated[int, tyro.conf.arg(aliases=["-n"])] = 64
    """How many samples."""
    seed: int = 0
    """Sample number i of a seed is the same picture however many are drawn."""
    steps: int | None = None
    """Steps of the solver; as the run was trained for unless said."""
    solver: Annotated[Choice | None, tyro.conf.arg(metavar="NAME")] = None
    """ddim, ddpm, heun, dpmpp_2m; with options as in ddim:eta=1."""
    label: str | None = None
    """Name or number of the label that all samples shall have."""
    guidance: float = 1.0
    """Guidance towards the label; 1 is none."""
    only: int | None = None
    """Draw only the sample of this number again."""
    out: Path | None = None
    """Folder for the pictures; RUN/out unless said."""
    npy: Path | None = None
    """Also save all samples as one array (N, H, W, C)."""
    gif: bool = False
    """Also save the denoising of the grid as an animation."""
    copies: bool = False
    """Also count how many samples are nearer to a training image than held-out images are."""
    batch: int = 64
    """How many are drawn at once; it changes nothing in the pictures."""
    raw: bool = False
    """Use the raw weights, not their average."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""


def main(arguments: list[str]) -> int:
    args = tyro.cli(Arguments, args=arguments, prog="sfumato sample", description=__doc__)
    console = Console(highlight=False, soft_wrap=True)
    run = Run.existing(args.run)
    model = load(run, weights="model" if args.raw else "ema", device=args.device)
    for note in model.notes:
        console.print(note, markup=False)
    if args.label is None and model.labels:
        console.print(f"No label was named: {len(model.labels)} labels are drawn as often as the data has them.")
    frames: list[np.ndarray] = []
    n, first = (1, args.only) if args.only is not None else (args.n, 0)
    with Progress(*Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("sampling", total=1)
        pictures = model.sample(
            n, args.seed, args.steps, args.solver, args.label, args.guidance, first=first, batch=n if args.gif else args.batch,
            callback=(lambda i, t, x, x0: frames.append(model.displayed(x))) if args.gif else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    steps = args.steps or model.config.sampling_steps
    console.print(
        f"{n} samples in {steps} steps of {args.solver or model.config.solver}: {model.evaluations} evaluations each."
    )
    out = args.out or run.out
    for path in save(model, pictures, out, first, args, steps):
        console.print(str(path), markup=False)
    if args.gif:
        picture.gif([picture.grid(frame) for frame in frames], out / f"s{args.seed}-grid.gif", scale=1)
        console.print(str(out / f"s{args.seed}-grid.gif"), markup=False)
    if args.copies:
        console.print(_copies(run, model, pictures))
    return 0


def save(model: Model, pictures: np.ndarray, out: Path, first: int, args: Arguments, steps: int) -> list[Path]:
    """Write single files, the grid, and the array if asked for; returns the paths that a person wants to open."""
    out.mkdir(parents=True, exist_ok=True)
    solver = str(args.solver or model.config.solver)
    text = {"run": str(model.path), "seed": str(args.seed), "solver": solver, "steps": str(steps)}
    for number, one in enumerate(pictures, first):
        single = one if one.dtype == np.uint16 and one.shape[-1] == 1 else model.displayed(one)
        picture.save_png(
            out / f"s{args.seed}-{number:05d}.png", picture.to_pil(single) if single.dtype == np.uint8 else single, text
        )
    opened = [out / f"s{args.seed}-{first:05d}.png"]
    if args.only is None:
        opened = [out / f"s{args.seed}-grid.png"]
        picture.save_png(opened[0], picture.grid(model.displayed(pictures)), text)
    if args.npy is not None:
        args.npy.parent.mkdir(parents=True, exist_ok=True)
        with open(args.npy, "wb") as file:
            np.save(file, pictures, allow_pickle=False)
        opened.append(args.npy)
    return opened


def _copies(run: Run, model: Model, pictures: np.ndarray) -> str:
    """The sentence on samples that are copies, against the pictures that the run was trained on and those held out."""
    plan = trainer.prepare(model.facts.data, model.config)
    if plan.facts.fingerprint != model.facts.fingerprint:
        raise UserError(f"{model.facts.data} no longer holds the pictures that {run.path} was trained on.")
    train, held = (part.array.transpose(0, 2, 3, 1) for part in (plan.train, plan.held_out))
    return neighbours.copies(pictures, train, held).sentence()
