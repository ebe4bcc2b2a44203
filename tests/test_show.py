"""`sfumato show` and the pictures of `sfumato sample`: what they show is what was computed."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato import draws, scenes, schedules, trainer
from sfumato.built import build_net
from sfumato.cli import main
from sfumato.config import Config
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.spec import Spec
from sfumato.training import checkpoint


def typed(command):
    """The exit code of `sfumato COMMAND`."""
    return main(command.split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with labels, its network as it was before training."""
    run = Run(tmp_path_factory.mktemp("trained") / "digits")
    plan = trainer.prepare("digits", Config(net=Spec("unet", width=8), sampling_steps=4))
    run.write_config(plan.config)
    run.log.write_text("".join(f'{{"images": {128 * i}, "loss": {1 / i}, "lr": 0.001}}\n' for i in range(1, 6)))
    torch.manual_seed(0)
    weights = {name: torch.randn_like(value) * 0.3 for name, value in build_net(plan.config, plan.facts).state_dict().items()}
    checkpoint.save(run.checkpoints, 640, {"model": weights, "ema": weights, "optimizer": {}}, {"images": 640})
    return run.path


def refused(capsys, command):
    """What is said when this is refused: exit code 2, one line, no traceback."""
    capsys.readouterr()
    assert typed(command) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def read(path):
    with Image.open(path) as picture:
        return np.asarray(picture), dict(picture.text)


# the forward process


def test_step_numbers_are_those_of_the_published_accounts():
    """sqrt(alpha_bar) and sqrt(1 - alpha_bar) of linear betas, T = 300, at step 0, 30, .., 270, as one account prints them."""
    schedule = schedules.linear(steps=300)
    times, names = scenes.moments(schedule, ",".join(str(30 * i) for i in range(10)))
    assert names == [f"step {30 * i}" for i in range(10)]
    alpha, sigma = schedule(times)
    signal = [0.9999, 0.9831, 0.9380, 0.8684, 0.7801, 0.6800, 0.5750, 0.4717, 0.3754, 0.2898]
    noise = [0.0100, 0.1830, 0.3467, 0.4959, 0.6256, 0.7332, 0.8182, 0.8817, 0.9269, 0.9571]
    np.testing.assert_allclose(alpha, signal, atol=6e-5)
    np.testing.assert_allclose(sigma, noise, atol=6e-5)


def test_the_last_step_is_t_1_and_times_are_taken_as_they_are():
    times, names = scenes.moments(schedules.linear(steps=271))
    assert names == [f"step {30 * i}" for i in range(10)]
    assert times[-1] == 1
    times, names = scenes.moments(schedules.linear(steps=200), "0,50,199")
    np.testing.assert_allclose(times, [1 / 200, 51 / 200, 1], rtol=1e-12)
    assert names == ["step 0", "step 50", "step 199"]
    times, names = scenes.moments(schedules.cosine(), "0.5,1")
    assert times.tolist() == [0.5, 1.0]
    assert names == ["t = 0.5", "t = 1"]
    np.testing.assert_allclose(scenes.moments(schedules.edm())[0], np.arange(1, 11) / 10, rtol=1e-12)
    assert scenes.moments(schedules.linear(steps=3))[1] == ["step 0", "step 1", "step 2"]


@pytest.mark.parametrize("at", ["", "200", "-1", "1.5", "a", "0,,5", "nan", "inf"])
def test_moments_that_are_no_steps_are_refused(at):
    with pytest.raises(UserError, match="step numbers from 0 to 199"):
        scenes.moments(schedules.linear(steps=200), at)


@pytest.mark.parametrize("at", ["0", "1.1", "x", "nan"])
def test_moments_that_are_no_times_are_refused(at):
    with pytest.raises(UserError, match="times above 0, up to 1"):
        scenes.moments(schedules.cosine(), at)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_each_stage_is_the_same_image_and_the_same_noise(channels):
    schedule, x0 = schedules.linear(steps=200), torch.linspace(-1, 1, channels * 20).reshape(channels, 4, 5)
    states, captions = scenes.noised(schedule, x0, "0,100,199", seed=5, number=3)
    assert captions[0] == "original"
    assert captions[-1] == "step 199\nSNR 0.15"
    assert torch.equal(states[0], x0)
    eps = draws.normal(draws.keys(5, "forward", 3), (channels, 4, 5))[0]
    for state, step in zip(states[1:], (0, 100, 199), strict=True):
        alpha, sigma = schedule((step + 1) / 200)
        torch.testing.assert_close(state, (alpha * x0 + sigma * eps).float())
    strip = scenes.forward(schedule, x0, "0,100,199", seed=5, number=3)
    assert strip.width > 4 * 5 * channels


