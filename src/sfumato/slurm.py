"""Jobs for a cluster that Slurm runs: two plain scripts for its sbatch, to be read, kept and changed by hand."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

from .disk import replace_text
from .errors import UserError

DRAWING = 3600  # seconds; a short limit lets the queue fit the job in early


@dataclass(frozen=True)
class Ask:
    """What a job asks the cluster for; raises UserError for what no job of one training can ask for.

    None leaves it to the cluster. `hours` is the time limit of one start; `signal_seconds` before it training is told to
    save and stop.
    """

    name: str
    partition: str | None = None
    gpus: int = 1
    cpus: int = 4
    memory: str = "16G"
    hours: float = 24.0
    account: str | None = None
    qos: str | None = None
    signal_seconds: int = 180

    def __post_init__(self) -> None:
        if self.gpus > 1:
            raise UserError(
                f"Training runs on one GPU, so a job asks for one; found {self.gpus}. "
                "Type --gpus 1; further runs are jobs of their own."
            )
        if self.gpus < 0 or self.cpus < 1:
            raise UserError(f"A job has 0 or 1 GPU and at least 1 CPU core; found {self.gpus} and {self.cpus}.")
        if not re.fullmatch(r"\d+[KMGT]?", self.memory, re.IGNORECASE | re.ASCII):
            raise UserError(f"memory does not fit: expected an amount, as in 16G, found {self.memory or 'nothing'}.")
        if not 1 / 60 <= self.hours < 100_000:  # Slurm counts in minutes
            raise UserError(f"hours does not fit: expected a minute (0.017) or more, found {self.hours:g}.")
        if not 1 <= self.signal_seconds < min(self.seconds, 65_536):
            raise UserError(
                f"signal_seconds does not fit: expected 1 or more, below 65,536 and the {self.seconds:,} seconds of the time "
                f"limit; found {self.signal_seconds:,}."
            )

    @property
    def seconds(self) -> int:
        return round(3600 * self.hours)

    def lines(self, log: Path, seconds: int, **more: object) -> str:
        """The #SBATCH lines; `more` is added, as in kill_on_invalid_dep="yes"."""
        values: dict[str, object] = {
            "job-name": self.name,
            "output": str(log).replace("%", "%%") + "-%j.log",  # %j is the job's number
            "open-mode": "append",
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "nodes": 1,
            "ntasks": 1,
            "gpus": self.gpus or None,
            "cpus-per-task": self.cpus,
            "mem": self.memory,
            "time": time_limit(seconds),
            "requeue": "",
        }
        values |= {name.replace("_", "-"): value for name, value in more.items()}
        given = {name: str(value) for name, value in values.items() if value is not None}
        return "\n".join(f"#SBATCH --{name}{'=' * bool(value)}{escaped(value)}" for name, value in given.items())


def time_limit(seconds: int) -> str:
    """As Slurm writes a time: 90,000 is 1-01:00:00."""
    return f"{seconds // 86400}-{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def escaped(text: str) -> str:
    """A text as sbatch reads it in an #SBATCH line: it heeds backslashes everywhere, between quotes of both kinds too."""
    if not text.isprintable():
        raise UserError(f"Names and paths in a script are one line of printable characters; found {text!r}.")
    return re.sub(r"([^\w@%+=:,./-])", r"\\\1", text)


TOLD = """
# USR1: the time limit is near (see --signal above). TERM: the job is pre-empted, or Slurm ends it. Either way training
# is sent TERM, on which it saves a checkpoint and stops.
training=
told=no
tell() {
    told=yes
    if [ -n "$training" ]; then kill -TERM "$training" 2>/dev/null; fi
}
trap tell USR1 TERM
echo "Start $((${SLURM_RESTART_COUNT:-0} + 1)) of job $SLURM_JOB_ID on $HOSTNAME, $(date)."
"""

WAITED = """training=$!
if [ "$told" = yes ]; then kill -TERM "$training"; fi # the signal came before training did

# A signal ends `wait` early; then it waits again, for the checkpoint and for training's own exit code.
while
    told=no
    wait "$training"
    code=$?
    [ "$told" = yes ]
do :; done
trap '' USR1 TERM # nothing is left to be told

# Exit codes: 0 is a finished run, 2 a refused one (the log says why), 130 one that was stopped and has saved, 143 one
# that was stopped before there was anything to save. Only the last two have a reason to start again.
if [ "$code" -eq 130 ] || [ "$code" -eq 143 ]; then
    # A job that Slurm is already ending is left alone: after scancel it shall stay away, and one that Slurm itself puts
    # back into the queue needs no help.
    if [ "$(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID" 2>/dev/null)" != COMPLETING ]; then
        echo "Stopped; asking for a place in the queue, to go on from the checkpoint."
        scontrol requeue "$SLURM_JOB_ID" || echo "The job was not put back; to go on, submit this script again."
    fi
fi
exit "$code"
"""


