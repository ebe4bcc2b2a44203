"""What the network means: a denoiser is a map (x_t, t, **cond) -> x0_hat.

Given a noisy picture, the best guess of the clean one in the mean-square sense is E[x0 | x_t]. Everything a diffusion
model can do is done with that one function; a denoiser is anything with a `.schedule` that can be called this way.

A network rarely predicts x0 directly. It may predict the noise, or a mixture of image and noise, and it wants inputs of
unit size. Both are one affine map, whose four numbers per noise level are a row of a table (`ROWS`):

    x0_hat = c_skip x_t + c_out net(c_in x_t, c_noise)

With r^2 = alpha^2 + sigma^2, p = alpha + sigma, q^2 = alpha^2 sd^2 + sigma^2 and sd = sigma_data the rows are valid on
every schedule, for c_in and c_skip scale as 1 / x_t does: rescaling a schedule changes nothing that the network sees.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from .errors import unknown
from .schedules import LOWEST, Schedule, per_sample

Coefficients = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]


class Denoises(Protocol):
    """The contract: a schedule, and a guess of the clean picture (B, ...) from a noisy one at time t (a number or (B,))."""

    @property
    def schedule(self) -> Schedule: ...

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor: ...


@dataclass(frozen=True)
class Row:
    """One parameterization: what the network is given, and what its output F means.

    scales(alpha, sigma, sd)            -> c_in, c_skip, c_out
    target(x0, eps, alpha, sigma, sd)   -> the F that makes x0_hat = x0, in closed form, finite at both ends
    log_weight(log_snr, sd)             -> log(1 / c_out^2): the weight on the x0 error that makes the output's count 1
    """

    scales: Coefficients
    target: Callable[..., Tensor]
    log_weight: Callable[[Tensor, float], Tensor]


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), exact over the whole line (torch's own turns linear above 20)."""
    return x.clamp_min(0) + torch.log1p((-x.abs()).exp())


