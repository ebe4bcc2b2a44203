"""Why are the samples bad? Checks of a run, or of pictures before training on them; the most likely cause comes first."""

import dataclasses
import json
from contextlib import suppress
from typing import Annotated

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import flags, recipes
from ..errors import UserError
from ..judge import doctor, report
from ..judge.doctor.findings import UNKNOWN, keep
from ..run import Run
from ..training.device import device_named
from .stages import stages

COLOURS = {"wrong": "red", "look": "yellow", UNKNOWN: "dim", "fine": "green"}


@dataclasses.dataclass
class Arguments:
    what: Annotated[tyro.conf.Positional[str | None], tyro.conf.arg(metavar="[RUN|DATA]", help_behavior_hint="")] = None
    """A run folder, or pictures as `sfumato train` takes them; the newest run under runs/ unless said."""
    data: str | None = None
    """Where the pictures of the run are, if they are no longer where they were."""
    all: bool = False
    """Also show what is fine."""
    json: bool = False
    """Print one JSON list instead of a table."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato doctor", __doc__ or "")
    device_named(args.device)
    a_run = args.what is None or Run.of(args.what).started
    if args.data is not None and not a_run:
        raise UserError(f"--data names the pictures of a run, and {args.what} is none.")
    console = Console(stderr=True)
    with stages(console) as stage:
        if a_run:
            run = Run.existing(args.what)
            found = doctor.examine(run, args.data, device=args.device, progress=stage("looking"))
        else:
            found = doctor.inspect(args.what, recipes.default(), stage("looking"))
    if a_run:
        with suppress(OSError):  # someone else's run may be examined too
            keep(run, found)
            report.write(run)
    if args.json:
        print(json.dumps([dataclasses.asdict(finding) for finding in found]))
        return 0
    told(Console(highlight=False), found, args.all)
    return 0


def told(console: Console, found: list[doctor.Finding], everything: bool) -> None:
    """A table of what is wrong, the most likely cause first, and a line on the rest."""
    bad = [finding for finding in found if finding.bad]
    shown = found if everything else bad
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for finding in shown:
        verdict = Text(finding.verdict, COLOURS[finding.verdict])
        said = Text("\n").join(Text(part) for part in (finding.cause, finding.figure, finding.mend) if part)
        table.add_row(verdict, Text(finding.check, "bold"), said)
    if shown:
        console.print(table)
    fine, unknown = ([finding for finding in found if finding.verdict == verdict] for verdict in ("fine", UNKNOWN))
    if not bad:
        console.print(f"Nothing was found that explains bad samples: {len(fine)} checks are fine.")
    elif not everything:
        console.print(f"{len(fine)} other checks are fine (--all shows them).")
    if unknown and not everything:
        reasons = dict.fromkeys(finding.figure for finding in unknown)
        console.print(Text(f"{len(unknown)} could not be told: {' '.join(reasons)}"))
