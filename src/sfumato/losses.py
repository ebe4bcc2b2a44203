"""How it learns: guess the clean picture from a noisy one, and be told by how much you were wrong.

    loss = weight(log_snr) * distance(x0_hat, x0)

Every training objective of the literature is this line with another weight. Weights are stated on the error of x0, so
that they can be compared: 'simple' (predict the noise, count all errors alike) is snr, and so on (`WEIGHTS`). The loss is
computed on the network's output F, whose error is that of x0 divided by c_out, with the gain

    weight * c_out^2 = weight(log_snr) / row_weight(log_snr),

a difference of logarithms in closed form, finite at both ends. For l2 a weight therefore means the same under every
parameterization. For l1 and huber, which do not scale quadratically, the parameterization is part of the loss.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .denoisers import ROWS, Denoiser, softplus
from .schedules import diffuse, per_sample
from .spec import Spec, choose


def _min_snr(log_snr: Tensor, sd: float, *, g: float = 5.0) -> Tensor:
    """min(snr, g) (Hang et al. 2023, eq. 9)."""
    return log_snr.clamp_max(math.log(g))


def _soft_min_snr(log_snr: Tensor, sd: float, *, g: float = 5.0) -> Tensor:
    """snr g / (snr + g) (Crowson et al. 2024)."""
    return math.log(g) - softplus(math.log(g) - log_snr)


def _p2(log_snr: Tensor, sd: float, *, k: float = 1.0, g: float = 1.0) -> Tensor:
    """snr / (k + snr)^g (Choi et al. 2022, eq. 8); g = 0 is 'simple'."""
    return log_snr - g * (math.log(k) + softplus(log_snr - math.log(k)))


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
    **cond: Any,
) -> Tensor:
    """The loss of each sample, (B,) float32: the mean over its elements of gain * distance(F, target).

    x0, eps   (B, ...) clean pictures and N(0, 1) noise
    t         (B,) times on the CPU
    """
    alpha, sigma = denoiser.schedule(t.double())
    x_t = diffuse(denoiser.schedule, x0, t.double(), eps)
    c_in, _, _ = denoiser.row.scales(alpha, sigma, denoiser.sigma_data)
    output = denoiser.output(per_sample(c_in, x0) * x_t, t.double(), **cond)[:, : x0.shape[1]]  # (B, C, ...)
    target = denoiser.row.target(x0, eps, per_sample(alpha, x0), per_sample(sigma, x0), denoiser.sigma_data)
    with torch.autocast(x0.device.type, enabled=False):
        error = choose(DISTANCES, distance, "distance")(output.float(), target.float()).flatten(1).mean(1)  # (B,)
        factor = gain(denoiser, weight, denoiser.schedule.log_snr(t.double()))  # (B,)
        return error * factor.to(error.device, error.dtype, non_blocking=True)