def _noise(a: Tensor, s: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    return 1 / torch.hypot(a, s), 1 / a, -s / a


def _image(a: Tensor, s: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    return 1 / torch.hypot(a, s), torch.zeros_like(a), torch.ones_like(a)


def _v(a: Tensor, s: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    r = torch.hypot(a, s)
    return 1 / r, a / r**2, -s / r


def _flow(a: Tensor, s: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    p = a + s
    return 1 / p, 1 / p, -s / p


def _edm(a: Tensor, s: Tensor, sd: float) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.hypot(a * sd, s)
    return 1 / q, a * sd**2 / q**2, s * sd / q


ROWS: dict[str, Row] = {
    "noise": Row(  # eps itself (Ho et al. 2020)
        _noise,
        target=lambda x0, eps, a, s, sd: eps,
        log_weight=lambda log_snr, sd: log_snr,
    ),
    "image": Row(
        _image,
        target=lambda x0, eps, a, s, sd: x0,
        log_weight=lambda log_snr, sd: torch.zeros_like(log_snr),
    ),
    "v": Row(  # (Salimans & Ho 2022, appendix D)
        _v,
        target=lambda x0, eps, a, s, sd: (a * eps - s * x0) / (a**2 + s**2) ** 0.5,
        log_weight=lambda log_snr, sd: softplus(log_snr),
    ),
    "flow": Row(  # the velocity u = eps - x0 (Lipman et al. 2023)
        _flow,
        target=lambda x0, eps, a, s, sd: eps - x0,
        log_weight=lambda log_snr, sd: 2 * softplus(log_snr / 2),
    ),
    "edm": Row(  # (Karras et al. 2022, table 1)
        _edm,
        target=lambda x0, eps, a, s, sd: (s * x0 - a * sd**2 * eps) / (sd * ((a * sd) ** 2 + s**2) ** 0.5),
        log_weight=lambda log_snr, sd: softplus(log_snr + 2 * math.log(sd)) - 2 * math.log(sd),
    ),
}


def _quarter_log(log_snr: Tensor, trained: Schedule) -> Tensor:
    """log(sigma / alpha) / 4 (Karras et al. 2022, table 1), held within +-2.5, where all is noise or nothing is."""
    return (-log_snr / 8).clamp(-2.5, 2.5)


def _steps(log_snr: Tensor, trained: Schedule) -> Tensor:
    """The step number 0 .. T - 1 of a network trained on T steps, with fractions between them."""
    if trained.steps is None:
        raise ValueError("c_noise 'steps' numbers the steps of the schedule, but this schedule has none; use 'log_snr'.")
    return (trained.steps * trained.time(log_snr) - 1).clamp(0, trained.steps - 1)


def _time(log_snr: Tensor, trained: Schedule) -> Tensor:
    """1000 t of the schedule that the network was trained on, the scale that sinusoidal embeddings were made for."""
    return 1000 * trained.time(log_snr)


C_NOISE: dict[str, Callable[[Tensor, Schedule], Tensor]] = {"log_snr": _quarter_log, "steps": _steps, "time": _time}


def made_for(net: object, schedule: Schedule) -> str:
    """The row of C_NOISE that a network declares (`net.c_noise`), or that its schedule suggests.

    An embedding of step numbers meets a schedule without steps as 1000 t.
    """
    declared = getattr(net, "c_noise", "steps" if schedule.steps else "log_snr")
    return "time" if declared == "steps" and schedule.steps is None else declared


# ---- one step back: what a guess of x0 says of x_s -------------------------------------------------------------------


def posterior(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q(x_s | x_t, x0) for s < t is N(a x_t + b x0, v): a, b, v and the variance `beta`, each of t's shape, float64.

        a = alpha_t sigma_s^2 / (alpha_s sigma_t^2),  b = alpha_s f,  v = sigma_s^2 f,  beta = (r_s sigma_t / r_t)^2 f

    with f = 1 - snr_t / snr_s, the share of what x_s knows of x0 that x_t has forgotten. On a variance-preserving
    schedule between neighbouring steps `beta` is their beta, the other variance that DDPM proposes, exact for data
    N(0, 1) where v is exact for a point. Ho et al. 2020, eqs. 6 and 7 and section 3.2.
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    forgotten = -torch.expm1(schedule.log_snr(t) - schedule.log_snr(s))
    a = alpha_t * sigma_s**2 / (alpha_s * sigma_t**2)
    beta = (torch.hypot(alpha_s, sigma_s) * sigma_t / torch.hypot(alpha_t, sigma_t)) ** 2 * forgotten
    return a, alpha_s * forgotten, sigma_s**2 * forgotten, beta


def fraction(output: Tensor, channels: int) -> Tensor | None:
    """What the second `channels` channels of a network's output say of the variance: -1 is 0, the posterior's; 1 is 1."""
    return (output[:, channels : 2 * channels] + 1) / 2 if output.shape[1] > channels else None


def spread(name: str, v: Tensor, beta: Tensor, fraction: Tensor | None = None) -> Tensor:
    """The log variance of a step back: of `posterior`, of `beta`, or `learned`, f log beta + (1 - f) log v.

    v and beta are those of `posterior`; the result has their shape, or with `learned` that of the fraction (B, ...).
    At s = 0, where the posterior has no width, all are beta's. Raises ValueError for another name, and for `learned`
    without a fraction. Nichol & Dhariwal 2021, eq. 15.
    """
    if name not in VARIANCES:
        raise unknown("variance", name, VARIANCES)
    if name == "learned" and fraction is None:
        raise ValueError("The variance 'learned' needs a network that was trained with it; use posterior or beta.")
    log_beta = beta.log()
    log_v = torch.where(v > 0, v.log(), log_beta)
    if name != "learned" or fraction is None:
        return log_beta if name == "beta" else log_v
    return per_sample(log_v, fraction) + fraction * per_sample(log_beta - log_v, fraction)


VARIANCES = ("posterior", "beta", "learned")


def guess(denoise: Denoises, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
    """x0_hat, and the fraction that `spread` takes where the denoiser knows one."""
    if hasattr(denoise, "guess"):
        return denoise.guess(x_t, t, **cond)
    return denoise(x_t, t, **cond), None


class Denoiser:
    """A network read through a row of the table, on a schedule: `Denoiser(net, schedule, predict="noise")`.

    net          `net(x, c_noise, **cond)` -> (B, kC, ...), of which the first C channels are the prediction F
    predict      a row of ROWS: noise, image, v, flow, edm
    c_noise      a row of C_NOISE, fixed with the schedule of training; None: what the network was made for
    sigma_data   standard deviation of x0, used by `edm` alone

    One that means something else overrides `guess`, which everything asks.
    """

    def __init__(
        self,
        net: Callable,
        schedule: Schedule,
        predict: str = "noise",
        c_noise: str | None = None,
        sigma_data: float = 0.5,
    ):
        if predict not in ROWS:
            raise unknown("parameterization", predict, ROWS)
        self.c_noise = c_noise or made_for(net, schedule)
        if self.c_noise not in C_NOISE:
            raise unknown("c_noise", self.c_noise, C_NOISE)
        self.net, self.schedule, self.predict, self.sigma_data = net, schedule, predict, sigma_data
        self.trained = schedule

    @property
    def row(self) -> Row:
        return ROWS[self.predict]

    @property
    def conditions(self) -> dict[str, Any]:
        """What the network declares that it can be told, by name."""
        return getattr(self.net, "conditions", {})

    @property
    def t_max(self) -> float:
        """The largest time that this denoiser is defined at: 1, but for noise prediction the last with log-SNR >= -12."""
        return self.schedule.time(LOWEST) if self.predict == "noise" else 1.0

    def on(self, schedule: Schedule) -> "Denoiser":
        """The same network on another schedule: the same x0_hat at equal log-SNR, with x rescaled."""
        other = copy.copy(self)
        other.schedule = schedule
        return other

    def with_net(self, net: Callable) -> "Denoiser":
        """The same reading of another network, such as the average of its weights."""
        other = copy.copy(self)
        other.net = net
        return other

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """x0_hat (B, ...) from x_t (B, ...) at time t, a number or (B,); raises as `guess` does."""
        return self.guess(x_t, t, **cond)[0]

    def guess(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> tuple[Tensor, Tensor | None]:
        """x0_hat, and the fraction (B, ...) by which `spread` mixes variances, or None from a network of C channels.

        Raises ValueError where noise prediction is asked at alpha = 0, where x_t / alpha has no meaning, and for a
        condition that the network has not declared.
        """
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        alpha, sigma = self.schedule(t)
        if self.predict == "noise" and (alpha == 0).any():
            raise ValueError(
                "A network that predicts noise cannot be asked where alpha = 0, for there x_t holds no image to subtract "
                "the noise from; start at t_max, or train with predict = v, flow, image or edm."
            )
        c_in, c_skip, c_out = (per_sample(c, x_t) for c in self.row.scales(alpha, sigma, self.sigma_data))
        output = self.output(c_in * x_t, t, **cond)  # (B, kC, ...)
        return c_skip * x_t + c_out * output[:, : x_t.shape[1]], fraction(output, x_t.shape[1])

    def output(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        """The network's raw output for an input already scaled by c_in, (B, kC, ...) in x's dtype."""
        for name in cond:
            self._declares(name)
        c_noise = C_NOISE[self.c_noise](self.schedule.log_snr(t), self.trained).float()
        if c_noise.numel() == 1:  # one number for all reaches an accelerator without a transfer
            c_noise = torch.full((len(x),), c_noise.item(), device=x.device)
        return self.net(x, c_noise.to(x.device, non_blocking=True), **cond).to(x.dtype)

    def null(self, cond: dict[str, Any]) -> dict[str, Any]:
        """The same conditions, each replaced by what the network was taught to read as 'none given'."""
        nulls = {}
        for name, value in cond.items():
            self._declares(name)
            classes = getattr(self.conditions.get(name), "classes", None)
            if classes is not None:
                nulls[name] = torch.full_like(value, classes)
            elif name.removesuffix("_given") not in self.conditions:
                raise ValueError(
                    f"Guidance needs a network that declares its conditions, to know what 'no {name}' is; this one has none."
                )
            else:
                nulls |= {name: value, f"{name}_given": torch.zeros(len(value), dtype=torch.bool, device=value.device)}
        return nulls

    def _declares(self, name: str) -> None:
        """Refuse a condition that the network has not declared; a plain function, which declares nothing, takes all."""
        declared = getattr(self.net, "conditions", None)
        if declared is not None and name.removesuffix("_given") not in declared:
            raise unknown("condition of this network called", name, declared)
