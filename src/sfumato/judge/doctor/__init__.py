"""Why are the samples bad? Checks of a run, or of pictures alone, the most likely cause first.

    findings = sfumato.judge.doctor.examine("runs/photos-default")

A check is a function of a `Case` that returns a Finding, and an entry of CHECKS.
"""

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ... import trainer
from ...config import Config
from ...run import Run
from . import course, network, pictures, samples
from .case import Case
from .findings import UNKNOWN, CannotTell, Finding, ordered

__all__ = ["CHECKS", "Case", "Check", "Finding", "examine", "inspect", "made"]


@dataclass(frozen=True)
class Check:
    """A check, and what it looks at: the `pictures`, the `settings`, the `log`, or the `network`, which alone is not cheap."""

    look: Callable[[Case], Finding]
    at: str


# In the order in which one fault hides another: what is wrong above explains what is seen below.
CHECKS: dict[str, Check] = {
    "contents": Check(pictures.contents, "pictures"),
    "values": Check(pictures.values, "pictures"),
    "labels": Check(pictures.labels, "pictures"),
    "sigma_data": Check(pictures.deviation, "pictures"),
    "noise": Check(course.noise, "settings"),
    "writing": Check(samples.writing, "pictures"),
    "finite": Check(network.finite, "network"),
    "mode": Check(network.mode, "network"),
    "batch statistics": Check(network.batch_statistics, "network"),
    "average": Check(network.averaged, "network"),
    "channels": Check(network.channels, "network"),
    "eight pictures": Check(network.eight, "network"),
    "gradients": Check(course.gradients, "log"),
    "plateau": Check(course.plateau, "log"),
    "by heart": Check(network.by_heart, "network"),
    "mean picture": Check(network.constant, "network"),
    "linear filter": Check(network.gaussian, "network"),
    "PSNR": Check(network.peak, "network"),
    "sampler": Check(samples.sampler, "network"),
    "colour": Check(samples.colour, "network"),
    "saturation": Check(samples.saturation, "network"),
    "number": Check(pictures.number, "pictures"),
    "half-life": Check(course.memory_of_average, "settings"),
}


def made(case: Case, at: Iterable[str], progress: Callable[[int, int], None] = lambda done, total: None) -> list[Finding]:
    """The findings of all checks that look at one of `at`, the most likely cause of bad samples first."""
    chosen = {name: check for name, check in CHECKS.items() if check.at in at}
    found = []
    for done, (name, check) in enumerate(chosen.items()):
        try:
            finding = check.look(case)
        except CannotTell as reason:
            finding = Finding(UNKNOWN, str(reason))
        found.append(dataclasses.replace(finding, check=name))
        progress(done + 1, len(chosen))
    return ordered(found)


def examine(
    run: str | Path | Run | None,
    data: Any = None,
    net: nn.Module | None = None,
    device: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Finding]:
    """What is wrong with a run, the most likely cause of bad samples first; the newest run if none is named.

    data   where its pictures are, if they are no longer where they were, or were an array
    net    its network, if it was trained with one's own
    Raises UserError if there is no run.
    """
    run = Run.existing(run)
    return made(
        Case(run.config(), run, data, net, device, progress=progress), ("pictures", "settings", "log", "network"), progress
    )


def inspect(data: Any, config: Config, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Finding]:
    """What is wrong with pictures that a run is to be trained on by a config; raises UserError as training does."""
    plan = trainer.prepare(data, config, progress=progress)
    return made(Case(plan.config, plan=plan), ("pictures",), progress)
