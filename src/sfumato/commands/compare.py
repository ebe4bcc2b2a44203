"""Runs beside each other on one page: samples from the same noise, losses, measures, and how the settings differ."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from .. import flags
from ..disk import replace_text
from ..errors import UserError
from ..judge import compare
from ..run import Run
from .stages import stages


@dataclasses.dataclass
class Arguments:
    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN RUN ...")] = ()
    """Run folders, two or more."""
    n: Annotated[int, flags.COUNT, tyro.conf.arg(aliases=["-n"])] = 16
    """How many samples of each."""
    seed: Annotated[int, flags.COUNT] = 0
    """Decides the noise, which is the same for all runs."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.html")] = Path("compare.html")
    """Where the page is written."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato compare", __doc__ or "")
    runs = [Run.existing(path) for path in args.runs]
    ours = lambda: 'name="generator" content="sfumato"' in args.out.read_text(errors="replace")
    if args.out.is_dir() or (args.out.exists() and not ours()):
        raise UserError(f"{args.out} is there already and is no page of ours; name another file, as in --out runs.html.")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, soft_wrap=True)
    with stages(console) as stage:
        text = compare.page(runs, args.n, args.seed, stage("sampling"))
    replace_text(args.out, text)
    console.print(str(args.out), markup=False)
    return 0
