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

Read `ddim` first, then `ddpm`, which adds noise, and `heun`, which looks ahead; the others look back, and share one
integral.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from . import draws
from .denoisers import Denoises, guess, posterior, spread
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


@lru_cache(4096)
def _back(schedule: Schedule, t: float, s: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The numbers of `posterior`, float64."""
    return posterior(schedule, *torch.tensor((t, s), dtype=torch.float64))


def euler(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """Euler's step: straight on along the present slope. First order; the same as ddim without noise, spelled as an ODE.

    z_s = z_t + (k_s - k_t) d,    d = (z - x0_hat) / k
    """
    alpha_t, sigma_t, alpha_s, sigma_s = ends = _ends(denoise.schedule, t, s)
    if 0 in ends:
        return ddim(denoise, x, t, s, state, draw)
    x0 = denoise(x, t)
    k_t, k_s, z = sigma_t / alpha_t, sigma_s / alpha_s, x / alpha_t
    return alpha_s * (z + (k_s - k_t) * (z - x0) / k_t), (*state, (t, x0))


def ddim(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, *, eta: float = 0.0) -> Step:
    """Denoising diffusion implicit step: keep the guess, move the noise (Song, Meng & Ermon 2021, eq. 12).

    x_s = alpha_s x0 + sqrt(sigma_s^2 - eta^2 v) eps_hat + eta sqrt(v) n,    eps_hat = (x_t - alpha_t x0) / sigma_t

    with the v of `posterior`. eta = 0 is deterministic, eta = 1 is `ddpm`. First order.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"ddim takes eta from 0 to 1; found {eta}.")
    if eta and s > t:
        raise ValueError("ddim with eta > 0 adds noise on its way down and cannot follow rising times; use eta = 0.")
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    if sigma_t == 0:  # leaving a clean picture, the noise is 0 / 0: take its direction from where the step arrives
        if alpha_s == 0:
            raise ValueError("A clean picture cannot be carried to alpha = 0 in one step; give times between.")
        x0 = denoise(alpha_s * x, s)
        return alpha_s * (2 * x - x0), (*state, (t, x0))
    x0 = denoise(x, t)
    state = (*state, (t, x0))
    if eta == 0:
        return alpha_s * x0 + sigma_s / sigma_t * (x - alpha_t * x0), state
    variance = _back(denoise.schedule, t, s)[2].item()
    keep = math.sqrt(max(sigma_s**2 - eta**2 * variance, 0.0))
    return alpha_s * x0 + keep / sigma_t * (x - alpha_t * x0) + eta * math.sqrt(variance) * draw(), state


def ddpm(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, *, variance: str = "posterior") -> Step:
    """Ancestral step: a draw from p(x_s | x_t) = N(a x_t + b x0_hat, variance), a and b of `posterior`.

    variance   posterior, beta, or learned by the network (Ho et al. 2020, eqs. 6 and 7; Nichol & Dhariwal 2021)

    Rising times add noise by `renoise`.
    """
    if s >= t:
        return renoise(denoise.schedule, x, t, s, draw), state
    a, b, v, beta = _back(denoise.schedule, t, s)
    x0, fraction = guess(denoise, x, t)
    std = (spread(variance, v, beta, fraction) / 2).exp()
    state = (*state, (t, x0))
    return (x0 if _point(denoise.schedule, s)[1] == 0 else a * x + b * x0 + std.to(x.dtype) * draw()), state


