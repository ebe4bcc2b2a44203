"""How it learns: guess the clean picture from a noisy one, and be told by how much you were wrong.

    loss = weight(log_snr) * distance(x0_hat, x0)

Every training objective of the literature is this line with another weight. Weights are stated on the error of x0, so
that they can be compared: 'simple' (predict the noise, count all errors alike) is snr, and so on (`WEIGHTS`). The loss is
computed on the network's output F, whose error is that of x0 divided by c_out, with the gain

    weight * c_out^2 = weight(log_snr) / row_weight(log_snr),

a difference of logarithms in closed form, finite at both ends. For l2 a weight therefore means the same under every
parameterization. For l1 and huber, which do not scale quadratically, the parameterization is part of the loss.

The same error also bounds the likelihood: -log p(x0) is at most a sum of such terms over the steps of a sampler, one divergence
of two Gaussians each (`bound_term`). It is what a network learns the variance of its steps from.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .denoisers import ROWS, Denoiser, Denoises, fraction, guess, posterior, softplus, spread
from .schedules import Schedule, diffuse, per_sample
from .spec import Spec, choose


def _min_snr(log_snr: Tensor, sd: float, *, g: float = 5.0) -> Tensor:
    """min(snr, g) (Hang et al. 2023, eq. 9)."""
    return log_snr.clamp_max(_log(g))


def _soft_min_snr(log_snr: Tensor, sd: float, *, g: float = 5.0) -> Tensor:
    """snr g / (snr + g) (Crowson et al. 2024)."""
    return _log(g) - softplus(_log(g) - log_snr)


def _p2(log_snr: Tensor, sd: float, *, k: float = 1.0, g: float = 1.0) -> Tensor:
    """snr / (k + snr)^g (Choi et al. 2022, eq. 8); g = 0 is 'simple'."""
    return log_snr - g * (_log(k) + softplus(log_snr - _log(k)))


def _log(value: float) -> float:
    if not 0 < value < math.inf:
        raise ValueError(f"A weight bends at a signal-to-noise ratio above 0; found {value}.")
    return math.log(value)


# Each row: (log_snr, sigma_data) -> log(weight on the x0 error). The first five count all errors of one row's output alike.
WEIGHTS: dict[str, Callable[..., Tensor]] = {
    "simple": ROWS["noise"].log_weight,  # snr (Ho et al. 2020, eq. 14)
    "image": ROWS["image"].log_weight,  # 1
    "v": ROWS["v"].log_weight,  # snr + 1 (Salimans & Ho 2022, section 4)
    "flow": ROWS["flow"].log_weight,  # (1 + sqrt(snr))^2 (Lipman et al. 2023)
    "edm": ROWS["edm"].log_weight,  # snr + 1 / sigma_data^2 (Karras et al. 2022, table 1)
    "min_snr": _min_snr,
    "soft_min_snr": _soft_min_snr,
    "p2": _p2,
}


def _l2(output: Tensor, target: Tensor) -> Tensor:
    """(F - target)^2."""
    return F.mse_loss(output, target, reduction="none")


def _l1(output: Tensor, target: Tensor) -> Tensor:
    """|F - target|."""
    return F.l1_loss(output, target, reduction="none")


def _huber(output: Tensor, target: Tensor, *, beta: float = 1.0) -> Tensor:
    """e^2 / (2 beta) where |e| < beta, |e| - beta / 2 else (smooth L1)."""
    return F.smooth_l1_loss(output, target, reduction="none", beta=beta)


# Each row: (output, target) -> the distance element by element.
DISTANCES: dict[str, Callable[..., Tensor]] = {"l2": _l2, "l1": _l1, "huber": _huber}

# Beyond |log-SNR| = 46 (sigma / alpha = 1e10) a gain that grows without bound is held, so that float32 can carry it.
_END = 46.0


def gain(denoiser: Denoiser, weight: str | Spec | Mapping, log_snr: Tensor) -> Tensor:
    """weight * c_out^2, the factor on the squared error of the network's output; the shape of log_snr, float64."""
    log_snr = log_snr.clamp(-_END, _END)
    log_weight = choose(WEIGHTS, weight, "weight")(log_snr, denoiser.sigma_data)
    return (log_weight - denoiser.row.log_weight(log_snr, denoiser.sigma_data)).exp()


