"""Solvers with exact denoisers: orders of convergence, DDPM's posterior, whole distributions, and both ends of time."""

import math

import pytest
import torch

from sfumato import draws, nets, samplers, schedules, toy
from sfumato.denoisers import ROWS, Denoiser
from sfumato.samplers import SOLVERS, sample
from sfumato.spec import Spec

from .conftest import ALL, mixture
from .test_denoisers import exact_net

ORDERS = {
    "euler": 0.9,
    "ddim": 0.9,
    "heun": 1.9,
    "dpmpp_2m": 1.9,
    "dpmpp_3m": 2.7,
    "unipc:order=1": 1.9,
    "unipc:order=2": 2.7,
    "unipc:order=3": 3.3,
}


def end_point(schedule, solver, steps, start):
    """x / alpha at log-SNR 5 from x / alpha = start at log-SNR -4, in steps of equal log-SNR."""
    times = schedule.time(torch.linspace(-4, 5, steps + 1, dtype=torch.float64))
    alpha_first, alpha_last = schedule(times[0].item())[0], schedule(times[-1].item())[0]
    return sample(mixture(schedule), start * alpha_first, solver, times=times) / alpha_last


@pytest.mark.parametrize("solver", ORDERS)
def test_order_of_convergence(solver):
    """The slope of log error over log steps, on every schedule; and all schedules take the same path."""
    start = draws.normal(draws.keys(0, "start", range(64)), (2,), torch.float64) * math.exp(2)
    wide = [s for s in ALL.values() if s.log_snr(1.0) <= -4]
    assert len(wide) == len(ALL) - 1  # all but the linear betas of 300 steps, which stop short of it
    truth = end_point(wide[-1], "unipc", 640, start)  # 1/250 of the error of unipc itself at 160 steps
    ends = {n: [end_point(s, solver, n, start) for s in (wide if n < 80 else wide[:1])] for n in (20, 40, 80, 160)}
    for group in ends.values():
        for end in group:
            torch.testing.assert_close(end, group[0], rtol=0, atol=1e-10)
    errors = torch.tensor([math.log((group[0] - truth).norm()) for group in ends.values()])
    slope = -(errors[-1] - errors[0]) / math.log(8)
    print(f"{solver}: order {slope:.2f}")
    assert slope >= ORDERS[solver]


def test_neighbouring_ancestral_step_is_the_ddpm_posterior():
    """Ho et al. 2020, eq. 7, from betas alone, against one ddpm step between neighbouring steps; also ddim(eta = 1)."""
    steps = 50
    s = schedules.linear(steps=steps, beta_start=1e-3, beta_end=0.2)
    betas = torch.linspace(1e-3, 0.2, steps, dtype=torch.float64)
    alpha_bar = (1 - betas).cumprod(0)
    x, x0, n = torch.randn(3, 8, 4, dtype=torch.float64).unbind()
    guess = Denoiser(lambda x, c: x0, s, predict="image")
    for i in range(1, steps):
        beta, bar, last = betas[i], alpha_bar[i], alpha_bar[i - 1]
        mean = last.sqrt() * beta / (1 - bar) * x0 + (1 - beta).sqrt() * (1 - last) / (1 - bar) * x
        expected = mean + ((1 - last) / (1 - bar) * beta).sqrt() * n
        for step in (samplers.ddpm, lambda *a: samplers.ddim(*a, eta=1.0)):
            found, _ = step(guess, x, (i + 1) / steps, i / steps, (), lambda: n)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_ddim_with_eta_one_is_ddpm_over_the_whole_grid():
    s = schedules.linear(steps=40)
    x = draws.normal(draws.keys(1, "x", range(32)), (2,), torch.float64)
    times = s.grid(None, "steps")
    one, other = (sample(mixture(s), x, solver, times=times) for solver in (Spec("ddim", eta=1.0), "ddpm"))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_ddpm_reproduces_the_mixture():
    """Weights, means and covariances of 5,000 samples in 1,000 steps, each within 5 standard errors.

    The starting point is drawn from p_1 itself, so that the terminal SNR of the schedule plays no part.
    """
    n, s = 5_000, ALL["linear-1000"]
    target = mixture(s)
    eps = draws.normal(draws.keys(2, "eps", range(n)), (2,), torch.float64)
    x = sample(target, schedules.diffuse(s, target.draw(n), 1.0, eps), "ddpm", times=s.grid(None, "steps"))
    # the two components overlap; sort samples by which of them is the likelier, here and among true draws
    for found, true in zip(summary(x, target), summary(target.draw(200_000, seed=9), target), strict=True):
        torch.testing.assert_close(found, true, rtol=0, atol=5 * 1.5 / math.sqrt(0.4 * n))


