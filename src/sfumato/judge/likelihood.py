"""How likely pictures are to a model, in bits per dimension: exactly along the probability-flow ODE, or by a bound.

All is done in z = x_t / alpha_t, where noise of level k = sigma / alpha is simply added, z = x0 + k eps; every schedule looks
like this from its own z, so that one form serves all models.

The way `ode` follows a picture up into noise and counts how volumes change on the way (Song et al. 2021, section 4.3). With
q^2 = sd^2 + k^2 and y = z / q, whose size stays near 1, the ODE of Karras et al. 2022, eq. 4, and its divergence are

    dy / dlog k = (sd^2 / q^2 z - x0_hat) / q,        dlog p(y) / dlog k = tr(dx0_hat / dz) - d sd^2 / q^2

For data N(0, sd^2) both are zero, so that only what differs from it is integrated: by the classic Runge-Kutta step of fourth
order, in equal steps of log k. The trace is estimated by one product v . (dx0_hat / dz) v at each evaluation, unbiased, with
fresh signs v (Skilling 1989; Hutchinson 1990). At the far end y is N(0, 1), as where samples begin.

The way `bound` is the variational bound in continuous time (Kingma et al. 2021, section 4): with l = log-SNR,

    -log p(x0) <= KL(q(z_1 | x0) || p(z_1)) + 1/2 int e^l E |x0 - x0_hat|^2 dl + E[-log p(x0 | z_0)]

Both go from where the denoiser is defined, log-SNR -12 at most noise, to log-SNR 12, or to where a schedule's grid goes beyond.

What is counted. Stored integers have probabilities. `ode` finds densities p, and counts a picture with noise u added that is
uniform over the width of one stored value: on average -log2 p(v + u) is at least -log2 P(v), with P(v) the mass of p over that
width (Theis et al. 2016, section 3.1). It stops where k is the deviation of u, 1 / sqrt(12) of a stored value, if that is not
beyond. `bound` ends in P(v | z_0), of all stored values as a Gaussian of width k about x0_hat has them (Kingma
et al. 2021, section 3.1, who have it about z_0, which knows less). So both are bits of the stored integers, of two models that
differ in their last step. Of pictures stored as floats both give a density in stored units; its bits may be negative, and say
nothing but beside those of another model of the same pictures.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..data import AffineCodec, Images
from ..denoisers import Denoises
from ..errors import UserError, unknown
from ..losses import bound_term, prior_term
from ..model import Model
from ..schedules import HIGHEST, LOWEST, Schedule, diffuse, edm
from .opened import batches

Progress = Callable[[int, int], None]


class Movable(Denoises, Protocol):
    """A denoiser that can be put on another schedule; a Denoiser, or an exact one of `toy`."""

    def on(self, schedule: Schedule) -> Self: ...


@dataclass(frozen=True, eq=False)
class Likelihood:
    """Bits per dimension of N pictures, by one of WAYS."""

    bits: np.ndarray  # (N,) float64, each picture's own
    way: str
    integers: bool  # of stored integers; else of a density, in stored units
    evaluations: int  # of the network, for each picture

    @property
    def mean(self) -> float:
        return float(self.bits.mean())

    @property
    def error(self) -> float:
        """The standard error of the mean over pictures; it includes that of the noise drawn for each."""
        return float(self.bits.std(ddof=1) / math.sqrt(len(self.bits))) if len(self.bits) > 1 else math.nan

    def sentence(self) -> str:
        """The finding in one plain sentence."""
        what = "bits per dimension" if self.integers else "bits per dimension (a density, not of integers)"
        how = {"ode": "along the probability-flow ODE", "bound": "at most, by the variational bound"}[self.way]
        return f"{self.mean:.3f} ± {self.error:.3f} {what} {how}, {len(self.bits):,} pictures."


@torch.no_grad()
def measure(
    model: Model,
    images: Images,
    way: str = "ode",
    n: int = 256,
    evaluations: int = 64,
    seed: int = 0,
    batch: int = 64,
    progress: Progress = lambda done, total: None,
) -> Likelihood:
    """The likelihood of n of these pictures, as `opened` gives them, each told its own label.

    way          a row of WAYS
    evaluations  of the network, for each picture; those of `ode` also go backwards and take about three times as long
    batch        how many are worked on at once; it changes nothing but rounding
    progress     (done, total) evaluations of batches

    Raises UserError for no pictures, for another way, and for too few evaluations.
    """
    if way not in WAYS:
        raise unknown("way to a likelihood called", way, WAYS)
    n = min(n, len(images))
    if n < 1:
        raise UserError("The likelihood of at least 1 picture is measured; found none. Let the run hold some out of training.")
    if evaluations < 4:
        raise UserError(f"A likelihood takes at least 4 evaluations of the network; found {evaluations}.")
    evaluations -= evaluations % 4 if way == "ode" else 0  # four to a step
    codec, bits, total = model.codec, [], -(-n // batch) * evaluations
    for part, (numbers, x0, cond) in enumerate(batches(model, images, n, batch, seed)):
        tell = lambda done, part=part: progress(part * evaluations + done, total)
        nats = WAYS[way](model.denoiser, x0, numbers, codec, model.facts.sigma_data, evaluations, seed, tell, **cond)
        bits.append(nats / math.log(2) / x0[0].numel())
    return Likelihood(torch.cat(bits).numpy(), way, codec.dtype != "float32", evaluations)


# ---- the two ways ----------------------------------------------------------------------------------------------------


def by_ode(
    denoise: Movable, x0: Tensor, numbers: Tensor, codec: AffineCodec, sigma_data: float, evaluations: int, seed: int,
    tell: Callable[[int], None] = lambda done: None, **cond: Any,
) -> Tensor:  # fmt: skip
    """-log p of pictures x0 (B, C, H, W) along the ODE, (B,) float64 nats; integers with uniform noise added."""
    lowest, highest = reach(denoise)
    widths = _widths(codec)  # (C, 1, 1)
    if codec.dtype != "float32":
        u = draws.uniform(draws.keys(seed, "dequantization", numbers), x0.shape[1:], torch.float64)
        x0 = (x0.cpu() + (u - 0.5) * widths).to(x0.dtype).to(x0.device)
        highest = min(highest, -2 * math.log(float(widths.min()) / math.sqrt(12)))
    address = lambda i: draws.keys(seed, "trace", numbers, i).to(x0.device)
    signs = lambda i: 1 - 2 * (draws.words(address(i), x0[0].numel()).reshape(x0.shape) & 1)
    nats = flow(denoise, x0, (lowest, highest), sigma_data, max(1, evaluations // 4), signs, tell, **cond)
    return nats - widths.log().expand(x0.shape[1:]).sum()


def flow(
    denoise: Movable, x: Tensor, log_snrs: tuple[float, float], sigma_data: float, steps: int,
    signs: Callable[[int], Tensor], tell: Callable[[int], None] = lambda done: None, **cond: Any,
) -> Tensor:  # fmt: skip
    """-log p(x) of z at the higher of two log-SNRs, (B,) float64 nats, from `steps` steps to the lower.

    x       (B, ...) in the type in which the denoiser is asked; all else is float64, on the CPU
    signs   the probes of the i-th evaluation, of x's shape: +-1
    """
    frame, sd2, d = frame_of(denoise, log_snrs), sigma_data**2, x[0].numel()
    log_k = (np.linspace(log_snrs[1], log_snrs[0], 2 * steps + 1) / -2).tolist()  # ends and middles of the steps
    asked = 0

    def slope(at: int, y: Tensor) -> tuple[Tensor, Tensor]:
        """dy / dlog k and dlog p / dlog k."""
        nonlocal asked
        q2 = sd2 + math.exp(2 * log_k[at])
        z, v = math.sqrt(q2) * y, signs(asked).to(x.device, x.dtype)
        with torch.enable_grad():
            leaf = z.to(x.dtype).to(x.device).requires_grad_()
            x0_hat = frame(leaf, frame.schedule.time(-2 * log_k[at]), **cond)
            (pulled,) = torch.autograd.grad(x0_hat, leaf, v)
        asked += 1
        tell(asked)
        trace = _float64(pulled * v).flatten(1).sum(1)
        return (sd2 / q2 * z - _float64(x0_hat.detach())) / math.sqrt(q2), trace - d * sd2 / q2

    q = math.sqrt(sd2 + math.exp(2 * log_k[0]))
    y, rise, h = _float64(x) / q, torch.zeros(len(x), dtype=torch.float64), log_k[2] - log_k[0]
    for i in range(0, 2 * steps, 2):
        y1, p1 = slope(i, y)
        y2, p2 = slope(i + 1, y + h / 2 * y1)
        y3, p3 = slope(i + 1, y + h / 2 * y2)
        y4, p4 = slope(i + 2, y + h * y3)
        y, rise = y + h / 6 * (y1 + 2 * y2 + 2 * y3 + y4), rise + h / 6 * (p1 + 2 * p2 + 2 * p3 + p4)
    end = (y.square().flatten(1).sum(1) + d * math.log(2 * math.pi)) / 2  # -log N(y; 0, 1)
    return end + rise + d * math.log(q)


def by_bound(
    denoise: Movable, x0: Tensor, numbers: Tensor, codec: AffineCodec, sigma_data: float, evaluations: int, seed: int,
    tell: Callable[[int], None] = lambda done: None, **cond: Any,
) -> Tensor:  # fmt: skip
    """A draw of the variational bound on -log p of pictures x0 (B, C, H, W), (B,) float64 nats.

    All evaluations but the last are for the integral, at log-SNRs spread evenly over it.
    """
    ends = lowest, highest = reach(denoise)
    frame, count, d = frame_of(denoise, ends), evaluations - 1, x0[0].numel()
    noise = lambda i: draws.normal(draws.keys(seed, "bound", numbers, i).to(x0.device), x0.shape[1:], x0.dtype)
    diffusion = torch.zeros(len(x0), dtype=torch.float64)
    for i in range(count):
        u = (i + draws.golden(seed, "bound", numbers)) / count  # (B,)
        log_snr = lowest + (highest - lowest) * (1 - (2 * u - 1).abs())  # up and down again: errors at both ends cancel
        t = frame.schedule.time(log_snr)
        x0_hat = frame(diffuse(frame.schedule, x0, t, noise(i)), t, **cond)
        diffusion += log_snr.exp() * _float64(x0_hat - x0).square().flatten(1).sum(1)
        tell(i + 1)
    prior = d * prior_term(frame.schedule, _float64(x0), sigma_data)
    last = reconstruction(frame, x0, frame.schedule.time(highest), noise(count), codec, **cond)
    tell(evaluations)
    return prior + (highest - lowest) / (2 * count) * diffusion + last


def reconstruction(frame: Movable, x0: Tensor, t: float, eps: Tensor, codec: AffineCodec, **cond: Any) -> Tensor:
    """A draw of -log p(x0 | x_t), (B,) float64 nats: of stored integers, else of the density in stored units."""
    widths = _widths(codec)  # (C, 1, 1)
    if codec.dtype == "float32":
        then = torch.full((len(x0),), t, dtype=torch.float64)
        nats = x0[0].numel() * _float64(bound_term(frame, x0, then, torch.zeros_like(then), eps, **cond))
        return nats - widths.log().expand(x0.shape[1:]).sum()
    k, x0_hat = frame.schedule(t)[1].item(), frame(diffuse(frame.schedule, x0, t, eps), t, **cond)
    stored, guess = ((_float64(x) - codec.ends[0]) / widths for x in (x0, x0_hat))  # counted from the lowest value
    top = widths.new_tensor(codec.high)[:, None, None] - widths.new_tensor(codec.low)[:, None, None]
    return log_share(stored.round(), guess, k / widths, top).neg().flatten(1).sum(1)


def log_share(value: Tensor, guess: Tensor, width: Tensor, top: Tensor) -> Tensor:
    """log(e(value) / sum of e(i) over i = 0 .. top), e(i) = exp(-(i - guess)^2 / (2 width^2)); of guess's shape, float64.

    The sum goes eight widths to both sides of the nearest i, beyond which nothing is left.
    """
    e = lambda i: -(((i - guess) / width) ** 2) / 2
    nearest, far = torch.minimum(guess.round().clamp_min(0), top), math.ceil(8 * width.max().item())
    total = torch.full_like(guess, -math.inf)
    for i in range(-far, far + 1):
        there = (nearest + i >= 0) & (nearest + i <= top)
        total = torch.logaddexp(total, e(nearest + i).masked_fill(~there, -math.inf))
    return e(value) - total


WAYS: dict[str, Callable[..., Tensor]] = {"ode": by_ode, "bound": by_bound}


# ---- small pieces ----------------------------------------------------------------------------------------------------


def reach(denoise: Movable) -> tuple[float, float]:
    """The log-SNR of most noise and that of least noise between which a denoiser is asked."""
    schedule = denoise.schedule
    return max(LOWEST, schedule.log_snr(getattr(denoise, "t_max", 1.0))), max(HIGHEST, schedule.log_snr_range[1])


def frame_of(denoise: Movable, log_snrs: tuple[float, float]) -> Movable:
    """The same denoiser where x_t = x0 + k eps, with the lower of two log-SNRs at t = 1."""
    most, least = (math.exp(-log_snr / 2) for log_snr in log_snrs)
    return denoise.on(edm(sigma_max=most, sigma_min=least))


def _widths(codec: AffineCodec) -> Tensor:
    """How wide a stored unit is in x0, (C, 1, 1) float64."""
    return 1 / torch.tensor(codec.halves, dtype=torch.float64)[:, None, None]


def _float64(x: Tensor) -> Tensor:
    return x.cpu().double()  # in this order: not every accelerator knows float64
