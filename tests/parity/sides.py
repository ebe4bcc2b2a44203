"""Both sides of a comparison: one network, one list of noises, a path through diffusers' scheduler and one through ours.

The network is a function of (x, c_noise), as both sides call it. Theirs is stepped over its own timesteps; ours runs
through `sample` with times = (timestep + 1) / T, for they count 0 .. T - 1 what stands at our t = i / T, i = 1 .. T.
"""

import sys

import pytest
import torch

from sfumato import samplers, schedules

T = 1000
ROWS = {"epsilon": "noise", "sample": "image", "v_prediction": "v"}  # what they call a prediction, and what we do
LINEAR = schedules.linear(steps=T)

FLOAT64 = 1e-10  # where both sides compute in float64
FLOAT32 = 3e-6  # where theirs computes in float32 whatever it is given; 1e-6 is what is seen


HILL = torch.tensor([0.9, -0.5], dtype=torch.float64)  # two Gaussians of width 0.4, at this place and at its opposite
WIDTH = 0.4


def exact(schedule, prediction, gain=1.0):
    """A network of step numbers: E[x0 | x_t] of the two hills (times `gain`), spelled as the prediction asked for."""
    alphas, sigmas = (c.tolist() for c in schedule(torch.arange(T + 1, dtype=torch.float64) / T))

    def net(x, number):
        step = round(float(number.flatten()[0])) + 1
        alpha, sigma = alphas[step], sigmas[step]
        variance = (alpha * WIDTH) ** 2 + sigma**2
        side = torch.tanh(alpha / variance * (x * HILL).sum(1, keepdim=True))
        x0 = gain * (alpha * WIDTH**2 * x + sigma**2 * side * HILL) / variance
        if prediction == "sample":
            return x0
        eps = (x - alpha * x0) / sigma
        return eps if prediction == "epsilon" else alpha * eps - sigma * x0

    return net


def smooth(x, c_noise):
    """A network of no meaning: smooth, nonlinear, mixing its two channels, and heeding c_noise."""
    c = c_noise.double().flatten()[0]
    return torch.tanh(1.5 * x + 0.3 * x.flip(1)) * (0.4 + 0.1 * torch.cos(c)) + 0.2 * torch.sin(x + c)


def start(scale=1.0):
    return scale * torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def noises(steps):
    return list(torch.randn(steps, 16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))


def times_of(scheduler):
    """Our times for their timesteps, and 0."""
    return [(t + 1) / T for t in [*scheduler.timesteps.tolist(), -1]]


def ours(denoise, x, solver, times, noise=(), **options):
    """x after each step, (steps, B, ...)."""
    path, supply = [], iter(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samplers.draws, "normal", lambda keys, shape, dtype: next(supply))
        samplers.sample(denoise, x, solver, times=times, callback=lambda i, t, x, x0: path.append(x), **options)
    return torch.stack(path)


def theirs(scheduler, net, x, noise=(), begin=0, **options):
    """x after each of the scheduler's own steps, from the `begin`-th on, (steps, B, ...)."""
    path, supply = [], iter(noise)
    if begin:
        scheduler.set_begin_index(begin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules[type(scheduler).__module__], "randn_tensor", lambda *a, **k: next(supply), raising=False)
        for t in scheduler.timesteps[begin:]:
            output = net(scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x, t)
            x = scheduler.step(output, t, x, **options).prev_sample
            path.append(x)
    return torch.stack(path)


def widened(scheduler):
    """The scheduler with a float64 table of alpha_bar, for linear betas: its formulas without the rounding of its table."""
    scheduler.alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, T, dtype=torch.float64)).cumprod(0)
    return scheduler


def of_table(alpha_bar):
    """A schedule that is a table, defined at the steps alone; alpha_bar (T,) float64 may end with 0."""
    log_snr = torch.cat((torch.tensor([torch.inf]), torch.logit(alpha_bar)))
    rising = log_snr.flip(0).contiguous()
    return schedules.Schedule(
        curve=lambda t: log_snr[(t * T).round().long()],
        inverse=lambda wanted: (T - torch.searchsorted(rising, wanted)).double() / T,
        steps=T,
    )


def gap(found, expected):
    """The largest difference at each step as a share of the largest element there, (steps,)."""
    assert found.shape == expected.shape
    return (found - expected).abs().flatten(1).amax(1) / expected.abs().flatten(1).amax(1)


def agree(found, expected, tolerance):
    """Every element at every step, to a share of the largest element of that step."""
    distance = gap(found, expected)
    torch.testing.assert_close(distance, torch.zeros_like(distance), rtol=0, atol=tolerance)
