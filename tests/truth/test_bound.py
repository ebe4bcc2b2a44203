"""The variational bound, term by term, where everything is known: data N(m, std^2) and its exact denoiser."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from sfumato import losses, schedules, toy
from sfumato.denoisers import Denoiser, posterior

from .conftest import ALL

MEAN, STD = 0.3, 0.6
# All four signs of (x0 - m) / std and eps: averaging over them integrates squares of a Gaussian exactly.
X0, EPS = (torch.tensor(c, dtype=torch.float64)[:, None] for c in zip(*itertools.product((1, -1), (1, -1)), strict=True))
X0 = MEAN + STD * X0


def exact(schedule):
    return toy.gaussian(schedule, torch.tensor([MEAN]), STD)


def left_over(schedule, t):
    """Var(x0 | x_t)."""
    alpha, sigma = schedule(t)
    return STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)


@pytest.mark.parametrize("variance", ["posterior", "beta"])
def test_terms_are_the_closed_form(schedule, variance):
    grid = schedule.grid(8, "log_snr")
    for t, s in itertools.pairwise(grid):
        found = losses.bound_term(exact(schedule), X0, t.expand(4), s.expand(4), EPS, variance).mean()
        _, b, v, beta = posterior(schedule, t, s)
        p = v if variance == "posterior" and s > 0 else beta
        error = b**2 * left_over(schedule, t)
        width = math.log(p / v) - 1 + v / p if s > 0 else math.log(2 * math.pi * p)
        expected = (width + error / p) / 2
        torch.testing.assert_close(found, torch.as_tensor(expected), rtol=1e-9, atol=1e-11)


def test_a_term_is_the_divergence_of_two_gaussians(schedule):
    t, s = torch.full((4,), 0.7).double(), torch.full((4,), 0.6).double()
    a, b, v, beta = posterior(schedule, t, s)
    x_t = schedules.diffuse(schedule, X0, t, EPS)
    x0_hat = exact(schedule)(x_t, t)
    q = Normal(a[:, None] * x_t + b[:, None] * X0, v.sqrt()[:, None])
    for variance, width in (("posterior", v), ("beta", beta)):
        p = Normal(a[:, None] * x_t + b[:, None] * x0_hat, width.sqrt()[:, None])
        found = losses.bound_term(exact(schedule), X0, t, s, EPS, variance)
        torch.testing.assert_close(found, kl_divergence(q, p).mean(1), rtol=1e-9, atol=1e-12)


def bound(schedule, grid):
    terms = (losses.bound_term(exact(schedule), X0, t.expand(4), s.expand(4), EPS) for t, s in itertools.pairwise(grid))
    return (losses.prior_term(schedule, X0) + sum(terms)).mean().item()


@pytest.mark.parametrize("name", ["cosine", "flow", "sigmoid", "laplace"])
def test_the_bound_closes_on_the_entropy(name):
    """More steps bring it to the entropy of the data, 1/2 log(2 pi e std^2), from above: the gap falls as 1 / steps."""
    s, entropy = ALL[name], math.log(2 * math.pi * math.e * STD**2) / 2
    gaps = []
    for steps in (50, 200, 800):
        log_snr = torch.linspace(-12, 14, steps, dtype=torch.float64)
        grid = torch.cat((torch.ones(1), s.time(log_snr), torch.zeros(1)))
        gaps.append(bound(s, grid) - entropy)
    assert 0 < gaps[2] < gaps[1] < gaps[0]
    assert 3 < gaps[0] / gaps[1] < 5
    assert 3 < gaps[1] / gaps[2] < 5


def test_the_prior_is_the_divergence_from_pure_noise(schedule):
    alpha, sigma = (c.item() for c in schedule(1.0))
    x0 = torch.tensor([[0.5, -1.0]], dtype=torch.float64)
    expected = kl_divergence(Normal(alpha * x0, sigma), Normal(torch.zeros_like(x0), math.hypot(alpha, sigma))).mean(1)
    torch.testing.assert_close(losses.prior_term(schedule, x0), expected, rtol=1e-7, atol=1e-10)
    narrow = Normal(torch.zeros_like(x0), math.hypot(0.5 * alpha, sigma))  # where sampling starts for such data
    expected = kl_divergence(Normal(alpha * x0, sigma), narrow).mean(1)
    torch.testing.assert_close(losses.prior_term(schedule, x0, 0.5), expected, rtol=1e-7, atol=1e-10)


def test_learning_the_variance_finds_the_closed_form():
    """The slope of the hybrid loss in the second channels vanishes where the variance is v + b^2 Var(x0 | x_t)."""
    schedule, t = ALL["linear-1000"], torch.full((4,), 0.4, dtype=torch.float64)
    _, b, v, beta = posterior(schedule, t, t - 1 / 1000)
    best = v + b**2 * left_over(schedule, t)
    f = ((best / v).log() / (beta / v).log())[0].item()
    assert 0 < f < 1
    head = {}

    class Net(torch.nn.Module):
        def forward(self, x, c_noise):
            x0_hat = exact(schedule)(x, t[0].item())  # on a variance-preserving schedule c_in is 1
            head["mean"] = x0_hat.float().requires_grad_()
            head["width"] = torch.full_like(x, 2 * f - 1 + head["off"]).float().requires_grad_()
            return torch.cat((head["mean"], head["width"]), 1)

    d = Denoiser(Net(), schedule, predict="image")
    slopes = {}
    for off in (-0.3, 0.0, 0.3):
        head["off"] = off
        loss = losses.denoising_loss(d, X0, t, EPS, "image", variance_weight=1.0)
        slopes[off] = torch.autograd.grad(loss.sum(), head["width"], retain_graph=True)[0].sum().item()
        mean = torch.autograd.grad(loss.sum(), head["mean"])[0]
        plain = losses.denoising_loss(d, X0, t, EPS, "image")
        torch.testing.assert_close(mean, torch.autograd.grad(plain.sum(), head["mean"])[0])  # the mean is not moved by it
    assert slopes[-0.3] < 0 < slopes[0.3]
    assert abs(slopes[0.0]) < 1e-2 * min(-slopes[-0.3], slopes[0.3])


@pytest.mark.parametrize("predict", ["v", "edm"])
def test_learning_the_variance_stays_finite_and_moderate(schedule, predict):
    """At all times, the very last ones too, where the two widths that it mixes lie far apart."""
    steps = schedule.steps or 1000
    t = torch.cat((torch.linspace(1e-6, 1, 2000), 1 / steps * torch.linspace(0.9, 1.1, 101)))
    x0, eps = torch.randn(2, len(t), 3, generator=torch.Generator().manual_seed(0))
    width = torch.zeros(len(t), 3, requires_grad=True)
    d = Denoiser(lambda x, c: torch.cat((torch.zeros_like(x), width), 1), schedule, predict=predict)
    plain = losses.denoising_loss(d, x0, t, eps, predict)
    hybrid = losses.denoising_loss(d, x0, t, eps, predict, variance_weight=0.001)
    (slope,) = torch.autograd.grad(hybrid.sum(), width)
    assert hybrid.isfinite().all()
    assert slope.isfinite().all()
    assert (hybrid > plain - 1e-6).all()  # a divergence, never negative


def test_the_hybrid_loss_adds_the_weighted_term():
    """T times the term of the step to t - 1 / T, on the schedule's own grid."""
    schedule = ALL["linear-1000"]
    t = torch.tensor([0.2, 0.5, 0.8, 1.0], dtype=torch.float64)
    x0, eps = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    d = Denoiser(lambda x, c: torch.cat((x / 2, x / 3), 1), schedule, predict="v")
    found = losses.denoising_loss(d, x0, t, eps, variance_weight=0.01) - losses.denoising_loss(d, x0, t, eps)
    expected = 0.01 * 1000 * losses.bound_term(d, x0, t, t - 1 / 1000, eps, "learned")
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)
