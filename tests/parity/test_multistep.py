"""DPM-Solver++(2M), its stochastic form, and UniPC, step by step; diffusers computes these in float32."""

import pytest
import torch

from sfumato.denoisers import Denoiser
from sfumato.spec import Spec

from .sides import FLOAT32, LINEAR, ROWS, T, agree, exact, gap, noises, of_table, ours, smooth, start, theirs, times_of, widened


def dpm(diffusers, steps, prediction="epsilon", **options):
    """final_sigmas_type is 'zero': the last step is of first order and returns the guess, as ours does."""
    options = {"timestep_spacing": "trailing", **options}
    scheduler = widened(diffusers.DPMSolverMultistepScheduler(prediction_type=prediction, **options))
    scheduler.set_timesteps(steps)
    return scheduler


def unipc(diffusers, steps, prediction="epsilon", **options):
    options = {"timestep_spacing": "trailing", **options}
    scheduler = widened(diffusers.UniPCMultistepScheduler(prediction_type=prediction, **options))
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("prediction", ROWS)
@pytest.mark.parametrize(("steps", "begin"), [(10, 4), (20, 0), (50, 30)])
def test_dpmpp_2m(diffusers, prediction, steps, begin):
    """From the first step and from the midst of the grid, where the first, of first order, counts for more."""
    net, scheduler = exact(LINEAR, prediction), dpm(diffusers, steps, prediction)
    denoise = Denoiser(net, LINEAR, ROWS[prediction])
    found = ours(denoise, start(), "dpmpp_2m", times_of(scheduler)[begin:])
    agree(found, theirs(scheduler, net, start(), begin=begin), FLOAT32)
    agree(found[-1:], denoise(found[-2], times_of(scheduler)[-2])[None], 1e-14)
    assert gap(found, ours(denoise, start(), "ddim", times_of(scheduler)[begin:])).max() > 1e-3


def test_dpmpp_2m_is_their_midpoint(diffusers):
    """Their solver_type 'heun' weighs the line through two guesses by its exact integral, and is another solver."""
    net, scheduler = exact(LINEAR, "epsilon"), dpm(diffusers, 10, solver_type="heun")
    distance = gap(ours(Denoiser(net, LINEAR), start(), "dpmpp_2m", times_of(scheduler)), theirs(scheduler, net, start()))
    assert distance[0] < FLOAT32
    assert 1e-3 < distance.max() < 0.2


def test_dpmpp_2m_on_karras_spacing(diffusers):
    """The same sigmas. The network is one that is told no time, for they round the timestep to a whole one, we do not."""
    net = lambda x, number: smooth(x, torch.zeros(1))
    scheduler = dpm(diffusers, 12, "sample", use_karras_sigmas=True)
    found = ours(Denoiser(net, LINEAR, "image"), start(), "dpmpp_2m", LINEAR.grid(12, "karras"))
    agree(found, theirs(scheduler, net, start()), FLOAT32)


def test_dpmpp_2m_from_pure_noise(diffusers):
    """Where the betas end with alpha = 0 theirs begins at an alpha_bar of 2^-24 in its place, ours at 0.

    The guess made there lies at a log-SNR of -16.6 for them and of -infinity for us, whose second step is therefore of
    first order: no line leads through it. Both together move x by less than 2^-12, which is the alpha they start from.
    """
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

    alpha_bar = (1 - rescale_zero_terminal_snr(torch.linspace(1e-4, 0.02, T, dtype=torch.float64))).cumprod(0)
    net = lambda x, number: smooth(x, torch.zeros(1))
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    assert scheduler.alphas_cumprod[-1] == 2**-24
    nearly = torch.cat((alpha_bar[:-1], torch.tensor([2.0**-24], dtype=torch.float64)))
    scheduler.alphas_cumprod = nearly
    scheduler.set_timesteps(12)
    expected = theirs(scheduler, net, start())
    agree(ours(Denoiser(net, of_table(nearly), "image"), start(), "dpmpp_2m", times_of(scheduler)), expected, FLOAT32)
    distance = gap(ours(Denoiser(net, of_table(alpha_bar), "image"), start(), "dpmpp_2m", times_of(scheduler)), expected)
    assert FLOAT32 < distance.max() < 2**-12


@pytest.mark.parametrize("prediction", ROWS)
@pytest.mark.parametrize(("steps", "begin"), [(10, 4), (20, 0)])
def test_dpmpp_2m_sde(diffusers, prediction, steps, begin):
    """algorithm_type 'sde-dpmsolver++', solver_type 'midpoint': ours with eta = 1; the last step adds no noise."""
    net, noise = exact(LINEAR, prediction), noises(steps - begin)
    scheduler = dpm(diffusers, steps, prediction, algorithm_type="sde-dpmsolver++")
    denoise, times = Denoiser(net, LINEAR, ROWS[prediction]), times_of(scheduler)[begin:]
    found = ours(denoise, start(), "dpmpp_2m_sde", times, noise)
    agree(found, theirs(scheduler, net, start(), noise, begin=begin), FLOAT32)
    assert gap(found, ours(denoise, start(), "ddpm", times, noise)).max() > 1e-3


@pytest.mark.parametrize("prediction", ROWS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc(diffusers, prediction, order):
    """solver_type 'bh2', B(h) = e^h - 1, predicting x0: predictor and corrector of every order agree.

    But for lower_order_final: with order 3 they take the last step but one with order 2, we with 3. Without it they
    agree there too, and only their last step, to sigma = 0, has no value where the order is above 1.
    """
    net = exact(LINEAR, prediction)
    for steps, begin in ((10, 4), (20, 0)):
        given = {"solver_order": order, "solver_type": "bh2"}
        scheduler = unipc(diffusers, steps, prediction, **given)
        denoise, times = Denoiser(net, LINEAR, ROWS[prediction]), times_of(scheduler)[begin:]
        found = ours(denoise, start(), Spec("unipc", order=order), times)
        expected = theirs(scheduler, net, start(), begin=begin)
        alike = len(found) if order < 3 else -2
        agree(found[:alike], expected[:alike], FLOAT32)
        if order == 3:
            assert gap(found, expected)[-2] > 1e-4
            scheduler = unipc(diffusers, steps, prediction, lower_order_final=False, **given)
            scheduler.timesteps = scheduler.timesteps[:-1]
            agree(found[:-1], theirs(scheduler, net, start(), begin=begin), FLOAT32)
        agree(found[-1:], denoise(found[-2], times[-2])[None], 1e-14)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_with_their_other_b_of_h(diffusers, order):
    """'bh1', B(h) = h, is another solver wherever two guesses are at work, and has no value at sigma = 0.

    From three guesses on B(h) drops out: with order 3 a path may change to it at its third step and remain ours.
    """

    def distance(change):
        scheduler = unipc(diffusers, 10, "sample", solver_order=order, lower_order_final=False)
        scheduler.timesteps, count, guess = scheduler.timesteps[:-2], iter(range(10)), exact(LINEAR, "sample")

        def net(x, number):
            if next(count) == change:
                scheduler.register_to_config(solver_type="bh1")
            return guess(x, number)

        expected = theirs(scheduler, net, start(), begin=3)
        return gap(ours(Denoiser(guess, LINEAR, "image"), start(), Spec("unipc", order=order), times[3:9]), expected)

    times = LINEAR.grid(10).tolist()
    assert distance(change=0)[0] < FLOAT32
    assert distance(change=0)[1] > 1e-4
    assert (distance(change=2).max() < FLOAT32) == (order == 3)
