"""Timing side by side: candidates in turns, medians, and what machine it was."""

import json
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sfumato.commands.chosen import Choices, read
from sfumato.training.device import best_device, machine


def compare(candidates: dict[str, Callable[[], object]], rounds: int = 15) -> dict[str, float]:
    """Median seconds of each candidate, all measured in turns after one call to warm up."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for run in candidates.values():
        run()
    for _ in range(rounds):
        for name, run in candidates.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def heading(device: torch.device | None = None) -> str:
    """Machine, torch and commit; the CPU is meant unless another device is named."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return f"{machine(device or torch.device('cpu'))}, commit {commit or 'unknown'}"


def kept(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def once(file: Path, asked: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row of a file of JSON lines that was asked for so; measured, printed and added where there is none."""
    for row in kept(file):
        if asked.items() <= row.items():
            return row
    row = asked | measure()
    with file.open("a") as out:
        out.write(json.dumps(row | {"machine": heading(best_device())}) + "\n")
    print(json.dumps(row), flush=True)
    return row


def typed(data: str, flags: str) -> tuple[Choices, Any]:
    """What `sfumato train DATA FLAGS` is asked for, and the run that it goes on from."""
    return read(Choices, [data, *shlex.split(flags)], "sfumato train", "")
