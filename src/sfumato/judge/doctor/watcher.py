"""The cheap checks while a run trains: one sentence, once for each finding."""

import dataclasses
from collections.abc import Callable

import numpy as np

from ...plan import Plan
from ...run import Run
from ...training.loop import Event
from . import Case, Finding, made
from .findings import keep, ordered

LOOKED = 2048  # pictures at most that are looked at when a run begins


class Watch:
    """Looks at pictures and settings when training begins, and at each line of the log; keeps all findings in the run."""

    def __init__(self, run: Run, plan: Plan, say: Callable[[str], None]):
        images, count = plan.images, min(LOOKED, len(plan.images))
        some = images.subset(np.arange(count) * len(images) // count)
        self.case = Case(plan.config, run, plan=dataclasses.replace(plan, images=some))
        self.run, self.say = run, say
        self.found: dict[str, Finding] = {}
        self.said: set[str] = set()

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.case.records = self.run.records()
            self._look("pictures", "settings")
        elif event.kind == "log" and event.record is not None:
            self.case.records.append(event.record)
            self._look("log")
        elif event.kind == "end":
            self._keep()

    def _look(self, *at: str) -> None:
        for finding in made(self.case, at):
            self.found[finding.check] = finding
            if finding.bad and finding.check not in self.said:
                self.said.add(finding.check)
                self.say(f"{finding.check}: {finding.sentence()}")
                self._keep()

    def _keep(self) -> None:
        keep(self.run, ordered(self.found.values()))
