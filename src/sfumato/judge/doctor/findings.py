"""What a check says, and in which order it is told."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ...disk import replace_text
from ...run import Run

UNKNOWN = "could not be told"
VERDICTS = ("wrong", "look", UNKNOWN, "fine")  # from what must be mended to what need not be


@dataclass(frozen=True)
class Finding:
    """What one check says of a run, or of a set of pictures."""

    verdict: str  # one of VERDICTS
    figure: str  # what was measured, a sentence
    cause: str = ""  # what most likely is behind it, a sentence; none where all is fine
    mend: str = ""  # the flag or the change that mends it, a sentence
    check: str = ""  # its name in the table of checks

    @property
    def bad(self) -> bool:
        """Whether it may explain bad samples."""
        return self.verdict in ("wrong", "look")

    def sentence(self) -> str:
        """All of it in one line."""
        return " ".join(filter(None, (self.figure, self.cause, self.mend)))


class CannotTell(Exception):
    """A check lacks what it needs; the text says what, in one sentence."""


def graded(value: float, look: float, wrong: float, figure: str, cause: str, mend: str) -> Finding:
    """The finding on a value that is bad when it is large: worth a look above one limit, wrong above another or NaN."""
    if value <= look:
        return Finding("fine", figure)
    return Finding("look" if value <= wrong else "wrong", figure, cause, mend)


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """The most likely cause of bad samples first: by verdict, and within one in the order given, which is that of the table."""
    return sorted(findings, key=lambda finding: VERDICTS.index(finding.verdict))


def keep(run: Run, findings: Iterable[Finding]) -> None:
    """Write findings into the run folder, where the report looks for them."""
    replace_text(run.findings, json.dumps([asdict(finding) for finding in findings], indent=1) + "\n")
