"""A trained model: a denoiser, the codec of its pictures, and the names of its labels."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from . import draws, guides, picture, samplers
from .built import build_net
from .config import Facts, Settled, build_schedule
from .data import AffineCodec
from .denoisers import Denoiser, Denoises
from .errors import UserError, unknown
from .run import Run
from .schedules import Schedule
from .spec import Spec, choose
from .training import checkpoint, posthoc
from .training.device import Placement, device_named
from .training.ema import fill

MOST_STEPS = 50  # of the sampler for pictures drawn while training


class Described:
    """Whatever has a config whose facts are known."""

    config: Settled

    @property
    def facts(self) -> Facts:
        assert self.config.facts is not None
        return self.config.facts

    @property
    def codec(self) -> AffineCodec:
        return AffineCodec(**self.facts.codec)


@dataclass
class Model(Described):
    """What `load` and `train` return.

    model.sample(16, seed=0)        (16, H, W, C) pictures in the data's own type
    model.grid(64), model.strip(3)  PIL pictures
    model.denoiser                  (x_t, t, label=...) -> x0_hat, for everything else
    """

    denoiser: Denoiser
    config: Settled
    path: Path | None = None
    images: int = 0
    notes: tuple[str, ...] = ()
    weights: str | float = "ema"  # as `load` was told
    evaluations: int = field(default=0, init=False)  # of networks, for each sample of the last call of `sample`

    def __str__(self) -> str:
        return f"{self.path} after {self.images:,} images" + f", weights {self.weights}" * (self.weights != "ema")

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the labels the model can be told, or None."""
        return self.facts.label_names if self._labelled else None

    @property
    def _labelled(self) -> bool:
        return "label" in getattr(self.denoiser.net, "conditions", {})

    def sample(
        self,
        n: int = 16,
        seed: int = 0,
        steps: int | None = None,
        solver: str | Spec | None = None,
        label: str | int | Sequence[str | int] | None = None,
        guidance: float | None = None,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
        worse: "Model | None" = None,
        threshold: float | None = None,
        times: Sequence[float] | Tensor | None = None,
        first: int = 0,
        batch: int = 64,
        callback: Callable[[int, float, np.ndarray, np.ndarray], None] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **cond: Tensor,
    ) -> np.ndarray:
        """Draw samples number `first` .. `first + n - 1` of a seed: (n, H, W, C) in the data's own type.

        label      a label's name or number, or one for each sample; None draws them as often as the data has them
        guidance   1 is none; above it, samples are more typical of their label and less varied. None: see `steering`
        interval   the noise levels (low, high), sigma / alpha, between which guidance works; (0, inf) is everywhere
        rescale    share of the contrast, 0 to 1, that guidance added and that is taken back
        worse      guide away from this model instead, one less trained or smaller, of the same pictures and labels
        threshold  quantile, such as 0.995, of a guess that dynamic thresholding brings into range; None: it is cut off
        times      falling from noise to 0, instead of so many steps
        batch      how many are drawn at once; it changes nothing in the pictures
        callback   (i, t, pictures, guesses) after each step of each batch, as arrays like the result
        progress   (done, total), in steps of batches
        Raises UserError for an unknown label, solver or condition, and for labels on a model that knows none.
        """
        if n < 1 or batch < 1:
            raise UserError(f"Expected at least 1 sample, at least 1 at once; found {n} and {batch}.")
        if not 0 <= first < 2**62:
            raise UserError(f"Samples are numbered from 0; found {first}.")
        steps = self.config.sampling_steps if steps is None else steps
        if not 0 <= rescale <= 1 or not 0 < (1 if threshold is None else threshold) <= 1:
            raise UserError(f"rescale lies in [0, 1] and threshold in (0, 1]; found {rescale} and {threshold}.")
        scale, where = self.steering(label, guidance, interval, worse)
        if not math.isfinite(scale):
            raise UserError(f"Guidance is a number, 1 for none; found {scale}.")
        if scale == 1 and (interval is not None or rescale or worse is not None):
            raise UserError("An interval, a rescaling and a worse model are for guidance above 1, as in --guidance 2; found 1.")
        if worse is not None:
            self._refuse_other(worse)
        if not 0 <= seed < 2**32:
            raise UserError(f"A seed is a whole number from 0 to {2**32 - 1}, found {seed}.")
        solver = Spec.of(self.config.solver_of(steps if times is None else len(times) - 1) if solver is None else solver)
        choose(samplers.SOLVERS, solver, "solver")
        numbers = torch.arange(first, first + n)
        given: dict[str, Any] = {name: value.to(self.device) for name, value in cond.items()}
        if (drawn := self.label_numbers(label, numbers, seed)) is not None:
            given["label"] = drawn.to(self.device)
        guided = self._guided(scale, where, rescale, worse, bool(given))
        net, path = self.denoiser.net, [float(t) for t in (self.times(steps) if times is None else times)]
        steps = len(path) - 1
        asked: list[Any] = [net] if worse is None else [net, worse.denoiser.net]
        before, pictures, total = sum(each.rows for each in asked), [], len(numbers.split(batch)) * steps
        for k, part in enumerate(numbers.split(batch)):
            rows = slice(k * batch, k * batch + len(part))

            def follow(i: int, t: float, x: Tensor, x0: Tensor, k: int = k) -> None:
                if callback is not None:
                    callback(i, t, self._decoded(x), self._decoded(x0))
                if progress is not None:
                    progress(k * steps + i + 1, total)

            x = self.start(part, seed, path[0])
            try:
                x0 = samplers.sample(
                    guided, x, solver, times=path, seeds=draws.keys(seed, "sample", part), clip=self.codec.clip,
                    threshold=threshold, callback=follow, **{name: value[rows] for name, value in given.items()},
                )  # fmt: skip
            except UserError:
                raise
            except ValueError as error:
                raise UserError(f"The solver {solver} cannot draw this. {error}") from error
            pictures.append(self._decoded(x0))
        self.evaluations = (sum(each.rows for each in asked) - before) // n
        return np.concatenate(pictures)

    def refuse_undrawable(self, steps: int | None = None, **options: Any) -> None:
        """Raise UserError for what `sample` would refuse; it costs two steps of one sample, however many are asked for."""
        self.times(self.config.sampling_steps if steps is None else steps)
        self.sample(1, steps=2, **options)

    def steering(
        self, label: Any = None, guidance: float | None = None, interval: tuple[float, float] | None = None, worse: Any = None
    ) -> tuple[float, tuple[float, float] | None]:
        """Guidance and interval as `sample` takes them: those asked for, else the run's own, and none where no label is told.

        The interval is the run's own also where guidance alone is said. Away from a worse model, guidance works everywhere.
        """
        told = self._labelled and (label is not None or self.facts.label_counts is not None)
        if guidance is None:
            guidance = self.config.guidance if told and self.config.label_dropout and worse is None else 1.0
        return guidance, self.config.interval if interval is None and guidance != 1 and worse is None else interval

    def times(self, steps: int) -> Tensor:
        """The times that a sampler of so many steps visits; raises UserError for none."""
        if steps < 1:
            raise UserError(f"A sampler takes at least 1 step, found {steps}.")
        return spread(self.denoiser.schedule, steps, self.denoiser.t_max)

    def start(self, numbers: Tensor, seed: int, t: float = 1.0) -> Tensor:
        """What samples begin from, (B, C, H, W): sqrt(alpha^2 sigma_data^2 + sigma^2) eps, the spread of x_t at t.

        eps is a function of seed and number. The first term matters where a published schedule stops short of noise.
        """
        eps = draws.normal(draws.keys(seed, "start", numbers.to(self.device)), self.facts.shape)
        alpha, sigma = self.denoiser.schedule(t)
        return torch.hypot(alpha * self.facts.sigma_data, sigma).item() * eps

    def label_numbers(self, label: Any, numbers: Tensor, seed: int) -> Tensor | None:
        """The label of each sample (B,), None for a model that knows no labels; see `sample`."""
        if not self._labelled:
            if label is not None:
                raise UserError("This model was trained without labels and cannot be told one; leave the label out.")
            return None
        names = self.facts.label_names or ()
        if label is None:
            if self.facts.label_counts is None:  # it went on, with pictures that have none: not told
                return None
            counts = torch.tensor(self.facts.label_counts, dtype=torch.float64)
            u = draws.uniform(draws.keys(seed, "label", numbers), (), torch.float64)
            return torch.searchsorted(counts.cumsum(0) / counts.sum(), u, right=True).clamp_max(len(names) - 1)
        label = label.tolist() if isinstance(label, np.ndarray | np.generic | Tensor) else label
        each = [label] if isinstance(label, str | int) else list(label)
        if len(each) not in (1, len(numbers)):
            raise UserError(f"Expected one label, or one for each of {len(numbers)} samples; found {len(each)}.")
        found = torch.tensor([self._label_number(one, names) for one in each])
        return found.expand(len(numbers)) if len(each) == 1 else found

    def _label_number(self, label: str | int, names: tuple[str, ...]) -> int:
        if isinstance(label, str) and label in names:
            return names.index(label)
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
            return label
        if isinstance(label, str) and label.isdigit() and int(label) < len(names):
            return int(label)
        raise unknown("label", str(label), names)

    def _refuse_other(self, worse: "Model") -> None:
        """Raise UserError unless another model knows pictures of the same shape and values, by the same labels."""
        ends = lambda model: (model.codec.low, model.codec.high, model.codec.ends)
        known = lambda model: {"shape": model.facts.shape, "values": ends(model), "labels": model.labels}
        for what, mine in known(self).items():
            if (found := known(worse)[what]) != mine:
                raise UserError(f"The worse model is of other pictures: {what} {mine} here, {found} there.")

    def _guided(
        self, guidance: float, interval: tuple[float, float] | None, rescale: float, worse: "Model | None", told: bool
    ) -> Denoises:
        if guidance == 1:
            return self.denoiser
        if worse is not None:
            guided: Denoises = guides.autoguidance(self.denoiser, worse.denoiser, guidance, rescale)
        elif not told:
            raise UserError("Guidance needs a label to guide towards, and this model was trained without; leave it at 1.")
        elif self.config.label_dropout == 0:
            raise UserError("Guidance needs a model that has also learned without labels; train with --label-dropout 0.1.")
        else:
            guided = guides.cfg(self.denoiser, guidance, rescale)
        return guides.interval(guided, self.denoiser, *interval) if interval else guided

    def grid(self, n: int = 64, seed: int = 0, **options: Any) -> Image.Image:
        """A picture of n samples; options as in `sample`."""
        return picture.grid(self.displayed(self.sample(n, seed, **options)))

    def preview(self, n: int = 16, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Samples to be looked at, (n, H, W, C) uint8: labels in turn, in not too many steps; as in `sample`."""
        labels = [i % len(self.labels) for i in range(n)] if self.labels else None
        steps = min(self.config.sampling_steps, MOST_STEPS)
        return self.displayed(self.sample(n, seed, steps, label=labels, progress=progress))

    def class_grid(self, n: int = 8, seed: int = 0, **options: Any) -> Image.Image:
        """A picture with a row for each label: n samples each, the same numbers of the seed in all; options as in `sample`."""
        if not self.labels:
            raise UserError("A row to each label needs a model with labels, and this one was trained without.")
        rows = [self.sample(n, seed, label=i, **options) for i in range(len(self.labels))]
        return picture.class_grid(self.displayed(np.concatenate(rows)), self.labels, options.get("first", 0))

    def strip(self, seed: int = 0, stages: int = 10, number: int = 0, **options: Any) -> Image.Image:
        """A sample of a seed coming out of noise, in so many stages, both ends among them; options as in `sample`.

        Under each stands its noise level, sigma / alpha.
        """
        if stages < 2:
            raise UserError(f"A strip goes from noise to picture in 2 stages or more; found {stages}.")
        given = options.pop("times", None)
        steps = options.pop("steps", None)
        times = self.times(self.config.sampling_steps if steps is None else steps) if given is None else torch.as_tensor(given)
        at = np.unique(np.linspace(0, len(times) - 1, stages).round().astype(int))
        states = self.stages(1, seed, at.tolist(), times, first=number, **options)  # (S, 1, H, W, C)
        alpha, sigma = self.denoiser.schedule(times[at])
        captions = [f"noise {float(f'{level:.2g}'):g}" for level in (sigma / alpha).tolist()]
        scale = picture.scale_to(picture.STAGE, max(self.facts.shape[1:]))
        return picture.strip(self.displayed(states[:, 0]), captions, scale)

    def stages(
        self, n: int, seed: int, at: Sequence[int], times: Sequence[float] | Tensor, first: int = 0, **options: Any
    ) -> np.ndarray:
        """States of n samples after `at` rising numbers of steps along `times`, (S, n, H, W, C) in the data's own type.

        After 0 steps that is the noise they begin with, after all of them what `sample` returns; options as there.
        """
        states: dict[int, list[np.ndarray]] = {i: [] for i in at}

        def keep(i: int, t: float, x: np.ndarray, x0: np.ndarray) -> None:
            if i + 1 in states:
                states[i + 1].append(x)

        self.sample(n, seed, times=times, first=first, callback=keep, **options)
        if 0 in states:
            states[0] = [self._decoded(self.start(torch.arange(first, first + n), seed, float(times[0])))]
        return np.stack([np.concatenate(parts) for parts in states.values()])

    def displayed(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures in the data's own type and range as uint8, to be looked at."""
        if pictures.dtype == np.uint8 and max(self.codec.high) == 255:
            return pictures
        low, high = (np.array(end) for end in (self.codec.low, self.codec.high))
        return picture.to_uint8((pictures.astype(np.float32) - low) / (high - low) * 2 - 1)

    def _decoded(self, x: Tensor) -> np.ndarray:
        return self.codec.decode(x).cpu().permute(0, 2, 3, 1).contiguous().numpy()  # (B, H, W, C)

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.net.parameters()).device  # type: ignore[attr-defined]


