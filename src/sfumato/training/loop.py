"""The training loop, on one screen: draw, noise, predict, weigh, step, average; log, save."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import draws, losses
from ..config import Settled
from ..data import Images
from ..denoisers import Denoiser
from ..errors import UserError
from ..rates import RATES
from ..schedules import DENSITIES, Schedule
from ..spec import Spec, choose
from . import checkpoint, posthoc
from .device import Placement
from .ema import ASKED, EMA, RAMP, PowerEMA, fill, tensors
from .optimizers import OPTIMIZERS
from .stream import Stream

BANDS = (-4.0, 0.0, 4.0)  # log-SNR between which losses are logged apart, from most noise to least


@dataclass
class State:
    """Everything that training changes."""

    denoiser: Denoiser
    ema: EMA
    averages: Mapping[str, EMA] = field(default_factory=dict)  # of which others are made after training, by name
    uncertainty: losses.Uncertainty | None = None
    optimizer: torch.optim.Optimizer = field(init=False)
    weights: list[nn.Parameter] = field(init=False)  # of the network, looked up once
    images: int = 0  # position in the training stream
    tally: Tensor = field(default_factory=lambda: torch.zeros(len(BANDS) + 1, 2))  # sum and count of losses by band
    grad_norm: Tensor = field(default_factory=lambda: torch.zeros(()))  # of the last step

    @property
    def net(self) -> nn.Module:
        return self.denoiser.net  # type: ignore[return-value]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the optimizer changes, by name."""
        learned = dict(self.net.named_parameters())
        if self.uncertainty is not None:
            learned |= {f"uncertainty.{name}": p for name, p in self.uncertainty.named_parameters()}
        return {name: p for name, p in learned.items() if p.requires_grad}


@dataclass(frozen=True)
class Event:
    """What watchers are told: start, step, log, checkpoint or end; they must not change the state."""

    kind: str
    state: State
    budget: int  # images in all
    record: dict[str, Any] | None = None  # the line of the log, for kind 'log'


Watcher = Callable[[Event], None]
Waiting = contextlib.AbstractContextManager[None]


