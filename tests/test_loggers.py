"""TensorBoard and W&B are told what the log and the grids hold, by packages that are asked for and only then needed."""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.cli import main
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.training import loggers

TINY = {"net": "unet:width=8,mults=(1,)", "batch": 50, "precision": "float32", "sampling_steps": 1, "log_every": 100}


@pytest.fixture
def told(monkeypatch, tmp_path_factory):
    """What fake packages on the path were told, as (what, step)."""
    told = []

    class Writer:
        def __init__(self, folder, purge_step):
            told.append((folder, purge_step))

        def add_text(self, name, text, step):
            told.append((text, step))

        def add_scalar(self, name, value, step):
            told.append(({name: value}, step))

        def add_image(self, name, image, step, dataformats):
            assert dataformats == "HWC"
            told.append(({name: image}, step))

        def close(self):
            told.append(("closed", None))

    class Begun:
        id = "an-id"

        def log(self, values, step):
            told.append((values, step))

        def finish(self):
            told.append(("closed", None))

    def init(**options):
        told.append((options, None))
        return Begun()

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    wandb = types.ModuleType("wandb")
    wandb.init, wandb.Image = init, lambda grid: grid
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    folder = tmp_path_factory.mktemp("packages")
    for name in ("tensorboard", "wandb"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder)
    if wandb.__spec__ is None:
        wandb.__spec__ = importlib.util.find_spec("tensorboard")
    return told


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_loggers_are_told_what_the_log_and_the_grids_hold(name, told, tmp_path):
    folder = tmp_path / "r"
    sfumato.train("digits", folder, quiet=True, log_to=name, images=200, **TINY)
    run, numbers, grids = Run(folder), {}, {}
    for what, step in told:
        for key, value in what.items() if isinstance(what, dict) and step is not None else ():
            (grids if key == "samples" else numbers).setdefault(step, {})[key] = value
    for record in run.records():
        flat = {key: value for key, value in record.items() if key not in ("images", "loss_bands")}
        flat |= {f"loss_bands/{key}": value for key, value in record["loss_bands"].items()}
        assert numbers.pop(record["images"]) == {key: value for key, value in flat.items() if value is not None}
    assert numbers == {}
    assert 200 in grids
    for step, grid in grids.items():
        with Image.open(run.grid(step)) as image:
            assert np.array_equal(grid["samples"], np.asarray(image.convert("RGB")))
    assert told[-1] == ("closed", None)


def test_a_resumed_run_goes_on_where_it_was(told, tmp_path):
    folder = tmp_path / "r"
    options = TINY | {"rate": "constant", "ema": 100, "warmup": 0}
    sfumato.train("digits", folder, quiet=True, log_to=["wandb", "tensorboard"], images=100, **options)
    sfumato.train("digits", folder, quiet=True, log_to=["wandb", "tensorboard"], images=200, **options)
    first, second = [what for what, _ in told if isinstance(what, dict) and "project" in what]
    assert (first["id"], second["id"], second["resume"]) == (None, "an-id", "allow")
    assert (first["name"], first["dir"]) == ("r", folder.resolve())
    assert first["config"]["batch"] == 50
    json.dumps(first["config"])
    assert [step for what, step in told if what == str(folder / "tensorboard")] == [1, 101]


def test_a_logger_that_fails_costs_no_training(told, tmp_path, monkeypatch, capsys):
    def failing(**options):
        raise RuntimeError("no network")

    monkeypatch.setattr(sys.modules["wandb"], "init", failing)
    model = sfumato.train("digits", tmp_path / "r", log_to="wandb", images=100, **TINY)
    assert model.images == 100
    said = capsys.readouterr().out
    assert said.count("wandb failed, and training goes on without it: RuntimeError: no network") == 1


def test_a_missing_package_or_an_unknown_name_is_said_before_anything_is_done(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["train", "digits", "--run", str(tmp_path / "r"), "--log-to", "wandb"]) == 2
    said = capsys.readouterr()
    assert "pip install wandb" in said.err
    assert said.out == ""
    assert not (tmp_path / "r").exists()
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        loggers.known(["tensorbord"])


def test_both_are_asked_for_by_typing_the_flag_twice(told, tmp_path, monkeypatch):
    from sfumato.commands import train

    asked = []
    monkeypatch.setattr(train, "run_training", lambda *words: asked.append(words[-1]) or pytest.skip())
    with pytest.raises(pytest.skip.Exception):
        main(["train", "digits", "--log-to", "tensorboard", "--log-to", "wandb"])
    assert asked == [("tensorboard", "wandb")]
    assert loggers.known(["wandb", "wandb", "tensorboard"]) == ("wandb", "tensorboard")


@pytest.mark.slow
def test_event_files_can_be_read(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    sfumato.train("digits", tmp_path / "r", quiet=True, log_to="tensorboard", images=200, **TINY)
    (file,) = (tmp_path / "r" / "tensorboard").iterdir()
    found = {(value.tag, event.step): value for event in EventFileLoader(str(file)).Load() for value in event.summary.value}
    losses = [found["loss", record["images"]].tensor.float_val[0] for record in Run(tmp_path / "r").records()]
    np.testing.assert_allclose(losses, [record["loss"] for record in Run(tmp_path / "r").records()], rtol=1e-6)
    assert ("samples", 200) in found
