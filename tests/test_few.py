"""Times tuned for few steps: nearer to the truth than the schedule's own, and kept."""

import json

import numpy as np
import pytest
import torch

import sfumato
from sfumato import draws, few, samplers
from sfumato.run import Run
from sfumato.spec import Spec

from .truth.conftest import ALL, mixture


@pytest.mark.parametrize("steps", [1, 3])
def test_tuned_times_bring_pictures_nearer(schedule_name, steps):
    schedule = ALL[schedule_name]
    exact = mixture(schedule)
    eps = draws.normal(draws.keys(0, "start", range(64)), (2,), torch.float64)
    start = lambda t: schedule(t)[1].item() * eps
    found = few.tune(exact, start, steps, evaluations=20)
    assert len(found.times) == steps + 1
    assert found.times[-1] == 0
    assert all(a > b for a, b in zip(found.times, found.times[1:], strict=False))
    truth = samplers.sample(exact, start(1.0), "unipc", 40)
    x0 = samplers.sample(exact, start(found.times[0]), times=found.times)
    assert (x0 - truth).square().mean().sqrt().item() == pytest.approx(found.after, rel=1e-6)
    assert found.after <= found.before


@pytest.fixture(params=["edm", "cosine", "linear-1000"])
def schedule_name(request):
    return request.param


def test_a_model_keeps_its_times(tmp_path):
    model = sfumato.train("digits", "r", images=128, net=Spec("unet", width=8, mults=(1,)), batch=64, precision="float32")
    run = Run.existing("r")
    times = few.times(model, run, 2)
    kept = json.loads(run.times.read_text())
    assert [list(times)] == [entry["times"] for entry in kept.values()]
    kept[next(iter(kept))]["times"] = [0.9, 0.4, 0.0]
    run.times.write_text(json.dumps(kept))
    assert few.times(model, run, 2) == (0.9, 0.4, 0.0)  # found once
    raw = sfumato.load("r", weights="model")
    assert few.times(raw, run, 2) == few.times(raw, run, 2) != (0.9, 0.4, 0.0)  # other weights have times of their own
    drawn = model.sample(3, times=(0.9, 0.4, 0.0))
    assert drawn.shape == (3, 8, 8, 1)
    assert model.evaluations == 2
    assert not np.array_equal(drawn, model.sample(3, steps=2))
    for noisy in ("ddpm", "dpmpp_2m_sde", "ddim:eta=1", "heun:churn=0.1"):
        with pytest.raises(ValueError, match="without noise of its own"):
            few.times(model, run, 2, noisy)
