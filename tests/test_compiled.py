"""torch.compile: the same training, where it pays. What is slow is the compiler; most of this goes without it."""

import dataclasses
import shutil

import msgspec
import numpy as np
import pytest
import torch

import sfumato
from sfumato import defaults, trainer
from sfumato import plan as plans
from sfumato.config import Config
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.training import compiled
from sfumato.training.device import Placement, recalled

TINY = {"net": "unet:width=8,mults=(1,)", "batch": 25, "precision": "float32", "sampling_steps": 2}


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch, tmp_path, request):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    if "slow" not in request.keywords:
        monkeypatch.setattr(compiled, "BACKEND", "eager")


def told(faster, asked="auto", seconds=1000.0, key="k"):
    """What is decided where plain code makes 100 images a second and compiled code so many; and what was said."""
    said, speeds = [], {False: 100.0, True: faster}
    decided = compiled.worthwhile(speeds.__getitem__, asked, seconds, key, said.append)
    return decided, said


def test_a_training_too_short_to_gain_is_not_measured():
    short = compiled.COST / compiled.HOPED
    assert told(None, seconds=short) == (False, [])
    assert told(None, "off", 1e9) == (False, [])
    assert told(200.0, seconds=short * 1.01)[0] is True


def test_a_gain_is_measured_once_and_held_against_what_is_left_of_the_cost(monkeypatch):
    """Twice the speed saves half of the time: from then on whatever is longer than twice the cost is compiled."""
    clock = iter([0.0, 60.0])
    monkeypatch.setattr(compiled.time, "perf_counter", lambda: next(clock))
    assert told(200.0, key="fast")[0] is True
    assert recalled("compiled.json", "fast") == [0.5, 7.5]  # the code is kept: an eighth of the cost
    assert told(None, seconds=16, key="fast") == (True, [])
    assert told(None, seconds=14, key="fast") == (False, [])
    assert told(None, "on", 14, key="fast") == (True, [])


def test_what_does_not_gain_is_not_compiled():
    assert told(90.0, key="slow")[0] is False
    assert told(None, seconds=1e9, key="slow") == (False, [])
    assert told(None, "on", key="slow") == (True, [])


def broken(faster):
    if faster:
        raise RuntimeError("no C++ compiler\nand more")
    return 100.0


def test_where_it_fails_the_network_is_trained_as_it_is():
    said = []
    assert compiled.worthwhile(broken, "auto", 1e4, "k", said.append) is False
    assert "does not work here (no C++ compiler). The network is trained as it is." in said[-1]
    with pytest.raises(UserError, match=r"\(no C\+\+ compiler\). Train without it: --compile off"):
        compiled.worthwhile(broken, "on", 1e4, "k", said.append)
    assert recalled("compiled.json", "k") is None  # what failed may have been mended by another time


def test_a_run_keeps_it_and_its_averages_are_not_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "choose", lambda *_: (Placement(torch.device("cpu")), 0.0))
    monkeypatch.setattr(plans, "measured_speed", lambda step, *_: step() and 100.0)
    said = []
    config = lambda images, **more: sfumato.config.checked(Config(**TINY | {"images": images} | more))
    run = Run.of(tmp_path / "r")
    model = trainer.train("digits", config(50, compile="on"), run, say=said.append)
    assert any(text.startswith("float32") and "compiled on" in text for text in said)
    assert run.config().facts.compiled
    assert model.denoiser.net.net._compiled_call_impl is None
    seen = []
    stance = lambda: torch._dynamo.eval_frame._stance.stance
    trainer.train("digits", config(100), run, None, lambda run, plan: [lambda event: seen.append((event.state.net, stance()))])
    assert run.config().facts.compiled
    assert all(net._compiled_call_impl is not None for net, _ in seen)
    assert {stance for _, stance in seen} == {"force_eager"}  # what a watcher draws is not compiled anew for its batch
    other = Run.of(shutil.copytree(run.path, tmp_path / "other"))
    trainer.train("digits", config(150, compile="off"), other)
    assert not other.config().facts.compiled
    monkeypatch.setattr(plans.Plan, "faithful", lambda *_: False)
    trainer.train("digits", config(125), run, say=said.append)
    assert "other gradients here: it goes on without" in "".join(said)
    assert not run.config().facts.compiled


def test_the_time_that_compiling_takes_is_taken_off_the_budget():
    config = trainer.prepare("digits", sfumato.config.checked(Config(**TINY | {"time": 100}))).config
    images = lambda spent: defaults.budget(config, lambda: 10.0, lambda: spent).images
    assert images(0.0) == int(1000 * defaults.STEPS) // 25 * 25
    assert images(60.0) == int(400 * defaults.STEPS) // 25 * 25
    assert images(200.0) == 25  # a step is always a whole batch


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
def test_compiled_training_is_the_same_but_for_rounding(tmp_path):
    """Elementwise, after four steps from the same weights on the same pictures, in float32."""
    weights = {}
    for choice in ("on", "off"):
        raw = TINY | {"images": 100, "compile": choice, "lr": 1e-3, "held_out": 0.0}
        sfumato.train("digits", tmp_path / choice, quiet=True, **raw)
        net = sfumato.load(tmp_path / choice, weights="model").denoiser.net.net
        weights[choice] = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    assert Run(tmp_path / "on").config().facts.compiled
    for name, found in weights["on"].items():
        np.testing.assert_allclose(found, weights["off"][name], rtol=1e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile wants a C++ compiler")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_compiled_gradients_of_the_default_are_the_plain_ones(precision, channels_last):
    plan = trainer.prepare("digits", sfumato.config.checked(Config(net="unet:width=16,mults=(1,2),patch=1", batch=4)))
    assert plan.faithful(plan.build(), Placement(torch.device("cpu"), precision, channels_last))


def test_code_with_other_gradients_is_not_used(monkeypatch):
    plan = trainer.prepare("digits", sfumato.config.checked(Config(**TINY | {"images": 10**8})))
    net, here, said = plan.build(), Placement(torch.device("cpu")), []
    assert plan.faithful(net, here)

    def wrong(net):
        next(net.parameters()).register_hook(torch.zeros_like)
        return net

    monkeypatch.setattr(plans, "compiled", wrong)
    assert not plan.faithful(net, here)
    with monkeypatch.context() as patch:  # biases before a batch normalisation have rounding for a gradient, here another
        patch.setattr(plans, "compiled", lambda net: net.to(memory_format=torch.channels_last))
        other = trainer.prepare("digits", sfumato.config.checked(Config(net="double_conv_unet", batch=4, size=16)))
        assert other.faithful(other.build(), here)
    assert plan.compiles(net, here, 1.0, said.append) is False
    assert "other gradients" in said[-1]
    monkeypatch.setattr(plan, "faithful", None)  # that is kept, and not found out again
    assert plan.compiles(net, here, 1.0) is False
    asked = msgspec.structs.replace(plan.config, compile="on")
    with pytest.raises(UserError, match="--compile off"):
        dataclasses.replace(plan, config=asked).compiles(net, here, 1.0)
