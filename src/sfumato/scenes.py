"""What is shown of diffusion itself: an image on its way into noise, schedules compared, samples with their stages.

Here it is decided what a picture shows; `picture` draws it.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from . import draws, picture, schedules, trainer
from .config import Config, build_schedule, checked
from .data import AffineCodec, Images, gather
from .data.survey import examples
from .errors import UserError, unknown
from .model import Model
from .picture.axes import brief
from .run import Run, names
from .schedules import Schedule, diffuse
from .spec import Spec, make

Progress = Callable[[int, int], None]
STAGES = 10


# ---- the data --------------------------------------------------------------------------------------------------------


def contact(images: Images) -> Image.Image:
    """Some pictures of a set, their darkest stored value black and the lightest white; a row to each class."""
    some, captions = examples(images)
    x0 = AffineCodec.fit(images).encode(torch.from_numpy(images.take(some)))  # (N, C, H, W)
    return picture.contact_sheet(picture.to_uint8(x0.permute(0, 2, 3, 1).numpy()), captions)


# ---- the forward process ---------------------------------------------------------------------------------------------


def moments(schedule: Schedule, at: str | None = None) -> tuple[Tensor, list[str]]:
    """The times (S,) at which a forward process is shown, and what they are called.

    A schedule of T steps is asked by step, 0 to T - 1: step i is t = (i + 1) / T; unless said ten of them, first and last.
    Any other is asked by t in (0, 1], unless said 0.1, 0.2 .. 1. Raises UserError for what is neither.
    """
    steps = schedule.steps
    if at is None:
        every = np.linspace(0, steps - 1, STAGES).round() if steps else (np.arange(STAGES) + 1) / STAGES
        chosen: list[float] = list(dict.fromkeys(every.tolist()))
    else:
        kind = f"step numbers from 0 to {steps - 1}" if steps else "times above 0, up to 1,"
        example = "0,50,100" if steps else "0.1,0.5,1"
        try:
            chosen = [float(part) for part in at.split(",")]
        except ValueError:
            chosen = []
        fits = (lambda v: v == int(v) and 0 <= v < steps) if steps else (lambda v: 0 < v <= 1)
        if not chosen or not all(np.isfinite(value) and fits(value) for value in chosen):
            raise UserError(f"--at does not fit this schedule: expected {kind} as in {example}, found {at or 'nothing'}.")
    names = [f"step {value:g}" if steps else f"t = {value:g}" for value in chosen]
    times = torch.tensor(chosen, dtype=torch.float64)
    return ((times + 1) / steps if steps else times), names


def forward(schedule: Schedule, x0: Tensor, at: str | None = None, seed: int = 0, number: int = 0) -> Image.Image:
    """A strip of an image x0 (C, H, W) and its noisy forms, see `noised`; what lies outside [-1, 1] saturates."""
    states, captions = noised(schedule, x0, at, seed, number)
    shown = picture.to_uint8(states.permute(0, 2, 3, 1).numpy())  # (1 + S, H, W, C)
    return picture.strip(shown, captions, picture.scale_to(picture.STAGE, max(x0.shape[1:])))


def noised(schedule: Schedule, x0: Tensor, at: str | None = None, seed: int = 0, number: int = 0) -> tuple[Tensor, list[str]]:
    """An image x0 (C, H, W) and its noisy forms x_t, (1 + S, C, H, W), with captions that tell their SNR.

    The noise is one and the same at all stages, a function of the seed and of the image's `number`; `at` as in `moments`.
    """
    times, names = moments(schedule, at)
    eps = draws.normal(draws.keys(seed, "forward", number), tuple(x0.shape))  # (1, C, H, W)
    x_t = diffuse(schedule, x0.expand(len(times), -1, -1, -1), times, eps)  # (S, C, H, W)
    snr = schedule.log_snr(times).exp().tolist()
    captions = [f"{name}\nSNR {brief(ratio)}" for name, ratio in zip(names, snr, strict=True)]
    return torch.cat((x0[None], x_t)), ["original", *captions]


def image(data: Any, config: Config, number: int) -> Tensor:
    """An image of the data in model space, (C, H, W), brought to the config's size; raises UserError if it is not there."""
    images = gather(trainer.opened(data, config), config.size, config.channels, config.fit)
    if not 0 <= number < len(images):
        raise UserError(f"The data has {len(images):,} images, numbered from 0; found --image {number}.")
    return AffineCodec.fit(images).encode(torch.from_numpy(images.take(np.array([number]))))[0]


