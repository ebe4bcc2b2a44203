"""Draw pictures from a trained model: a grid, single files, and what else is asked for."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from .. import few, flags, picture, scenes
from ..config import Levels
from ..model import load
from ..run import Run
from ..spec import Spec
from .stages import stages

MORE = ("label", "interval", "rescale", "worse", "threshold", "tuned", "ema")  # told in the pictures where they were asked for


@dataclasses.dataclass
class Arguments:
    run: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[RUN]")] = None
    """The run folder; the newest under runs/ unless said."""
    n: Annotated[Any, flags.COUNT, tyro.conf.arg(aliases=["-n"])] = None  # Any: of an `int | None`, 'none' could be typed
    """How many samples, 64 unless said; with --classes, how many in each row, 8 unless said."""
    seed: Annotated[int, flags.COUNT] = 0
    """Sample number i of a seed is the same picture however many are drawn."""
    steps: Annotated[int | None, flags.COUNT] = None
    """Steps of the solver; as the run was trained for unless said."""
    solver: Annotated[Spec | None, flags.CHOICE] = None
    """euler, ddim, ddpm, heun, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, unipc; with options as in ddim:eta=1."""
    label: str | None = None
    """Name or number of the label that all samples shall have."""
    guidance: Annotated[float | None, flags.NUMBER] = None
    """Guidance towards the label, 1 for none; as the run was trained for unless said, with --worse none."""
    interval: Levels = None
    """Noise levels, sigma / alpha, between which guidance works, as in 0.2,3, or 0,inf: everywhere; as the run was
    trained for unless said, with --worse everywhere."""
    rescale: Annotated[float, flags.NUMBER] = 0.0
    """Share of the contrast that guidance added and that is taken back, 0 to 1."""
    worse: Path | None = None
    """Guide away from this model, a run with a smaller network or an earlier checkpoint, RUN/checkpoints/000..., rather than
    towards the label."""
    threshold: Annotated[float | None, flags.NUMBER] = None
    """Quantile of a guess that dynamic thresholding brings into range, such as 0.995; cut off unless said."""
    tuned: bool = False
    """Move the times of so many steps to where this model needs them, for few steps; found once, kept in the run folder."""
    only: Annotated[int | None, flags.COUNT] = None
    """Draw only the sample of this number again."""
    out: Path | None = None
    """Folder for the pictures; RUN/out unless said. Pictures of the same seed in it that were drawn otherwise, with other
    settings or from another checkpoint, are moved to older-1, older-2 and so on in it."""
    npy: Path | None = None
    """Also save all samples as one array (N, H, W, C)."""
    gif: bool = False
    """Also save the denoising of the grid as an animation."""
    apng: bool = False
    """The same as an animated PNG, with all steps in all their colours."""
    halfway: bool = False
    """Also save a picture of the samples beside their states after half of the steps, sSEED-halfway.png."""
    classes: bool = False
    """Draw a row for each label, all with the same sample numbers, instead of a grid and single files."""
    copies: bool = False
    """Also count how many samples are nearer to a training image than held-out images are."""
    batch: Annotated[int, flags.COUNT] = 64
    """How many are drawn at once; it changes nothing in the pictures."""
    checkpoint: str | None = None
    """The one after so many images, or best, as --best of training chose it; the newest unless said."""
    raw: bool = False
    """Use the raw weights, not their average."""
    ema: Annotated[float | None, flags.NUMBER] = None
    """Use an average of this length instead, a share of the training such as 0.08, of a run with --posthoc."""
    device: str | None = None
    """cpu, cuda, mps; the accelerator if there is one, unless said."""


def main(arguments: list[str]) -> int:
    args = flags.parse(Arguments(), arguments, "sfumato sample", __doc__ or "")
    console = Console(highlight=False, soft_wrap=True)
    run = Run.existing(args.run)
    out = args.out or run.out
    picture.make_room(out, args.npy)  # before anything is drawn
    model = load(run, weights=flags.weights(args.raw, args.ema), device=args.device, at=args.checkpoint)
    for note in model.notes:
        console.print(note, markup=False)
    labels = scenes.rows(model, args.label, args.only, args.classes)
    if args.copies:
        from ..judge import memory  # brings scikit-learn, which takes seconds to import

        originals = memory.originals(model)
    for sentence in scenes.unsaid(model, args.guidance, labels, interval=args.interval, worse=args.worse):
        console.print(sentence)
    worse = load(args.worse, device=args.device) if args.worse else None
    n = 1 if args.only is not None else args.n if args.n is not None else 8 if args.classes else 64
    steps = model.config.sampling_steps if args.steps is None else args.steps
    solver = args.solver or (few.tunable(model.config.solver) if args.tuned else model.config.solver_of(steps))
    moving = [kind for kind in ("gif", "apng") if getattr(args, kind)]
    with stages(console) as stage:
        times = few.times(model, run, steps, solver, stage("tuning")) if args.tuned else model.times(steps)
        pictures, shown, halfway = scenes.drawn(
            model, n, args.seed, times, labels, bool(moving), stage("sampling"), solver=solver, guidance=args.guidance,
            interval=args.interval, rescale=args.rescale, worse=worse, threshold=args.threshold, first=args.only or 0,
            batch=args.batch,
        )  # fmt: skip
    console.print(f"{len(pictures)} samples in {steps} steps of {solver}: {model.evaluations} evaluations each.")
    more = {name: getattr(args, name) for name in MORE}
    text = scenes.told(model, args.seed, steps, solver, args.guidance, args.raw, **more)
    if moved := picture.set_aside(out, args.seed, text):
        console.print(moved, markup=False)
    names = (model.labels or ()) if args.classes else ()
    made = scenes.save(pictures, shown, halfway if args.halfway else None, out, args.seed, args.only, names, moving, text)
    for path in made + ([] if args.npy is None else [picture.save_array(args.npy, pictures)]):
        console.print(str(path), markup=False)
    if args.copies:
        console.print(memory.copies(pictures, *originals).sentence())
    return 0
