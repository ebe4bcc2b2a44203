"""How pictures come out: one loop, many solvers.

Sampling walks from noise at t = 1 to a clean picture at t = 0 along a list of falling times. A solver is one step of it,

    step(denoise, x, t, s, state, draw) -> (x, state),

from time t to time s. `state` is the tuple of past (t, x0_hat), newest last, for solvers that look back; `draw()` gives
N(0, 1) of x's shape. That is the whole contract: the loop in `sample` serves them all.

The deterministic ones solve the probability-flow ODE, which in z = x / alpha and k = sigma / alpha reads

    dz / dk = (z - x0_hat(x, t)) / k

(Song et al. 2021; Karras et al. 2022, eq. 4): go straight away from the present guess. No solver asks a schedule for its
derivative, so that all schedules give the same path. The step that leaves alpha = 0 and the step that reaches sigma = 0
are of first order, and the latter returns x0_hat itself. Times may also rise: the ODE then runs from picture to noise.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import draws
from .denoisers import Denoises
from .schedules import Schedule
from .spec import Spec, choose

State = tuple[tuple[float, Tensor], ...]
Draw = Callable[[], Tensor]
Step = tuple[Tensor, State]


@lru_cache(4096)
def _point(schedule: Schedule, t: float) -> tuple[float, float, float]:
    """alpha, sigma and log-SNR at t, as numbers: each time is visited by several steps, each run by many batches."""
    alpha, sigma = schedule(t)
    return alpha.item(), sigma.item(), schedule.log_snr(t)


def _ends(schedule: Schedule, t: float, s: float) -> tuple[float, float, float, float]:
    """alpha_t, sigma_t, alpha_s, sigma_s."""
    return _point(schedule, t)[:2] + _point(schedule, s)[:2]


def _rise(schedule: Schedule, t: float, s: float) -> float:
    """log-SNR at s less that at t: positive on the way down to the picture, infinite from alpha = 0 and to sigma = 0."""
    return _point(schedule, s)[2] - _point(schedule, t)[2]


def _forgotten(schedule: Schedule, t: float, s: float) -> float:
    """1 - snr_t / snr_s: how much of what x_s knows of x0 the noisier x_t has forgotten, in [0, 1]."""
    return -math.expm1(-_rise(schedule, t, s))


def ddim(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, *, eta: float = 0.0) -> Step:
    """Denoising diffusion implicit step: keep the guess, move the noise (Song, Meng & Ermon 2021, eq. 12).

    x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps_hat + eta sqrt(v) n,    eps_hat = (x_t - alpha_t x0) / sigma_t

    with v = sigma_s^2 (1 - snr_t / snr_s). eta = 0 is deterministic, eta = 1 is `ddpm`. First order.
    """
    if eta and s > t:
        raise ValueError("ddim with eta > 0 adds noise on its way down and cannot follow rising times; use eta = 0.")
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    if sigma_t == 0:  # leaving a clean picture, the noise is 0 / 0: take its direction from where the step arrives
        x0 = denoise(alpha_s * x, s)
        return alpha_s * (2 * x - x0), (*state, (t, x0))
    x0 = denoise(x, t)
    if eta == 0:
        return alpha_s * x0 + sigma_s / sigma_t * (x - alpha_t * x0), (*state, (t, x0))
    variance = sigma_s**2 * _forgotten(denoise.schedule, t, s)
    keep = math.sqrt(max(sigma_s**2 - eta**2 * variance, 0.0))
    x = alpha_s * x0 + keep / sigma_t * (x - alpha_t * x0) + eta * math.sqrt(variance) * draw()
    return x, (*state, (t, x0))


def ddpm(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """Ancestral step: a draw from q(x_s | x_t, x0 = x0_hat), the posterior of DDPM (Ho et al. 2020, eqs. 6 and 7).

    x_s = alpha_t sigma_s^2 / (alpha_s sigma_t^2) x_t + alpha_s (1 - snr_t / snr_s) x0 + sqrt(v) n

    with v = sigma_s^2 (1 - snr_t / snr_s). Rising times add noise by `renoise`.
    """
    if s > t:
        return renoise(denoise.schedule, x, t, s, draw), state
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    x0 = denoise(x, t)
    if sigma_s == 0:
        return x0, (*state, (t, x0))
    forgotten = _forgotten(denoise.schedule, t, s)
    mean = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2) * x + alpha_s * forgotten * x0
    return mean + sigma_s * math.sqrt(forgotten) * draw(), (*state, (t, x0))


def heun(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """Heun's step: the mean of the slopes at both ends (Karras et al. 2022, algorithm 1). Second order, two evaluations.

    z_s = z_t + (k_s - k_t) (d_t + d_s) / 2,    d = (z - x0_hat) / k
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    x_s, state = ddim(denoise, x, t, s, state, draw)
    if 0 in (alpha_t, sigma_t, alpha_s, sigma_s):
        return x_s, state
    k_t, k_s, z = sigma_t / alpha_t, sigma_s / alpha_s, x / alpha_t
    d_t = (z - state[-1][1]) / k_t
    d_s = (x_s / alpha_s - denoise(x_s, s)) / k_s
    return alpha_s * (z + (k_s - k_t) / 2 * (d_t + d_s)), state


