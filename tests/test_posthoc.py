"""Averages of the weights of any length, made after training."""

import copy

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

import sfumato
from sfumato import cli
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.training import checkpoint, posthoc
from sfumato.training.ema import PowerEMA, tensors

typed = lambda words: cli.main(words.split())
TINY = {"net": "unet:width=8,mults=(1,)", "batch": 50, "precision": "float32", "sampling_steps": 1, "quiet": True}


@pytest.mark.parametrize("length", [0.01, 0.05, 0.10, 0.25])
def test_the_length_is_the_deviation_of_the_profile(length):
    g = posthoc.exponent(length)
    mean = (g + 1) / (g + 2)  # of the density (g + 1) u^g on [0, 1], a beta distribution
    assert np.sqrt((g + 1) / (g + 3) - mean**2) == pytest.approx(length, rel=1e-9)


@pytest.mark.parametrize("length", [0.0, -0.1, 0.29, 1.0])
def test_lengths_that_no_profile_has_are_refused(length):
    with pytest.raises(UserError, match=r"from 0.01 to 0.28"):
        posthoc.exponent(length)


def test_overlaps_are_integrals_of_products():
    for a, b in [((2.0, 3.0), (5.0, 7.0)), ((16.97, 7.0), (6.94, 2.0)), ((4.0, 5.0), (4.0, 5.0))]:
        density = lambda u, g, t: (g + 1) * u**g / t ** (g + 1)
        true = quad(lambda u, a=a, b=b, density=density: density(u, *a) * density(u, *b), 0, min(a[1], b[1]))[0]
        assert posthoc.overlap(np.array(a), np.array(b)) == pytest.approx(true, rel=1e-9)
        assert posthoc.overlap(np.array(b), np.array(a)) == pytest.approx(true, rel=1e-9)


def test_a_profile_that_was_kept_is_made_of_itself_alone():
    kept = [(posthoc.exponent(length), t) for t in (500, 1000, 2000) for length in posthoc.LENGTHS]
    for i, each in enumerate(kept[-2:], 4):
        np.testing.assert_allclose(posthoc.factors(kept, each), np.eye(6)[i], atol=1e-8)
    assert posthoc.factors(kept, (3.0, 2000)).sum() == pytest.approx(1, abs=1e-12)  # weights that stand still stay


def test_with_power_0_the_average_is_the_mean_and_the_random_start_does_not_count():
    net = nn.Linear(3, 2)
    average, seen = PowerEMA(net, 0.0), []
    for step in range(1, 8):
        nn.init.normal_(net.weight)
        seen.append(net.weight.detach().clone())
        average.update(net, 10 * step, 10)
    torch.testing.assert_close(average.net.weight, torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)


def test_made_afterwards_is_as_kept_all_along(tmp_path):
    """Of weights that wander: from 16 snapshots, to a hundredth of how far the average lies behind the weights."""
    torch.manual_seed(0)
    net = nn.Linear(40, 5)
    lengths = (0.07, 0.10, 0.15)
    direct = {length: PowerEMA(net, posthoc.exponent(length)) for length in lengths}
    kept = {posthoc.name_of(length): PowerEMA(net, posthoc.exponent(length)) for length in posthoc.LENGTHS}
    for images in range(4, 4 * 1024 + 1, 4):
        with torch.no_grad():
            net.weight += torch.randn_like(net.weight)
        for average in (*direct.values(), *kept.values()):
            average.update(net, images, 4)
        if images % 256 == 0:
            checkpoint.save(tmp_path, images, {name: tensors(each.net) for name, each in kept.items()}, {})
    for length in lengths:
        made = posthoc.made(tmp_path, length, 4096)["weight"]
        behind = (net.weight - direct[length].net.weight).abs().mean()
        assert (made - direct[length].net.weight).abs().mean() < 0.01 * behind
    assert not torch.allclose(made, posthoc.made(tmp_path, length, 2048)["weight"], atol=0.1)  # up to there, and no further


def test_a_run_keeps_snapshots_and_draws_from_any_length(capsys):
    sfumato.train("digits", "whole", images=300, posthoc=4, checkpoint_every=50, keep=9, **TINY)
    whole = Run.of("whole")
    assert [int(path.name) for path in checkpoint.listed(whole.averages)] == [100, 150, 250, 300]
    drawn = sfumato.load("whole", weights=0.05).denoiser.net.state_dict()
    there = checkpoint.load(checkpoint.listed(whole.averages)[-1], ("ema-0.050",)).tensors["ema-0.050"]
    for name, tensor in there.items():
        torch.testing.assert_close(drawn[f"net.{name}"], tensor, rtol=1e-5, atol=1e-6)

    assert typed("sample whole --ema 0.15 -n 2") == 0
    assert typed("sample whole --ema 0.15 -n 2 --worse whole/checkpoints/000000050 --guidance 2") == 0
    capsys.readouterr()
    assert typed("sample whole --ema 0.5 -n 2") == 2
    told = capsys.readouterr().err
    assert "from 0.01 to 0.28" in told
    assert "weights" not in told  # which are as they should be
    (checkpoint.listed(whole.averages)[0] / "ema-0.100.safetensors").write_bytes(b"cut off")
    assert typed("sample whole --ema 0.15 -n 2") == 2
    assert "is not what was written" in capsys.readouterr().err


def test_a_run_without_snapshots_says_how_to_have_them(capsys):
    sfumato.train("digits", "plain", images=50, **TINY)
    assert typed("sample plain --ema 0.1 -n 2") == 2
    assert "--posthoc 16" in capsys.readouterr().err


def test_the_network_is_copied_with_its_integers(tmp_path):
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    kept = {posthoc.name_of(length): PowerEMA(net, posthoc.exponent(length)) for length in posthoc.LENGTHS}
    net.train()(torch.randn(4, 2))
    for average in kept.values():
        average.update(net, 4, 4)
    checkpoint.save(tmp_path, 4, {name: tensors(each.net) for name, each in kept.items()}, {})
    made = posthoc.made(tmp_path, 0.08, 4)
    copied = copy.deepcopy(net)
    copied.load_state_dict(made)
    assert int(copied[1].num_batches_tracked) == 1
