"""How well a model denoises held-out pictures, band by band of noise, beside what can be had without learning.

A loss is an average over noise levels of which most are nearly as easy, or as hopeless, for every denoiser. So the error of
x0_hat, in one step from x_t, is taken in bands of log-SNR, each beside two baselines on the same pictures: the best constant
guess (the mean picture), which is all that can be known under much noise, and the exact denoiser of a Gaussian fitted to the
pictures, which knows what pixels have to do with each other but no shapes. Where a network is above the first, something is
wrong with what it is given or with how it is read; where it is not below the second, it has not learned yet. Two exceptions,
both under much noise. Where training times hardly go, a short run has learned little: on `edm`, below log-SNR -6, its error is
1.2 of the constant's for digits after 26,000 images. And a network that predicts noise says x0_hat = (x_t - sigma eps_hat) /
alpha, in which the squared error of eps_hat is divided by the snr: it may be far above both and healthy, and its loss is then
what to look at.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import draws
from ..data import Images
from ..denoisers import Denoiser
from ..errors import UserError
from ..losses import gain
from ..model import Model
from ..schedules import diffuse
from ..training.loop import loss_of
from .gaussian import Gaussian
from .likelihood import reach
from .opened import batches

Progress = Callable[[int, int], None]
EDGES = tuple(range(-10, 11, 2))  # of the bands, in log-SNR, from most noise to least
CONSTANT, GAUSSIAN = "constant", "gaussian"  # the baselines
FITTED = 2**24  # values of training pictures that the baselines are fitted to, at most


@dataclass(frozen=True, eq=False)
class Bands:
    """Errors of denoisers in K bands of log-SNR on the same N pictures; the baselines are named CONSTANT and GAUSSIAN."""

    edges: np.ndarray  # (K + 1,) rising log-SNR
    squared: dict[str, np.ndarray]  # by name (K, N): each picture's mean squared error of x0_hat
    losses: dict[str, np.ndarray]  # by name (K, N): each picture's loss as trained, weighted; not of baselines
    width: float  # of the range of x0, for PSNR

    def error(self, name: str) -> np.ndarray:
        """Mean squared error of x0_hat, (K,)."""
        return self.squared[name].mean(1)

    def loss(self, name: str) -> np.ndarray:
        """Mean loss, weighted as trained, (K,)."""
        return self.losses[name].mean(1)

    def psnr(self, name: str) -> np.ndarray:
        """Peak signal-to-noise ratio of denoising in one step, (K,) dB: 10 log10(width^2 / mean squared error)."""
        return 10 * np.log10(self.width**2 / self.error(name))

    def ratio(self, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
        """The error of one relative to that of another, (K,), and its standard error over pictures, (K,).

        Both were asked about the same pictures, so that what is hard for both cancels (the delta method).
        """
        a, b = self.squared[name], self.squared[other]
        ratio = a.mean(1) / b.mean(1)
        spread = (a - ratio[:, None] * b).std(1, ddof=1) if a.shape[1] > 1 else np.full(len(a), math.nan)
        return ratio, spread / math.sqrt(a.shape[1]) / b.mean(1)

    def rows(self) -> list[dict[str, Any]]:
        """One record to a band, of plain numbers: from, to (log-SNR), and by name error, psnr, and loss where there is one."""
        out = []
        for k, (low, high) in enumerate(pairwise(self.edges.tolist())):
            of = {name: {"error": float(self.error(name)[k]), "psnr": float(self.psnr(name)[k])} for name in self.squared}
            for name in self.losses:
                of[name]["loss"] = float(self.loss(name)[k])
            out.append({"from": low, "to": high, **of})
        return out


@torch.no_grad()
def measure(
    models: Mapping[str, Model],
    train: Images,
    held_out: Images,
    n: int = 256,
    seed: int = 0,
    batch: int = 64,
    progress: Progress = lambda done, total: None,
) -> Bands:
    """Errors of models of one run, such as {"averaged": ..., "raw": ...}, on n held-out pictures, and of the baselines.

    Pictures are as `opened` gives them, and are told their own labels. Each picture is asked about once in each band, at
    a log-SNR and with noise that are functions of the seed, the picture and the band: the same for all models. The
    baselines are fitted to training pictures; their errors are exact over the noise. `batch` changes nothing but
    rounding; `progress` is told (done, total) pictures. Raises UserError if there are no held-out pictures.
    """
    if not len(held_out):
        raise UserError("Denoising is judged on held-out pictures, and this run held none out.")
    first = next(iter(models.values()))
    n, edges, some = min(n, len(held_out)), edges_of(first.denoiser), max(1, FITTED // math.prod(first.facts.shape))
    fitted = Gaussian.fit(np.concatenate([_array(x0) for _, x0, _ in batches(first, train, some, 512, seed)]))
    squared: dict[str, list[np.ndarray]] = {name: [] for name in (*models, CONSTANT, GAUSSIAN)}
    losses: dict[str, list[np.ndarray]] = {name: [] for name in models}
    for numbers, x0, cond in batches(first, held_out, n, batch, seed):
        log_snr = levels(numbers, edges, seed)  # (K, B)
        for name, model in models.items():
            found = [asked(model, x0, level, numbers, k, seed, cond) for k, level in enumerate(log_snr)]
            errors, weighted = (np.stack([_array(band) for band in kind]) for kind in zip(*found, strict=True))  # (K, B)
            squared[name].append(errors)
            losses[name].append(weighted)
        pictures, count = _array(x0), len(log_snr)
        constant = ((pictures - fitted.mean) ** 2).mean((1, 2, 3))  # (B,)
        squared[CONSTANT].append(np.broadcast_to(constant, (count, len(constant))))
        squared[GAUSSIAN].append(np.stack([fitted.errors(pictures, level) for level in log_snr.numpy()]))
        progress(min(n, int(numbers[-1]) + 1), n)
    low, high = first.codec.ends
    whole = lambda parts: {name: np.concatenate(each, 1) for name, each in parts.items()}
    return Bands(np.array(edges), whole(squared), whole(losses), high - low)


def asked(
    model: Model, x0: Tensor, log_snr: Tensor, numbers: Tensor, band: int, seed: int, cond: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """The mean squared error of x0_hat, and the loss as trained, of each picture (B,) at log-SNRs (B,)."""
    denoiser, config = model.denoiser, model.config
    t = denoiser.schedule.time(log_snr)
    eps = draws.normal(draws.keys(seed, "bands", numbers, band).to(x0.device), x0.shape[1:])
    x0_hat = denoiser(diffuse(denoiser.schedule, x0, t, eps), t, **cond)
    squared = (x0_hat - x0).square().flatten(1).mean(1)
    if config.distance.name != "l2" or config.variance_weight:
        return squared, loss_of(config, denoiser, x0, t, eps, cond)
    weight = gain(denoiser, config.weight, log_snr) / gain(denoiser, "image", log_snr)
    return squared, squared * weight.to(squared)


def edges_of(denoiser: Denoiser) -> list[float]:
    """EDGES as far as the denoiser reaches; a band that would be narrower than half belongs to its neighbour."""
    low, high = reach(denoiser)
    low, high = max(low, EDGES[0]), min(high, EDGES[-1])
    half = (EDGES[1] - EDGES[0]) / 2
    return [low, *(edge for edge in map(float, EDGES) if low + half <= edge <= high - half), high]


def levels(numbers: Tensor, edges: Sequence[float], seed: int) -> Tensor:
    """The log-SNR in each band at which each picture is asked about, (K, B) float64, spread evenly over the band."""
    u = draws.golden(seed, "bands", numbers)
    return torch.stack([low + (high - low) * u for low, high in pairwise(edges)])


def _array(x: Tensor) -> np.ndarray:
    return x.cpu().double().numpy()
