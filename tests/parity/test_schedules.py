"""The noise tables of diffusers and the same schedules here; where a name means two things, the test says which."""

import math

import pytest
import torch

from sfumato import schedules

from .sides import LINEAR, T, widened

KNOTS = torch.arange(1, T + 1, dtype=torch.float64) / T


def table(diffusers, name, **options):
    return diffusers.DDPMScheduler(beta_schedule=name, **options).alphas_cumprod.double()


def alpha_bar(schedule, t=KNOTS):
    return schedule(t)[0] ** 2


def close(found, expected, rtol=1e-5, atol=0.0):
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)


def test_linear(diffusers):
    """To 1e-5; their float32 leaves 1 - alpha_bar at the first step, which is beta_1 = 1e-4, three digits of its own."""
    found = table(diffusers, "linear")
    close(found, alpha_bar(LINEAR))
    close(widened(diffusers.DDPMScheduler()).alphas_cumprod, alpha_bar(LINEAR), rtol=1e-12)
    noise = LINEAR(KNOTS)[1] ** 2
    close(1 - found, noise, rtol=0, atol=1e-6)
    worst = ((1 - found) / noise - 1).abs()
    assert worst.argmax() == 0
    assert 1e-5 < worst[0] < 1e-3
    assert noise[0].item() == pytest.approx(1e-4, rel=1e-12)


def test_between_their_steps(diffusers):
    """A network of fractional steps is told another number: they interpolate sigma / alpha, we log alpha_bar.

    They use it where a spacing does not meet the steps. Halfway between two steps the two differ most at the low end,
    by less than 7 %, and by less than 0.3 % from the tenth step on.
    """
    k = torch.exp(-LINEAR.log_snr(KNOTS) / 2)
    straight = (k[1:] + k[:-1]) / 2
    bent = torch.exp(-LINEAR.log_snr((KNOTS[1:] + KNOTS[:-1]) / 2) / 2)
    share = (bent / straight - 1).abs()
    assert (k[:-1] < bent).all()
    assert (bent < k[1:]).all()
    assert share[0] == share.max() < 0.07
    assert share[10:].max() < 0.003


def test_scaled_linear_is_quadratic(diffusers):
    ends = {"beta_start": 0.00085, "beta_end": 0.012}  # latent diffusion's
    close(table(diffusers, "scaled_linear", **ends), alpha_bar(schedules.quadratic(steps=T, **ends)))


def test_cosine_but_for_its_last_beta(diffusers):
    """squaredcos_cap_v2 caps beta at 0.999: alone the last, which is 1, is reached, so theirs stops short of pure noise."""
    found, expected = table(diffusers, "squaredcos_cap_v2"), alpha_bar(schedules.cosine())
    close(found[:-1], expected[:-1])
    close(found[-1], found[-2] * 0.001, rtol=1e-4)
    assert expected[-1] == 0
    assert found[-1] == pytest.approx(2.4e-9, rel=0.02)


def test_sigmoid_agrees_in_name_alone(diffusers):
    """Theirs is a sigmoid of beta (GeoDiff), which `from_betas` makes; ours one of alpha_bar (Jabri et al. 2023)."""
    found = table(diffusers, "sigmoid")
    betas = torch.sigmoid(torch.linspace(-6, 6, T, dtype=torch.float64)) * (0.02 - 1e-4) + 1e-4
    close(found, alpha_bar(schedules.from_betas(betas)))
    assert (found - alpha_bar(schedules.sigmoid())).abs().max() > 0.1


def test_laplace_is_another_by_a_root(diffusers):
    """Both have log-SNR l = -+ log(1 - 2 |1/2 - t|) / 2 in mind; they then take sqrt(S(l)), which is alpha, for alpha_bar."""
    found, expected = table(diffusers, "laplace"), alpha_bar(schedules.laplace(mean=0.0, scale=0.5))
    middle = slice(T // 100, -T // 100)  # 1e-6 and the cap on beta at the ends
    close(found[middle], expected[middle].sqrt(), rtol=1e-3)


@pytest.mark.parametrize("steps", [1, 7, 20, 30, 64, 1000])
def test_trailing_timesteps(diffusers, steps):
    """timestep_spacing 'trailing' visits the times of our grid, which ends with 0."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing="trailing")
    scheduler.set_timesteps(steps)
    assert [t + 1 for t in scheduler.timesteps.tolist()] == (LINEAR.grid(steps)[:-1] * T).round().int().tolist()


def test_karras_spacing(diffusers):
    """The same sigmas from the edm schedule, and from linear betas, whose own ends they take."""
    edm = diffusers.EDMEulerScheduler()
    edm.set_timesteps(18)
    ours = schedules.edm()
    close(edm.sigmas.double(), ours(ours.grid(18))[1])
    vp = widened(diffusers.DPMSolverMultistepScheduler(use_karras_sigmas=True))
    vp.set_timesteps(18)
    alpha, sigma = LINEAR(LINEAR.grid(18, "karras"))
    close(vp.sigmas.double(), sigma / alpha)
    # the network is told a whole step that is not that of sigma: they round, we do not
    told = LINEAR.grid(18, "karras")[:-1] * T - 1
    assert 0.1 < (vp.timesteps - told).abs().max() <= 0.5 + 0.02


def test_edm_starts_elsewhere(diffusers):
    """They start from sqrt(sigma_max^2 + 1) n, we from sigma_max n, as Karras et al. do: 8e-5 apart."""
    scheduler, (_, sigma) = diffusers.EDMEulerScheduler(), schedules.edm()(1.0)
    assert scheduler.init_noise_sigma == pytest.approx(math.hypot(sigma, 1), rel=1e-12)
