"""Karras et al.'s schedule: diffusers' EDM and Heun schedulers and ours, step by step; they compute in float32."""

import pytest
import torch

from sfumato import schedules
from sfumato.denoisers import Denoiser

from .sides import FLOAT32, LINEAR, ROWS, agree, exact, gap, noises, ours, smooth, start, theirs, times_of, widened

EDM = schedules.edm()


def edm(diffusers, name, steps, **options):
    scheduler = getattr(diffusers, name)(**options)
    scheduler.set_timesteps(steps)
    return scheduler


def test_edm_euler(diffusers):
    """Euler's step is `ddim`; c_in, c_skip, c_out and c_noise = log(sigma) / 4 are the row `edm`."""
    scheduler = edm(diffusers, "EDMEulerScheduler", 18)
    told, seen = [], []
    expected = theirs(scheduler, lambda x, c: (told.append(c.item()), smooth(x, c))[1], start(80))
    denoise = Denoiser(lambda x, c: (seen.append(c[0].item()), smooth(x, c))[1], EDM, "edm", sigma_data=0.5)
    times = EDM.grid(18)
    agree(ours(denoise, start(80), "ddim", times), expected, FLOAT32)
    assert seen == pytest.approx(told, abs=1e-6)
    agree(ours(denoise, start(80), "euler", times), expected, FLOAT32)


@pytest.mark.parametrize("algorithm", ["dpmsolver++", "sde-dpmsolver++"])
def test_edm_dpmpp_2m(diffusers, algorithm):
    """On their karras sigmas, which they compute in float32 here, and ours: 1e-6 apart."""
    solver = {"dpmsolver++": "dpmpp_2m", "sde-dpmsolver++": "dpmpp_2m_sde"}[algorithm]
    scheduler = edm(diffusers, "EDMDPMSolverMultistepScheduler", 18, algorithm_type=algorithm)
    times, noise = EDM.grid(18), noises(18)
    torch.testing.assert_close(scheduler.sigmas.double(), EDM(times)[1], rtol=2e-6, atol=0)
    found = ours(Denoiser(smooth, EDM, "edm", sigma_data=0.5), start(80), solver, times, noise)
    agree(found, theirs(scheduler, smooth, start(80), noise), FLOAT32)


def full_steps(path):
    """Of two evaluations a step, and one for the last, where x has arrived."""
    return torch.cat((path[1::2], path[-1:]))


@pytest.mark.parametrize("prediction", ROWS)
def test_heun(diffusers, prediction):
    """On linear betas. Theirs walks in x / alpha, and its last step, to sigma = 0, is Euler's, as ours is."""
    net = exact(LINEAR, prediction)
    scheduler = widened(
        diffusers.HeunDiscreteScheduler(prediction_type=prediction, beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing")
    )
    scheduler.set_timesteps(20)
    times = LINEAR.grid(20)
    assert times_of(scheduler)[0:1] + times_of(scheduler)[1::2] == pytest.approx(times.tolist(), abs=1e-6)
    alpha, _ = LINEAR(times)
    denoise = Denoiser(net, LINEAR, ROWS[prediction])
    found = ours(denoise, start(), "heun", times) / alpha[1:, None, None]
    agree(found, full_steps(theirs(scheduler, net, start() / alpha[0])), FLOAT32)
    assert gap(found, ours(denoise, start(), "ddim", times) / alpha[1:, None, None]).max() > 1e-3


def test_heun_on_karras_spacing(diffusers):
    """The same sigmas on linear betas; the network is told no time, which they interpolate otherwise between steps."""
    net = lambda x, number: smooth(x, torch.zeros(1))
    scheduler = widened(
        diffusers.HeunDiscreteScheduler(prediction_type="sample", beta_start=1e-4, beta_end=0.02, use_karras_sigmas=True)
    )
    scheduler.set_timesteps(12)
    times = LINEAR.grid(12, "karras")
    alpha, _ = LINEAR(times)
    found = ours(Denoiser(net, LINEAR, "image"), start(), "heun", times) / alpha[1:, None, None]
    agree(found, full_steps(theirs(scheduler, net, start() / alpha[0])), FLOAT32)


def test_heun_on_edm(diffusers):
    """Their Heun scheduler given the sigmas of edm, and a guess of x0 where it asks for a 'sample'."""
    times = EDM.grid(18)
    sigmas = EDM(times)[1].float()
    scheduler = diffusers.HeunDiscreteScheduler(prediction_type="sample")
    scheduler.set_timesteps(18)
    scheduler.sigmas = torch.cat((sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]))
    scheduler.timesteps = scheduler.sigmas[:-1].log() / 4  # what their network is told is what their caller lists
    scheduler.set_begin_index(0)
    net = lambda x, c: smooth(x, c)
    found = ours(Denoiser(net, EDM, "image", c_noise="log_snr"), start(80), "heun", times)
    agree(found, full_steps(theirs(scheduler, net, start(80))), FLOAT32)