def test_the_strip_saturates_and_never_wraps():
    white = torch.ones(1, 32, 32)
    strip = np.asarray(scenes.forward(schedules.edm(), white, "0.3"))  # sigma = 0.017
    tile = strip[4:132, -132:-4]
    assert tile.min() > 230  # wrapped, half of it would be black
    assert (tile == 255).mean() > 0.4


def test_show_forward_is_the_same_every_time_and_loses_no_other_file(tmp_path, capsys):
    assert typed("show forward digits --image 3 --schedule linear:steps=50 --seed 1") == 0
    assert capsys.readouterr().out.strip() == "forward.png"
    pixels, text = read("forward.png")
    told = {"picture": "forward", "data": "digits", "image": "3", "schedule": "linear:steps=50", "seed": "1"}
    assert text == told | {"recipe": "default"}
    assert typed("show forward digits --image 3 --schedule linear:steps=50 --seed 1 --out again.png") == 0
    np.testing.assert_array_equal(read("again.png")[0], pixels)
    assert typed("show forward digits --image 4 --schedule linear:steps=50 --seed 1") == 0  # in the place of its own
    assert not np.array_equal(read("forward.png")[0], pixels)
    (tmp_path / "forward.png").write_text("mine")
    assert typed("show forward digits") == 0
    assert (tmp_path / "forward.png").read_text() == "mine"
    assert sorted(os.listdir()) == ["again.png", "forward-2.png", "forward.png"]
    assert "no earlier picture" in refused(capsys, "show forward digits --out forward.png")
    assert "1,797 images" in refused(capsys, "show forward digits --image 1797")
    assert "step numbers from 0 to 299" in refused(capsys, "show forward digits --recipe cars --at 300")


# schedules


def test_courses_are_those_of_the_schedules():
    t, alpha, sigma, log_snr = scenes.courses(["cosine", "edm:sigma_max=10.0"], points=11)
    np.testing.assert_allclose(t, np.linspace(0, 1, 11))
    np.testing.assert_allclose(alpha[0] ** 2 + sigma[0] ** 2, 1)
    np.testing.assert_allclose(sigma[1], 10 * t**7)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(log_snr, 2 * np.log(alpha / sigma), rtol=1e-6)


def test_what_stops_short_of_noise_is_said():
    short, mended = scenes.ends(["linear:steps=200", "linear:steps=200,mended=true"], (64, 64))
    assert "stops short of noise" in short
    assert "SNR 1 at t = 0.59, step 116 of 200" in short
    assert "terminal SNR 0.15" in short
    assert "reaches noise" in mended
    assert "terminal SNR 4e-5" in mended
    assert "stops short" in scenes.ends(["linear:steps=200,mended=true"], (256, 256))[0]  # a larger picture needs more
    assert "never as much noise as image" in scenes.ends(["linear:steps=20"], (8, 8))[0]


def test_show_schedule(capsys):
    assert typed("show schedule linear:steps=200 cosine --size 32x16") == 0
    *said, path = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in said] == ["linear:steps=200", "cosine"]
    assert read(path)[1] == {"picture": "schedule", "schedules": "linear:steps=200 cosine", "size": "32 16"}
    assert "Did you mean 'cosine'" in refused(capsys, "show schedule cosin")
    assert "one schedule or more" in refused(capsys, "show schedule")
    assert "a height and width" in refused(capsys, "show schedule edm --size big")


# losses


def test_show_loss(run, tmp_path, capsys):
    assert typed(f"show loss {run}") == 0
    assert capsys.readouterr().out.strip() == str(run / "out" / "loss.png")
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "log.jsonl"):
        (other / name).write_bytes((run / name).read_bytes())
    assert typed(f"show loss {run} {other} --by step") == 0
    assert read("loss.png")[1] == {"picture": "loss", "runs": f"{run} {other}", "by": "step"}
    assert "no axis called 'epochs'" in refused(capsys, f"show loss {run} --by epochs")
    assert "Expected a run folder" in refused(capsys, "show loss nowhere")


# samples