def chosen_schedule(spec: Spec | None, config: Config, at: str | None = None) -> Schedule:
    """The schedule named, else that of a config; raises UserError for what is in no table and for moments it has not."""
    schedule = build_schedule(checked(config)) if spec is None else named_schedule(spec)
    moments(schedule, at)
    return schedule


def named_schedule(spec: str | Spec) -> Schedule:
    """The schedule of that name and options; raises UserError for what is in no table."""
    return make(schedules.SCHEDULES, spec, "schedule")


# ---- schedules -------------------------------------------------------------------------------------------------------


def courses(specs: Sequence[str], points: int = 2001) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """t (P,), and alpha, sigma and log-SNR (S, P) of schedules by name; raises UserError for none, or what is in no table."""
    if not specs:
        raise UserError("Expected one schedule or more, as in `sfumato show schedule linear:steps=200 cosine edm`.")
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    found = [named_schedule(spec) for spec in specs]
    rows = [(*schedule(t), schedule.log_snr(t)) for schedule in found]
    alpha, sigma, log_snr = (torch.stack(column).numpy() for column in zip(*rows, strict=True))
    return t.numpy(), alpha, sigma, log_snr


def ends(specs: Sequence[str], size: tuple[int, int]) -> list[str]:
    """A sentence on each schedule: the SNR it ends at, and whether that is noise for images of this size (H, W)."""
    said = []
    for spec in specs:
        schedule = named_schedule(spec)
        snr, half = schedule.terminal_snr, schedule.time(0.0)
        pixels = size[0] * size[1]
        verdict = "reaches noise" if snr * pixels < 1 else "stops short of noise"
        moment = f"SNR 1 at {_when(schedule, half)}" if schedule.log_snr(1.0) <= 0 else "never as much noise as image"
        said.append(f"{spec}: {verdict}; {moment}, terminal SNR {brief(snr)} ({brief(snr * pixels)} over all pixels)")
    return said


def _when(schedule: Schedule, t: float) -> str:
    return f"t = {t:.2f}" + (f", step {max(0, round(t * schedule.steps) - 1)} of {schedule.steps}" if schedule.steps else "")


# ---- training ----------------------------------------------------------------------------------------------------------


def losses(runs: Sequence[Run], by: str) -> Image.Image:
    """The loss curve of a run, or those of several over each other, by `images` seen or by `step` of the optimizer."""
    if by not in ("images", "step"):
        raise unknown("axis called", by, ("images", "step"))
    called = names(runs)
    batches = [run.config().batch for run in runs]
    if len(runs) == 1:
        return picture.loss_curve(runs[0].records(), title=called[0], batch=batches[0] if by == "step" else None)
    steps = dict(zip(called, batches, strict=True)) if by == "step" else None
    return picture.loss_curves({name: run.records() for name, run in zip(called, runs, strict=True)}, batches=steps)


# ---- samples ---------------------------------------------------------------------------------------------------------


def rows(model: Model, label: Any, only: int | None, classes: bool) -> list[Any]:
    """The labels that samples are drawn of, one after another: the one named (None: by frequency), or all `classes`."""
    if not classes:
        return [label]
    if label is not None or only is not None:
        raise UserError("--classes draws all labels, and samples from number 0 on; leave out --label and --only.")
    if not model.labels:
        raise UserError("--classes draws a row for each label, and this model was trained without; leave it out.")
    return list(range(len(model.labels)))


