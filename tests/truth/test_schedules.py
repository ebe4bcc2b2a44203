"""Schedules against the numbers they were published with, and against their own inverses."""

import math

import pytest
import torch

from sfumato import draws, schedules

from .conftest import ALL


@pytest.mark.parametrize(("steps", "ends"), [(1000, (1e-4, 0.02)), (300, (1e-4, 0.02)), (7, (0.01, 0.3))])
def test_linear_betas_stand_at_the_steps(steps, ends):
    """beta_i = 1 - alpha_bar_i / alpha_bar_(i-1) at t = (i + 1) / T."""
    s = schedules.linear(steps=steps, beta_start=ends[0], beta_end=ends[1])
    alpha, sigma = s(torch.arange(steps + 1, dtype=torch.float64) / steps)
    betas = 1 - alpha[1:] ** 2 / alpha[:-1] ** 2
    torch.testing.assert_close(betas, torch.linspace(*ends, steps, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(steps + 1, dtype=torch.float64), rtol=0, atol=1e-14)


def test_published_vector_of_300_steps():
    alpha, sigma = schedules.linear(steps=300)((torch.arange(0, 300, 30).double() + 1) / 300)
    printed_alpha = [0.9999, 0.9831, 0.9380, 0.8684, 0.7801, 0.6800, 0.5750, 0.4717, 0.3754, 0.2898]
    printed_sigma = [0.0100, 0.1830, 0.3467, 0.4959, 0.6256, 0.7332, 0.8182, 0.8817, 0.9269, 0.9571]
    torch.testing.assert_close(alpha, torch.tensor(printed_alpha).double(), rtol=0, atol=6e-5)
    torch.testing.assert_close(sigma, torch.tensor(printed_sigma).double(), rtol=0, atol=6e-5)


@pytest.mark.parametrize("steps", [200, 300, 600, 1000, 4000])
def test_mended_betas_reach_the_terminal_snr_of_1000(steps):
    full = schedules.linear(steps=1000).terminal_snr
    assert full == pytest.approx(4.0e-5, rel=0.01)
    assert schedules.linear(steps=steps, mended=True).terminal_snr == pytest.approx(full, rel=1e-10)


def test_published_terminal_signals():
    for steps, signal in ((200, 0.364), (300, 0.219), (600, 0.048)):
        assert schedules.linear(steps=steps)(1.0)[0].item() == pytest.approx(signal, abs=5e-4)


def test_cosine_is_the_published_alpha_bar():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    f = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
    torch.testing.assert_close(schedules.cosine()(t)[0] ** 2, f / f[0], rtol=0, atol=1e-14)


def test_edm_and_flow_by_their_definitions():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha, sigma = schedules.edm(sigma_max=80)(t)
    torch.testing.assert_close(sigma, 80 * t**7, rtol=1e-12, atol=0)
    assert (alpha == 1).all()
    alpha, sigma = schedules.flow()(t)
    torch.testing.assert_close(alpha, 1 - t, rtol=0, atol=1e-15)
    torch.testing.assert_close(sigma, t, rtol=0, atol=1e-15)


def test_time_inverts_log_snr(schedule):
    near = torch.tensor([0, 1e-12, 1e-9, 1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6, 1 - 1e-9, 1], dtype=torch.float64)
    t = torch.cat((near, torch.linspace(0, 1, 1001, dtype=torch.float64)))
    torch.testing.assert_close(schedule.time(schedule.log_snr(t)), t, rtol=0, atol=1e-9)
    assert schedule.time(schedule.log_snr(0.25)) == pytest.approx(0.25, abs=1e-12)  # numbers stay numbers


def test_clean_at_zero_monotone_and_clamped(schedule):
    alpha, sigma = schedule(0.0)
    assert (alpha.item(), sigma.item()) == (1.0, 0.0)
    assert schedule.log_snr(0.0) == math.inf
    log_snr = schedule.log_snr(torch.linspace(0, 1, 2001, dtype=torch.float64))
    assert (log_snr.diff() < 0).all()
    assert schedule.time(1e4) == pytest.approx(0, abs=1e-12)
    assert schedule.time(math.inf) == 0
    assert schedule.time(-1e4) == schedule.time(-math.inf) == 1


def test_log_snr_is_that_of_alpha_and_sigma(schedule):
    t = torch.linspace(0, 1, 99, dtype=torch.float64)[1:-1]
    alpha, sigma = schedule(t)
    torch.testing.assert_close(schedule.log_snr(t), 2 * (alpha.log() - sigma.log()), rtol=0, atol=1e-9)


def test_dtype_and_shape_follow_t(schedule):
    for t in (torch.rand(3, 2), torch.rand(5).double(), torch.tensor(0.3)):
        assert schedule.time(schedule.log_snr(t)).shape == t.shape
        alpha, sigma = schedule(t)
        assert alpha.dtype == sigma.dtype == t.dtype
        assert alpha.shape == sigma.shape == t.shape
    assert schedule(0.3)[0].dtype == torch.float64


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_times_outside_are_refused(schedule, t):
    with pytest.raises(ValueError, match="between 0"):
        schedule(t)


@pytest.mark.parametrize("spacing", ["uniform", "trailing", "karras", "log_snr"])
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_grids_fall_from_one_to_zero(schedule, spacing, steps):
    times = schedule.grid(steps, spacing=spacing)
    assert times.shape == (steps + 1,)
    assert times[0] == 1
    assert times[-1] == 0
    assert (times.diff() < 0).all()


def test_grid_spacings_mean_what_they_say():
    edm, linear = ALL["edm"], ALL["linear"]
    torch.testing.assert_close(edm.grid(10, "uniform"), torch.linspace(1, 0, 11).double(), rtol=0, atol=1e-7)
    ramp = torch.linspace(0, 1, 18, dtype=torch.float64)  # Karras et al. 2022, eq. 5
    for rho in (7, 3):
        karras = (80 ** (1 / rho) + ramp * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        other = schedules.edm(rho=rho)
        torch.testing.assert_close(other(other.grid(18, "karras"))[1][:-1], karras, rtol=1e-10, atol=0)
    even = ALL["linear-1000"].log_snr(ALL["linear-1000"].grid(9, "log_snr")[:-1]).diff()
    torch.testing.assert_close(even, even.mean().expand_as(even), rtol=1e-9, atol=0)
    torch.testing.assert_close(linear.grid(None, "steps") * 300, torch.arange(300, -1, -1).double(), rtol=0, atol=1e-9)
    trailing = linear.grid(7, "trailing") * 300
    nearest = torch.tensor([300, 257, 214, 171, 129, 86, 43, 0]).double()  # 300 - 300 i / 7 to the nearest step
    torch.testing.assert_close(trailing, nearest, rtol=0, atol=1e-9)


def test_too_many_steps_are_refused():
    with pytest.raises(ValueError, match="uniform"):
        ALL["linear"].grid(301)
    assert len(ALL["linear"].grid(301, "uniform")) == 302
    with pytest.raises(ValueError, match="at least 1"):
        ALL["edm"].grid(0)
    with pytest.raises(ValueError, match="karras"):
        ALL["edm"].grid(5, "karas")


@pytest.mark.parametrize(("density", "options"), [("uniform", {}), ("log_normal", {}), ("logit_normal", {"mean": 0.5})])
def test_training_times_have_their_density(density, options):
    """Kolmogorov-Smirnov distance of 4,096 neighbouring draws from the stated distribution: far below a random draw's."""
    s = ALL["edm"] if density == "log_normal" else ALL["flow"]
    t = schedules.DENSITIES[density](s, draws.golden(0, "t", torch.arange(777, 777 + 4096)), **options)
    alpha, sigma = s(t)
    cumulative = {
        "uniform": lambda: t,
        "log_normal": lambda: torch.special.ndtr(((sigma / alpha).log() + 1.2) / 1.2),
        "logit_normal": lambda: torch.special.ndtr(torch.logit(t) - 0.5),
    }[density]()
    ideal = (torch.arange(4096).double() + 0.5) / 4096
    assert (cumulative.sort().values - ideal).abs().max() < 2 / 4096  # a random draw has about 0.02


def test_training_steps_are_the_integers():
    t = schedules.DENSITIES["steps"](ALL["linear"], draws.golden(0, "t", torch.arange(3000)))
    steps = (t * 300).round()
    torch.testing.assert_close(t * 300, steps, rtol=0, atol=1e-9)
    assert set(steps.int().tolist()) == set(range(1, 301))
    with pytest.raises(ValueError, match="linear"):
        schedules.DENSITIES["steps"](ALL["flow"], torch.rand(3))


def test_quadratic_betas_stand_at_the_steps():
    s = schedules.quadratic(steps=200, beta_start=0.00085, beta_end=0.012)
    alpha, _ = s(torch.arange(201, dtype=torch.float64) / 200)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 200, dtype=torch.float64) ** 2
    torch.testing.assert_close(1 - alpha[1:] ** 2 / alpha[:-1] ** 2, betas, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("start", "end", "tau"), [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.9), (-3.0, 3.0, 0.5)])
