"""Measure how good a model is: distances to real pictures, copies, denoising, likelihood. Typing it again goes on."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table

from .. import flags
from ..config import Levels
from ..model import load
from ..picture.hypertext import number
from ..run import Run
from ..spec import Spec
from ..training.device import best_device
from .stages import stages


@dataclasses.dataclass
class Arguments:
    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder; the newest under runs/ unless said."""
    data: str | None = None
    """Real pictures to compare with; those that the run was trained on unless said."""
    n: Annotated[int, flags.COUNT, tyro.conf.arg(aliases=["-n"])] = 10_000
    """How many samples are drawn. They are kept in the run folder: what is there is not drawn again."""
    features: str = "own"
    """own: a network trained on the pictures themselves, once; inception:FILE or dinov2:FILE: published weights."""
    likelihood: Annotated[int, flags.COUNT] = 0
    """Held-out pictures whose likelihood is measured, such as 256; it takes minutes."""
    seed: Annotated[int, flags.COUNT] = 0
    """Of the samples."""
    steps: Annotated[int | None, flags.COUNT] = None
    """Steps of the solver; as the run was trained for unless said."""
    solver: Annotated[Spec | None, flags.CHOICE] = None
    """As in `sfumato sample`."""
    guidance: Annotated[float | None, flags.NUMBER] = None
    """As in `sfumato sample`, and so are the next ones."""
    interval: Levels = None
    """Noise levels between which guidance works."""
    worse: Path | None = None
    """The model to guide away from."""
    checkpoint: str | None = None
    """The one after so many images, or best; the newest unless said."""
    raw: bool = False
    """Judge the raw weights, not their average."""
    ema: Annotated[float | None, flags.NUMBER] = None
    """Judge an average of this length instead, of a run with --posthoc."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""
    json: bool = False
    """Print all numbers as JSON."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato evaluate", __doc__ or "")
    kind, rank = best_device().type, os.environ.get("LOCAL_RANK")
    device = args.device or (f"{kind}:{rank}" if rank and kind != "cpu" else None)
    run = Run.existing(args.run)
    model = load(run, weights=flags.weights(args.raw, args.ema), device=device, at=args.checkpoint)
    worse = load(args.worse, device=device) if args.worse else None
    console = Console(highlight=False, soft_wrap=True, stderr=args.json)
    from ..judge.evaluate import evaluate, write  # brings scikit-learn, which takes seconds to import

    with stages(console) as stage:
        found = evaluate(
            model, args.data, args.n, args.features, args.seed, args.likelihood, device, stage,
            steps=args.steps, solver=args.solver, guidance=args.guidance, interval=args.interval, worse=worse,
        )  # fmt: skip
    written = write(run, found)
    if args.json:
        print(json.dumps(found.records()))
        return 0
    for title, rows in found.groups.items():
        table = Table("", "", "95 %", "samples", "of", "", title=title, title_justify="left", box=None, header_style="dim")
        for row in rows:
            interval = "" if row.low is None else f"{number(row.low)} to {number(row.high)}"
            counts = (f"{count:,}" if count else "" for count in (row.samples, row.reference))
            table.add_row(row.name, number(row.value), interval, *counts, row.note)
        if rows:
            console.print(table)
    for sentence in (*found.said, *map(str, written)):
        console.print(sentence, markup=False)
    return 0
