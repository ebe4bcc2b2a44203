"""What the checks look at: a run, or pictures alone, and all that is worked out of them once, when it is first asked for."""

import copy
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import draws, trainer
from ...built import build_net
from ...config import Facts, Settled
from ...data import AffineCodec, Images
from ...data.survey import Survey, survey
from ...errors import UserError
from ...model import Model, load
from ...plan import Plan
from ...run import Run
from ...schedules import diffuse
from ...training import loop
from ...training.device import Placement, device_named
from ...training.stream import Stream
from .findings import CannotTell

LEVELS = (-8.0, -6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0, 8.0)  # log-SNRs at which a network may be asked
PICTURES = 1024  # at most, by which values and spectra are measured
ASKED = 64  # pictures that a network is asked about, and samples that are drawn
SECONDS = 60.0  # after which no more samples are begun


class Case:
    """A run, or a set of pictures without one. Properties raise CannotTell where something they need is not there.

    data     where the pictures are; None: where the run had them
    config   of the run, with its facts, or what a person would train with
    net      the network, where it is the user's own
    plan     the pictures as they were already read for training
    """

    def __init__(
        self,
        config: Settled,
        run: Run | None = None,
        data: Any = None,
        net: nn.Module | None = None,
        device: str | None = None,
        plan: Plan | None = None,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.config, self.run, self.data, self.net, self.device, self.progress = config, run, data, net, device, progress
        self.given, self._errors = plan, dict[tuple[str, str], Tensor]()

    # ---- the pictures ------------------------------------------------------------------------------------------------

    @cached_property
    def plan(self) -> Plan:
        """The pictures, split as in training."""
        if self.given is not None:
            return self.given
        if self.config.facts is not None and self.config.facts.train == 0:
            raise CannotTell("These are imported weights, and what they were trained on is not known here.")
        data = self.data if self.data is not None else self.facts.data
        own = nn.Identity() if self.config.net.name == "mine" else None  # stands for it: only its name is asked for
        if self.run is None:
            return trainer.prepare(data, self.config, own, self.progress)  # what is wrong here is the user's to mend
        try:
            plan = trainer.prepare(data, self.config, own, self.progress)
        except UserError as error:
            raise CannotTell(f"The pictures of the run cannot be read; name them by --data. {error}") from None
        if plan.facts.shape != self.facts.shape:
            shapes = f"{plan.facts.shape}, and the run's were {self.facts.shape}"
            raise CannotTell(f"The pictures are no longer the run's: theirs is {shapes}; name the right ones by --data.")
        return plan

    @cached_property
    def facts(self) -> Facts:
        return self.config.facts or self.plan.facts

    @cached_property
    def codec(self) -> AffineCodec:
        """The run's own."""
        return AffineCodec(**self.facts.codec)

    @cached_property
    def survey(self) -> Survey:
        return survey(self.plan.images, codec=self.codec)

    @cached_property
    def stored(self) -> dict[str, Tensor]:
        """Up to 1,024 pictures of the training part, and their labels."""
        return _some(self.plan.train, PICTURES)

    @cached_property
    def x0(self) -> Tensor:
        """The same in model space, (N, C, H, W)."""
        return self.codec.encode(self.stored["image"])

    @cached_property
    def spectrum(self) -> np.ndarray:
        """The variance of the pictures along each cosine (and along sums and differences of channels), (C, H, W).

        The best constant guess is wrong by its mean; see `gaussian`.
        """
        return power(self.x0 - self.x0.mean(0))

    def gaussian(self, log_snr: float) -> float:
        """The squared error a value of the exact denoiser of a Gaussian with this spectrum, mean(v / (1 + snr v)).

        It is linear, so that its error is the same for all pictures that have this mean and spectrum, Gaussian or not.
        """
        return float((self.spectrum / (1 + np.exp(log_snr) * self.spectrum)).mean())

    # ---- the course of training --------------------------------------------------------------------------------------

    @cached_property
    def records(self) -> list[dict[str, Any]]:
        """The lines of the log."""
        assert self.run is not None
        return self.run.records()

    # ---- the network -------------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> Model:
        return self._load("ema")

    @cached_property
    def raw(self) -> Model:
        """With the weights as they were at the last step."""
        return self._load("model")

    def _load(self, weights: str) -> Model:
        self._owned()
        try:
            return load(self.run, copy.deepcopy(self.net), weights, self.device)
        except UserError as error:
            raise CannotTell(str(error)) from None

    def fresh(self) -> nn.Module:
        """The network as it is before training, in its place; drawn from torch's own generator."""
        self._owned()
        net = build_net(self.config, self.facts, copy.deepcopy(self.net))
        for part in net.modules() if self.net is not None else ():
            getattr(part, "reset_parameters", lambda: None)()
        return self.placement.net(net)

    def _owned(self) -> None:
        if self.config.net.name == "mine" and self.net is None:
            raise CannotTell("The network is its owner's; examine it in Python: judge.doctor.examine(run, net=mine).")

    @cached_property
    def placement(self) -> Placement:
        return Placement.of(device_named(self.device), self.facts)

    @cached_property
    def stream(self) -> Stream:
        """Reads pictures as training does."""
        self._owned()
        with torch.device("meta"):  # to know what it can be told nothing need be drawn
            net = build_net(self.config, self.facts) if self.net is None else self.net
        known = self.plan.facts.label_names == self.facts.label_names
        names = set(getattr(net, "conditions", {})) - (set() if known else {"label"})
        return Stream(self.plan.train, self.codec, self.placement, names)

    @cached_property
    def levels(self) -> list[float]:
        """The LEVELS between which 96 % of the training times lie, and where pictures still count in what the network predicts.

        A network that predicts noise is hardly wrong about it where there is nothing else, and what it then says of x0 is
        worthless without being a fault: levels are left out where `gaussian` is wrong by less than 2 % of a prediction.
        """
        denoise = self.model.denoiser
        t = loop.times(self.config.times, denoise, (torch.arange(512, dtype=torch.float64) + 0.5) / 512)
        low, high = denoise.schedule.log_snr(t).quantile(torch.tensor((0.02, 0.98), dtype=torch.float64)).tolist()
        weight = denoise.row.log_weight(torch.tensor(LEVELS, dtype=torch.float64), denoise.sigma_data).exp().tolist()
        counts = [self.gaussian(level) * w > 0.02 for level, w in zip(LEVELS, weight, strict=True)]
        return [level for level, count in zip(LEVELS, counts, strict=True) if count and low <= level <= high] or [0.0]

    def asked(self, side: str) -> tuple[Tensor, dict[str, Any]]:
        """Up to 64 pictures that were `held_out` (of the training part, if none were) or trained on: `train`."""
        images = self.plan.held_out if side == "held_out" and len(self.plan.held_out) else self.plan.train
        return self.stream.read(_some(images, ASKED))

    def errors(self, weights: str = "ema", side: str = "held_out") -> Tensor:
        """The squared error a value of x0_hat at each of `levels`, (L, N) float64; the same noise for all weights."""
        if (weights, side) not in self._errors:
            model = self.model if weights == "ema" else self.raw
            x0, cond = self.asked(side)
            rows = [squared(model.denoiser, x0, level, cond) for level in self.levels]
            self._errors[weights, side] = torch.stack(rows)
        return self._errors[weights, side]

    # ---- samples -----------------------------------------------------------------------------------------------------

    @cached_property
    def samples(self) -> np.ndarray:
        """Up to 64 samples, (N, H, W, C), drawn as the run would draw them; fewer where that takes more than a minute."""
        begun, parts = time.perf_counter(), list[np.ndarray]()
        while not parts or (len(parts) < 4 and time.perf_counter() - begun < SECONDS):
            parts.append(self.model.sample(ASKED // 4, first=len(parts) * (ASKED // 4)))
        return np.concatenate(parts)

    def encoded(self, samples: np.ndarray) -> Tensor:
        """Samples (N, H, W, C) in model space, (N, C, H, W)."""
        return self.codec.encode(torch.from_numpy(samples).permute(0, 3, 1, 2))


@torch.no_grad()
def squared(denoise: Any, x0: Tensor, level: float, cond: dict[str, Any]) -> Tensor:
    """The squared error a value of x0_hat for pictures (N, C, H, W) at a log-SNR, (N,) float64."""
    t = denoise.schedule.time(level)
    keys = draws.keys(0, "doctor levels", range(len(x0)), call=round(level) + 100)
    eps = draws.normal(keys, tuple(x0.shape[1:])).to(x0.device)
    parts = zip(x0.split(16), eps.split(16), *(value.split(16) for value in cond.values()), strict=True)
    found = []
    for x, noise, *told in parts:
        guess = denoise(diffuse(denoise.schedule, x, t, noise), t, **dict(zip(cond, told, strict=True)))
        found.append((guess - x).double().square().flatten(1).mean(1).cpu())
    return torch.cat(found)


def power(x0: Tensor) -> np.ndarray:
    """The mean square of pictures (N, C, H, W) along each cosine, (C, H, W); it adds up to that of their values."""
    from scipy.fft import dctn  # only where it is wanted, for training imports this file

    return (dctn(x0.double().cpu().numpy(), axes=(1, 2, 3), norm="ortho") ** 2).mean(0)


def _some(images: Images, count: int) -> dict[str, Tensor]:
    """Some pictures chosen by chance, always the same, and their labels."""
    some = draws.shuffle(0, "doctor", torch.arange(min(count, len(images))), len(images))
    return images.batch(some)