def summary(x, target):
    likelier = torch.stack(
        [toy.gaussian(target.schedule, m, s[0]).log_prob(x) for m, s in zip(target.means, target.stds, strict=True)]
    )
    k = (likelier + target.weights.log()[:, None]).argmax(0)
    groups = [x[k == i] for i in range(2)]
    yield torch.tensor([len(g) / len(x) for g in groups])
    yield torch.stack([g.mean(0) for g in groups])
    yield torch.stack([torch.cov(g.T) for g in groups])


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_finite_set_is_returned_as_its_members(schedule, solver):
    pictures = torch.randn(5, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = toy.images(schedule, pictures)
    x = schedule(1.0)[1] * draws.normal(draws.keys(0, "x", range(40)), (1, 4, 4), torch.float64)
    out = sample(exact, x, solver, steps=100, times=schedule.grid(100, "log_snr"))
    distance = torch.cdist(out.flatten(1), pictures.flatten(1)).min(1)
    torch.testing.assert_close(distance.values, torch.zeros(40, dtype=torch.float64), rtol=0, atol=1e-6)
    assert len(distance.indices.unique()) == 5


@pytest.mark.parametrize("solver", [*SOLVERS, Spec("ddim", eta=1.0)], ids=str)
@pytest.mark.parametrize("predict", ROWS)
def test_every_solver_and_row_goes_from_one_to_zero(schedule, predict, solver):
    """Without inf or NaN in float32, or refused by the sentence; and the last step returns the last guess."""
    d = Denoiser(lambda x, c: torch.tanh(x), schedule, predict=predict, sigma_data=SD)
    x = torch.randn(6, 3) * schedule(1.0)[1].float()
    guesses = []
    times = torch.linspace(1, 0, 8, dtype=torch.float64)
    if predict == "noise" and schedule(1.0)[0] == 0:
        with pytest.raises(ValueError, match="v, flow, image or edm"):
            sample(d, x, solver, times=times)
        times[0] = d.t_max
    out = sample(d, x, solver, times=times, callback=lambda i, t, x, x0: guesses.append(x0))
    assert out.isfinite().all()
    assert len(guesses) == 7
    torch.testing.assert_close(out, guesses[-1], rtol=1e-6, atol=1e-6)
    assert sample(d, x, solver, steps=5).isfinite().all()  # the schedule's own grid starts where the denoiser can


SD = 0.5


@pytest.mark.parametrize("solver", ["ddpm", "dpmpp_2m", Spec("ddim", eta=0.5)], ids=str)
def test_a_sample_does_not_depend_on_its_batch(solver):
    """Exactly the same noise for batches of 1, 7 and 64, and with a float32 network the same pixels to a level of 255."""
    torch.manual_seed(0)
    net = nets.build("unet", channels=1, width=16, mults=(1, 2), blocks=1, patch=1).eval()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.05)
    s = schedules.cosine()
    exact = toy.images(s, torch.randn(5, 1, 8, 8))
    for d in (Denoiser(net, s, predict="v"), exact):
        results = []
        for batch in (64, 7, 1):
            count = 64 if batch > 1 else 8
            parts = []
            for i in range(0, count, batch):
                numbers = range(i, min(count, i + batch))
                x = draws.normal(draws.keys(0, "start", numbers), (1, 8, 8))
                parts.append(sample(d, x, solver, steps=8, seeds=numbers, clip=(-1, 1)))
            results.append(torch.cat(parts))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0][: len(result)], rtol=0, atol=2 / 255)


def test_noise_of_a_sample_is_exactly_the_same_in_every_batch():
    seen = {}
    for batch in (1, 7, 64):
        for i in range(0, 64, batch):
            numbers = range(i, min(64, i + batch))

            def spy(denoise, x, t, s, state, draw, numbers=numbers, batch=batch):
                for number, noise in zip(numbers, draw(), strict=True):
                    assert torch.equal(noise, seen.setdefault((number, t), noise))
                return x, ((t, x),)

            samplers.SOLVERS["spy"] = spy
            try:
                sample(mixture(ALL["flow"]), torch.zeros(len(numbers), 2), "spy", steps=3, seeds=numbers)
            finally:
                del samplers.SOLVERS["spy"]
    assert len(seen) == 64 * 3