class Placed(nn.Module):
    """A network in its place: run in the precision it was trained in, its evaluations counted."""

    def __init__(self, net: nn.Module, placement: Placement):
        super().__init__()
        self.net, self.placement = net, placement
        self.conditions = getattr(net, "conditions", {})
        if hasattr(net, "c_noise"):  # else the Denoiser would guess another code of the noise level than training used
            self.c_noise = net.c_noise
        self.rows = 0  # evaluations so far, each of one sample

    def forward(self, x: Tensor, c_noise: Tensor, **cond: Tensor) -> Tensor:
        self.rows += len(x)
        with self.placement.autocast():
            return self.net(self.placement.images(x), c_noise, **cond)


def spread(schedule: Schedule, steps: int, start: float) -> Tensor:
    """Times (steps + 1,) from `start` down to 0: the schedule's own grid, or where it has fewer steps than that equal ones."""
    return schedule.grid(steps, "uniform" if schedule.steps and steps > int(schedule.steps * start) else None, start)


def assemble(net: nn.Module, config: Settled, placement: Placement, path: Path | None = None, images: int = 0) -> Model:
    """A Model around a network whose weights are already there."""
    facts = config.facts
    assert facts is not None
    schedule = build_schedule(config)
    ready = Placed(placement.net(net).eval(), placement)
    return Model(Denoiser(ready, schedule, config.predict, config.c_noise, facts.sigma_data), config, path, images)