def dpmpp_2m(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """DPM-Solver++(2M): the present guess carried on along the line from the last one (Lu et al. 2022, algorithm 2).

    x_s = sigma_s / sigma_t x_t - alpha_s (e^-h - 1) D,    D = x0 + h / (2 h_last) (x0 - x0_last),    h = half the rise
    of log-SNR. Second order, one evaluation; the first step is of first order.
    """
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    x_s, new = ddim(denoise, x, t, s, state, draw)
    if not state or 0 in (alpha_t, sigma_t, alpha_s, sigma_s):
        return x_s, new
    (t_last, x0_last), (_, x0) = new[-2:]
    h, h_last = _rise(denoise.schedule, t, s) / 2, _rise(denoise.schedule, t_last, t) / 2  # infinite after alpha = 0
    if h_last == 0:  # a time that was repeated holds no line
        return x_s, new
    return x_s - alpha_s * math.expm1(-h) * h / (2 * h_last) * (x0 - x0_last), new


# What each name stands for; options are keyword-only, as in Spec("ddim", eta=1).
SOLVERS: dict[str, Callable[..., Step]] = {"ddpm": ddpm, "ddim": ddim, "heun": heun, "dpmpp_2m": dpmpp_2m}


def renoise(schedule: Schedule, x: Tensor, t: float, s: float, draw: Draw) -> Tensor:
    """A draw from q(x_s | x_t) for s >= t: x_s = alpha_s / alpha_t x_t + sqrt(sigma_s^2 - (alpha_s / alpha_t sigma_t)^2) n."""
    if s < t:
        raise ValueError(f"renoise goes towards noise: s >= t; found s = {s} below t = {t}.")
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(schedule, t, s)
    keep = alpha_s / alpha_t if alpha_t else 1.0
    return keep * x + math.sqrt(max(sigma_s**2 - (keep * sigma_t) ** 2, 0.0)) * draw()


class _Prepared:
    """A denoiser with its conditions filled in and its guesses held in the codec's range: the one place that clips."""

    def __init__(self, denoise: Denoises, clip: tuple[float, float] | None, cond: dict[str, Any]):
        self.denoise, self.clip, self.cond = denoise, clip, cond
        self.schedule = denoise.schedule

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        x0 = self.denoise(x_t, t, **self.cond, **cond)
        return x0 if self.clip is None else x0.clamp(*self.clip)


@torch.no_grad()
def sample(
    denoise: Denoises,
    x: Tensor,
    solver: str | Spec | Mapping = "dpmpp_2m",
    steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    clip: tuple[float, float] | None = None,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
    **cond: Any,
) -> Tensor:
    """Integrate x (B, ...) from times[0] to times[-1] and return it.

    solver     a name in SOLVERS, or a Spec with its options
    steps      number of steps of the schedule's own grid, 20 unless said; `times` (falling, or rising) wins over it
    seeds      what the samples' noise is a function of: one number for each sample, or the keys (B, 4) of `draws.keys`;
               None: 0, 1, 2 ...
    clip       the range that guesses of x0 are held in, or None
    callback   called after each step with (i, t, x, x0_hat): the step's number and starting time, x where it arrived
    """
    step = choose(SOLVERS, solver, "solver")
    if times is None:
        times = denoise.schedule.grid(20 if steps is None else steps, start=getattr(denoise, "t_max", 1.0))
    path = [float(t) for t in times]
    if len(path) < 2:
        raise ValueError(f"A sampler takes at least 1 step, that is 2 times; found {len(path)} times.")
    keys = _keys(range(len(x)) if seeds is None else seeds, x)
    calls = iter(range(2**32))

    def draw() -> Tensor:
        keys[:, 3] = next(calls)
        return draws.normal(keys, x.shape[1:], x.dtype)

    prepared = _Prepared(denoise, clip, cond)
    state: State = ()
    for i, (t, s) in enumerate(pairwise(path)):
        x, state = step(prepared, x, t, s, state, draw)
        if callback is not None:
            callback(i, t, x, state[-1][1] if state else x)
        state = state[-3:]  # no solver looks further back
    return x


def _keys(seeds: Sequence[int] | Tensor, x: Tensor) -> Tensor:
    seeds = torch.as_tensor(seeds if isinstance(seeds, Tensor) else list(seeds), dtype=torch.int64)
    keys = seeds.clone() if seeds.ndim == 2 else draws.keys(0, "sample", seeds)
    if len(keys) != len(x):
        raise ValueError(f"Each sample has a seed of its own: expected {len(x)} seeds, found {len(keys)}.")
    return keys.to(x.device)
