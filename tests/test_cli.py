"""The command line as a person types it, and what it says to mistakes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sfumato
from sfumato.cli import main
from sfumato.errors import UserError
from sfumato.run import Run

TINY = "--net unet:width=8 --batch 50 --precision float32 --sampling-steps 1"


def typed(command):
    """The exit code of `sfumato COMMAND`."""
    return main(command.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run with labels."""
    folder = tmp_path_factory.mktemp("trained") / "digits"
    assert typed(f"train digits --run {folder} --images 400 --checkpoint-every 200 {TINY}") == 0
    return folder


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled")
    np.save(folder / "p.npy", np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8))
    assert typed(f"train {folder / 'p.npy'} --run {folder / 'run'} --images 100 {TINY}") == 0
    return folder / "run"


def refused(capsys, *arguments):
    """What is said when these arguments are refused: exit code 2, one line of one or two sentences, no traceback."""
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.strip()


def test_train_sample_and_again(run, tmp_path, capsys):
    assert typed(f"sample {run} -n 6 --steps 3 --seed 5 --npy a/all.npy --gif --copies") == 0
    said = capsys.readouterr().out
    assert "4 evaluations each" in said  # at one of the three noise levels the label is guided towards
    assert "10 labels" in said
    assert "of 6 samples" in said
    pictures = np.load(tmp_path / "a" / "all.npy")
    assert pictures.shape == (6, 8, 8, 1)
    with Image.open(run / "out" / "s5-00004.png") as image:
        assert np.array_equal(np.array(image), pictures[4, ..., 0])
        told = {"run": run.name, "seed": "5", "solver": "dpmpp_2m", "steps": "3", "weights": "averaged"}
        assert image.text == told | {"images": "400", "guidance": "1.5", "interval": "(0.2, 3.0)"}
    with Image.open(run / "out" / "s5-grid.gif") as animation:
        assert animation.n_frames > 1
    assert (run / "out" / "s5-grid.png").exists()
    assert typed(f"sample {run} --only 4 --steps 3 --seed 5 --out one --npy one.npy") == 0
    assert np.abs(np.load("one.npy")[0].astype(int) - pictures[4]).max() <= 1
    assert os.listdir("one") == ["s5-00004.png"]


def test_a_sample_is_the_same_in_every_batch(run):
    for batch in ("1", "7", "64"):
        assert typed(f"sample {run} -n 9 --steps 8 --solver dpmpp_2m_sde --batch {batch} --out o --npy {batch}.npy") == 0
    whole = np.load("64.npy").astype(int)
    for batch in ("1", "7"):
        assert np.abs(np.load(f"{batch}.npy") - whole).max() <= 1


def test_the_default_solver_adds_less_noise_in_fewer_steps_and_one_that_is_named_as_much_as_it_says(run, capsys):
    model, drawn = sfumato.load(run), {}
    for steps, solver in ((11, "dpmpp_2m"), (12, "dpmpp_2m_sde:eta=0.5"), (19, "dpmpp_2m_sde:eta=0.5"), (20, "dpmpp_2m_sde")):
        drawn[steps] = model.sample(2, 0, steps)
        np.testing.assert_array_equal(drawn[steps], model.sample(2, 0, times=model.times(steps)))
        np.testing.assert_array_equal(drawn[steps], model.sample(2, 0, steps, solver))
        assert typed(f"sample {run} -n 2 --steps {steps} --npy {steps}.npy") == 0
        assert f"{steps} steps of {solver}:" in capsys.readouterr().out
        np.testing.assert_array_equal(drawn[steps], np.load(f"{steps}.npy"))
    assert not np.array_equal(drawn[11], model.sample(2, 0, 11, "dpmpp_2m_sde"))


def test_another_drawing_of_a_seed_loses_nothing_and_mixes_nothing(run, capsys):
    assert typed(f"sample {run} -n 3 --steps 1 --out o") == 0
    assert typed(f"sample {run} -n 2 --steps 1 --out o") == 0  # the same pictures, fewer of them
    assert sorted(os.listdir("o")) == ["s0-00000.png", "s0-00001.png", "s0-00002.png", "s0-grid.png"]
    assert "drawn otherwise" not in capsys.readouterr().out
    assert typed(f"sample {run} -n 1 --steps 2 --out o") == 0
    assert "4 files of seed 0 that were drawn otherwise are now in o/older-1." in capsys.readouterr().out
    assert sorted(os.listdir("o")) == ["older-1", "s0-00000.png", "s0-grid.png"]
    assert len(os.listdir("o/older-1")) == 4


