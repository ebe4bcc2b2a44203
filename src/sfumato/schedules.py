"""How noise grows: a schedule is a map from time t in [0, 1] to (alpha_t, sigma_t).

Diffusion mixes an image with noise, and everything else follows from this one line:

    x_t = alpha_t * x0 + sigma_t * eps,        eps ~ N(0, I)

At t = 0 the image is clean, (alpha, sigma) = (1, 0); at t = 1 it is (nearly) noise. What matters of a schedule is its
log signal-to-noise ratio

    log_snr(t) = log(alpha_t^2 / sigma_t^2),        falling from +inf at t = 0,

for two schedules that agree there differ by a mere rescaling of x. So a `Schedule` is made of two independent choices:
the curve log_snr(t) with its inverse time(log_snr), and a *frame*, which says how a log-SNR is spelled as (alpha, sigma):

    variance preserving    alpha^2 + sigma^2 = 1    (DDPM)
    variance exploding     alpha = 1                (EDM)
    flow                   alpha + sigma = 1        (rectified flow)

Coefficients are computed in float64 on the CPU, by forms that lose no digits at either end, and cast last.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .errors import unknown

Scalar = TypeVar("Scalar", float, Tensor)

LOWEST = -12.0  # log-SNR below which a picture holds nothing that a network could see (sigma / alpha = e^6)
HIGHEST = 12.0  # log-SNR above which nothing is left to clean, where a schedule does not say so itself

FRAMES: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "variance_preserving": lambda log_snr: (log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()),
    "variance_exploding": lambda log_snr: (torch.ones_like(log_snr), (-log_snr / 2).exp()),
    "flow": lambda log_snr: ((log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()),
}


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: calling it with t in [0, 1] gives (alpha_t, sigma_t).

    t is a number or a tensor of any shape; results have its shape, its dtype (float64 for numbers) and its device.
    """

    curve: Callable[[Tensor], Tensor]  # t -> log-SNR, float64
    inverse: Callable[[Tensor], Tensor]  # log-SNR -> t, float64
    frame: str = "variance_preserving"  # a row of FRAMES
    steps: int | None = None  # T, where the schedule was made for T discrete steps, t_i = i / T for i = 1 .. T
    spacing: str = "trailing"  # what `grid` does unless told: a row of SPACINGS
    log_snr_range: tuple[float, float] = (LOWEST, HIGHEST)  # where grids that space noise levels begin and end
    rho: float = 7.0  # of the spacing karras

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """(alpha_t, sigma_t) with x_t = alpha_t x0 + sigma_t eps."""
        alpha, sigma = FRAMES[self.frame](self.curve(_checked(t)))
        return _like(alpha, t), _like(sigma, t)

    def log_snr(self, t: Scalar) -> Scalar:
        """log(alpha_t^2 / sigma_t^2): +inf at t = 0, and -inf at t = 1 where alpha_1 = 0. A number gives a number."""
        return _as(self.curve(_checked(t)), t)

    def time(self, log_snr: Scalar) -> Scalar:
        """The t at which the schedule has this log-SNR; clamped to [0, 1] outside its range. A number gives a number."""
        log_snr64 = _float64(log_snr)
        t = self.inverse(log_snr64).clamp(0, 1)
        end = self.curve(torch.ones((), dtype=torch.float64))
        t = torch.where(log_snr64 <= end, 1.0, t)
        return _as(t, log_snr)

    def shifted(self, factor: float) -> "Schedule":
        """The same curve with sigma / alpha `factor` times as large everywhere: log-SNR - 2 log(factor).

        A picture `factor` times as wide averages out noise that much better and needs that much more of it. Hoogeboom
        et al. 2023, eq. 4 (factor = d / 64); on `flow` this is t' = f t / (1 + (f - 1) t) (Esser et al. 2024, eq. 23).
        """
        if not 0 < factor < math.inf:
            raise ValueError(f"A schedule is shifted by a factor above 0; found {factor}.")
        by, curve, inverse = 2 * math.log(factor), self.curve, self.inverse
        low, high = self.log_snr_range
        return replace(
            self,
            curve=lambda t: curve(t) - by,
            inverse=lambda log_snr: inverse(log_snr + by),
            log_snr_range=(low - by, high - by),
        )

    @property
    def terminal_snr(self) -> float:
        """alpha_1^2 / sigma_1^2: what is left of the image where sampling starts; 0 is best, 4e-5 is DDPM's."""
        return math.exp(self.log_snr(1.0))

    def grid(self, steps: int | None = None, spacing: str | None = None, start: float = 1.0) -> Tensor:
        """Times for a sampler: (steps + 1,) float64 from `start` down to 0.

        trailing    equal steps of t, on the schedule's own T steps where it has them (Lin et al. 2024, table 2)
        uniform     equal steps of t
        karras      equal steps of (sigma / alpha)^(1/rho), then 0 (Karras et al. 2022, eq. 5)
        log_snr     equal steps of log-SNR, then 0
        steps       the T steps themselves; `steps` is then T or None

        None is the schedule's own: karras for edm, log_snr for laplace, trailing for the others. Raises ValueError for
        fewer than 1 step, or for more distinct steps than the schedule has.
        """
        spacing = spacing or self.spacing
        if spacing not in SPACINGS:
            raise unknown("spacing", spacing, SPACINGS)
        if spacing == "steps" and (self.steps is None or steps not in (None, self.steps) or start != 1):
            raise ValueError(f"Spacing 'steps' takes all {self.steps} steps from 1; found {steps} asked for from {start:g}.")
        count = self.steps if steps is None else steps
        if count is None or count < 1:
            raise ValueError(f"A sampler takes at least 1 step; found {count}.")
        times = torch.zeros(count + 1, dtype=torch.float64)
        times[:-1] = SPACINGS[spacing](self, count, start)
        times[0] = start
        if not (times.diff() < 0).all():
            raise ValueError(f"Spacing '{spacing}' has no {count} steps between 0 and {start:g} here; use spacing='uniform'.")
        return times


