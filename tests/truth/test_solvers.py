"""The solvers beyond the first order: exact on polynomials, exact laws of stochastic ones, round trips, every combination."""

import math

import numpy as np
import pytest
import torch

from sfumato import draws, losses, samplers, schedules, toy
from sfumato.denoisers import ROWS, Denoiser, posterior, spread
from sfumato.samplers import SOLVERS, sample
from sfumato.schedules import per_sample
from sfumato.spec import Spec

from .conftest import ALL, mixture
from .test_samplers import summary

SD = 0.7
EDM = schedules.edm()


class Told:
    """A denoiser whose guess is a function of the log-SNR alone."""

    def __init__(self, schedule, guess):
        self.schedule, self.of = schedule, guess

    def __call__(self, x_t, t, **cond):
        return torch.full_like(x_t, self.of(self.schedule.log_snr(float(t)) / 2))


def exactly(schedule, guess, x, t, s):
    """The ODE's solution where the guess is a function of l = log_snr / 2: Lu et al. 2022, eq. 9, by Gauss-Legendre."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = ([c.item() for c in schedule(time)] for time in (t, s))
    low, high = math.log(alpha_t / sigma_t), math.log(alpha_s / sigma_s)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    places = (low + high) / 2 + (high - low) / 2 * nodes
    integral = (high - low) / 2 * sum(w * math.exp(u - high) * guess(u) for w, u in zip(weights, places, strict=True))
    return sigma_s / sigma_t * x + alpha_s * integral


def test_euler_is_ddim(schedule):
    exact = mixture(schedule)
    x = draws.normal(draws.keys(0, "x", range(16)), (2,), torch.float64)
    for a, b in ((1.0, 0.0), (0.0, 0.9)):
        times = torch.linspace(a, b, 31, dtype=torch.float64)
        one, other = (sample(exact, x, solver, times=times) for solver in ("euler", "ddim"))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("solver", "degree"), [("ddim", 0), ("dpmpp_2m", 0), ("dpmpp_3m", 2)])
def test_multistep_solvers_are_exact_on_polynomials(schedule, solver, degree):
    """With a past of exact guesses that are a polynomial in l, one step lands on the exact solution."""
    guess = lambda u: 0.3 + (0.2 * u if degree > 0 else 0) + (0.1 * u**2 if degree > 1 else 0)
    exact = Told(schedule, guess)
    *past, t, s = schedule.time(torch.tensor([-3.4, -2.1, -1.3, 0.4], dtype=torch.float64)).tolist()
    x = torch.tensor([[0.7]], dtype=torch.float64)
    state = tuple((p, exact(x, p)) for p in past)
    step = samplers.choose(SOLVERS, solver, "solver")
    found, new = step(exact, x, t, s, state, None)
    torch.testing.assert_close(found, exactly(schedule, guess, x, t, s), rtol=0, atol=1e-12)
    assert [p for p, _ in new] == [*past, t]


def test_the_corrector_mends_the_last_step(schedule):
    """From a prediction off the exact solution of a cubic, unipc goes on as the predictor does from that solution."""
    guess = lambda u: 0.3 + 0.2 * u + 0.1 * u**2 - 0.05 * u**3
    exact = Told(schedule, guess)
    *times, end = schedule.time(torch.tensor([-3.4, -2.1, -1.3, 0.4, 1.0], dtype=torch.float64)).tolist()
    x = torch.tensor([[0.7]], dtype=torch.float64)
    state = tuple((t, exact(x, t)) for t in times)
    predicted, _ = samplers.dpmpp_3m(exact, x, times[2], times[3], state[:2], None)
    true = exactly(schedule, guess, x, times[2], times[3])
    assert (predicted - true).abs().item() > 1e-4
    found, _ = samplers.unipc(exact, predicted, times[3], end, state[:3], None)
    expected, _ = samplers.dpmpp_3m(exact, true, times[3], end, state[:3], None)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_weights_integrate_what_they_claim(count):
    """The weights add up to 1 - e^-h, and reproduce the integral of e^(u - h) u^n; two nodes read the line at mid-step."""
    nodes, h = [0.0, -0.8, -1.1, 0.6][:count], 0.6
    weights = samplers._weights(nodes, h)
    u, w = np.polynomial.legendre.leggauss(30)
    u = h / 2 + h / 2 * u
    for n in range(count):
        exact = h / 2 * (w * np.exp(u - h) * u**n).sum()
        if (count, n) == (2, 1):
            exact = (1 - math.exp(-h)) * h / 2
        assert sum(a * node**n for a, node in zip(weights, nodes, strict=True)) == pytest.approx(exact, rel=1e-12)


def test_turning_round_forgets_the_past():
    """A list of times that rises again gives the same picture as its parts one after another."""
    exact = mixture(ALL["cosine"])
    x = torch.randn(4, 2, dtype=torch.float64)
    down, up = [0.9, 0.7, 0.5, 0.3], [0.3, 0.5, 0.6]
    for solver in ("dpmpp_2m", "dpmpp_3m"):
        whole = sample(exact, x, solver, times=[*down, *up[1:]])
        parts = sample(exact, sample(exact, x, solver, times=down), solver, times=up)
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


# ---- stochastic solvers ----------------------------------------------------------------------------------------------


def law(schedule, solver, times, mean, std):
    """Mean and standard deviation of x / alpha at the end, exactly: for a Gaussian every step is affine in x and noise.

    Sample 0 starts from 0 without noise, sample 1 from 1, and each further one is 1 in one of the draws alone.
    """
    count = 2 * len(times) + 2
    exact = toy.gaussian(schedule, torch.full((1,), mean).double(), std)
    x = torch.zeros(count, 1, dtype=torch.float64)
    x[1] = 1
    step, state, draws_made = samplers.choose(SOLVERS, solver, "solver"), (), iter(range(2, count))

    def draw():
        noise = torch.zeros_like(x)
        noise[next(draws_made)] = 1
        return noise

    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x, state = step(exact, x, t, s, state, draw)
    alpha, sigma = (c.item() for c in schedule(times[0].item()))
    gain = (x - x[0]) / schedule(times[-1].item())[0].item()
    start = math.hypot(alpha * std, sigma)
    return (x[0] + (x[1] - x[0]) * alpha * mean).item() / schedule(times[-1].item())[0].item(), (
        (start * gain[1]) ** 2 + (gain[2:] ** 2).sum()
    ).sqrt().item()


STOCHASTIC = {"ddpm": 0.9, "ddpm:variance=beta": 0.9, "ddim:eta=0.5": 0.9, "dpmpp_2m_sde": 1.8, "dpmpp_2m_sde:eta=0.5": 1.8}


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_the_law_of_stochastic_solvers_converges(schedule, solver):
    """Weak order for a Gaussian, without sampling error: mean and width at the end against those of x_s."""
    mean, std = 0.6, 0.5
    low = max(-4.0, schedule.log_snr(1.0))
    errors = []
    for steps in (20, 40, 80, 160):
        times = schedule.time(torch.linspace(low, 5, steps + 1, dtype=torch.float64))
        found = law(schedule, solver, times, mean, std)
        alpha, sigma = (c.item() for c in schedule(times[-1].item()))
        errors.append(math.hypot(found[0] - mean, found[1] - math.hypot(std, sigma / alpha)))
    assert errors[-1] < 0.02
    assert math.log(errors[0] / errors[-1]) / math.log(8) >= STOCHASTIC[solver]


def test_churned_heun_converges_to_the_law():
    s = ALL["edm"]
    errors = []
    for steps in (40, 160):
        times = s.time(torch.linspace(-4, 5, steps + 1, dtype=torch.float64))
        found = law(s, Spec("heun", churn=4 / steps), times, 0.6, 0.5)
        sigma = s(times[-1].item())[1].item()
        errors.append(math.hypot(found[0] - 0.6, found[1] - math.hypot(0.5, sigma)))
    assert errors[1] < errors[0] / 3 < 0.01


def test_churn_is_edms_algorithm_2():
    """One step with S_churn, S_noise transcribed from the paper: raise sigma, Heun from there."""
    exact = mixture(EDM)
    x, n = torch.randn(2, 8, 2, dtype=torch.float64).unbind()
    sigma, sigma_next, gamma, s_noise = 3.0, 2.0, 0.3, 1.01
    time = lambda sigma: EDM.time(-2 * math.log(sigma))
    raised = sigma * (1 + gamma)
    x_hat = x + math.sqrt(raised**2 - sigma**2) * s_noise * n
    d = (x_hat - exact(x_hat, time(raised))) / raised
    x_next = x_hat + (sigma_next - raised) * d
    d2 = (x_next - exact(x_next, time(sigma_next))) / sigma_next
    expected = x_hat + (sigma_next - raised) * (d + d2) / 2
    found, _ = samplers.heun(exact, x, time(sigma), time(sigma_next), (), lambda: n, churn=gamma, noise=s_noise)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    quiet, _ = samplers.heun(exact, x, time(sigma), time(sigma_next), (), lambda: n, churn=gamma, low=4.0)
    plain, _ = samplers.heun(exact, x, time(sigma), time(sigma_next), (), None)
    assert torch.equal(quiet, plain)


def test_sde_solver_reproduces_the_mixture():
    """Weights, means and covariances of 5,000 samples in 60 steps, each within 5 standard errors."""
    n, s = 5_000, ALL["flow"]
    target = mixture(s)
    times = s.time(torch.linspace(-7, 7, 61, dtype=torch.float64))
    eps = draws.normal(draws.keys(2, "eps", range(n)), (2,), torch.float64)
    x = sample(target, schedules.diffuse(s, target.draw(n), times[0].item(), eps), "dpmpp_2m_sde", times=times)
    x = x / s(times[-1].item())[0]
    for found, true in zip(summary(x, target), summary(target.draw(200_000, seed=9), target), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=5 * 1.5 / math.sqrt(0.4 * n))


def test_beta_variance_is_ddpms_other_choice():
    steps = 50
    s = schedules.linear(steps=steps, beta_start=1e-3, beta_end=0.2)
    betas = torch.linspace(1e-3, 0.2, steps, dtype=torch.float64)
    i = torch.arange(1, steps, dtype=torch.float64)
    _, _, v, beta = posterior(s, (i + 1) / steps, i / steps)
    torch.testing.assert_close(beta, betas[1:], rtol=1e-10, atol=0)
    x0, n = torch.randn(2, 3, 4, dtype=torch.float64).unbind()
    guess = Denoiser(lambda x, c: x0, s, predict="image")
    a, b = (samplers.ddpm(guess, x0, 0.8, 0.78, (), lambda k=k: k * n, variance="beta")[0] for k in (0, 1))
    torch.testing.assert_close(b - a, betas[39].sqrt() * n, rtol=1e-9, atol=0)
    log = torch.stack([spread(name, v, beta, torch.full((steps - 1, 1), 0.25)).flatten() for name in ("posterior", "beta")])
    learned = spread("learned", v, beta, torch.full((steps - 1, 1), 0.25).double()).flatten()
    torch.testing.assert_close(learned, 0.75 * log[0] + 0.25 * log[1], rtol=1e-12, atol=1e-12)


def test_learned_variance_reaches_the_sampler_through_guides():
    from sfumato import guides

    s = ALL["cosine"]
    wide = lambda x, c, **cond: torch.cat((torch.zeros_like(x), torch.ones_like(x)), 1)  # fraction 1: beta
    narrow = lambda x, c, **cond: torch.cat((torch.zeros_like(x), -torch.ones_like(x)), 1)  # fraction 0: the posterior
    x, n = torch.randn(2, 4, 3, dtype=torch.float64).unbind()
    for net, name in ((wide, "beta"), (narrow, "posterior")):
        d = Denoiser(net, s, predict="v")
        expected = samplers.ddpm(d, x, 0.6, 0.5, (), lambda: n, variance=name)[0]
        for denoise in (d, guides.interval(d, d, 0, math.inf), guides.autoguidance(d, d, 3.0)):
            found = samplers.ddpm(denoise, x, 0.6, 0.5, (), lambda: n, variance="learned")[0]
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="posterior or beta"):
        sample(mixture(s), x[:, :2], Spec("ddpm", variance="learned"), steps=2)
    with pytest.raises(ValueError, match="Did you mean 'posterior'"):
        sample(mixture(s), x[:, :2], Spec("ddpm", variance="posteriori"), steps=2)


# ---- from picture to noise and back ----------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["heun", "dpmpp_3m", "unipc"])
def test_an_image_is_inverted_and_comes_back(schedule, solver):
    """From a clean picture at t = 0 up to noise at t = 1 and down again: within 1e-3 of the range of pictures, [-1, 1]."""
    means = torch.tanh(torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)))
    exact = toy.Mixture(schedule, torch.ones(3), means, 0.3)
    x0 = exact.draw(8)
    times = schedule.grid(100, "log_snr")
    noise = sample(exact, x0, solver, times=times.flip(0))
    back = sample(exact, noise, solver, times=times)
    torch.testing.assert_close(back, x0, rtol=0, atol=2e-3)


# ---- everything with everything --------------------------------------------------------------------------------------


@pytest.mark.parametrize("predict", ROWS)
def test_every_row_schedule_weight_and_solver(schedule, predict):
    """A network that always means x0 = theta: the loss is weight * (theta - c)^2, its slope 2 weight (theta - c), and
    every solver returns theta; in float64 but for the loss, which is float32."""
    c, theta = 0.25, torch.tensor(0.75, dtype=torch.float64, requires_grad=True)

    class Constant(Denoiser):
        def output(self, x, t, **cond):  # F such that c_skip x_t + c_out F = theta, with x = c_in x_t
            t = torch.as_tensor(t, dtype=torch.float64)
            alpha, sigma = self.schedule(t)
            c_in, c_skip, c_out = (per_sample(k, x) for k in self.row.scales(alpha, sigma, SD))
            return (theta - c_skip * x / c_in) / c_out

    d = Constant(None, schedule, predict=predict, c_noise="log_snr", sigma_data=SD)
    t = schedule.time(torch.linspace(max(-8.0, schedule.log_snr(1.0)), 8, 7, dtype=torch.float64)).clamp_max(d.t_max)
    x0, eps = torch.full((7, 2), c, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    for weight in losses.WEIGHTS:
        log_weight = losses.WEIGHTS[weight](schedule.log_snr(t), SD)
        loss = losses.denoising_loss(d, x0, t, eps, weight)
        torch.testing.assert_close(loss.double(), log_weight.exp() * 0.25, rtol=1e-4, atol=1e-7)
        (slope,) = torch.autograd.grad(loss.sum(), theta)
        torch.testing.assert_close(slope, log_weight.exp().sum(), rtol=1e-4, atol=1e-7)
    x = torch.randn(3, 2, dtype=torch.float64)
    for solver in (*SOLVERS, "heun:churn=0.2", "ddim:eta=1", "unipc:order=2", "ddpm:variance=beta", "dpmpp_2m_sde:eta=0.3"):
        for steps in (1, 5):
            out = sample(d, x, solver, steps=steps)
            torch.testing.assert_close(out, torch.full_like(out, 0.75), rtol=0, atol=1e-9, msg=f"{solver} in {steps} steps")


# ---- holding guesses in range ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [(-1.0, 1.0), (0.0, 4.0)])
def test_dynamic_thresholding(clip):
    """Imagen's three lines, for the range [-1, 1], carried to any range; in-range samples are left alone."""
    x0 = torch.randn(6, 50, dtype=torch.float64) * torch.tensor([0.1, 0.2, 1, 2, 4, 8]).double()[:, None]
    q = 0.9
    s = x0.abs().sort(1).values[:, math.ceil(q * 50) - 1].clamp_min(1)[:, None]
    expected = x0.clamp(-s, s) / s
    middle, half = (clip[0] + clip[1]) / 2, (clip[1] - clip[0]) / 2
    d = Denoiser(lambda x, c: middle + half * x0, schedules.flow(), predict="image")
    found = sample(d, torch.zeros(6, 50, dtype=torch.float64), steps=1, clip=clip, threshold=q)
    torch.testing.assert_close(found, middle + half * expected, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="quantile"):
        sample(d, torch.zeros(6, 50), steps=1, threshold=q)


def test_solver_options_are_checked():
    with pytest.raises(ValueError, match="order of 1, 2 or 3"):
        sample(mixture(ALL["flow"]), torch.zeros(2, 2), Spec("unipc", order=4))
    for solver, message in {"ddim:eta=1.5": "from 0 to 1", "heun:churn=-0.1": "at least 0"}.items():
        with pytest.raises(ValueError, match=message):
            sample(mixture(ALL["flow"]), torch.zeros(2, 2), solver, steps=3)
    with pytest.raises(ValueError, match="times between"):
        sample(mixture(ALL["flow"]), torch.zeros(2, 2), times=[0.0, 1.0])
    for solver in ("dpmpp_2m_sde", "ddim:eta=1"):
        with pytest.raises(ValueError, match="rising times"):
            sample(mixture(ALL["flow"]), torch.zeros(2, 2), solver, times=[0.2, 0.4])