def test_what_copies_need_is_looked_for_before_drawing(unlabelled, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sfumato.model.Model.sample", lambda *_, **__: pytest.fail("drawn"))
    run = tmp_path / "run"
    shutil.copytree(unlabelled, run)
    config = json.loads((run / "config.json").read_text())
    for facts, words in (({"data": "gone.npy"}, "cannot be read"), ({"held_out": 0}, "held none out"),
                         ({"fingerprint": "0"}, "no longer holds")):  # fmt: skip
        (run / "config.json").write_text(json.dumps(config | {"facts": config["facts"] | facts}))
        assert words in refused(capsys, "sample", run, "--copies")


def test_an_array_is_saved_whole_or_not_at_all(run, monkeypatch):
    def power_cut(file, *_, **__):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", power_cut)
    assert typed(f"sample {run} -n 1 --steps 1 --out o --npy a.npy") == 130
    assert os.listdir() == ["o"]


def test_labels_and_guidance(run, capsys):
    assert typed(f"sample {run} -n 2 --steps 3 --label 7 --guidance 500 --out o --npy g.npy") == 0
    assert "labels are drawn" not in capsys.readouterr().out
    assert typed(f"sample {run} -n 2 --steps 3 --label 7 --out o --npy p.npy") == 0
    assert not np.array_equal(np.load("g.npy"), np.load("p.npy"))


def test_labels_are_guided_towards_at_some_noise_levels_unless_said(run, unlabelled, tmp_path, capsys):
    model = sfumato.load(run)
    alpha, sigma = model.denoiser.schedule(model.times(20)[:-1])
    inside = int(((sigma / alpha >= 0.2) & (sigma / alpha <= 3)).sum())
    assert 0 < inside < 20
    older = tmp_path / "older"  # a run that says nothing of guidance
    shutil.copytree(run, older)
    config = json.loads((older / "config.json").read_text())
    del config["guidance"], config["interval"]
    (older / "config.json").write_text(json.dumps(config))
    drawn = {}
    for i, (words, evaluations, told) in enumerate((
        (f"{run}", 20 + inside, ("1.5", "(0.2, 3.0)")),
        (f"{run} --guidance 1.5", 20 + inside, ("1.5", "(0.2, 3.0)")),
        (f"{run} --guidance 1.5 --interval 0,inf", 40, ("1.5", "(0.0, inf)")),
        (f"{run} --guidance 1", 20, ("1.0", None)),
        (f"{older}", 20, ("1.0", None)),
        (f"{older} --guidance 1.5", 40, ("1.5", None)),
        (f"{unlabelled}", 20, ("1.0", None)),
    )):  # fmt: skip
        assert typed(f"sample {words} -n 1 --steps 20 --out o{i} --npy a.npy") == 0
        assert f"{evaluations} evaluations each" in (said := capsys.readouterr().out), words
        assert ("Guidance 1.5 where sigma / alpha is 0.2 to 3. None: --guidance 1." in said) == (i == 0)
        with Image.open(f"o{i}/s0-00000.png") as image:
            assert (image.text["guidance"], image.text.get("interval")) == told
        drawn[i] = np.load("a.npy").tobytes()
    assert drawn[0] == drawn[1]
    assert drawn[3] == drawn[4]
    assert "two numbers that rise" in refused(capsys, "sample", run, "--interval", "0,nan")
    assert "two numbers that rise" in refused(capsys, "train", "digits", "--interval", "0,inf")  # JSON has no infinity: none


@pytest.mark.parametrize("solver", ["ddim", "ddim:eta=1", "ddpm", "heun", "dpmpp_2m"])
def test_solvers_by_name(run, solver, capsys):
    assert typed(f"sample {run} -n 1 --steps 4 --solver {solver} --guidance 1 --out o") == 0
    evaluations = 7 if solver == "heun" else 4  # heun's last step is of first order
    assert f"{evaluations} evaluations each" in capsys.readouterr().out


def test_what_steers_a_sample_is_told_in_it(run, unlabelled, capsys):
    drawn = {}
    ways = ["", "--guidance 3", "--guidance 3 --rescale 0.7", "--guidance 3 --interval 0.5,2", "--threshold 0.9", "--tuned",
            f"--guidance 2 --worse {run} --raw"]  # fmt: skip
    for i, words in enumerate(ways):
        assert typed(f"sample {run} -n 2 --steps 3 --out o{i} --npy a.npy {words}") == 0
        drawn[words] = np.load("a.npy").tobytes()
        with Image.open(f"o{i}/s0-00001.png") as image:
            for word in words.split():
                if word in ("--rescale", "--interval", "--threshold", "--tuned", "--worse"):
                    assert word[2:] in image.text
    assert len({drawn[""], drawn["--tuned"], drawn[ways[-1]]}) == 3  # labels mean little to a model so short in training
    assert "two numbers that rise" in refused(capsys, "sample", run, "--interval", "2,1")
    assert "rescale lies in" in refused(capsys, "sample", run, "--rescale", "2")
    assert "learned" in refused(capsys, "sample", run, "--solver", "ddpm:variance=learned")
    for words in ("--interval 0.5,2", "--rescale 0.5", f"--worse {run}"):
        assert "--guidance 2" in refused(capsys, "sample", run, "--guidance", "1", *words.split())


def test_a_worse_model_of_other_pictures_is_refused(run, unlabelled, capsys):
    """Each differs from the other in one thing, by which guesses of the one mean something else to the other."""
    assert typed(f"train digits --run other --images 50 --range 0,1 {TINY}") == 0
    assert typed(f"train digits --run large --images 50 --size 12 {TINY}") == 0
    capsys.readouterr()
    for other, what in (("other", "values"), ("large", "shape"), (unlabelled, "labels")):
        words = ("sample", run, "--guidance", "2", "--worse", other, "-n", "1")
        assert what in refused(capsys, *words)
    assert typed(f"sample {run} --guidance 2 --worse {run} -n 1 --steps 4 --out o") == 0
    assert "8 evaluations each" in capsys.readouterr().out  # both networks are asked


def test_the_same_command_finishes_then_says_how_to_go_on(run, capsys):
    command = ["train", "digits", "--run", str(run), "--images", "400", "--checkpoint-every", "200", *TINY.split()]
    before = (run / "log.jsonl").read_text()
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "it has seen 400 images, and the budget is 400. To go on, give a larger one, as in --images 800." in said
    assert said.startswith(str(run)) or "digits" in said.split()[0]
    assert (run / "log.jsonl").read_text() == before


def test_a_smaller_budget_on_a_finished_run_trains_nothing_and_says_so(run, capsys):
    before = (run / "config.json").read_text()
    assert typed(f"train digits --run {run} --images 200 --checkpoint-every 200 {TINY}") == 0
    said = capsys.readouterr().out
    assert "it has seen 400 images, and the budget is 200" in said
    assert "new trajectory" not in said
    assert (run / "config.json").read_text() == before


def test_a_larger_budget_goes_on_and_says_that_it_is_a_new_trajectory(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    assert typed(f"train digits --run {copy} --images 600 {TINY}") == 0
    said = capsys.readouterr().out
    assert "new trajectory" in " ".join(said.split())
    assert "Resuming after 400" in said
    assert json.loads((copy / "log.jsonl").read_text().splitlines()[-1])["images"] == 600


def test_dry_run_prints_json_alone(capsys, tmp_path):
    assert typed("train digits --dry-run --images 500k --lr 3e-4 --schedule cosine --predict v") == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["images"] == 500_000
    assert settings["schedule"] == "cosine"
    assert settings["facts"]["shape"] == [1, 8, 8]
    assert os.listdir(tmp_path) == []
    assert typed("train digits --dry-run --recipe cars --epochs 2 --size 32x48 --batch 12") == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["size"] == [32, 48]
    assert settings["batch"] == 12
    assert settings["net"] == "simple_unet"
    assert settings["images"] == pytest.approx(2 * settings["facts"]["train"], abs=12)


def test_recipes_are_listed(capsys):
    assert typed("recipes") == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ("default", "aircraft", "cars"))


def test_a_time_budget_becomes_images_and_is_stored(tmp_path, capsys):
    command = ["train", "digits", "--run", "r", "--time", "1s", *TINY.split()]
    assert main(command) == 0
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["time"] == 1
    assert config["images"] >= 50
    assert typed("sample r -n 1") == 0
    assert main(command) == 0
    assert "finished" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "config.json").read_text()) == config