def heun(
    denoise: Denoises,
    x: Tensor,
    t: float,
    s: float,
    state: State,
    draw: Draw,
    *,
    churn: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
    noise: float = 1.0,
) -> Step:
    """Heun's step: the mean of the slopes at both ends (Karras et al. 2022, algorithms 1 and 2). Second order, two evaluations.

    z_s = z_t + (k_s - k_t) (d_t + d_s) / 2,    d = (z - x0_hat) / k

    churn      before the step, where low <= k <= high, k is raised by this share with fresh noise of standard deviation
               `noise`: their gamma, S_churn / N and at most sqrt(2) - 1, here never beyond t_max; low, high and noise are
               S_tmin, S_tmax and S_noise
    """
    if churn < 0:
        raise ValueError(f"churn is a share of at least 0; found {churn}.")
    if churn and s < t and low <= math.exp(-_point(denoise.schedule, t)[2] / 2) <= high:
        raised = denoise.schedule.time(_point(denoise.schedule, t)[2] - 2 * math.log1p(min(churn, math.sqrt(2) - 1)))
        raised = min(raised, getattr(denoise, "t_max", 1.0))
        x, t = renoise(denoise.schedule, x, t, max(raised, t), lambda: noise * draw()), max(raised, t)
    alpha_t, sigma_t, alpha_s, sigma_s = ends = _ends(denoise.schedule, t, s)
    x_s, state = euler(denoise, x, t, s, state, draw)
    if 0 in ends:
        return x_s, state
    k_t, k_s, z = sigma_t / alpha_t, sigma_s / alpha_s, x / alpha_t
    d_t = (z - state[-1][1]) / k_t
    d_s = (x_s / alpha_s - denoise(x_s, s)) / k_s
    return alpha_s * (z + (k_s - k_t) / 2 * (d_t + d_s)), state


# ---- solvers that look back ------------------------------------------------------------------------------------------
# In l = log(alpha / sigma) the ODE has the exact solution
#
#     x_s = sigma_s / sigma_t x_t + alpha_s int_0^h e^(u - h) x0_hat(l_t + u) du,    h = l_s - l_t
#
# (Lu et al. 2022, eq. 9), so that only x0_hat must be approximated: by the polynomial through guesses already made.


def _weights(nodes: Sequence[float], h: float) -> list[float]:
    """What each guess counts in that integral; nodes are their places u, h the length of the step.

    The integral of the polynomial is exact, but for the line through two nodes, which is read at mid-step: so it was
    published, in DPM-Solver++(2M) and for the same order in UniPC.
    """
    moments = [-math.expm1(-h)]  # int e^(u - h) u^n du
    for n in range(1, len(nodes)):
        moments.append(h**n - n * moments[-1])
    if len(nodes) == 2:
        moments[1] = moments[0] * h / 2
    weights = []
    for i, node in enumerate(nodes):
        polynomial = [1.0]  # Lagrange's, 1 at its own node and 0 at the others; lowest power first
        for other in (*nodes[:i], *nodes[i + 1 :]):
            shifted, lowered = [0.0, *polynomial], [*polynomial, 0.0]
            polynomial = [(a - other * b) / (node - other) for a, b in zip(shifted, lowered, strict=True)]
        weights.append(sum(map(operator.mul, polynomial, moments)))
    return weights


def _behind(schedule: Schedule, state: State, t: float, s: float, count: int) -> State:
    """The last guesses, at most `count`, that a step from t to s leaves behind it one after another, newest last."""
    kept: State = ()
    for past, x0 in reversed(state):
        if len(kept) == count or ((kept[0][0] if kept else t) - past) * (s - t) <= 0 or _point(schedule, past)[1] == 0:
            break
        if _point(schedule, past)[0] > 0:
            kept = ((past, x0), *kept)
    return kept


def _combined(schedule: Schedule, guesses: State, t: float, s: float) -> Tensor:
    """The integral over the step from t to s of the polynomial through the guesses, (B, ...)."""
    h = _rise(schedule, t, s) / 2
    weights = _weights([_rise(schedule, t, past) / 2 for past, _ in guesses], h)
    total = weights[0] * guesses[0][1]
    for weight, (_, x0) in zip(weights[1:], guesses[1:], strict=True):
        total = torch.add(total, x0, alpha=weight)
    return total


def _multistep(
    denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, order: int, correct: bool = False
) -> Step:
    """Predict x_s from the present guess and the order - 1 before it; if `correct`, first mend x_t by the present one."""
    schedule = denoise.schedule
    alpha_t, sigma_t, alpha_s, sigma_s = ends = _ends(schedule, t, s)
    if 0 in ends:
        return ddim(denoise, x, t, s, state, draw)
    x0 = denoise(x, t)
    behind = _behind(schedule, state, t, s, order)
    if correct and behind:  # the last step over again, now that it is known where it led
        last = behind[-1][0]
        mended = _combined(schedule, (*behind, (t, x0)), last, t) - _combined(schedule, behind, last, t)
        x = torch.add(x, mended, alpha=alpha_t)
    ahead = _combined(schedule, (*behind, (t, x0))[-order:], t, s)
    return sigma_s / sigma_t * x + alpha_s * ahead, (*state, (t, x0))


