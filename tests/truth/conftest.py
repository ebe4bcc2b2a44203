"""Pieces that the truth tests share: all schedules, and mixtures of Gaussians with known answers."""

import pytest
import torch

from sfumato import schedules, toy

ALL = {
    "linear": schedules.linear(),
    "linear-1000": schedules.linear(steps=1000),
    "mended": schedules.linear(steps=200, mended=True),
    "quadratic": schedules.quadratic(steps=500, mended=True),
    "cosine": schedules.cosine(),
    "sigmoid": schedules.sigmoid(),
    "laplace": schedules.laplace(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
    "shifted": schedules.cosine().shifted(2.0),
}


@pytest.fixture(params=ALL)
def schedule(request):
    return ALL[request.param]


def mixture(schedule):
    """Two components in the plane, of widths 0.4 and 0.6, so that the paths between them bend."""
    means = torch.tensor([[-0.8, 0.3], [0.9, -0.5]], dtype=torch.float64)
    return toy.Mixture(schedule, torch.tensor([0.4, 0.6]), means, torch.tensor([0.4, 0.6]))
