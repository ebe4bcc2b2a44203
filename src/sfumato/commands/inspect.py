"""Look at pictures before training on them: what they are, what is wrong with them, what training would do."""

import dataclasses
import io
import json
import sys
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console

from .. import picture, scenes, trainer
from ..data.survey import listed, survey
from ..disk import replace_text
from ..errors import UserError
from ..picture import page
from ..training.device import device_named
from . import chosen
from .stages import stages

SECONDS = 3.0  # of training steps for the estimate


@dataclasses.dataclass
class Arguments(chosen.Choices):
    json: bool = False
    """Print one JSON object instead of tables."""
    html: Path | None = None
    """Also write all that was found as one page, FILE.html."""
    sheet: Path | None = None
    """Also write the contact sheet, FILE.png."""
    no_time: tyro.conf.FlagCreatePairsOff[bool] = False
    """Do not measure how long training would take."""


def main(arguments: list[str]) -> int:
    args, _ = chosen.read(Arguments, arguments, "sfumato inspect", __doc__ or "")
    for path in filter(None, (args.html, args.sheet)):  # before the work
        if path.is_dir():
            raise UserError(f"--html and --sheet name files to write; {path} is a folder.")
        picture.make_room(path.parent)
    device_named(args.device)
    console = Console(stderr=True)
    with stages(console) as stage:
        plan = trainer.prepare(args.data, args.config, progress=stage("reading"), device=args.device, measure=not args.no_time)
        images, codec = plan.images, plan.codec
        found = survey(images, stage("counting"), codec)
        stage("timing a few steps")
        estimate = trainer.estimate(plan, args.device, 0.0 if args.no_time else SECONDS)
    facts = {"kind": plan.kind, **listed(images, found), "sigma_data": plan.facts.sigma_data}
    facts |= {"train": plan.facts.train, "held_out": plan.facts.held_out, "split": plan.reasons[len(images.notes) :]}
    facts["plan"] = told(estimate, plan.facts.train)
    sheet = scenes.contact(images)
    if args.sheet is not None:
        picture.save_png(args.sheet, sheet)
    if args.html is not None:
        png = io.BytesIO()
        sheet.save(png, format="PNG")
        replace_text(args.html, page.html(facts, png.getvalue()))
    if args.json:
        print(json.dumps(facts))
        return 0
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has the characters of the bars
    console = Console(highlight=False)
    console.print(page.terminal(facts))
    for path in filter(None, (args.html, args.sheet)):
        console.print(page.plain(str(path)), markup=False, soft_wrap=True)
    return 0


def told(estimate: trainer.Estimate, train: int) -> dict[str, Any]:
    """What training would do, as JSON has it; `train` is the number of pictures to train on."""
    config = estimate.config
    return {
        "net": str(config.net), "parameters": estimate.parameters, "batch": config.batch, "images": config.images,
        "epochs": None if config.images is None else config.images / train, "precision": estimate.precision,
        "machine": estimate.machine, "images_per_second": estimate.speed, "seconds": estimate.seconds,
    }  # fmt: skip
