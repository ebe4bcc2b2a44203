"""The pictures of a run, opened again, and what is measured on them: their labels, their order, who is refused."""

import msgspec
import numpy as np
import pytest
import torch

import sfumato
from sfumato.errors import UserError
from sfumato.judge import bands, likelihood
from sfumato.judge.opened import batches, opened

SMALL = {"net": "unet:width=8,blocks=1", "images": 60, "batch": 20, "precision": "float32", "sampling_steps": 1, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("opened") / "digits"
    sfumato.train("digits", folder, **SMALL)
    return folder


def test_the_pictures_are_those_of_the_run(run):
    model = sfumato.load(run)
    plan = opened(model)
    train, held_out = plan.train, plan.held_out
    assert (len(train), len(held_out)) == (model.facts.train, model.facts.held_out)
    assert held_out.paths == (run / "held_out.txt").read_text().splitlines()


def test_some_are_handed_on_with_their_own_labels_whatever_the_batch(run):
    model = sfumato.load(run)
    held_out = opened(model).held_out
    whole, parts = list(batches(model, held_out, 60, batch=60)), list(batches(model, held_out, 60, batch=7))
    assert torch.cat([numbers for numbers, _, _ in parts]).tolist() == list(range(60))
    torch.testing.assert_close(torch.cat([x0 for _, x0, _ in parts]), whole[0][1], rtol=0, atol=0)
    shown = model.codec.decode(whole[0][1]).numpy()
    table = {picture.tobytes(): label for picture, label in zip(held_out.array, held_out.labels[:], strict=True)}
    assert [table[picture.tobytes()] for picture in shown] == whole[0][2]["label"].tolist()
    assert len(set(whole[0][2]["label"].tolist())) == 10  # of all classes, though they are few
    assert sum(len(numbers) for numbers, _, _ in batches(model, held_out, 10_000)) == len(held_out)


def test_a_run_that_went_on_tells_labels_as_its_network_knows_them(run, tmp_path):
    model = sfumato.train("digits", tmp_path / "threes", start=run, only_class="3", images=20, batch=20, quiet=True)
    held_out = opened(sfumato.load(model.path)).held_out
    assert held_out.label_names == model.facts.label_names == tuple("0123456789")
    assert set(held_out.labels[:]) == {3}


def test_a_network_of_ones_own_is_no_hindrance(tmp_path):
    net = torch.nn.Conv2d(1, 1, 1)
    net.forward = lambda x, c_noise: torch.nn.functional.conv2d(x, net.weight, net.bias)
    model = sfumato.train("digits", tmp_path / "mine", **(SMALL | {"net": net}))
    assert len(opened(model).train) == model.facts.train


def test_a_run_is_measured(run):
    models = {"averaged": sfumato.load(run), "raw": sfumato.load(run, weights="model")}
    plan = opened(models["averaged"])
    train, held_out = plan.train, plan.held_out
    found = bands.measure(models, train, held_out, n=20)
    assert found.squared.keys() == {"averaged", "raw", bands.CONSTANT, bands.GAUSSIAN}
    assert (found.error("raw") != found.error("averaged")).all()
    assert (found.error(bands.GAUSSIAN) <= found.error(bands.CONSTANT) * 1.01).all()
    for way in likelihood.WAYS:
        bits = likelihood.measure(models["averaged"], held_out, way, n=6, evaluations=8)
        assert bits.integers
        assert np.isfinite(bits.bits).all()
        assert len(bits.bits) == 6


def test_whose_pictures_are_not_known_is_refused(run):
    model = sfumato.load(run)
    model.config = msgspec.structs.replace(model.config, facts=msgspec.structs.replace(model.facts, train=0))
    with pytest.raises(UserError, match="imported weights"):
        opened(model)