def test_ctrl_c_and_sigterm_save_and_leave(tmp_path):
    numbers = (signal.SIGINT, signal.SIGTERM)
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "sfumato", *f"train digits --run r{number} --images 10m --log-every 50 {TINY}".split()],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) for number in numbers
    ]  # fmt: skip
    for number, child in zip(numbers, children, strict=True):
        said = ""
        while "images/s" not in said:  # it trains
            line = child.stdout.readline()
            assert line, said
            said += line
        child.send_signal(number)
        said += child.communicate()[0]
        assert child.returncode == 130
        assert "Stopping after this step" in said
        assert "same command again" in " ".join(said.split())
        assert "Traceback" not in said
        assert len(list((tmp_path / f"r{number}" / "checkpoints").glob("[0-9]*"))) == 1


# ---- mistakes --------------------------------------------------------------------------------------------------------


def test_mistakes_about_data(capsys, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("no image")
    assert "nowhere" in refused(capsys, "train", "nowhere")
    assert "empty" in refused(capsys, "train", "empty")
    assert "png" in refused(capsys, "train", "texts")
    assert "digits" in refused(capsys, "train", "digit")
    assert os.listdir(tmp_path) == ["empty", "texts"] or set(os.listdir(tmp_path)) == {"empty", "texts"}


def test_mistakes_about_settings(capsys, tmp_path):
    assert "cars" in refused(capsys, "train", "digits", "--recipe", "car")
    said = refused(capsys, "train", "digits", "--imges", "5")
    assert said == "There is no flag --imges. Did you mean --images? Type sfumato train --help for all flags."
    assert refused(capsys, "sample", "--tage", "3").startswith("There is no flag --tage. Type")  # not about [RUN]
    assert refused(capsys, "recipes", "--stepz").startswith("There is no flag --stepz.")
    assert "expected a whole number, as in 500 or 500k, found abc." in refused(capsys, "train", "digits", "--batch", "abc")
    assert "Missing value for argument '--lr'." in refused(capsys, "train", "digits", "--lr")
    assert "No data was named" in refused(capsys, "train")
    assert "Nothing was expected where 'more' stands" in refused(capsys, "train", "digits", "more")
    assert "dpmpp_2m" in refused(capsys, "train", "digits", "--solver", "dpmpp2m")
    assert "mended" in refused(capsys, "train", "digits", "--schedule", "linear:mendet=True")
    assert "unet" in refused(capsys, "train", "digits", "--net", "unett")
    assert "width" in refused(capsys, "train", "digits", "--net", "unet:widht=3")
    for size in ("0", "2", "100000", "abc", "4x4x4"):
        assert "size" in refused(capsys, "train", "digits", "--size", size)
    assert "--batch does not fit: expected a whole number >= 1, found 0" in refused(capsys, "train", "digits", "--batch", "0")
    assert "lr does not fit" in refused(capsys, "train", "digits", "--lr", "-1")
    assert "--held-out does not fit" in refused(capsys, "train", "digits", "--held-out", "2")
    assert "steps" in refused(capsys, "train", "digits", "--steps", "0")
    for mistake in ("--times steps", "--distance huber:beta=-1", "--solver unipc:order=7", "--solver ddpm:variance=learned"):
        said = refused(capsys, "train", "digits", "--run", tmp_path / "r", *mistake.split(), *TINY.split())
        assert mistake.split()[1].partition(":")[0] in said
        assert not (tmp_path / "r").exists()
    assert "budget" in refused(capsys, "train", "digits", "--images", "5", "--epochs", "3")
    assert "command" in refused(capsys, "trian", "digits")
    assert os.listdir(tmp_path) == []


def test_mistakes_about_runs(capsys, run, tmp_path):
    assert "sfumato train" in refused(capsys, "sample", "nowhere")
    assert "no run" in refused(capsys, "sample")
    (tmp_path / "notarun").mkdir()
    assert "config.json" in refused(capsys, "sample", "notarun")
    before = (run / "config.json").read_text()
    np.save("p.npy", np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8))
    assert "other pictures" in refused(capsys, "train", "p.npy", "--run", run, "--images", "400", *TINY.split())
    assert "lr was 0.002, now 0.5" in refused(
        capsys, "train", "digits", "--run", run, "--images", "400", "--lr", "0.5", *TINY.split()
    )
    assert (run / "config.json").read_text() == before


