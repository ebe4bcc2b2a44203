"""Exact denoisers: distributions whose E[x0 | x_t] is known in closed form.

Nothing is learned here, so whatever a sampler does wrong with them is the sampler's fault. One class covers them all, for
a Gaussian is a mixture of one, and a finite set of images is a mixture of components without width.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from . import draws
from .schedules import Schedule, per_sample


class Mixture:
    """The exact denoiser of p(x0) = sum_k w_k N(x0; m_k, diag(s_k^2)), for x of any shape (B, ...).

    At time t the components are N(alpha m_k, alpha^2 s_k^2 + sigma^2), and with their responsibilities p(k | x_t)

        E[x0 | x_t] = sum_k p(k | x_t) (m_k + alpha s_k^2 / (alpha^2 s_k^2 + sigma^2) (x_t - alpha m_k))

    weights   (K,), summing to 1         means   (K, ...)         stds   a number, (K,) or (K, ...), >= 0
    """

    def __init__(self, schedule: Schedule, weights: Tensor, means: Tensor, stds: Tensor | float):
        self.schedule = schedule
        self.weights, self.means = weights.double() / weights.double().sum(), means.double()
        stds = torch.as_tensor(stds, dtype=torch.float64)
        self.stds = stds.reshape(stds.shape + (1,) * (means.ndim - stds.ndim)).expand_as(self.means)  # (K, ...)

    def on(self, schedule: Schedule) -> "Mixture":
        """The same distribution on another schedule."""
        other = copy.copy(self)
        other.schedule = schedule
        return other

    def __call__(self, x_t: Tensor, t: float | Tensor, **cond: Any) -> Tensor:
        """E[x0 | x_t], (B, ...) in x_t's dtype; t is a number or (B,)."""
        alpha, sigma = self._scales(x_t, t)
        x = x_t.double().unsqueeze(1)  # (B, 1, ...)
        variance = (alpha * self.stds) ** 2 + sigma**2  # (B, K, ...)
        offset = x - alpha * self.means  # (B, K, ...)
        slope = torch.where(variance > 0, alpha * self.stds**2 / variance, 0)
        guess = self.means + slope * offset  # (B, K, ...)
        share = self._log_joint(offset, variance).softmax(1)  # (B, K)
        return (share.reshape(*share.shape, *[1] * (x.ndim - 2)) * guess).sum(1).to(x_t.dtype)

    def log_prob(self, x_t: Tensor, t: float | Tensor = 0.0) -> Tensor:
        """log p_t(x_t), (B,) float64, in nats."""
        alpha, sigma = self._scales(x_t, t)
        variance = (alpha * self.stds) ** 2 + sigma**2
        return self._log_joint(x_t.double().unsqueeze(1) - alpha * self.means, variance).logsumexp(1)

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """`count` draws from p(x0), (count, ...) float64."""
        k = torch.searchsorted(
            self.weights.cumsum(0), draws.uniform(draws.keys(seed, "toy component", range(count)), (), torch.float64)
        ).clamp_max(len(self.weights) - 1)
        eps = draws.normal(draws.keys(seed, "toy", range(count)), self.means.shape[1:], torch.float64)
        return self.means[k] + self.stds[k] * eps

    def _scales(self, x: Tensor, t: float | Tensor) -> tuple[Any, Any]:
        alpha, sigma = self.schedule(torch.as_tensor(t, dtype=torch.float64))
        like = x.new_empty((1,) * (x.ndim + 1), dtype=torch.float64)
        return per_sample(alpha, like), per_sample(sigma, like)

    def _log_joint(self, offset: Tensor, variance: Tensor) -> Tensor:
        """log w_k + log N(x_t; component k), (B, K). Where nothing is left of the width, the nearest component has all."""
        floor = variance.clamp_min(1e-200)
        terms = offset**2 / floor + torch.log(2 * math.pi * floor)
        return self.weights.log() - terms.reshape(*terms.shape[:2], -1).sum(2) / 2


def gaussian(schedule: Schedule, mean: Tensor, std: Tensor | float) -> Mixture:
    """The exact denoiser of N(mean, diag(std^2)); mean has the shape of one sample."""
    std = torch.as_tensor(std, dtype=torch.float64)
    return Mixture(schedule, torch.ones(1), mean[None], std[None] if std.ndim else std)


def images(schedule: Schedule, x0: Tensor) -> Mixture:
    """The exact denoiser of a finite set of images, (N, ...): what a network that has memorised them would say."""
    return Mixture(schedule, torch.full((len(x0),), 1 / len(x0)), x0, 0.0)