def load(
    run: str | Path | Run | None = None,
    net: nn.Module | None = None,
    weights: str | float = "ema",
    device: str | None = None,
    at: int | str | None = None,
) -> Model:
    """The model of a run folder, or of one of its checkpoints; the newest run under runs/ if none is named.

    net       the network, if the run was trained with one's own
    weights   'ema' (the average, as is usual), 'model' (the raw weights), or the length of an average that is made now as a
              share of the training, 0.01 to 0.28, of the snapshots that a run with `posthoc` keeps
    at        the checkpoint after so many images, or 'best'; the newest unless said
    Raises UserError if there is no run, no checkpoint, or none that is whole.
    """
    if isinstance(weights, str) and weights not in ("ema", "model"):
        raise unknown("set of weights", weights, ("ema", "model"))
    name = weights if isinstance(weights, str) else "model"
    if run is not None and at is None and (whole := Run.of(run)).path.parent.name == "checkpoints":
        run, at = whole.path.parent.parent, whole.path.name
    run = Run.existing(run)
    config = run.config()
    if config.facts is None:
        raise UserError(f"{run.path} has not been trained yet; run `sfumato train` first.")
    saved = checkpoint.newest(run.checkpoints, (name,)) if at is None else checkpoint.at(run.checkpoints, at, (name,))
    if saved is None:
        raise UserError(f"{run.path} has no checkpoint yet; let `sfumato train` go on until it has saved one.")
    if config.net.name == "mine" and net is None:
        raise UserError("This run was trained with a network of its owner; load it in Python: sfumato.load(run, net=mine).")
    built, images = build_net(config, config.facts, net), saved.state["images"]
    tensors = saved.tensors[name] if name == weights else posthoc.made(run.averages, float(weights), images)
    try:
        fill(built, tensors)
    except ValueError as error:
        raise UserError(f"The weights of {run.path} are not those of {config.net}: {error}.") from None
    placement = Placement.of(device_named(device), config.facts)
    model = assemble(built, config, placement, run.path, images)
    model.notes, model.weights = saved.notes, weights
    return model