def test_show_denoising_begins_with_noise_and_ends_with_the_sample(run, capsys):
    assert typed(f"show denoising {run} --only 3 --label 7 --stages 3") == 0
    path = run / "out" / "denoising-s0-00003.png"
    assert capsys.readouterr().out.strip() == str(path)
    pixels, text = read(path)
    assert text["only"] == "3"
    assert text["steps"] == "4"
    model = sfumato.load(run)
    sample = model.displayed(model.sample(1, label="7", first=3))[0, ..., 0]
    np.testing.assert_array_equal(pixels[4:132, -132:-4], sample.repeat(16, 0).repeat(16, 1))
    noise = model.stages(1, 0, [0], model.times(4), first=3)[0]
    width = (pixels.shape[1] - 4) // 3
    margin = (width - 4 - 128) // 2
    tile = pixels[4:132, 4 + margin : 132 + margin]
    np.testing.assert_array_equal(tile, model.displayed(noise)[0, ..., 0].repeat(16, 0).repeat(16, 1))
    assert "2 stages or more" in refused(capsys, f"show denoising {run} --stages 1")
    assert "at least 1 step" in refused(capsys, f"show denoising {run} --steps 0")
    assert "There is no label 'x'" in refused(capsys, f"show denoising {run} --label x")


def test_stages_are_the_same_in_parts_and_the_last_is_the_sample(run):
    model = sfumato.load(run)
    states = model.stages(5, 2, [0, 1, 4], model.times(4), batch=2)
    assert states.shape == (3, 5, 8, 8, 1)
    assert np.abs(states[-1].astype(int) - model.sample(5, 2)).max() <= 1
    assert np.abs(states.astype(int) - model.stages(5, 2, [0, 1, 4], model.times(4))).max() <= 1


def test_samples_of_all_classes_are_those_of_each_alone(run, capsys):
    assert typed(f"sample {run} --classes -n 2 --out o --npy all.npy --halfway --gif --apng") == 0
    rows = np.load("all.npy").reshape(10, 2, 8, 8, 1)
    assert np.abs(rows[0].astype(int) - rows[7]).max() > 5  # the label is heard
    for label in (0, 7):
        assert typed(f"sample {run} --label {label} -n 2 --out p --npy one.npy") == 0
        assert np.abs(rows[label].astype(int) - np.load("one.npy")).max() <= 1
    classes = ["s0-classes-halfway.png", "s0-classes.apng", "s0-classes.gif", "s0-classes.png"]
    assert sorted(os.listdir("o")) == classes
    assert typed(f"sample {run} -n 2 --out o --halfway") == 0  # drawn alike: they stay together
    assert sorted(os.listdir("o")) == sorted([*classes, "s0-00000.png", "s0-00001.png", "s0-grid.png", "s0-halfway.png"])
    with Image.open("o/s0-classes.apng") as picture:
        assert picture.n_frames == 6  # the still, the noise, and after each of 4 steps
    assert "leave out --label" in refused(capsys, f"sample {run} --classes --label 3")
    assert "leave out --label and --only" in refused(capsys, f"sample {run} --classes --only 3")


def test_half_way_is_after_half_of_the_steps(run):
    model = sfumato.load(run)
    pictures, shown, half = scenes.drawn(model, 3, 0, model.times(5), [None])
    assert len(shown) == 1
    np.testing.assert_array_equal(half, model.displayed(model.stages(3, 0, [2], model.times(5))[0]))
    np.testing.assert_array_equal(shown[0], model.displayed(pictures))
    of_one = scenes.drawn(model, 3, 0, model.times(1), [None])[2]  # half of one step is none
    np.testing.assert_array_equal(of_one, model.displayed(model.stages(3, 0, [0], model.times(1))[0]))


def test_rows_of_labels_need_labels(run):
    model = sfumato.load(run)
    assert model.class_grid(1).height > 10 * 64
    model.denoiser.net.conditions = {}
    for draw in (lambda: model.class_grid(1), lambda: scenes.rows(model, None, None, True)):
        with pytest.raises(UserError, match="trained without"):
            draw()


# words


def test_words_are_listed_and_unknown_ones_refused(run, capsys):
    assert typed("show") == 0
    said = capsys.readouterr().out
    words = [line.split()[0] for line in said.splitlines() if line.startswith("  ")]
    assert words == ["forward", "schedule", "loss", "denoising"]
    assert "Did you mean 'forward'" in refused(capsys, "show forwrd")
    assert "There is no flag --tage" in refused(capsys, f"show denoising {run} --tage 3")


def test_the_schedule_of_a_recipe_is_shown_unless_another_is_named():
    config = Config(schedule=Spec("linear", steps=30))
    assert scenes.chosen_schedule(None, config).steps == 30
    assert scenes.chosen_schedule(Spec("linear", steps=40), config, "39").steps == 40
    with pytest.raises(UserError, match="step numbers from 0 to 29"):
        scenes.chosen_schedule(None, config, "39")
