"""The pictures of a run, opened again, and what is measured on them: their labels, their order, who is refused."""

import shutil

import msgspec
import numpy as np
import pytest
import torch

import sfumato
from sfumato.errors import UserError
from sfumato.finetune import Parent
from sfumato.judge import bands, likelihood
from sfumato.judge.opened import batches, opened
from sfumato.run import Run
from sfumato.spec import Spec

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
    by_class = held_out.subset(np.argsort(held_out.labels[:], kind="stable"))
    (_, _, cond), *_ = batches(model, by_class, 40)
    assert len(set(cond["label"].tolist())) > 7  # 40 of 90; one class after another, the first 40 are of 5
    assert sum(len(numbers) for numbers, _, _ in batches(model, held_out, 10_000)) == len(held_out)


def with_settings(model, **settings):
    """The model as if its run had been trained with other settings."""
    model.config = msgspec.structs.replace(model.config, **settings)
    return model


def test_a_run_that_went_on_tells_labels_as_its_network_knows_them(run, tmp_path):
    own = Parent.of(run)
    facts = msgspec.structs.replace(own.facts, start=str(run))
    went_on = msgspec.structs.replace(own.config, only_class="3", facts=facts)
    Run(tmp_path / "threes").write_config(went_on)
    shutil.copytree(run / "checkpoints", tmp_path / "threes" / "checkpoints")
    held_out = opened(sfumato.load(tmp_path / "threes")).held_out
    assert held_out.label_names == tuple("0123456789")
    assert set(held_out.labels[:]) == {3}


def test_a_network_of_ones_own_is_no_hindrance(run):
    model = with_settings(sfumato.load(run), net=Spec("mine"))
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
    with pytest.raises(UserError, match="imported weights"):
        opened(with_settings(model, facts=msgspec.structs.replace(model.facts, train=0)))