def dpmpp_2m(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """DPM-Solver++(2M): the present guess carried on along the line from the last one (Lu et al. 2022, algorithm 2).

    x_s = sigma_s / sigma_t x_t + alpha_s (1 - e^-h) D,    D = x0 + h / (2 h_last) (x0 - x0_last)

    Second order, one evaluation; the first step is of first order.
    """
    return _multistep(denoise, x, t, s, state, draw, order=2)


def dpmpp_2m_sde(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, *, eta: float = 1.0) -> Step:
    """DPM-Solver++(2M) of the stochastic equation (Lu et al. 2022, section 5, as sampled in k-diffusion).

    x_s = sigma_s / sigma_t e^(-eta h) x_t + alpha_s (1 - e^(-(1 + eta) h)) D + sigma_s sqrt(1 - e^(-2 eta h)) n

    with the D and h of `dpmpp_2m`, which it is for eta = 0; its first step with eta = 1 is that of `ddpm`.
    """
    if eta and s > t:
        raise ValueError("dpmpp_2m_sde adds noise on its way down and cannot follow rising times; use dpmpp_2m.")
    _, sigma_t, alpha_s, sigma_s = _ends(denoise.schedule, t, s)
    if s == t:
        return x, state
    if sigma_s == 0 or eta == 0:
        return dpmpp_2m(denoise, x, t, s, state, draw)
    x0 = denoise(x, t)
    h, line = _rise(denoise.schedule, t, s) / 2, x0  # h is infinite from alpha = 0
    for last, x0_last in _behind(denoise.schedule, state, t, s, 1):
        line = x0 + h / _rise(denoise.schedule, last, t) * (x0 - x0_last)
    keep = math.exp(-eta * h)
    x = sigma_s / sigma_t * keep * x - alpha_s * math.expm1(-(1 + eta) * h) * line
    return x + sigma_s * math.sqrt(1 - keep**2) * draw(), (*state, (t, x0))


def dpmpp_3m(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw) -> Step:
    """DPM-Solver++(3M): the parabola through three guesses, integrated exactly. Third order, one evaluation.

    The published form takes the divided difference for the second derivative, which is twice as large, and is of second
    order (docs/solvers.md). The first two steps here are of second order: `heun`, then two guesses.
    """
    if not _behind(denoise.schedule, state, t, s, 1):
        return heun(denoise, x, t, s, state, draw)
    return _multistep(denoise, x, t, s, state, draw, order=3)


def unipc(denoise: Denoises, x: Tensor, t: float, s: float, state: State, draw: Draw, *, order: int = 3) -> Step:
    """UniPC: predict with `order` guesses, then correct with one more, made where the prediction led (Zhao et al. 2023).

    Order + 1 in all, one evaluation: the correction of a step is made by the next one, from the guess it makes anyway.
    For three nodes and more the free function B(h) of the paper drops out; for two ours is their B2(h) = e^h - 1.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"unipc has an order of 1, 2 or 3; found {order}.")
    return _multistep(denoise, x, t, s, state, draw, order, correct=True)


# What each name stands for; options are keyword-only, as in Spec("ddim", eta=1).
SOLVERS: dict[str, Callable[..., Step]] = {
    "euler": euler,
    "ddim": ddim,
    "ddpm": ddpm,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "dpmpp_3m": dpmpp_3m,
    "unipc": unipc,
}


def renoise(schedule: Schedule, x: Tensor, t: float, s: float, draw: Draw) -> Tensor:
    """A draw from q(x_s | x_t) for s >= t: x_s = alpha_s / alpha_t x_t + sqrt(sigma_s^2 - (alpha_s / alpha_t sigma_t)^2) n."""
    if s < t:
        raise ValueError(f"renoise goes towards noise: s >= t; found s = {s} below t = {t}.")
    alpha_t, sigma_t, alpha_s, sigma_s = _ends(schedule, t, s)
    keep = alpha_s / alpha_t if alpha_t else 1.0
    return keep * x + math.sqrt(max(sigma_s**2 - (keep * sigma_t) ** 2, 0.0)) * draw()


class _Prepared:
    """A denoiser with its conditions filled in and its guesses held in the codec's range: the one place that clips."""

    def __init__(self, denoise: Denoises, clip: tuple[float, float] | None, threshold: float | None, cond: dict[str, Any]):
        self.denoise, self.clip, self.threshold, self.cond = denoise, clip, threshold, cond
        self.schedule, self.t_max = denoise.schedule, getattr(denoise, "t_max", 1.0)

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        return self.guess(x_t, t, **cond)[0]

    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        x0, fraction = guess(self.denoise, x_t, t, **self.cond, **cond)
        if self.clip is None:
            return x0, fraction
        if self.threshold is not None:
            x0 = threshold(x0, self.clip, self.threshold)
        return x0.clamp(*self.clip), fraction


def threshold(x0: Tensor, clip: tuple[float, float], quantile: float) -> Tensor:
    """Dynamic thresholding: a sample whose `quantile` of distances from mid-range is out of range is shrunk until it is not.

    s = max(1, quantile of |x0 - middle| / half), x0 <- middle + (x0 - middle) / s, to be clamped afterwards, which is the
    same as clamping to s first. Saharia et al. 2022 (Imagen), section 2.3.
    """
    middle, half = (clip[0] + clip[1]) / 2, (clip[1] - clip[0]) / 2
    distance = (x0 - middle).abs().flatten(1) / half  # (B, n)
    rank = min(distance.shape[1], max(1, math.ceil(quantile * distance.shape[1])))
    s = distance.kthvalue(rank, 1).values.clamp_min(1)  # (B,)
    return middle + (x0 - middle) / s.reshape(-1, *[1] * (x0.ndim - 1))


@torch.no_grad()
def sample(
    denoise: Denoises,
    x: Tensor,
    solver: str | Spec | Mapping = "dpmpp_2m",
    steps: int | None = None,
    times: Sequence[float] | Tensor | None = None,
    seeds: Sequence[int] | Tensor | None = None,
    clip: tuple[float, float] | None = None,
    threshold: float | None = None,
    callback: Callable[[int, float, Tensor, Tensor], None] | None = None,
    **cond: Any,
) -> Tensor:
    """Integrate x (B, ...) from times[0] to times[-1] and return it.

    solver     a name in SOLVERS, or a Spec with its options
    steps      number of steps of the schedule's own grid, 20 unless said; `times` (falling, or rising) wins over it
    seeds      what the samples' noise is a function of: one number for each sample, or the keys (B, 4) of `draws.keys`;
               None: 0, 1, 2 ...
    clip       the range that guesses of x0 are held in, or None
    threshold  the quantile of `threshold`, such as 0.995, or None: out-of-range guesses are cut off
    callback   called after each step with (i, t, x, x0_hat): the step's number and starting time, x where it arrived
    """
    step = choose(SOLVERS, solver, "solver")
    if times is None:
        times = denoise.schedule.grid(20 if steps is None else steps, start=getattr(denoise, "t_max", 1.0))
    path = [float(t) for t in times]
    if threshold is not None and (clip is None or not 0 < threshold <= 1):
        raise ValueError(f"A threshold is a quantile in (0, 1] of a range given as clip; found {threshold} and clip = {clip}.")
    if len(path) < 2:
        raise ValueError(f"A sampler takes at least 1 step, that is 2 times; found {len(path)} times.")
    keys = _keys(range(len(x)) if seeds is None else seeds, x)
    calls = iter(range(2**32))

    def draw() -> Tensor:
        keys[:, 3] = next(calls)
        return draws.normal(keys, x.shape[1:], x.dtype)

    prepared = _Prepared(denoise, clip, threshold, cond)
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