def test_mistakes_about_samples(capsys, run, unlabelled):
    assert "without labels" in refused(capsys, "sample", unlabelled, "--label", "3")
    assert "without" in refused(capsys, "sample", unlabelled, "--guidance", "3")
    assert "no label 'cat'" in refused(capsys, "sample", run, "--label", "cat")
    assert "at least 1" in refused(capsys, "sample", run, "--steps", "0")
    assert "at least 1" in refused(capsys, "sample", run, "-n", "0")
    assert "heun" in refused(capsys, "sample", run, "--solver", "huen")
    assert "Type --out clothes." in refused(capsys, "sample", run, "--out", "clothes.png")
    assert not Path("clothes.png").exists()
    assert "found none" in refused(capsys, "sample", run, "--seed", "none")
    assert "found none" in refused(capsys, "sample", run, "-n", "none")
    assert "0 to 4294967295" in refused(capsys, "sample", run, "--seed", "-1")


@pytest.mark.parametrize("budget", ["--images 100", "--epochs 0.05", "--steps 2"])
def test_every_kind_of_budget_can_be_sampled_and_resumed(budget, capsys):
    assert typed(f"train digits --run r {budget} {TINY}") == 0
    assert typed("sample r -n 1 --steps 1") == 0
    assert typed(f"train digits --run r {budget} {TINY}") == 0
    assert "finished" in capsys.readouterr().out


