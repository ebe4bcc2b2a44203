"""Progress of long work, as every command but `train` shows it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..training.watch import still

EVERY = 10.0  # seconds between lines where there is no terminal


@contextmanager
def stages(console: Console) -> Iterator[Callable[[str], Callable[[int, int], None]]]:
    """`stage(what)` begins a stage and returns its `show(done, total)`: a bar with a rate and the time that is left.

    Where there is no terminal, a line is printed every ten seconds. A `done` smaller than the last begins a new count.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def stage(what: str) -> Callable[[int, int], None]:
            for task in bar.task_ids:
                bar.remove_task(task)
            task = bar.add_task(what, total=None, rate="")
            begun = told = time.perf_counter()
            before = 0

            def show(done: int, total: int) -> None:
                nonlocal begun, told, before
                now = time.perf_counter()
                if done < before:
                    bar.reset(task)
                    begun = now
                before, rate = done, done / max(1e-9, now - begun)
                bar.update(task, completed=done, total=total, rate=f"{rate:.3g}/s")
                if not console.is_terminal and now - told > EVERY:
                    told, left = now, (total - done) / max(1e-9, rate)
                    console.print(f"{what}: {done:,} of {total:,}  {rate:.3g}/s  {still(left)}", markup=False)

            return show

        yield stage