def _trailing(schedule: Schedule, count: int, start: float) -> Tensor:
    times = _uniform(schedule, count, start)
    return times if schedule.steps is None else (times * schedule.steps).round() / schedule.steps


def _uniform(schedule: Schedule, count: int, start: float) -> Tensor:
    return torch.linspace(start, 0, count + 1, dtype=torch.float64)[:-1]


def _karras(schedule: Schedule, count: int, start: float) -> Tensor:
    (low, high), rho = _noise_ends(schedule, start), schedule.rho
    return schedule.time(-2 * rho * _ramp(high ** (1 / rho), low ** (1 / rho), count).log())


def _log_snr(schedule: Schedule, count: int, start: float) -> Tensor:
    low, high = _noise_ends(schedule, start)
    return schedule.time(-2 * _ramp(math.log(high), math.log(low), count))


SPACINGS: dict[str, Callable[[Schedule, int, float], Tensor]] = {
    "trailing": _trailing,
    "uniform": _uniform,
    "karras": _karras,
    "log_snr": _log_snr,
    "steps": _uniform,
}


def _noise_ends(schedule: Schedule, start: float) -> tuple[float, float]:
    """The lowest and highest sigma / alpha that a grid visits between t = 0 and `start`."""
    lowest = max(schedule.log_snr(start), schedule.log_snr_range[0])
    return math.exp(-schedule.log_snr_range[1] / 2), math.exp(-lowest / 2)


def _ramp(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float64)


# ---- the schedules ---------------------------------------------------------------------------------------------------


def from_betas(betas: Tensor) -> Schedule:
    """A classic schedule of T steps: alpha_bar_i = prod_{j <= i} (1 - beta_j) stands at t = i / T, i = 1 .. T.

    Between the steps log alpha_bar is linear, so that the inverse is exact. alpha = sqrt(alpha_bar), variance preserving.
    `betas` (T,) lie in (0, 1). Ho et al. 2020, eq. 4.
    """
    betas = betas.double()
    if betas.ndim != 1 or not ((betas > 0) & (betas < 1)).all():
        raise ValueError("Betas are a row of numbers between 0 and 1, exclusive.")
    steps = len(betas)
    log_alpha_bar = torch.cat((torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)))  # (T + 1,)
    knots = torch.arange(steps + 1, dtype=torch.float64) / steps

    def curve(t: Tensor) -> Tensor:
        return _from_log_alpha_bar(_interpolate(t, knots, log_alpha_bar))

    def inverse(log_snr: Tensor) -> Tensor:
        return _interpolate(logsigmoid(log_snr), log_alpha_bar.flip(0), knots.flip(0))

    ends = (curve(knots[-1:]).item(), curve(knots[1:2]).item())
    return Schedule(curve, inverse, steps=steps, log_snr_range=ends)


def _of_betas(root: float, steps: int, beta_start: float, beta_end: float, mended: bool) -> Schedule:
    if steps < 1 or not 0 < beta_start <= beta_end < 1:
        raise ValueError(f"Betas need steps >= 1 and 0 < start <= end < 1; found {steps}, {beta_start}, {beta_end}.")
    ramp = lambda count: _ramp(beta_start ** (1 / root), beta_end ** (1 / root), count) ** root
    betas = ramp(steps)
    if mended:
        log_alpha = torch.log1p(-betas)
        betas = -torch.expm1(log_alpha * (torch.log1p(-ramp(1000)).sum() / log_alpha.sum()))
    return from_betas(betas)