def test_sigmoid_is_jabris(start, end, tau):
    t = torch.linspace(0, 1, 51, dtype=torch.float64)
    S = lambda y: torch.sigmoid(torch.as_tensor(y, dtype=torch.float64) / tau)
    alpha_bar = (S(end) - S(start + t * (end - start))) / (S(end) - S(start))
    alpha, sigma = schedules.sigmoid(start=start, end=end, tau=tau)(t)
    torch.testing.assert_close(alpha**2, alpha_bar, rtol=0, atol=1e-14)
    torch.testing.assert_close(sigma**2, 1 - alpha_bar, rtol=0, atol=1e-14)


def test_uniform_times_of_laplace_have_laplace_log_snrs():
    u = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    log_snr = schedules.laplace(mean=0.4, scale=0.7).log_snr(1 - u)  # rising in u: the quantiles
    expected = torch.distributions.Laplace(0.4, 0.7).icdf(u)
    torch.testing.assert_close(log_snr, expected, rtol=0, atol=1e-5)


def test_shifting_is_more_noise_at_the_same_time(schedule):
    t = torch.linspace(0.01, 0.99, 30, dtype=torch.float64)
    shifted = schedule.shifted(2.5)
    k, k_shifted = ((sigma / alpha) for alpha, sigma in (schedule(t), shifted(t)))
    torch.testing.assert_close(k_shifted, 2.5 * k, rtol=1e-10, atol=0)
    torch.testing.assert_close(shifted.time(shifted.log_snr(t)), t, rtol=0, atol=1e-9)
    if schedule is ALL["flow"]:
        torch.testing.assert_close(shifted(t)[1], 2.5 * t / (1 + 1.5 * t), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="above 0"):
        schedule.shifted(0)
