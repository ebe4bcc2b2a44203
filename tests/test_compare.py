"""`sfumato compare`: the same noise in all runs, curves over each other, and the differences of the settings alone."""

import base64
import io
import json
import re

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from sfumato import trainer
from sfumato.built import build_net
from sfumato.cli import main
from sfumato.config import Config
from sfumato.errors import UserError
from sfumato.judge import compare
from sfumato.model import load
from sfumato.picture import grid
from sfumato.run import Run, names
from sfumato.spec import Spec
from sfumato.training import checkpoint

from .test_inspect import EVIL
from .test_report import charts


def made(path, config, scale):
    """A run whose weights are random, and whose loss is `scale` over the steps."""
    run = Run(path)
    run.write_config(config)
    losses = ({"images": n * config.batch, "loss": scale / n, "held_out_loss": 2 * scale / n} for n in range(1, 9))
    run.log.write_text("".join(json.dumps(record) + "\n" for record in losses))
    torch.manual_seed(0)
    net = build_net(config, config.facts)
    weights = {name: torch.randn_like(value) * 0.3 for name, value in net.state_dict().items()}
    checkpoint.save(run.checkpoints, 640, {"model": weights, "ema": weights, "optimizer": {}}, {"images": 640})
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that differ in their batch and steps, and one of another shape."""
    folder = tmp_path_factory.mktemp("runs")
    prepared = lambda **more: trainer.prepare("digits", Config(net=Spec("unet", width=8, mults=(1,)), batch=128, **more)).config
    first = prepared(sampling_steps=2)
    second = msgspec.structs.replace(first, batch=32, sampling_steps=3)
    wide = prepared(sampling_steps=2, size=(8, 12))
    return [made(folder / name, *rest) for name, *rest in (("a", first, 1), (EVIL[1], second, 2), ("wide", wide, 3))]


def pictures(page):
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in re.findall(r"png;base64,([^\"]+)", page)]


def test_samples_are_those_of_each_run_from_one_seed(runs):
    told = []
    page = compare.page(runs, n=4, seed=3, progress=lambda done, total: told.append(done / total))
    shown = pictures(page)
    for run, image in zip(runs, shown, strict=True):
        model = load(run)
        assert np.array_equal(image, np.asarray(grid(model.displayed(model.sample(4, seed=3, label=[0, 1, 2, 3])))))
    assert shown[0].shape == shown[1].shape != shown[2].shape
    assert told == sorted(told)
    assert told[-1] == 1
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", page)


def test_losses_lie_over_each_other_by_images_and_by_steps(runs):
    found = charts(compare.page(runs[:2], n=1))
    by_images, by_steps = (found[f"Loss by {unit}; of training: smoothed"]["lines"] for unit in ("images seen", "steps"))
    assert [line["name"] for line in by_images] == ["a", "a, held-out", EVIL[1], f"{EVIL[1]}, held-out"]
    assert by_images[0]["x"] == [128 * n for n in range(1, 9)]
    assert by_images[2]["x"] == [32 * n for n in range(1, 9)]
    assert by_steps[0]["x"] == by_steps[2]["x"] == list(range(1, 9))
    np.testing.assert_allclose(np.array(by_images[2]["y"]), 2 * np.array(by_images[0]["y"]), rtol=1e-4)


def test_only_differences_are_named(runs):
    assert compare.differences(runs[:2]) == [("batch", "128", "32"), ("sampling_steps", "2", "3")]
    others = ["size", "times", "sigma_data"]  # other pictures have another deviation, and are trained on noise as wide
    assert [name for name, *_ in compare.differences([runs[0], runs[2]])] == others
    assert compare.differences([runs[0], runs[0]]) == []


def test_measures_stand_beside_each_other_where_they_are_there(runs):
    each = {"group": "distances", "name": "distance", "value": 1.5, "low": 1, "high": 2, "samples": 10}
    real = {"group": "distances of held-out pictures", "name": "distance", "value": 0.125}  # not to be taken for it
    try:
        runs[0].evaluation.write_text(json.dumps([each, real, {"group": "distances", "name": "recall", "value": 0.25}]))
        runs[1].evaluation.write_text(json.dumps([real, each | {"value": 2.5}]))
        page = compare.page(runs[:2], n=1)
    finally:
        for run in runs[:2]:
            run.evaluation.unlink(missing_ok=True)
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    assert cells[:6] == ["1.5 (1 to 2)", "2.5 (1 to 2)", "0.25", "–", "0.125", "0.125"]
    heads = re.findall(r'<th scope="col">(.*?)</th>', page)
    assert heads[:2] == ["distances", "a"]
    assert heads[3:5] == ["distances of held-out pictures", "a"]


def test_a_run_that_cannot_be_drawn_from_is_there_with_the_reason(runs, tmp_path):
    (tmp_path / "new").mkdir()
    new = Run(tmp_path / "new")
    new.write_config(runs[0].config())
    page = compare.page([runs[0], new], n=1)
    assert len(pictures(page)) == 1
    assert "has no checkpoint yet" in page


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path):
    two = [Run(tmp_path / "x" / "r"), Run(tmp_path / "y" / "r")]
    assert names(two) == [str(run.path) for run in two]
    assert names([two[0], Run(tmp_path / "s")]) == ["r", "s"]


def test_the_command_writes_one_page_and_overwrites_only_its_own(runs, tmp_path, capsys):
    words = ["compare", *(str(run.path) for run in runs[:2]), "-n", "1"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip().endswith("compare.html")
    assert main([*words, "--out", "a/b.html"]) == 0
    assert main([*words, "--out", "a/b.html"]) == 0
    (tmp_path / "compare.html").write_text("mine")
    assert main(words) == 2
    assert "no page of ours" in capsys.readouterr().err
    assert (tmp_path / "compare.html").read_text() == "mine"
    assert main([*words[:2], "--out", "c.html"]) == 2
    assert "two runs or more" in capsys.readouterr().err
    with pytest.raises(UserError, match="at least 1 sample"):
        compare.page(runs, n=0)