def linear(*, steps: int = 300, beta_start: float = 1e-4, beta_end: float = 0.02, mended: bool = False) -> Schedule:
    """Linear betas: beta_i from beta_start to beta_end in T = `steps` equal steps (Ho et al. 2020, section 4).

    With T < 1000 these betas stop short of noise: alpha_1 is 0.219 at T = 300. `mended` raises 1 - beta to the power
    that gives every T the terminal SNR of T = 1000 with the same ends (4.0e-5 for the defaults):
    log(1 - beta') = log(1 - beta) * log alpha_bar(1000) / log alpha_bar(T).
    """
    return _of_betas(1.0, steps, beta_start, beta_end, mended)


def quadratic(*, steps: int = 300, beta_start: float = 1e-4, beta_end: float = 0.02, mended: bool = False) -> Schedule:
    """Quadratic betas: sqrt(beta_i) in equal steps ('quad' in Song, Meng & Ermon's code of 2021; latent diffusion's 'linear').

    `mended` as in `linear`; T = 1000 ends at an SNR of 7.3e-4.
    """
    return _of_betas(2.0, steps, beta_start, beta_end, mended)


def cosine(*, offset: float = 0.008) -> Schedule:
    """alpha_t = cos(pi/2 (t + s) / (1 + s)) / cos(pi/2 s / (1 + s)), s = offset; variance preserving.

    Nichol & Dhariwal 2021, eq. 17, without their cap on beta: alpha_1 is exactly 0.
    """
    unit = math.pi / 2 / (1 + offset)
    sin_s, cos_s = math.sin(unit * offset), math.cos(unit * offset)

    def curve(t: Tensor) -> Tensor:  # cos^2 b - cos^2 a = sin(a - b) sin(a + b), and cos a = sin(pi/2 - a)
        signal = torch.sin(unit * (1 - t)).log() * 2
        return signal - torch.sin(unit * t).log() - torch.sin(unit * (t + 2 * offset)).log()

    def inverse(log_snr: Tensor) -> Tensor:
        signal, noise = log_snr.sigmoid(), (-log_snr).sigmoid()
        return torch.atan2((sin_s**2 + noise * cos_s**2).sqrt(), signal.sqrt() * cos_s) / unit - offset

    return Schedule(curve, inverse)


def edm(*, sigma_max: float = 80.0, sigma_min: float = 0.002, rho: float = 7.0) -> Schedule:
    """sigma_t = sigma_max t^rho, alpha_t = 1 (Karras et al. 2022): equal steps of t are their eq. 5 with sigma_min = 0.

    `sigma_min` is where the spacings `karras` and `log_snr` place their last step before 0.
    """
    if not 0 < sigma_min < sigma_max or rho <= 0:
        raise ValueError(f"edm needs 0 < sigma_min < sigma_max and rho > 0; found {sigma_min}, {sigma_max}, {rho}.")
    top = 2 * math.log(sigma_max)
    return Schedule(
        curve=lambda t: -top - 2 * rho * t.log(),
        inverse=lambda log_snr: (-(log_snr + top) / (2 * rho)).exp(),
        frame="variance_exploding",
        spacing="karras",
        log_snr_range=(-top, -2 * math.log(sigma_min)),
        rho=rho,
    )


def flow() -> Schedule:
    """alpha_t = 1 - t, sigma_t = t: the straight line from image to noise (Lipman et al. 2023; Liu et al. 2023)."""
    return Schedule(lambda t: 2 * (torch.log1p(-t) - t.log()), lambda log_snr: (-log_snr / 2).sigmoid(), frame="flow")