def test_clipping_holds_the_guess():
    d = Denoiser(lambda x, c: torch.full_like(x, 3.0), schedules.flow(), predict="image")
    assert (sample(d, torch.randn(2, 3), steps=4, clip=(-1, 1)) == 1).all()
    assert (sample(d, torch.randn(2, 3), steps=4) == 3).all()


def test_rising_times_invert_the_ode(schedule):
    """Up to noise and down again: the second-order solvers come back, exactly as far as their order allows."""
    exact = mixture(schedule)
    x = exact.draw(16)
    lowest = max(-4.0, schedule.log_snr(1.0))
    times = schedule.time(torch.linspace(9, lowest, 401, dtype=torch.float64))
    start = schedule(times[0].item())[0] * x
    there = sample(exact, start, "heun", times=times)
    back = sample(exact, there, "heun", times=times.flip(0))
    torch.testing.assert_close(back, start, rtol=0, atol=1e-3)
    from_clean = sample(exact, x, "ddim", times=[0.0, *times.tolist()])  # t = 0 has no noise to read a slope from
    assert from_clean.isfinite().all()


def test_renoise_has_the_moments_of_the_forward_process(schedule):
    t, s = 0.3, 0.8
    x0, n = torch.full((1, 100_000), 0.7, dtype=torch.float64), 100_000
    eps = [draws.normal(draws.keys(k, "n", [0]), (n,), torch.float64) for k in (0, 1)]
    x_t = schedules.diffuse(schedule, x0, t, eps[0])
    x_s = samplers.renoise(schedule, x_t, t, s, lambda: eps[1])
    alpha, sigma = (c.item() for c in schedule(s))
    assert x_s.mean().item() == pytest.approx(0.7 * alpha, abs=5 * sigma / n**0.5)
    assert x_s.std().item() == pytest.approx(sigma, rel=5 / n**0.5)
    with pytest.raises(ValueError, match="towards noise"):
        samplers.renoise(schedule, x_t, s, t, lambda: eps[1])


def test_the_network_behind_a_row_samples_like_the_exact_denoiser():
    """A whole trajectory read through each row ends where the exact denoiser's does."""
    s = schedules.flow()
    x = draws.normal(draws.keys(0, "x", range(16)), (2,), torch.float64)
    times = s.time(torch.linspace(-8, 8, 21, dtype=torch.float64)).tolist()
    expected = sample(mixture(s), x, "dpmpp_2m", times=times)
    for predict in ROWS:
        net = exact_net(predict, s)

        class Aware(Denoiser):
            def guess(self, x_t, t, **cond):
                self.net.log_snr = torch.tensor(self.schedule.log_snr(t), dtype=torch.float64)
                return super().guess(x_t, t, **cond)

        found = sample(Aware(net, s, predict=predict, c_noise="log_snr", sigma_data=0.7), x, "dpmpp_2m", times=times)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_a_repeated_time_is_no_step():
    s = ALL["flow"]
    x = torch.randn(4, 2, dtype=torch.float64)
    for solver in SOLVERS:
        noisy = sample(mixture(ALL["cosine"]), x, solver, times=[1.0, 1.0, 0.5, 0.5, 0.0])
        assert noisy.isfinite().all(), solver
    for solver in ("ddim", "ddpm", "heun"):
        once, twice = (sample(mixture(s), x, solver, times=times) for times in ([0.9, 0.5, 0.1], [0.9, 0.5, 0.5, 0.1]))
        if solver != "ddpm":
            torch.testing.assert_close(once, twice)
    assert sample(mixture(s), x, "dpmpp_2m", times=[0.9, 0.5, 0.5, 0.1]).isfinite().all()


def test_bad_arguments_are_refused():
    d, x = mixture(ALL["flow"]), torch.zeros(2, 2)
    with pytest.raises(ValueError, match="Did you mean 'dpmpp_2m'"):
        sample(d, x, "dpmpp2m")
    with pytest.raises(ValueError, match="eta"):
        sample(d, x, Spec("ddim", etta=1))
    with pytest.raises(ValueError, match="at least 1"):
        sample(d, x, steps=0)
    with pytest.raises(ValueError, match="expected 2 seeds"):
        sample(d, x, seeds=[1, 2, 3])
