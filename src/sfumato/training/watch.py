"""Those who watch a training run: they are told of events and never change its state."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from torch import nn

from .. import picture
from .loop import Event


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

    def __init__(self, budget: int, console: Console):
        self.console, self.budget = console, budget
        self.task: TaskID | None = None
        self.loss, self.held_out = "", ""
        self.last_line = 0.0
        self.progress = Progress(
            TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
            console=console, disable=not console.is_terminal, speed_estimate_period=60,
        )  # fmt: skip

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.started, self.first = time.perf_counter(), event.state.images
            self.task = self.progress.add_task("", total=self.budget, completed=event.state.images, text="")
            self.progress.start()
        elif event.kind == "end":
            self.progress.stop()
        elif event.kind == "step" and self.task is not None:
            self.progress.update(self.task, completed=event.state.images, text=self._text(event))
        elif event.kind == "log" and event.record is not None:
            self.loss = f"loss {event.record['loss']:.4f}"
            if event.record.get("held_out_loss") is not None:
                self.held_out = f"held-out {event.record['held_out_loss']:.4f}"
            if not self.console.is_terminal and time.perf_counter() - self.last_line > 10:
                self.last_line = time.perf_counter()
                self.console.print(f"{event.state.images:,} of {self.budget:,} images  {self._text(event)}", highlight=False)

    def _text(self, event: Event) -> str:
        done = event.state.images - self.first
        rate = done / max(1e-9, time.perf_counter() - self.started)
        left = (self.budget - event.state.images) / max(rate, 1e-9)
        eta = "" if self.console.is_terminal else f"{int(left // 60)} min {int(left % 60)} s left"
        return "  ".join(part for part in (self.loss, self.held_out, f"{rate:.0f} images/s", eta) if part)


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
        self.draw, self.grid_path, self.records, self.curve_path, self.share = (
            draw,
            grid_path,
            records,
            curve_path,
            share,
        )
        self.begun, self.spent, self.cost = time.perf_counter(), 0.0, 0.0

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.begun = time.perf_counter()
        allowed = self.share * (time.perf_counter() - self.begun)
        if event.kind == "end" or (event.kind == "log" and self.spent + self.cost < allowed):
            start = time.perf_counter()
            rows = {"raw": self.draw(event.state.net), "averaged": self.draw(event.state.ema.net)}
            path = self.grid_path(event.state.images)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save_png(path, picture.sheet(rows, columns=8))
            picture.loss_curve(self.records(), self.curve_path)
            self.cost = time.perf_counter() - start
            self.spent += self.cost