def denoising_loss(
    denoiser: Denoiser,
    x0: Tensor,
    t: Tensor,
    eps: Tensor,
    weight: str | Spec | Mapping = "simple",
    distance: str | Spec | Mapping = "l2",
    variance_weight: float = 0.0,
    **cond: Any,
) -> Tensor:
    """The loss of each sample, (B,) float32: the mean over its elements of gain * distance(F, target).

    x0, eps            (B, ...) clean pictures and N(0, 1) noise
    t                  (B,) times on the CPU
    variance_weight    adds so much of the variational bound, T * `bound_term` from t to t - 1 / T (T = 1000 where the
                       schedule has no steps; to t / 2 in the last step, where there is no width to learn), which teaches
                       the network's second C channels the variance and leaves the first alone: L_hybrid of Nichol &
                       Dhariwal 2021, eq. 16, who take 0.001 and times drawn uniformly (in their code of a bound in bits,
                       which is 0.0014 of ours in nats)
    """
    t = t.double()
    alpha, sigma = denoiser.schedule(t)
    x_t = diffuse(denoiser.schedule, x0, t, eps)
    c_in, _, c_out = denoiser.row.scales(alpha, sigma, denoiser.sigma_data)
    output = denoiser.output(per_sample(c_in, x0) * x_t, t, **cond).float()  # (B, kC, ...)
    F_x = output[:, : x0.shape[1]]
    target = denoiser.row.target(x0, eps, per_sample(alpha, x0), per_sample(sigma, x0), denoiser.sigma_data)
    with torch.autocast(x0.device.type, enabled=False):
        error = choose(DISTANCES, distance, "distance")(F_x, target.float()).flatten(1).mean(1)  # (B,)
        factor = gain(denoiser, weight, denoiser.schedule.log_snr(t))  # (B,)
        loss = error * factor.to(error.device, error.dtype, non_blocking=True)
        if variance_weight:
            T = denoiser.schedule.steps or 1000
            s = torch.maximum(t - 1 / T, t / 2)
            miss, widths = (F_x - target).detach().float(), fraction(output, x0.shape[1])  # x0_hat - x0 = c_out (F - target)
            loss = loss + variance_weight * T * _bound(denoiser.schedule, miss, c_out, t, s, "learned", widths)
        return loss


class Uncertainty(nn.Module):
    """How large the loss is expected to be at each noise level, learned beside the network: exp(u(log_snr)).

    loss / exp(u) + u

    has its minimum in u where exp(u) is the mean loss of that level (Kendall et al. 2018; Karras et al. 2024,
    config B). There all levels pull at the network alike, whatever their weight was to begin with. u is linear in sines and
    cosines of log_snr, and 0 at first, so that training begins with the loss as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, log_snr: Tensor) -> Tensor:
        """u, (B,) float32, for log_snr (B,)."""
        frequencies = 2 * math.pi * torch.logspace(-6, -2, 16, base=2, dtype=torch.float64)  # of 4 to 64 units of log_snr
        angles = log_snr.double().cpu()[:, None] * frequencies  # (B, 16)
        return self.linear(torch.cat((angles.sin(), angles.cos()), 1).to(self.linear.weight))[:, 0]

    def weighed(self, loss: Tensor, log_snr: Tensor) -> Tensor:
        """loss / exp(u) + u, (B,), for losses (B,) at log_snr (B,)."""
        u = self(log_snr)
        return loss * (-u).exp() + u


# ---- the variational bound -------------------------------------------------------------------------------------------
# -log p(x0) <= prior + sum over the steps of a grid from 1 to 0 of bound_term, each in nats a dimension (Ho et al. 2020,
# eq. 5; Kingma et al. 2021 for schedules without steps).


def bound_term(
    denoiser: Denoises, x0: Tensor, t: Tensor, s: Tensor, eps: Tensor, variance: str = "posterior", **cond: Any
) -> Tensor:
    """One draw of the term of a step from t to s < t, both (B,), in nats a dimension, (B,); eps is N(0, 1) of x0's shape.

    s > 0    KL(q(x_s | x_t, x0) || p(x_s | x_t)), both Gaussian with the mean of `posterior` at x0 and at x0_hat
    s = 0    -log p(x0 | x_t), the density of a Gaussian about x0_hat

    variance is one of VARIANCES; raises ValueError for `learned` where none was. Steps of a grid of T want t = i / T in
    float64, so that the last ends at 0.
    """
    x_t = diffuse(denoiser.schedule, x0, t.double(), eps)
    x0_hat, widths = guess(denoiser, x_t, t.double(), **cond)
    return _bound(denoiser.schedule, x0_hat - x0, torch.ones_like(t.double()), t.double(), s.double(), variance, widths)


def _bound(
    schedule: Schedule, miss: Tensor, scale: Tensor, t: Tensor, s: Tensor, variance: str, widths: Tensor | None
) -> Tensor:
    """The term where x0_hat - x0 is scale (B,) times miss (B, ...); its squares are taken as logarithms in float64."""

    def wide(c: Tensor) -> Tensor:
        return c if c.shape == miss.shape else c.reshape(-1, *[1] * (miss.ndim - 1)).to(miss.dtype).to(miss.device)

    _, b, v, beta = posterior(schedule, t, s)
    last = s == 0  # there q is a point: the terms of its width give way to the normalisation of a density
    log_p = wide(spread(variance, v, beta, widths))  # (B, 1, ...), or (B, C, ...) where it was learned
    log_q = wide(torch.where(last, -1 - math.log(2 * math.pi), v.log()))
    width = (wide(torch.where(last, -math.inf, v.log())) - log_p).exp()
    squared = (wide(2 * (b * scale).abs().log()) - log_p).exp() * miss**2
    return (log_p - log_q - 1 + width + squared).flatten(1).mean(1) / 2


def prior_term(schedule: Schedule, x0: Tensor, sigma_data: float = 1.0) -> Tensor:
    """KL(q(x_1 | x0) || N(0, r^2)), r^2 = (alpha_1 sigma_data)^2 + sigma_1^2, (B,) nats a dimension: what starting costs."""
    alpha, sigma = (c.item() for c in schedule(1.0))
    r2 = (alpha * sigma_data) ** 2 + sigma**2
    return ((alpha * x0).square().flatten(1).mean(1) / r2 + sigma**2 / r2 - 1 - math.log(sigma**2 / r2)) / 2
