"""Train the feature network that evaluation looks through, on the pictures themselves, or find the one that was trained."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from .. import trainer
from ..judge.features import features
from ..training.device import device_named
from . import chosen


def main(arguments: list[str]) -> int:
    args, _ = chosen.read(chosen.Choices, arguments, "sfumato features", __doc__ or "")
    device_named(args.device)  # a mistake is found before the work
    console = Console(highlight=False, soft_wrap=True, markup=False)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=None, rate="")
        show = lambda done, total: bar.update(
            task, completed=done, total=total, rate=f"{done:,} of {total:,}, {bar.tasks[task].speed or 0:.0f}/s"
        )
        plan = trainer.prepare(args.data, args.config, progress=show)
        bar.reset(task, description="training")
        start = time.perf_counter()
        found = features("own", plan, args.device, show)
    seconds = time.perf_counter() - start
    console.print(found.about)
    console.print(f"{found.size} features, {found.name}, in {seconds:.1f} s: {found.path}")
    return 0
