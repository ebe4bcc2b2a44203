"""Those who watch a training run: they are told of events and never change its state."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from .. import picture
from . import checkpoint
from .ema import tensors
from .loop import Event, Watcher, crossed


class Log:
    """Appends each line of the log to a JSONL file."""

    def __init__(self, path: Path):
        self.path = path

    def __call__(self, event: Event) -> None:
        if event.kind == "log":
            with open(self.path, "a") as file:
                file.write(json.dumps(event.record) + "\n")


class Bar:
    """A progress bar with loss, images a second and the time that is left; plain lines where there is no terminal."""

    def __init__(self, console: Console):
        self.console = console
        self.loss, self.held_out = "", ""
        self.last_line = 0.0
        self.progress = Progress(
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} images"), BarColumn(), TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(), TextColumn("left"), console=console, disable=not console.is_terminal,
            speed_estimate_period=60,
        )  # fmt: skip

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        """Print a sentence above the bar."""
        self.console.print(text, markup=False)

    def reading(self, done: int, total: int) -> None:
        """Pictures are being decoded: so many of so many files."""
        if done == 1 or not hasattr(self, "began"):
            for task in self.progress.task_ids:  # begun again, for the sizes differ
                self.progress.remove_task(task)
            self.began, self.last_line = time.perf_counter(), time.perf_counter()
            self.decoding = self.progress.add_task("", total=total, text="")
            self.progress.start()
        rate = done / max(1e-9, time.perf_counter() - self.began)
        self.progress.update(self.decoding, completed=done, text=f"read, {rate:.0f} files/s")
        if not self.console.is_terminal and time.perf_counter() - self.last_line > 10:
            self.last_line = time.perf_counter()
            self.say(f"{done:,} of {total:,} files read  {rate:.0f} files/s  {(total - done) / rate:.0f} s left")
        if done == total:
            self.progress.remove_task(self.decoding)

    def __call__(self, event: Event) -> None:
        images = event.state.images
        if event.kind == "start":
            self.started, self.first = time.perf_counter(), images
            self.task = self.progress.add_task("", total=event.budget, completed=images, text="")
            self.progress.start()
        elif event.kind == "step":
            self.progress.update(self.task, completed=images, text=self._text(images))
        elif event.kind == "log" and event.record is not None:
            self.loss = f"loss {event.record['loss']:.4f}"
            if event.record.get("held_out_loss") is not None:
                self.held_out = f"held-out {event.record['held_out_loss']:.4f}"
            if not self.console.is_terminal and time.perf_counter() - self.last_line > 10:
                self.last_line = time.perf_counter()
                left = max(0, event.budget - images) / max(self._rate(images), 1e-9)
                self.say(f"{images:,} of {event.budget:,} images  {self._text(images)}  {still(left)}")

    def _rate(self, images: int) -> float:
        return (images - self.first) / max(1e-9, time.perf_counter() - self.started)

    def _text(self, images: int) -> str:
        return "  ".join(part for part in (self.loss, self.held_out, f"{self._rate(images):.3g} images/s") if part)


def still(seconds: float) -> str:
    """How much time is left, as it stands at the end of a line."""
    return f"{int(seconds // 60)} min {int(seconds % 60)} s left"


class Share:
    """A share of the time since training began, for work that can wait."""

    def __init__(self, share: float):
        self.share, self.spent, self.cost = share, 0.0, 0.0
        self.begin()

    def begin(self) -> None:
        self.begun = time.perf_counter()

    def allows(self) -> bool:
        """Whether doing it once more, at the cost of the last time, stays within the share."""
        return self.spent + self.cost < self.share * (time.perf_counter() - self.begun)

    @contextlib.contextmanager
    def spending(self) -> Iterator[None]:
        """The time of this block counts."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.cost = time.perf_counter() - start
            self.spent += self.cost


def careful(watcher: Watcher, name: str, say: Callable[[str], None]) -> Watcher:
    """The watcher, but whatever goes wrong in it is said, the first time, and never stops training."""
    failed = False

    def watching(event: Event) -> None:
        nonlocal failed
        try:
            watcher(event)
        except Exception as error:
            if not failed:
                say(f"{name} failed, and training goes on without it: {type(error).__name__}: {error}")
            failed = True

    return watching


class Pictures:
    """Draws fixed-noise grids with the raw and the averaged weights, and the loss curve, within a share of the time."""

    def __init__(
        self,
        draw: Callable[[nn.Module], Any],
        grid_path: Callable[[int], Path],
        records: Callable[[], list[dict[str, Any]]],
        curve_path: Path,
        share: float = 0.05,
    ):
        self.draw, self.grid_path, self.records, self.curve_path = draw, grid_path, records, curve_path
        self.share = Share(share)

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.share.begin()
        elif event.kind == "end" or (event.kind == "log" and self.share.allows()):
            with self.share.spending():
                rows = {"raw": self.draw(event.state.net), "averaged": self.draw(event.state.ema.net)}
                path = self.grid_path(event.state.images)
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save_png(path, picture.sheet(rows, columns=8))
                picture.loss_curve(self.records(), self.curve_path)


class Strips:
    """Draws one sample coming out of noise every so many images, with the averaged weights."""

    def __init__(self, draw: Callable[[nn.Module], Any], path: Callable[[int], Path], every: int):
        self.draw, self.path, self.every, self.last = draw, path, every, 0

    def __call__(self, event: Event) -> None:
        images = event.state.images
        if event.kind == "start":
            self.last = images
        elif (event.kind == "step" and images // self.every > self.last // self.every) or event.kind == "end":
            self.last = images
            self.path(images).parent.mkdir(parents=True, exist_ok=True)
            picture.save_png(self.path(images), self.draw(event.state.ema.net))


class Snapshots:
    """A watcher that writes down the averages that are kept, `every` so many images and at the end."""

    def __init__(self, folder: Path, every: int, batch: int):
        self.folder, self.every, self.batch = folder, every, batch

    def __call__(self, event: Event) -> None:
        state = event.state
        if event.kind == "step" and (crossed(state.images, self.batch, self.every) or state.images >= event.budget):
            checkpoint.save(self.folder, state.images, {name: tensors(kept.net) for name, kept in state.averages.items()}, {})
