"""Train on a cluster that Slurm runs: write the scripts of a job that trains and of one that draws, and submit them.

Type what you would type to train, and what the job asks for: sfumato launch train photos/ --partition gpu --hours 12
"""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Annotated

from rich.console import Console

from .. import flags, slurm, trainer
from ..errors import UserError
from ..run import Run
from . import chosen, train


@dataclasses.dataclass
class Arguments(train.Arguments):
    partition: str | None = None
    """Partition of the cluster; its default unless said."""
    gpus: Annotated[int, flags.COUNT] = 1
    """1, or 0 for a job without a GPU."""
    cpus: Annotated[int, flags.COUNT] = 4
    """CPU cores."""
    memory: str = "16G"
    """Main memory."""
    hours: Annotated[float, flags.NUMBER] = 24.0
    """Time limit of one start of the job. Training may take longer: it is put back into the queue and goes on."""
    account: str | None = None
    """Account that the job is charged to."""
    qos: str | None = None
    """Quality of service."""
    name: str | None = None
    """Name of the job; that of the run folder unless said."""
    signal_seconds: Annotated[int, flags.COUNT] = 180
    """How long before the time limit training is told to save and stop."""
    samples: Annotated[int, flags.COUNT] = 64
    """How many samples are drawn when training has finished."""
    setup: str = ""
    """Shell commands that come first in the job, as in 'module load cuda'."""
    print: bool = False
    """Write the scripts and print them; submit nothing."""


OWN = {field.name for field in dataclasses.fields(Arguments)} - {field.name for field in dataclasses.fields(train.Arguments)}


def main(arguments: list[str]) -> int:
    own, words = slurm.apart(arguments, OWN, {"print", "no_print"})
    if words[:1] != ["train"] and not {"-h", "--help"} & {*words}:
        raise UserError(f"Expected train, as in sfumato launch train photos/; found {words[0] if words else 'nothing'}.")
    words = words[words[:1] == ["train"] :]
    read = lambda words: chosen.read(Arguments, words, "sfumato launch", __doc__ or "")
    args, parent = read([*own, *words])
    if args.dry_run:
        raise UserError("--dry-run trains nothing, so there is nothing to launch. Type --print to see the scripts alone.")
    if args.samples < 1:
        raise UserError(f"samples does not fit: expected 1 or more, found {args.samples}.")
    folder = chosen.folder(args.data, args.run, args.recipe, args.faithful, parent, args.config).path.absolute()
    if Run.of(folder).started:
        trainer.refuse_changes(Run.of(folder), trainer.as_begun(args.config, Run.of(folder)))
    asked = {field.name: getattr(args, field.name) for field in dataclasses.fields(slurm.Ask)}
    full, words = absolute(args.data), slurm.apart(words, {"run", "from"})[1]
    words += [] if parent is None else ["--from", str(parent.run.path.absolute())]
    versions = ([*words[:i], full, *words[i + 1 :]] for i, word in enumerate(words) if word == args.data)
    words = next(version for version in versions if read(version)[0].data == full)  # an equal word may be a flag's value
    training = ["train", *words, "--run", str(folder)]
    drawing = ["sample", str(folder), "-n", str(args.samples), *(["--device", args.device] if args.device else [])]
    texts = slurm.scripts(folder, slurm.Ask(**asked | {"name": args.name or folder.name}), training, drawing, args.setup)
    say = Console(highlight=False, soft_wrap=True, markup=False, emoji=False).print
    for path, text in texts.items():
        older = slurm.write(path, text)
        say(f"{path}{f' (what it was is now {older.name})' if older else ''}", f"\n{text}" * args.print, sep="")
    train_script, sample_script = texts
    by_hand = slurm.by_hand(train_script, sample_script)
    if args.print:
        say(f"Nothing was submitted. To do so, type: {by_hand}")
        return 0
    if shutil.which("sbatch") is None:
        raise UserError(f"There is no sbatch here, so nothing was submitted. On the login node type: {by_hand}")
    job = slurm.submit(train_script)
    say(f"Job {job} trains; its log: {folder / f'train-{job}.log'}")
    later = slurm.submit(sample_script, f"--dependency=afterok:{job}")
    say(f"Job {later} draws {args.samples} samples when job {job} has finished. The queue: squeue --me")
    return 0


def absolute(data: str) -> str:
    """DATA as it can be typed in any folder: a path becomes absolute, the name of a data set stays."""
    for path in (data, data.partition("?")[0]):  # options may follow the path of a table
        whole = Path(os.path.expanduser(path)).absolute()
        if data != "digits" and os.path.exists(whole):
            return f"{whole}{data[len(path) :]}"
    return data
