"""How to steer: a guide is a denoiser wrapped around a denoiser.

A guided guess goes beyond what the network says, away from a worse guess and towards a better one:

    x0_hat = x0_worse + w (x0_better - x0_worse)

w = 1 is no guidance. With 'worse' the same network not told the condition this is classifier-free guidance; because a
guide is again a denoiser, guides nest, and every solver takes them.
"""

import math
from typing import Any

import torch
from torch import Tensor

from .denoisers import Denoises
from .schedules import Schedule


class Guided:
    """What all guides share: the schedule and the range of times of the denoiser they wrap."""

    def __init__(self, denoise: Denoises):
        self.denoise = denoise

    @property
    def schedule(self) -> Schedule:
        return self.denoise.schedule

    @property
    def t_max(self) -> float:
        return getattr(self.denoise, "t_max", 1.0)

    def null(self, cond: dict[str, Any]) -> dict[str, Any]:
        """The conditions of a sample that is told nothing; see Denoiser.null."""
        return self.denoise.null(cond)  # type: ignore[attr-defined]


class cfg(Guided):
    """Classifier-free guidance, both guesses in one pass of the network.

    x0_hat = x0(null) + w (x0(cond) - x0(null)),    w = guidance; 1 is none, 0 ignores the condition

    Ho & Salimans 2022, eq. 6, whose w is ours minus 1. Needs a denoiser with `null`, a Denoiser or a guide around one.
    """

    def __init__(self, denoise: Denoises, guidance: float = 2.0):
        super().__init__(denoise)
        self.guidance = guidance

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        if not cond:
            raise ValueError("Guidance needs a condition to guide towards, such as label=...; none was given.")
        null = self.null(cond)
        given = cond | {name: torch.ones_like(flag) for name, flag in null.items() if name not in cond}
        both = {name: torch.cat((given[name], null[name])) for name in null}
        t2 = t if not isinstance(t, Tensor) or t.numel() == 1 else torch.cat((t, t))
        with_cond, without = self.denoise(torch.cat((x_t, x_t)), t2, **both).chunk(2)
        return without + self.guidance * (with_cond - without)


class interval(Guided):
    """Guidance only where it helps: `guided` where low <= sigma / alpha <= high, `plain` elsewhere.

    Kynkaanniemi et al. 2024, section 3. Noise levels are relative to the signal, so that they mean the same on every
    schedule. t must be one number for all samples, as it is in a sampler.
    """

    def __init__(self, guided: Denoises, plain: Denoises, low: float, high: float):
        super().__init__(guided)
        self.plain, self.low, self.high = plain, low, high

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        inside = self.low <= math.exp(-self.schedule.log_snr(float(t)) / 2) <= self.high
        return (self.denoise if inside else self.plain)(x_t, t, **cond)
