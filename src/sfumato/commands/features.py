"""Train the feature network that evaluation looks through, on the pictures themselves, or find the one that was trained."""

import time

from rich.console import Console

from .. import trainer
from ..judge.features import features
from ..training.device import device_named
from . import chosen
from .stages import stages


def main(arguments: list[str]) -> int:
    args, _ = chosen.read(chosen.Choices, arguments, "sfumato features", __doc__ or "")
    device_named(args.device)  # a mistake is found before the work
    console = Console(highlight=False, soft_wrap=True, markup=False)
    with stages(console) as stage:
        plan = trainer.prepare(args.data, args.config, progress=stage("reading"))
        start = time.perf_counter()
        found = features("own", plan, args.device, stage("training"))
    seconds = time.perf_counter() - start
    console.print(found.about)
    console.print(f"{found.size} features, {found.name}, in {seconds:.1f} s: {found.path}")
    return 0
