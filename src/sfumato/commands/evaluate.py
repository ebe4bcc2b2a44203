"""Measure how good a model is: distances to real pictures, copies, denoising, likelihood. Typing it again goes on."""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .. import flags
from ..model import load
from ..picture.hypertext import number
from ..run import Run
from ..spec import Spec


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
    guidance: Annotated[float, flags.NUMBER] = 1.0
    """Guidance towards the label of each sample; 1 is none."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""
    json: bool = False
    """Print all numbers as JSON."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato evaluate", __doc__ or "")
    device = args.device or (f"cuda:{os.environ['LOCAL_RANK']}" if "LOCAL_RANK" in os.environ else None)
    model = load(Run.existing(args.run), device=device)
    console = Console(highlight=False, soft_wrap=True, stderr=args.json)
    from ..judge.evaluate import evaluate, write  # brings scikit-learn, which takes seconds to import

    with stages(console) as stage:
        found = evaluate(
            model, args.data, args.n, args.features, args.seed, args.likelihood, device, stage,
            steps=args.steps, solver=args.solver, guidance=args.guidance,
        )  # fmt: skip
    written = write(Run.existing(model.path), found)
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


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """Progress of work in stages, each with its rate and the time that is left; plain lines where there is no terminal."""
    columns = (*Progress.get_default_columns()[:-1], TimeRemainingColumn(), TextColumn("{task.fields[rate]}"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def stage(what: str) -> Callable[[int, int], None]:
            for task in bar.task_ids:
                bar.remove_task(task)
            task, begun = bar.add_task(what, total=None, rate=""), time.perf_counter()
            told = begun

            def show(done: int, total: int) -> None:
                nonlocal told
                now = time.perf_counter()
                rate = done / max(1e-9, now - begun)
                bar.update(task, completed=done, total=total, rate=f"{rate:.3g}/s")
                if not console.is_terminal and now - told > 10:
                    told = now
                    left = (total - done) / max(1e-9, rate)
                    console.print(f"{what}: {done:,} of {total:,}  {rate:.3g}/s  {left:.0f} s left")

            return show

        yield stage
