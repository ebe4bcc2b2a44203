"""Pictures to teach with: an image going into noise and coming out of it, noise schedules, the course of training."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro
from PIL import Image

from .. import flags, picture, recipes, scenes
from ..config import Size
from ..errors import unknown
from ..model import load
from ..run import Run
from ..spec import Spec

Made = tuple[Path, Image.Image, dict[str, str]]  # where it is written unless said, the picture, what else tells how it was made
Out = Annotated[Path | None, tyro.conf.arg(metavar="FILE.png")]


@dataclasses.dataclass
class Forward:
    """An image on its way into noise: the original, then x_t at ten moments, each with its signal-to-noise ratio."""

    data: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DATA", help_behavior_hint="")] = ""
    """A folder, zip or tar of images, an array file, a known name such as digits: see docs/data.md."""
    image: Annotated[int, flags.COUNT] = 0
    """Number of the image in the data, from 0 on."""
    schedule: Annotated[Spec | None, flags.CHOICE] = None
    """Noise schedule, as in linear:steps=200; the recipe's unless said; for the default one edm from 80 on."""
    recipe: Annotated[str, tyro.conf.arg(metavar="NAME")] = "default"
    """The recipe whose schedule, size and channels are taken."""
    size: Size = None
    """Height and width that the image is brought to, as 64 or 64x128."""
    at: str | None = None
    """Moments to show. Of a schedule with T steps: step numbers 0 to T-1, as in 0,50,100,150,199, unless said ten of
    them, the first and the last among them. Of any other: times up to 1, as in 0.2,0.5,1, unless said 0.1, 0.2 and so on."""
    seed: Annotated[int, flags.COUNT] = 0
    """Decides the noise, which is the same at all moments."""
    out: Out = None
    """Where the picture is written; forward.png unless said."""


@dataclasses.dataclass
class Plot:
    """Noise schedules over each other: alpha, sigma, log-SNR, where the image is lost, and which stop short of noise."""

    schedules: tyro.conf.Positional[tuple[str, ...]] = ()
    """Names with options, as in linear:steps=200 linear:steps=200,mended=true cosine edm."""
    size: Annotated[tuple[int, int], flags.SIZE] = (64, 64)
    """Height and width of the images that shall be lost in noise."""
    out: Out = None
    """Where the picture is written; schedule.png unless said."""


@dataclasses.dataclass
class Loss:
    """The loss of a run while it was trained, or the smoothed losses of several over each other."""

    runs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """Run folders; the newest under runs/ unless said."""
    by: str = "images"
    """What is counted along the axis: images (seen) or step (of the optimizer)."""
    out: Out = None
    """Where the picture is written; RUN/out/loss.png unless said, and loss.png for several runs."""


@dataclasses.dataclass
class Denoising:
    """A sample coming out of noise, stage by stage, each with its noise level, sigma / alpha."""

    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder; the newest under runs/ unless said."""
    stages: Annotated[int, flags.COUNT] = 10
    """How many stages, the noise and the sample among them."""
    seed: Annotated[int, flags.COUNT] = 0
    """As in `sfumato sample`."""
    only: Annotated[int, flags.COUNT] = 0
    """Number of the sample, as in `sfumato sample`."""
    label: str | None = None
    """Name or number of its label."""
    steps: Annotated[int | None, flags.COUNT] = None
    """Steps of the solver; as the run was trained for unless said."""
    solver: Annotated[Spec | None, flags.CHOICE] = None
    """As in `sfumato sample`."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""
    out: Out = None
    """Where the picture is written; RUN/out/denoising-sSEED-NUMBER.png unless said."""


def forward(args: Forward) -> Made:
    config = recipes.recipe(args.recipe)
    schedule = scenes.chosen_schedule(args.schedule, config, args.at)  # a mistake is found before the data is read
    x0 = scenes.image(args.data, msgspec.structs.replace(config, size=args.size or config.size), args.image)
    return Path("forward.png"), scenes.forward(schedule, x0, args.at, args.seed, args.image), {}


def plot(args: Plot) -> Made:
    drawing = picture.schedule_plot(args.schedules, *scenes.courses(args.schedules), args.size)
    print("\n".join(scenes.ends(args.schedules, args.size)))
    return Path("schedule.png"), drawing, {}


def loss(args: Loss) -> Made:
    runs = [Run.existing(path) for path in args.runs or (None,)]
    return (runs[0].out if len(runs) == 1 else Path()) / "loss.png", scenes.losses(runs, args.by), {}


def denoising(args: Denoising) -> Made:
    run = Run.existing(args.run)
    model = load(run, device=args.device)
    strip = model.strip(args.seed, args.stages, args.only, steps=args.steps, solver=args.solver, label=args.label)
    path = f"denoising-s{args.seed}-{args.only:05d}.png"
    return run.out / path, strip, scenes.told(model, args.seed, args.steps, args.solver, label=args.label)


WORDS = {"forward": (Forward, forward), "schedule": (Plot, plot), "loss": (Loss, loss), "denoising": (Denoising, denoising)}


def main(arguments: list[str]) -> int:
    word, *rest = arguments or ["--help"]
    if word in ("-h", "--help"):
        lines = [f"  {name:11}{kind.__doc__}" for name, (kind, _) in WORDS.items()]
        print("Usage: sfumato show PICTURE ...\n", *lines, "\nsfumato show PICTURE --help says more.", sep="\n")
        return 0
    if word not in WORDS:
        raise unknown("picture", word, WORDS)
    kind, draw = WORDS[word]
    args: Any = flags.parse(kind(), rest, f"sfumato show {word}", kind.__doc__ or "")
    picture.claim(args.out or Path(f"{word}.png"), word, args.out is not None)  # what cannot be is said before the work
    path, drawn, text = draw(args)  # type: ignore[operator]
    path = picture.claim(args.out or path, word, args.out is not None)
    picture.save_png(path, drawn, {"picture": word, **scenes.asked(args), **text})
    print(path)
    return 0
