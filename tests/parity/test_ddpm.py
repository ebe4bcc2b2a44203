"""DDPM and DDIM: the same networks and noises through diffusers' schedulers and through ours, step by step."""

import pytest
import torch

from sfumato import schedules
from sfumato.denoisers import Denoiser
from sfumato.spec import Spec

from .sides import FLOAT64, LINEAR, ROWS, T, agree, exact, gap, noises, of_table, ours, start, theirs, times_of, widened


def ddpm(diffusers, prediction="epsilon", wide=True, steps=None, **options):
    scheduler = diffusers.DDPMScheduler(prediction_type=prediction, **{"clip_sample": False, **options})
    if wide:
        widened(scheduler)
    if steps:
        scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("prediction", ROWS)
def test_ddpm_from_its_first_step(diffusers, prediction):
    """The first 60 of 1000 steps, variance 'fixed_small', which is the posterior's: to 1e-10."""
    net, noise, scheduler = exact(LINEAR, prediction), noises(60), ddpm(diffusers, prediction)
    scheduler.timesteps = scheduler.timesteps[:60]
    found = ours(Denoiser(net, LINEAR, ROWS[prediction]), start(), "ddpm", times_of(scheduler)[:-1], noise)
    agree(found, theirs(scheduler, net, start(), noise)[:-1], FLOAT64)


@pytest.mark.parametrize("prediction", ROWS)
def test_ddpm_to_its_last_step(diffusers, prediction):
    """The last 60 of the 1000 steps; the last returns the guess, on both sides.

    With the float32 table that they ship, of which three digits are left where x is nearly clean, to 2e-4 there.
    """
    net, noise = exact(LINEAR, prediction), noises(60)
    denoise, times = Denoiser(net, LINEAR, ROWS[prediction]), LINEAR.grid(None, "steps")[-61:]
    found = ours(denoise, start(0.7), "ddpm", times, noise)
    assert torch.equal(found[-1], denoise(found[-2], 1 / T))
    expected = {}
    for wide in (True, False):
        scheduler = ddpm(diffusers, prediction, wide)
        scheduler.set_timesteps(timesteps=list(range(60))[::-1])
        expected[wide] = theirs(scheduler, net, start(0.7), noise)
    agree(found, expected[True], FLOAT64)
    assert 1e-5 < gap(found, expected[False]).max() < 2e-4


@pytest.mark.parametrize("prediction", ROWS)
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("steps", [12, 7])
def test_ddpm_on_fewer_steps(diffusers, prediction, spacing, steps):
    net, noise = exact(LINEAR, prediction), noises(steps)
    for wide in (True, False):
        scheduler = ddpm(diffusers, prediction, wide, steps, timestep_spacing=spacing)
        expected = theirs(scheduler, net, start(), noise)
        found = ours(Denoiser(net, LINEAR, ROWS[prediction]), start(), "ddpm", times_of(scheduler), noise)
        agree(found[:-1], expected[:-1], FLOAT64 if wide else 1e-5)
        # their last step from a timestep above 0 still adds noise, of a variance that they keep at or above 1e-20
        last = 1e-10 * noise[-1] if scheduler.timesteps[-1] > 0 else 0
        agree(found[-1:] + last, expected[-1:], 1e-12 if wide else 1e-5)


def test_ddpm_clips(diffusers):
    """clip_sample is `clip`: a network whose guesses go beyond the range."""
    net, noise = exact(LINEAR, "epsilon", gain=1.7), noises(20)
    scheduler = ddpm(diffusers, steps=20, clip_sample=True)
    times, denoise = times_of(scheduler), Denoiser(net, LINEAR)
    found = ours(denoise, start(), "ddpm", times, noise, clip=(-1.0, 1.0))
    agree(found, theirs(scheduler, net, start(), noise), FLOAT64)
    assert gap(ours(denoise, start(), "ddpm", times, noise), found).max() > 0.1