def scripts(folder: Path, ask: Ask, training: Sequence[str], drawing: Sequence[str], setup: str = "") -> dict[Path, str]:
    """Path and text of the script in the run folder that trains, then of the one that draws from the trained run.

    training, drawing    the commands, as they would be typed behind `sfumato`, word by word
    setup                lines of shell that come first
    Nothing is written. Raises UserError for what cannot stand in an #SBATCH line.
    """
    train, sample = folder / "train.sbatch", folder / "sample.sbatch"
    train_text = (
        f"{_head(train, 'Trains; started again, it goes on where it stopped.')}"
        "# Slurm may put the job back into its queue (--requeue), and a second start writes on in the same log (--open-mode).\n"
        f"# {ask.signal_seconds} seconds before the time limit this shell, B, is sent the signal USR1 (--signal).\n"
        f"{ask.lines(folder / 'train', ask.seconds, signal=f'B:USR1@{ask.signal_seconds}')}\n"
        f"{TOLD}\n{_before(setup)}"
        "# The same command at every start: it resumes from the newest checkpoint in the run folder.\n"
        f"{_command(training)} &\n{WAITED}"
    )
    later = replace(ask, name=f"{ask.name}-sample")
    sample_text = (
        f"{_head(sample, 'Draws a grid from the trained run.')}"
        "# Submitted with --dependency=afterok:JOB it waits for the training to finish, and is dropped if that fails\n"
        "# (--kill-on-invalid-dep). Slurm may start it again (--requeue): it then draws the same pictures, from the first.\n"
        f"{later.lines(folder / 'sample', min(ask.seconds, DRAWING), kill_on_invalid_dep='yes')}\n\n"
        f"{_before(setup)}{_command(drawing)}\n"
    )
    return {train: train_text, sample: sample_text}


def _head(path: Path, what: str) -> str:
    return f"#!/bin/bash\n# {what} Written by `sfumato launch`, yours to change. Submit it with:\n#   sbatch {_word(path)}\n"


def _before(setup: str) -> str:
    lines = f"# As --setup says.\n{setup}\n\n" if setup else ""
    lines += "set -u # after the setup, for many a setup uses names that have no value\n"
    return lines + "".join(f"export {name}={shlex.quote(value)}\n" for name, value in _environment().items()) + "\n"


def _environment() -> dict[str, str]:
    """What decides where Python finds its modules and Sfumato its cache, where it is set."""
    found = {name: os.environ.get(name, "") for name in ("PYTHONPATH", "SFUMATO_CACHE")}
    parts = {name: value.split(os.pathsep) if name == "PYTHONPATH" else [value] for name, value in found.items() if value}
    return {name: os.pathsep.join(map(os.path.abspath, folders)) for name, folders in parts.items()}


def _command(words: Sequence[str]) -> str:
    """In the Python that writes the script, whatever else the job's own environment would find under that name."""
    return shlex.join([sys.executable, "-m", "sfumato", *words])


def _word(path: Path) -> str:
    return shlex.quote(str(path))


def by_hand(train: Path, sample: Path) -> str:
    """What submits both scripts by hand."""
    number = "${job%%;*}"  # sbatch may answer NUMBER;CLUSTER
    return f"job=$(sbatch --parsable {_word(train)}) && sbatch --dependency=afterok:{number} {_word(sample)}"


def write(path: Path, text: str) -> Path | None:
    """Write a script; returns where an earlier one that says something else, perhaps by hand, was moved to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    older = None
    if path.exists() and path.read_bytes() != text.encode():
        names = (path.with_name(f"{path.name}.older-{n}") for n in count(1))
        older = path.rename(next(name for name in names if not name.exists()))
    replace_text(path, text)
    return older


def submit(script: Path, *options: str) -> str:
    """The number of the job that sbatch makes of a script; raises UserError in sbatch's own words."""
    done = subprocess.run(["sbatch", "--parsable", *options, str(script)], capture_output=True, text=True)
    number = re.search(r"^\d+", done.stdout, re.MULTILINE)  # ;CLUSTER may follow
    if done.returncode or number is None:
        said = " ".join(f"{done.stderr} {done.stdout}".split())
        raise UserError(said or f"sbatch ended with exit code {done.returncode} and said nothing.")
    return number[0]


def apart(words: list[str], names: Set[str], bare: Set[str] = frozenset()) -> tuple[list[str], list[str]]:
    """The words of these flags, with their values, and all other words; flags in `bare` have no value."""
    parts: tuple[list[str], list[str]] = [], []
    rest = iter(words)
    for word in rest:
        flag, equals, _ = word.partition("=")
        name = flag[2:].replace("-", "_") if flag.startswith("--") else ""
        valued = name in names - bare and not equals
        parts[name not in names | bare].extend([word, *islice(rest, int(valued))])
    return parts