def unsaid(model: Model, guidance: float | None, labels: Sequence[Any], **asked: Any) -> list[str]:
    """What is done about labels without being asked for, a sentence each."""
    scale, where = model.steering(labels[0], guidance, **asked)
    said = []
    if list(labels) == [None] and model.labels:
        said.append(f"No label was named: {len(model.labels)} labels are drawn as often as the data has them.")
    if guidance is None and scale != 1:
        place = "at all noise levels" if where is None else f"where sigma / alpha is {where[0]:g} to {where[1]:g}"
        said.append(f"Guidance {scale:g} {place}. None: --guidance 1.")
    return said


def told(
    model: Model, seed: int, steps: int | None, solver: Spec | None, guidance: float | None = None, raw: bool = False,
    **more: Any,
) -> dict[str, str]:  # fmt: skip
    """How samples were drawn, for the text chunks of their files; of what is `more`, that which was asked for."""
    scale, where = model.steering(more.get("label"), guidance, more.get("interval"), more.get("worse"))
    how = {
        "seed": seed, "solver": solver or model.config.solver_of(steps), "steps": steps or model.config.sampling_steps,
        "guidance": scale, "run": model.path.resolve().name if model.path else "", "images": model.images,
        "weights": "raw" if raw else "averaged",
    }  # fmt: skip
    more["interval"] = where
    return {name: str(value) for name, value in (how | {name: value for name, value in more.items() if value}).items()}


def drawn(
    model: Model, n: int, seed: int, times: Sequence[float] | Tensor, labels: Sequence[Any], all_steps: bool = False,
    progress: Progress = lambda done, total: None, **options: Any,
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:  # fmt: skip
    """n samples of each label, one label after another, (L * n, H, W, C) in the data's own type.

    Then as uint8, to be looked at: the samples alone, or their states at `all_steps`, noise first; and those after half
    of the steps. Each is the sample that is drawn when its label alone is asked for. Options as in `Model.sample`.
    """
    half, end, parts = (len(times) - 1) // 2, len(times) - 1, []
    at = range(end + 1) if all_steps else [half, end]
    for k, label in enumerate(labels):
        show = lambda done, total, k=k: progress(k * total + done, len(labels) * total)
        parts.append(model.stages(n, seed, at, times, label=label, progress=show, **options))
    states = np.concatenate(parts, axis=1)  # (S, L * n, H, W, C)
    shown = [model.displayed(state) for state in states]
    return states[-1], shown if all_steps else shown[1:], shown[at.index(half)]


def save(
    pictures: np.ndarray,
    shown: Sequence[np.ndarray],
    halfway: np.ndarray | None,
    out: Path,
    seed: int,
    only: int | None,
    names: Sequence[str],
    kinds: Sequence[str],
    text: dict[str, str],
) -> list[Path]:
    """Save samples as single files, as one picture, and as what else is asked for; return the paths worth naming.

    pictures  (N, H, W, C) in the data's own type
    shown     their states as uint8, the last the samples themselves; all are shown by the `kinds` of animation
    halfway   the states to stand beside the samples, if any
    only      the number of the sample, if it is one alone: a picture of it is then made if it is to move
    names     of the labels, if each has a row; single files of equal numbers would have equal names and are not made
    """
    made = [] if names else picture.save_samples(pictures, shown[-1], out, seed, only or 0, text)
    columns, large = len(pictures) // len(names) if names else None, "" if only is None else f"{only:05d}-"
    if only is None:
        made = []  # too many to be named
    if only is None or kinds:
        name = "classes" if names else f"{large}large" if large else "grid"
        draw = (lambda state: picture.class_grid(state, names)) if names else picture.grid
        made += picture.save_grid(shown[-1], out / f"s{seed}-{name}.png", text, shown, kinds, draw)
    if halfway is not None:
        made.append(out / f"s{seed}-{'classes-' if names else large}halfway.png")
        picture.save_png(made[-1], picture.pairs(halfway, shown[-1], columns=columns, titles=names or None), text)
    return made


def asked(args: Any) -> dict[str, str]:
    """What was typed, for the text chunks of a picture; what was left out and where it goes are not among it."""
    values = {name: value for name, value in vars(args).items() if name != "out" and value not in (None, ())}
    return {name: " ".join(map(str, v)) if isinstance(v, tuple | list) else str(v) for name, v in values.items()}
