"""Timing side by side: candidates in turns, medians, and what machine it was."""

import shlex
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

from sfumato.commands.chosen import Choices, read
from sfumato.training.device import machine


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


def typed(data: str, flags: str) -> tuple[Choices, Any]:
    """What `sfumato train DATA FLAGS` is asked for, and the run that it goes on from."""
    return read(Choices, [data, *shlex.split(flags)], "sfumato train", "")