def train(
    config: Settled,
    stream: Stream,
    held_out: Images,
    state: State,
    folder: Path,
    watch: Sequence[Watcher] = (),
    stop: Callable[[], bool] = lambda: False,
) -> State:
    """Train until `config.images` have been seen or `stop()` says so, saving checkpoints in `folder`."""
    budget = config.images or 0
    score = lambda: held_out_loss(config, state, held_out, stream) if config.best == "loss" else None
    keep = lambda: save(folder, config, state, score())
    tell = lambda kind, record=None: [watcher(Event(kind, state, budget, record)) for watcher in watch]
    log_every, clock = config.log_every or max(config.batch, budget // 200), _Clock(state.images)
    tell("start")
    while state.images < budget and not stop():
        rate = step(config, stream, state, clock.waiting)
        tell("step")

        if crossed(state.images, config.batch, log_every) or state.images >= budget:
            refuse_nonfinite(state, config)
            record = {"images": state.images, "lr": rate, "grad_norm": state.grad_norm.item(), **averages(state)}
            if crossed(state.images, config.batch, 8 * log_every) or state.images >= budget:
                record["held_out_loss"] = held_out_loss(config, state, held_out, stream)
            tell("log", record | clock.lap(state.images))
        every, older = config.checkpoint_every, config.keep_older
        due = crossed(state.images, config.batch, every) if every else clock.checkpoint_due()
        if (due or (older and crossed(state.images, config.batch, older))) and state.images < budget:
            keep()
            tell("checkpoint")
    keep()
    tell("checkpoint")
    tell("end")
    return state


def step(config: Settled, stream: Stream, state: State, waiting: Callable[[], Waiting] = contextlib.nullcontext) -> float:
    """Draw the next batch, noise it, predict, weigh, step and average; returns the learning rate of the step.

    waiting    a context for what waits for data
    """
    seed, placement = config.seed, stream.placement
    if not state.net.training:  # watchers may have drawn
        state.net.train()
    positions = torch.arange(state.images, state.images + config.batch)
    rate = learning_rate(config, state.images)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    for micro, part in enumerate(positions.chunk(config.accumulate)):
        with waiting():
            x0, cond = stream.batch(part)
        t = times(config.times, state.denoiser, draws.golden(seed, "time", part))
        keys = draws.keys(seed, "noise", part).to(x0.device, non_blocking=True)
        eps = placement.images(draws.normal(keys, x0.shape[1:]))  # drawn where it is needed
        seeded(placement.device, int(draws.words(draws.keys(seed, "dropout", state.images, micro), 1)))  # torch draws its masks
        with placement.autocast():
            loss = loss_of(config, state.denoiser, x0, t, eps, cond)
        tally(state, loss.detach(), t)
        if state.uncertainty is not None:
            loss = state.uncertainty.weighed(loss, state.denoiser.schedule.log_snr(t))
        (loss.sum() / config.batch).backward()
    gradients = [p.grad for p in state.weights if p.grad is not None]
    state.grad_norm = nn.utils.get_total_norm(gradients, foreach=True)
    if config.clip:
        nn.utils.clip_grads_with_norm_(state.weights, config.clip, state.grad_norm, foreach=True)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.images += config.batch
    for average in (state.ema, *state.averages.values()):
        average.update(state.net, state.images, config.batch)
    return rate


def seeded(device: torch.device, seed: int) -> None:
    """As torch.manual_seed, for the CPU and one device alone, which takes a fiftieth of the time."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        with torch.accelerator.device_index(device.index):
            torch.get_device_module(device).manual_seed(seed)


def loss_of(config: Settled, denoiser: Denoiser, x0: Tensor, t: Tensor, eps: Tensor, cond: dict[str, Any]) -> Tensor:
    """The loss of each picture, (B,), that a config asks for; see `losses.denoising_loss`."""
    terms = (config.weight, config.distance, config.variance_weight)
    return losses.denoising_loss(denoiser, x0, t, eps, *terms, **cond)


def times(density: Spec, denoiser: Denoiser, u: Tensor) -> Tensor:
    """Training times (B,) from u (B,), none beyond where the denoiser is defined."""
    return choose(DENSITIES, density, "density of training times")(denoiser.schedule, u).clamp_max(denoiser.t_max)


def learning_rate(config: Settled, images: int) -> float:
    """The rate of the step that begins after so many images: a linear warm-up, times what the rule says."""
    budget, epoch = config.images or 1, config.facts.train if config.facts else 1
    warmup = budget // 50 if config.warmup is None else config.warmup
    risen = min(1.0, (images + config.batch) / warmup) if warmup else 1.0
    return config.lr * risen * choose(RATES, config.rate, "rate")(images, budget, epoch)


def tally(state: State, loss: Tensor, t: Tensor) -> None:
    """Add the losses (B,) of times t (B,) to the sums that the next line of the log averages."""
    band = torch.bucketize(state.denoiser.schedule.log_snr(t), torch.tensor(BANDS, dtype=torch.float64))
    member = nn.functional.one_hot(band, len(BANDS) + 1).float().to(loss.device, non_blocking=True)  # (B, bands)
    state.tally += member.T @ torch.stack((loss.float(), torch.ones_like(loss, dtype=torch.float32)), 1)


def averages(state: State) -> dict[str, Any]:
    """The mean loss since the last line of the log, all and by band of noise; empties the tally."""
    sums, counts = state.tally.T.tolist()
    state.tally.zero_()
    edges = ("", *(f"{edge:g}" for edge in BANDS), "")
    names = [f"{low}..{high}" for low, high in pairwise(edges)]
    bands = {name: s / n for name, s, n in zip(names, sums, counts, strict=True) if n}
    return {"loss": sum(sums) / max(1, sum(counts)), "loss_bands": bands}


@torch.no_grad()
def held_out_loss(config: Settled, state: State, images: Images, stream: Stream, count: int = 256) -> float | None:
    """The loss of the averaged weights on pictures never trained on, at times and noise that never change."""
    count, placement = min(count, len(images)), stream.placement
    if count == 0:
        return None
    total = 0.0
    averaged = state.denoiser.with_net(state.ema.net)
    some = draws.shuffle(config.seed, "held-out", torch.arange(count), len(images))  # folders list class after class
    for part in torch.arange(count).split(config.batch):
        x0, cond = stream.read(images.batch(some[part]))
        t = times(config.times, averaged, draws.golden(config.seed, "held-out time", part))
        eps = placement.images(draws.normal(draws.keys(config.seed, "held-out noise", part).to(x0.device), x0.shape[1:]))
        with placement.autocast():
            loss = loss_of(config, averaged, x0, t, eps, cond)
        total += loss.sum().item()
    return total / count


# ---- saving and loading ----------------------------------------------------------------------------------------------


def start(config: Settled, net: nn.Module, schedule: Schedule, sigma_data: float, placement: Placement) -> State:
    """The state before the first image; with the network moved to its place."""
    net = placement.net(net)
    denoiser = Denoiser(net, schedule, config.predict, config.c_noise, sigma_data)
    kept = posthoc.LENGTHS if config.posthoc else ()
    averages = {posthoc.name_of(length): PowerEMA(net, posthoc.exponent(length)) for length in kept}
    uncertainty = losses.Uncertainty().to(placement.device) if config.uncertainty else None
    ramp = RAMP if config.ema is None else ASKED
    state = State(denoiser, EMA(net, config.half_life, ramp), averages, uncertainty)
    state.optimizer = choose(OPTIMIZERS, config.optimizer, "optimizer")(list(state.parameters.values()), config.lr)
    state.weights = list(net.parameters())
    state.tally = state.tally.to(placement.device)
    return state


def save(folder: Path, config: Settled, state: State, held_out: float | None = None) -> None:
    """Write a checkpoint and remove those that are no longer kept; raises UserError rather than save what is not finite.

    held_out    its held-out loss, if that decides which one is the best
    """
    refuse_nonfinite(state, config)
    names: dict[Any, str] = {p: name for name, p in state.parameters.items()}
    moments = {
        f"{names[p]}.{key}": value
        for p, values in state.optimizer.state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }
    document = {"tally": state.tally.tolist()}
    averages = {name: tensors(average.net) for name, average in state.averages.items()}
    weights = {"model": tensors(state.net), "ema": tensors(state.ema.net), "optimizer": moments, **averages}
    if state.uncertainty is not None:
        weights["uncertainty"] = tensors(state.uncertainty)
    checkpoint.save(folder, state.images, weights, document)
    checkpoint.compare(folder, state.images, held_out)
    checkpoint.prune(folder, config.keep, config.keep_older)


def restore(state: State, saved: checkpoint.Checkpoint) -> None:
    """Put a checkpoint into a fresh state."""
    fill(state.net, saved.tensors["model"])
    for name, average in {"ema": state.ema, **state.averages}.items():
        fill(average.net, saved.tensors[name])
    if state.uncertainty is not None:
        fill(state.uncertainty, saved.tensors["uncertainty"])
    parameters = state.parameters
    for path, value in saved.tensors["optimizer"].items():
        name, _, key = path.rpartition(".")
        p = parameters[name]
        state.optimizer.state[p][key] = value.to(p.device) if key == "step" else torch.empty_like(p).copy_(value)
    state.images = saved.state["images"]
    state.tally.copy_(torch.tensor(saved.state["tally"]))


# ---- small pieces ----------------------------------------------------------------------------------------------------


class _Clock:
    """What the loop times: its speed, how long it waited for data, and when the next checkpoint is due."""

    def __init__(self, images: int, checkpoint_seconds: float = 600.0):
        self.images, self.waited, self.every = images, 0.0, checkpoint_seconds
        self.last = self.saved = time.perf_counter()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.waited += time.perf_counter() - begun

    def lap(self, images: int) -> dict[str, float]:
        """Speed since the last line of the log; the only fields of the log that two equal runs do not share."""
        now = time.perf_counter()
        elapsed, self.last = now - self.last, now
        lap = {
            "images_per_second": round((images - self.images) / elapsed, 2),
            "data_wait": round(self.waited / elapsed, 4),
        }
        self.images, self.waited = images, 0.0
        return lap

    def checkpoint_due(self) -> bool:
        due = time.perf_counter() - self.saved >= self.every
        if due:
            self.saved = time.perf_counter()
        return due


def crossed(images: int, batch: int, every: int) -> bool:
    """Whether the last step passed a multiple of `every`."""
    return images // every > (images - batch) // every


def refuse_nonfinite(state: State, config: Settled) -> None:
    """Raise UserError if a loss since the last line of the log, or the last gradient, was not finite."""
    if not (state.tally.sum() + state.grad_norm.to(state.tally.device)).isfinite():
        raise UserError(
            f"The loss stopped being a number after {state.images:,} images; what was saved before is untouched. "
            f"Try a lower rate (--lr {config.lr / 3:.1g}) or --precision float32, in a new folder (--run NEW)."
        )
