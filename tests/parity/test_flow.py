"""The straight path: Euler's steps of diffusers' flow matching, which are `ddim` on `flow()`."""

import pytest
import torch

from sfumato import schedules
from sfumato.denoisers import Denoiser

from .sides import FLOAT32, agree, gap, ours, smooth, start, theirs

FLOW = schedules.flow()


def told(x, number):
    """Networks of flows are told 1000 t."""
    return smooth(x, number / 300)


def flow_match(diffusers, steps, **options):
    """On equal steps of t from 1. Left to itself it ends its equal steps at t = 1/1000 and adds 0."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(sigmas=(1 - torch.arange(steps) / steps).tolist())
    return scheduler


def test_euler_on_the_straight_path(diffusers):
    """The velocity eps - x0 in the same sense, the number 1000 t, and the last step to t = 0."""
    found = ours(Denoiser(told, FLOW, "flow", c_noise="time"), start(), "ddim", FLOW.grid(15))
    agree(found, theirs(flow_match(diffusers, 15), told, start()), FLOAT32)


def test_shift(diffusers):
    """shift = 3 is the schedule shifted by 3: t' = 3 t / (1 + 2 t), where the network knows times of the plain one."""
    scheduler, shifted = flow_match(diffusers, 15, shift=3.0), FLOW.shifted(3)
    torch.testing.assert_close(scheduler.sigmas.double(), shifted(shifted.grid(15))[1], rtol=1e-6, atol=0)
    denoise = Denoiser(told, FLOW, "flow", c_noise="time").on(shifted)
    agree(ours(denoise, start(), "ddim", shifted.grid(15)), theirs(scheduler, told, start()), FLOAT32)


def test_their_own_grid(diffusers):
    """set_timesteps(15) spaces t evenly from 1 to 1/1000 and then adds 0; as our `times` that is the same path."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(15)
    times = scheduler.sigmas.tolist()
    assert times[-2] == pytest.approx(1e-3)
    denoise = Denoiser(told, FLOW, "flow", c_noise="time")
    expected = theirs(scheduler, told, start())
    agree(ours(denoise, start(), "ddim", times), expected, FLOAT32)
    assert gap(ours(denoise, start(), "ddim", FLOW.grid(15)), expected).max() > 1e-3