def test_mistakes_in_options_devices_and_paths(capsys, run, tmp_path):
    for option in ("--net unet:width=abc", "--net unet:width=0", "--schedule linear:steps=0", "--schedule linear:steps=abc",
                   "--weight min_snr:g=-1", "--weight p2:k=0", "--times log_normal:std=0", "--rate inverse_sqrt:after=-5",
                   "--optimizer muon:momentum=2", "--net unet:outputs=2", "--variance-weight 0.001 --net unet:outputs=1",
                    "--solver ddim:eta=abc", "--optimizer adamw:betas=3", "--images inf",
                   "--lr inf", "--time inf", "--device foo", "--held-out 1"):  # fmt: skip
        budget = [] if option.split()[0] in ("--images", "--time") else ["--images", "100"]
        refused(capsys, "train", "digits", *budget, *option.split())
    (tmp_path / "file").write_text("kept")
    for words in ("--run file", "--run file/x"):
        refused(capsys, "train", "digits", *words.split())
    assert "its own" in refused(capsys, "train", "digits", "--run", "")
    for words in ("--npy .", "--npy file/x.npy", "--out file", "--device foo", "--batch 0", "--only -1", "--guidance nan"):
        refused(capsys, "sample", run, "-n", "1", *words.split())
    assert (tmp_path / "file").read_text() == "kept"


def test_a_garbled_log_does_not_stop_a_run(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    with open(copy / "log.jsonl", "ab") as log:
        log.write(b'5\n[1]\n{"a": 1}\n\xff\xfe\n{"images": 4')
    assert typed(f"train digits --run {copy} --images 450 {TINY}") == 0


def test_a_second_trainer_is_refused(capsys, run):
    from filelock import FileLock

    with FileLock(run / ".lock"):
        assert "Another process" in refused(capsys, "train", "digits", "--run", run, "--images", "400", *TINY.split())


def test_a_run_that_never_began_leaves_no_folder(tmp_path):
    for begun in (False, True):
        run = Run.of(tmp_path / "runs" / f"{begun}")
        with contextlib.suppress(UserError), run.locked():
            if begun:
                (run.path / "config.json").touch()
            raise UserError("It cannot be trained.")
        assert run.path.exists() == begun


def test_a_broken_checkpoint_is_passed_over_by_sample(capsys, run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    oldest, *_, newest = sorted(path for path in (copy / "checkpoints").iterdir() if path.is_dir())
    os.truncate(newest / "ema.safetensors", 1000)
    assert typed(f"sample {copy} -n 1 --steps 1") == 0
    assert "older checkpoint is used" in " ".join(capsys.readouterr().out.split())
    shutil.rmtree(oldest)
    assert "whole" in refused(capsys, "sample", copy, "-n", "1")
    (copy / "config.json").write_text("{not json")
    assert "config.json" in refused(capsys, "sample", copy)
