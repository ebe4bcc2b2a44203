"""How to steer: a guide is a denoiser wrapped around a denoiser.

A guided guess goes beyond what the network says, away from a worse guess and towards a better one:

    x0_hat = x0_worse + w (x0_better - x0_worse)

w = 1 is no guidance. With 'worse' the same network not told the condition this is classifier-free guidance; because a
guide is again a denoiser, guides nest, and every solver takes them.
"""

import copy
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .denoisers import Denoises, guess
from .schedules import Schedule


class Guided(ABC):
    """What all guides share: the schedule of the denoiser they wrap, and the times at which all they ask are defined."""

    def __init__(self, denoise: Denoises, *others: Denoises):
        self.denoise, self.others = denoise, tuple(_on(other, denoise.schedule) for other in others)

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    @property
    def t_max(self) -> float:
        return min(getattr(each, "t_max", 1.0) for each in (self.denoise, *self.others))

    def on(self, schedule: Schedule) -> "Guided":
        """The same guide on another schedule."""
        other = copy.copy(self)
        other.denoise, other.others = _on(self.denoise, schedule), tuple(_on(each, schedule) for each in self.others)
        return other

    def null(self, cond: dict[str, Any]) -> dict[str, Any]:
        """The conditions of a sample that is told nothing; see Denoiser.null."""
        return self.denoise.null(cond)  # type: ignore[attr-defined]

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """x0_hat (B, ...) from x_t (B, ...) at time t, a number or (B,)."""
        return self.guess(x_t, t, **cond)[0]

    @abstractmethod
    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        """x0_hat, and the variance's fraction where one was learned: that of the better guess."""


def _on(denoise: Denoises, schedule: Schedule) -> Denoises:
    return denoise if denoise.schedule is schedule else denoise.on(schedule)  # type: ignore[attr-defined]


def beyond(better: Tensor, worse: Tensor, guidance: float, rescale: float = 0.0) -> Tensor:
    """worse + w (better - worse), (B, ...); of its standard deviation a share `rescale` is set back to that of `better`.

    Strong guidance overshoots in contrast. Lin et al. 2024, eqs. 15 and 16, here on x0_hat: 0 leaves it, 1 restores it.
    """
    x0 = worse + guidance * (better - worse)
    if rescale == 0:
        return x0
    own, found = (x.flatten(1).std(1, correction=0) for x in (better, x0))  # (B,)
    ratio = torch.where(found > 0, own / found.clamp_min(1e-12), 1)
    return (rescale * ratio + (1 - rescale)).reshape(-1, *[1] * (x0.ndim - 1)) * x0


class cfg(Guided):
    """Classifier-free guidance, both guesses in one pass of the network.

    x0_hat = x0(null) + w (x0(cond) - x0(null)),    w = guidance; 1 is none, 0 ignores the condition

    Ho & Salimans 2022, eq. 6, whose w is ours minus 1. `rescale` as in `beyond`. Needs a denoiser with `null`, a Denoiser
    or a guide around one.
    """

    def __init__(self, denoise: Denoises, guidance: float = 2.0, rescale: float = 0.0):
        super().__init__(denoise)
        self.guidance, self.rescale = guidance, rescale

    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        if not cond:
            raise ValueError("Guidance needs a condition to guide towards, such as label=...; none was given.")
        null = self.null(cond)
        given = cond | {name: torch.ones_like(flag) for name, flag in null.items() if name not in cond}
        both = {name: torch.cat((given[name], null[name])) for name in null}
        t2 = t if not isinstance(t, Tensor) or t.numel() == 1 else torch.cat((t, t))
        x0, fraction = guess(self.denoise, torch.cat((x_t, x_t)), t2, **both)
        with_cond, without = x0.chunk(2)
        x0 = beyond(with_cond, without, self.guidance, self.rescale)
        return x0, None if fraction is None else fraction.chunk(2)[0]


class autoguidance(Guided):
    """A model steered away from the faults of a worse one: smaller, or trained for a shorter time, on the same data.

    x0_hat = x0_worse + w (x0 - x0_worse),    w = guidance; 1 is none

    Karras et al. 2024, eq. 3. `worse` is on a schedule of its own, or on this one; it is asked with the same conditions.
    """

    def __init__(self, denoise: Denoises, worse: Denoises, guidance: float = 2.0, rescale: float = 0.0):
        super().__init__(denoise, worse)
        self.guidance, self.rescale = guidance, rescale

    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        x0, fraction = guess(self.denoise, x_t, t, **cond)
        return beyond(x0, self.others[0](x_t, t, **cond), self.guidance, self.rescale), fraction


class interval(Guided):
    """Guidance only where it helps: `guided` where low <= sigma / alpha <= high, `plain` elsewhere.

    Kynkaanniemi et al. 2024, section 3. Noise levels are relative to the signal, so that they mean the same on every
    schedule. t must be one number for all samples, as it is in a sampler.
    """

    def __init__(self, guided: Denoises, plain: Denoises, low: float, high: float):
        super().__init__(guided, plain)
        self.low, self.high = low, high

    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        inside = self.low <= math.exp(-self.schedule.log_snr(float(t)) / 2) <= self.high
        return guess(self.denoise if inside else self.others[0], x_t, t, **cond)
