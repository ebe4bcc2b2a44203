"""The run folder. This file alone knows its layout.

config.json  held_out.txt  log.jsonl  loss.png  report.html  evaluation.json  findings.json  times.json
samples/  out/  checkpoints/000200000/  averages/000200000/  tensorboard/  wandb/  .lock
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .config import Settled, from_json, to_json
from .disk import replace_text
from .errors import UserError


@dataclass(frozen=True)
class Run:
    """A run folder, there or yet to be made."""

    path: Path

    @classmethod
    def of(cls, path: "str | Path | Run") -> "Run":
        if not isinstance(path, Run) and str(path) in ("", "."):
            raise UserError("A run needs a folder of its own; name one, as in runs/mine.")
        return path if isinstance(path, Run) else cls(Path(path))

    @classmethod
    def existing(cls, path: "str | Path | Run | None") -> "Run":
        """The run at `path`, or without one the newest under runs/; raises UserError if there is none."""
        if path is None:
            runs = sorted(Path("runs").glob("*/config.json"), key=os.path.getmtime)
            if not runs:
                raise UserError("There is no run under runs/ yet; train one with `sfumato train DATA`, or name its folder.")
            return cls(runs[-1].parent)
        run = cls.of(path)
        if not run.started:
            found = "a folder without config.json" if run.path.is_dir() else "nothing" if not run.path.exists() else "a file"
            there = [str(path.parent) for path in sorted(Path("runs").glob("*/config.json"))]
            others = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "")
            raise UserError(
                f"Expected a run folder at {run.path}, found {found}. "
                + (f"There is {others}." if others else "Train one with `sfumato train DATA`.")
            )
        return run

    @property
    def started(self) -> bool:
        return (self.path / "config.json").is_file()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def averages(self) -> Path:
        """Snapshots of averages of the weights, of which others can be made."""
        return self.path / "averages"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def loss_curve(self) -> Path:
        return self.path / "loss.png"

    @property
    def report(self) -> Path:
        """The page that is looked at while training."""
        return self.path / "report.html"

    @property
    def evaluation(self) -> Path:
        """What was measured of the samples: a list of {name, value, low, high, samples, reference, note}."""
        return self.path / "evaluation.json"

    @property
    def findings(self) -> Path:
        """What the doctor found: a list of {check, verdict, measured, cause, mend}."""
        return self.path / "findings.json"

    @property
    def closest(self) -> Path:
        """Samples beside the training images that are nearest to them."""
        return self.out / "closest.png"

    @property
    def times(self) -> Path:
        """The times that were tuned to the model, by solver, number of steps and images seen."""
        return self.path / "times.json"

    @property
    def out(self) -> Path:
        return self.path / "out"

    def logger(self, name: str) -> Path:
        """The folder of the files that another program, `tensorboard` or `wandb`, keeps of the run."""
        return self.path / name

    def grid(self, images: int) -> Path:
        """Where the grid drawn after so many images lies."""
        return self.path / "samples" / f"{images:09d}.png"

    def strip(self, images: int) -> Path:
        """Where the strip of one sample coming out of noise lies that was drawn after so many images."""
        return self.path / "samples" / f"{images:09d}-strip.png"

    def grids(self) -> dict[int, Path]:
        """The grids drawn while training, by images seen, in this order."""
        return {int(path.stem): path for path in sorted((self.path / "samples").glob("[0-9]*.png")) if path.stem.isdigit()}

    def denoising(self) -> list[Path]:
        """Strips and animations of samples coming out of noise, the newest first."""
        patterns = ("samples/*-strip.png", "out/denoising-*.png", "out/*.gif")
        return sorted((path for each in patterns for path in self.path.glob(each)), key=os.path.getmtime, reverse=True)

    def config(self) -> Settled:
        try:
            return from_json((self.path / "config.json").read_text(errors="replace"))
        except UserError as error:
            raise UserError(f"{self.path / 'config.json'} cannot be read. {error}") from None

    def write_config(self, config: Settled) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        replace_text(self.path / "config.json", to_json(config))

    def write_held_out(self, paths: Sequence[str]) -> None:
        """Keep where the held-out pictures came from, a line each."""
        shown = (path.encode(errors="backslashreplace").decode() for path in paths)
        replace_text(self.path / "held_out.txt", "".join(f"{path}\n" for path in shown))

    def records(self) -> list[dict[str, Any]]:
        """The lines of the log; a line that was cut off by a crash is left out."""
        if not self.log.exists():
            return []
        records = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(record, dict) and isinstance(record.get("images"), int):
                records.append(record)
        return records

    def rewind_log(self, images: int) -> None:
        """Drop the lines after `images`: what was logged between the last checkpoint and a crash will be logged again."""
        kept = [record for record in self.records() if record["images"] <= images]
        if self.log.exists():
            replace_text(self.log, "".join(json.dumps(record) + "\n" for record in kept))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run against a second trainer; raises UserError if there is one. A folder that stays empty is not left."""
        made = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UserError(
                f"Another process is training {self.path}. Wait for it, or name another folder (--run NEW)."
            ) from None
        try:
            yield
        finally:
            lock.release()
            if made and not any(each.name != ".lock" for each in self.path.iterdir()):
                shutil.rmtree(self.path)


def names(runs: Sequence[Run]) -> list[str]:
    """What runs are called beside each other: their folders' names, or where two are equal their paths."""
    short = [run.path.resolve().name for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]