def test_ddpm_with_the_other_variances(diffusers):
    """'fixed_large' is `beta`; 'learned_range' is `learned`, mixed by the network's second half of channels."""
    plain, noise = exact(LINEAR, "epsilon"), noises(20)

    def learned(x, number):
        return torch.cat((plain(x, number), torch.sin(3 * x)), 1)

    for variance_type, variance, net in (("fixed_large", "beta", plain), ("learned_range", "learned", learned)):
        scheduler = ddpm(diffusers, steps=20, variance_type=variance_type)
        found = ours(Denoiser(net, LINEAR), start(), Spec("ddpm", variance=variance), times_of(scheduler), noise)
        agree(found, theirs(scheduler, net, start(), noise), FLOAT64)
        assert gap(ours(Denoiser(plain, LINEAR), start(), "ddpm", times_of(scheduler), noise), found).max() > 1e-3


def ddim(diffusers, steps, prediction="epsilon", wide=True, **options):
    options = {"clip_sample": False, "timestep_spacing": "trailing", **options}
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction, **options)
    if wide:
        widened(scheduler)
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prediction", ROWS)
def test_ddim(diffusers, prediction, eta):
    """To 1e-10, and to 1e-5 with their float32 table; trailing spacing, on numbers of steps that divide T."""
    net, noise = exact(LINEAR, prediction), noises(20)
    for steps in (20, 8):
        found = ours(
            Denoiser(net, LINEAR, ROWS[prediction]), start(), Spec("ddim", eta=eta), LINEAR.grid(steps).tolist(), noise
        )
        for wide, tolerance in ((True, FLOAT64), (False, 1e-5)):
            scheduler = ddim(diffusers, steps, prediction, wide)
            agree(found, theirs(scheduler, net, start(), noise, eta=eta), tolerance)


def test_ddim_arrives_where_it_goes_on(diffusers):
    """With 30 steps of 1000 theirs steps by T // 30 = 33 from timesteps 33.3 apart: it lands beside the next timestep.

    Ours goes from each time to the next. Steps of 33 agree; the first of 34 leaves their path a step's rounding away.
    """
    net, scheduler = exact(LINEAR, "sample"), ddim(diffusers, 30, "sample")
    strides = -scheduler.timesteps.diff()
    assert set(strides.tolist()) == {33, 34}
    wrong = (strides == 34).nonzero()[0].item()
    distance = gap(ours(Denoiser(net, LINEAR, "image"), start(), "ddim", times_of(scheduler)), theirs(scheduler, net, start()))
    assert (distance[:wrong] < FLOAT64).all()
    assert 1e-6 < distance[wrong:].max() < 0.05


def test_ddim_clips(diffusers):
    """Where a guess was clipped ours asks what noise goes with it, as theirs does with use_clipped_model_output alone."""
    net = exact(LINEAR, "epsilon", gain=1.7)
    found = ours(Denoiser(net, LINEAR), start(), "ddim", LINEAR.grid(20), clip=(-1.0, 1.0))
    clipped, unclipped = (
        theirs(ddim(diffusers, 20, clip_sample=True), net, start(), use_clipped_model_output=use) for use in (True, False)
    )
    agree(found, clipped, FLOAT64)
    assert gap(unclipped, found).max() > 0.01


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_from_pure_noise(diffusers, eta):
    """v prediction where alpha is exactly 0: on betas rescaled to zero terminal SNR, and on the cosine."""
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    betas = rescale_zero_terminal_snr(torch.linspace(1e-4, 0.02, T, dtype=torch.float64))
    knots = torch.arange(1, T + 1, dtype=torch.float64) / T
    for alpha_bar in ((1 - betas).cumprod(0), schedules.cosine()(knots)[0] ** 2):
        assert alpha_bar[-1] == 0
        schedule = of_table(alpha_bar)
        net, noise = exact(schedule, "v_prediction"), noises(20)
        scheduler = ddim(diffusers, 20, "v_prediction", rescale_betas_zero_snr=True)
        assert diffusers.DDIMScheduler(rescale_betas_zero_snr=True).alphas_cumprod[-1] == 0
        scheduler.alphas_cumprod = alpha_bar
        found = ours(Denoiser(net, schedule, "v"), start(), Spec("ddim", eta=eta), times_of(scheduler), noise)
        agree(found, theirs(scheduler, net, start(), noise, eta=eta), FLOAT64)