def sigmoid(*, start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha_t^2 = (S(end) - S(y)) / (S(end) - S(start)), y = start + t (end - start), S(y) = 1 / (1 + e^(-y / tau)).

    Jabri et al. 2023; in this form Chen 2023, algorithm 1, without its floor: alpha_1 is 0. Variance preserving.
    """
    if not start < end or tau <= 0 or max(end - start, abs(start), abs(end)) > 700 * tau:
        raise ValueError(f"sigmoid needs start < end and tau > 0, not too small; found {start}, {end}, {tau}.")
    c = (end - start) / (2 * tau)  # S(a) - S(b) = sinh((a - b) / 2) / (2 cosh(a / 2) cosh(b / 2))
    offset = math.log(math.cosh(start / (2 * tau)) / math.cosh(end / (2 * tau)))
    return Schedule(
        curve=lambda t: torch.sinh(c * (1 - t)).log() - torch.sinh(c * t).log() + offset,
        inverse=lambda log_snr: torch.atanh(math.sinh(c) / ((log_snr - offset).exp() + math.cosh(c))) / c,
    )


def laplace(*, mean: float = 0.0, scale: float = 0.5) -> Schedule:
    """log-SNR = mean - scale log(2t) up to t = 1/2, mean + scale log(2 - 2t) from there; variance preserving.

    Times drawn uniformly give log-SNRs of a Laplace distribution, most where the picture forms (Hang et al. 2024, table
    1). So little of it lies near the ends that equal steps of t serve sampling badly: the grid is even in log-SNR.
    """
    if not scale >= 0.35:  # below, t = 1 - e^(LOWEST / scale) / 2 is 1 in float64
        raise ValueError(f"laplace needs a scale of at least 0.35; found {scale}.")

    def inverse(log_snr: Tensor) -> Tensor:
        tail = torch.exp(-(log_snr - mean).abs() / scale) / 2
        return torch.where(log_snr > mean, tail, 1 - tail)

    return Schedule(
        curve=lambda t: torch.where(t < 0.5, mean - scale * (2 * t).log(), mean + scale * (2 - 2 * t).log()),
        inverse=inverse,
        spacing="log_snr",
    )


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "quadratic": quadratic,
    "cosine": cosine,
    "sigmoid": sigmoid,
    "laplace": laplace,
    "edm": edm,
    "flow": flow,
}


# ---- training times --------------------------------------------------------------------------------------------------
# A density turns u, uniform in [0, 1), into times. u comes from a low-discrepancy sequence in the position of the image
# in the training stream (draws.golden), so that every batch is nearly stratified and no draw depends on the batch size.


def _density_uniform(schedule: Schedule, u: Tensor) -> Tensor:
    """t uniform in (0, 1]."""
    return 1 - u


def _density_steps(schedule: Schedule, u: Tensor) -> Tensor:
    """t uniform over the schedule's T steps, i / T."""
    if schedule.steps is None:
        raise ValueError("Training times 'steps' need a schedule that has steps, such as linear; found one without.")
    return ((1 - u) * schedule.steps).ceil() / schedule.steps


def _density_log_normal(schedule: Schedule, u: Tensor, *, mean: float = -1.2, std: float = 1.2) -> Tensor:
    """log(sigma / alpha) ~ N(mean, std^2) (Karras et al. 2022, table 1)."""
    return schedule.time(-2 * _normal(mean, std, u))


def _density_logit_normal(schedule: Schedule, u: Tensor, *, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """logit(t) ~ N(mean, std^2) (Esser et al. 2024, eq. 19)."""
    return _normal(mean, std, u).sigmoid()


DENSITIES: dict[str, Callable[..., Tensor]] = {
    "uniform": _density_uniform,
    "steps": _density_steps,
    "log_normal": _density_log_normal,
    "logit_normal": _density_logit_normal,
}


# ---- small pieces ----------------------------------------------------------------------------------------------------


def per_sample(value: float | Tensor, x: Tensor) -> float | Tensor:
    """Give a coefficient (a number or (B,)) the shape (B, 1, ...), the dtype and the device that multiply x (B, ...).

    One value for all samples stays a number: it then reaches an accelerator without a transfer.
    """
    if not isinstance(value, Tensor) or value.numel() == 1:
        return float(value)
    return value.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1)).to(x.device, non_blocking=True)


def diffuse(schedule: Schedule, x0: Tensor, t: float | Tensor, eps: Tensor) -> Tensor:
    """x_t = alpha_t x0 + sigma_t eps, (B, ...); t is a number or (B,)."""
    alpha, sigma = schedule(t)
    return per_sample(alpha, x0) * x0 + per_sample(sigma, x0) * eps


def _from_log_alpha_bar(log_alpha_bar: Tensor) -> Tensor:
    """log(alpha_bar / (1 - alpha_bar)), with all digits near alpha_bar = 1."""
    return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear interpolation of values at rising knots."""
    i = torch.searchsorted(knots, x.contiguous(), right=True).clamp(1, len(knots) - 1)
    fraction = (x - knots[i - 1]) / (knots[i] - knots[i - 1])
    return torch.lerp(values[i - 1], values[i], fraction)


def _normal(mean: float, std: float, u: Tensor) -> Tensor:
    if not 0 < std < math.inf:
        raise ValueError(f"A density of times has a deviation above 0; found std={std}.")
    return mean + std * torch.special.ndtri(u.clamp(2.0**-53, 1 - 2.0**-53))


def _float64(value: float | Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().to("cpu", torch.float64)
    return torch.tensor(value, dtype=torch.float64)


def _checked(t: float | Tensor) -> Tensor:
    t64 = _float64(t)
    if not ((t64 >= 0) & (t64 <= 1)).all():
        raise ValueError(f"Time lies between 0 (clean) and 1 (noise); found {t}.")
    return t64


def _like(value: Tensor, other: float | Tensor) -> Tensor:
    if not isinstance(other, Tensor):
        return value
    return value.to(other.device, other.dtype if other.is_floating_point() else torch.float64)


def _as(value: Tensor, other: Scalar) -> Scalar:
    return _like(value, other) if isinstance(other, Tensor) else value.item()
