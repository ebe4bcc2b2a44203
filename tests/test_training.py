"""Training: exact resume, the average of the weights, the rate, the stream, checkpoints that are whole or not there."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys

import msgspec
import numpy as np
import pytest
import torch

import sfumato
from sfumato import data, draws, trainer
from sfumato import model as model_module
from sfumato import plan as plans
from sfumato.config import Config, Settled, build_schedule, checked
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.training import checkpoint, device, loop
from sfumato.training.device import Placement
from sfumato.training.ema import EMA, tensors
from sfumato.training.stream import Stream

CPU = Placement(torch.device("cpu"))
TINY = {"net": "unet:width=8,dropout=0.2", "batch": 50, "precision": "float32", "sampling_steps": 1}

CHILD = """
import os, signal, sys
from sfumato import trainer
from sfumato.config import checked
from sfumato.run import Run
raw, folder, die = eval(sys.argv[1]), sys.argv[2], int(sys.argv[3])
def kill(event):
    if event.kind == "step" and event.state.images == die:
        os.kill(os.getpid(), signal.SIGKILL)
trainer.train("digits", checked(raw), Run.of(folder), watchers=lambda run, plan: [kill])
"""


def log_without_timing(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("images_per_second", "data_wait")} for line in lines]


@pytest.mark.parametrize("images", [200, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, images):
    """20 equals 8, SIGKILL, 12 more: weights, average, optimizer and log, with labels, dropout and mirroring on."""
    batch = images // 20
    raw = TINY | {"net": "unet:width=8,mults=(1,),dropout=0.2", "images": images, "batch": batch, "flip": True}
    raw |= {"checkpoint_every": 4 * batch, "log_every": 3 * batch, "uncertainty": True, "posthoc": 2}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plan = trainer.prepare("digits", checked(raw))
    plan.fastest(plan.build(), CPU.device)  # once for both: two that measure beside each other may choose differently
    words = [sys.executable, "-c", CHILD, repr(raw), str(killed), str(11 * batch)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        trainer.train("digits", checked(raw), Run.of(whole))  # meanwhile
    assert child.returncode == -signal.SIGKILL
    assert [int(path.name) for path in checkpoint.listed(killed / "checkpoints")] == [4 * batch, 8 * batch]
    trainer.train("digits", checked(raw), Run.of(killed))
    kept = sorted((whole / f"checkpoints/{images:09d}").glob("*.safetensors"), key=lambda file: file.stem)
    assert [file.stem for file in kept] == ["ema", "ema-0.050", "ema-0.100", "model", "optimizer", "uncertainty"]
    kept += sorted((whole / "averages").glob("*/*.safetensors"))
    assert len(kept) == 6 + 2 * 2
    for file in kept:
        assert file.read_bytes() == (killed / file.relative_to(whole)).read_bytes(), file
    assert log_without_timing(whole) == log_without_timing(killed)


def test_training_learns_and_returns_a_model(tmp_path):
    model = sfumato.train("digits", tmp_path / "r", quiet=True, images=1500, **TINY)
    records = Run(tmp_path / "r").records()
    assert records[-1]["held_out_loss"] < 0.9 * records[0]["loss"]
    assert records[-1]["images"] == model.images == 1500
    pictures = model.sample(5, seed=1, steps=3)
    assert pictures.shape == (5, 8, 8, 1)
    assert pictures.dtype == np.uint8
    again = sfumato.load(tmp_path / "r")
    assert np.array_equal(again.sample(5, seed=1, steps=3), pictures)
    assert again.grid(4, steps=2).size[0] > 8
    assert again.strip(seed=3, steps=4).size[0] > 8


def test_ones_own_network_and_arrays(tmp_path):
    class Mine(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x, c_noise):
            return self.conv(x)

    pictures = np.random.default_rng(0).integers(0, 256, (100, 12, 10, 3), dtype=np.uint8)
    sfumato.train(pictures, tmp_path / "r", net=Mine(), quiet=True, images=100, batch=20)
    assert sfumato.load(tmp_path / "r", net=Mine()).sample(2, steps=2).shape == (2, 12, 10, 3)
    with pytest.raises(UserError, match="net=mine"):
        sfumato.load(tmp_path / "r")


def test_average_of_the_weights_has_its_half_life():
    """Constant weights after a jump: the old value's share halves every half-life, once the ramp is over."""
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    ema = EMA(net, half_life=1000, ramp=0.05)
    old = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
    net[1].num_batches_tracked += 7
    for step in range(10):
        ema.update(net, images=10**6 + 100 * step, batch=100)
    torch.testing.assert_close(ema.net[0].weight - old, torch.full((2, 2), 0.5))
    assert ema.net[1].num_batches_tracked == 7
    assert torch.equal(ema.net[1].running_mean, net[1].running_mean)
    net[1].running_mean = torch.full((2,), 3.0)  # another tensor
    ema.update(net, images=10**9, batch=10**6)
    torch.testing.assert_close(ema.net[1].running_mean, torch.full((2,), 3.0))
    early = EMA(net, half_life=1000, ramp=0.05)  # after 200 images the memory is 10 images long
    with torch.no_grad():
        net[0].weight += 1
    before = early.net[0].weight.clone()
    early.update(net, images=200, batch=100)
    torch.testing.assert_close(early.net[0].weight - before, torch.full((2, 2), 1 - 0.5**10))


@pytest.mark.parametrize(("asked", "had"), [(None, 50), (10, 10), (50, 50), (400, 400), (500, 500), (5000, 500)])
def test_the_average_has_the_half_life_that_is_asked_for_at_the_end(asked, had):
    """However long, up to half of the run: more cannot be remembered of it without what it began with."""
    config = Settled(images=1000, ema=asked, batch=10)
    state = loop.start(config, torch.nn.Conv2d(1, 1, 1), build_schedule(config), 0.5, CPU)
    assert state.ema.share(1000, 10) == pytest.approx(1 - 0.5 ** (10 / had))
    assert state.ema.share(100, 10) == pytest.approx(1 - 0.5 ** (10 / min(had, 5 if asked is None else 50)))


@pytest.mark.parametrize("images", [300, 400, 450])
def test_an_older_checkpoint_is_there_however_short_the_run(tmp_path, images):
    """By so many images at least, and by twice as many at most, without waiting ten minutes for it."""
    trainer.train("digits", Config(**TINY, images=images, keep=1, keep_older=100), Run.of(tmp_path / "r"))
    there = [int(path.name) for path in checkpoint.listed(tmp_path / "r" / "checkpoints")]
    assert max(there) == images
    assert any(100 <= images - count <= 200 for count in there)


def test_learning_rate():
    config = checked(Config(images=10_000, lr=2.0, warmup=1000, batch=100))
    assert loop.learning_rate(config, 0) == pytest.approx(0.2)
    assert loop.learning_rate(config, 900) == pytest.approx(2.0 * (0.5 + 0.5 * math.cos(math.pi * 0.09)))
    assert loop.learning_rate(config, 5000) == pytest.approx(1.0)
    assert loop.learning_rate(config, 10_000) == pytest.approx(0)
    constant = checked(Config(images=10_000, lr=2.0, warmup=0, rate="constant"))
    assert {loop.learning_rate(constant, i) for i in (0, 5000, 9999)} == {2.0}
    falling = checked(Config(images=10_000, lr=2.0, warmup=0, rate="inverse_sqrt:after=1000"))
    assert [loop.learning_rate(falling, i) for i in (0, 1000, 4000, 9000)] == pytest.approx([2.0, 2.0, 1.0, 2 / 3])
    longer = checked(Config(images=100_000, lr=2.0, warmup=0, rate="inverse_sqrt:after=1000"))
    assert loop.learning_rate(longer, 9000) == loop.learning_rate(falling, 9000)  # the end need not be known
    by_rule = checked(Config(images=15_000, lr=2.0, warmup=0, rate="inverse_sqrt"))
    assert loop.learning_rate(by_rule, 4000) == pytest.approx(1.0)


def stream(**options):
    images = data.gather(data.open_source("digits"))
    return Stream(
        images,
        data.AffineCodec.fit(images),
        CPU,
        seed=4,
        conditions=["label"],
        **({"flip": True, "label_dropout": 0.3} | options),
    )


def test_the_rate_rises_over_a_fiftieth_of_the_budget_unless_said():
    config = checked(Config(images=10_000, batch=50, rate="constant", lr=1.0))
    assert [loop.learning_rate(config, images) for images in (0, 50, 150, 9_000)] == pytest.approx([0.25, 0.5, 1.0, 1.0])


def test_where_samples_start_and_which_labels_they_get(tmp_path, monkeypatch):
    """The spread of x_1 where the schedule stops short of noise; labels as often as the data has them; options passed on."""
    options = TINY | {"schedule": "linear:steps=50", "predict": "v"}
    model = sfumato.train("digits", tmp_path / "r", images=100, quiet=True, **options)
    alpha, sigma = (c.item() for c in model.denoiser.schedule(1.0))
    expected = math.hypot(alpha * model.facts.sigma_data, sigma)
    assert alpha > 0.5
    assert model.start(torch.arange(2000), 0).std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * 128_000))
    shares = torch.tensor(model.facts.label_counts) / sum(model.facts.label_counts)
    drawn = torch.bincount(model.label_numbers(None, torch.arange(4000), 0), minlength=10) / 4000
    torch.testing.assert_close(drawn, shares, rtol=0, atol=5 * math.sqrt(0.1 * 0.9 / 4000))
    seen, sample = {}, model_module.samplers.sample
    monkeypatch.setattr(model_module.samplers, "sample", lambda *a, **kw: seen.update(kw) or sample(*a, **kw))
    model.sample(1, threshold=0.9, steps=1)
    assert seen["threshold"] == 0.9


def test_the_stream_does_not_depend_on_the_batch():
    whole, cond = stream().batch(torch.arange(8000, 8400))  # across a block and several epochs
    for size in (1, 7, 64):
        s = stream()
        parts = [s.batch(part) for part in torch.arange(8000, 8400).split(size)]
        assert torch.equal(torch.cat([x0 for x0, _ in parts]), whole)
        assert torch.equal(torch.cat([c["label"] for _, c in parts]), cond["label"])


def test_the_stream_shows_every_picture_once_an_epoch():
    s = stream()
    n = len(s.images)
    assert sorted(s.order(torch.arange(n)).tolist()) == list(range(n))
    withheld = (s.batch(torch.arange(n))[1]["label"] == 10).double().mean().item()
    assert withheld == pytest.approx(0.3, abs=5 * (0.21 / n) ** 0.5)
    plain, mirrored = (stream(flip=flip).batch(torch.arange(n))[0] for flip in (False, True))
    same = (plain == mirrored).flatten(1).all(1)
    assert torch.equal(mirrored[~same], plain[~same].flip(-1))
    assert same.double().mean().item() == pytest.approx(0.5, abs=0.07)


def test_accumulation_changes_nothing_but_memory(tmp_path):
    """The same images, noise and times in 1 part and in 5: the same weights, to rounding."""
    weights = []
    for accumulate in (1, 5):
        raw = TINY | {"net": "unet:width=8", "images": 150, "accumulate": accumulate}
        model = sfumato.train("digits", tmp_path / str(accumulate), quiet=True, **raw)
        weights.append(model.denoiser.net.net.leave.weight)
    torch.testing.assert_close(*weights, rtol=2e-3, atol=1e-5)


def test_the_variance_is_learned_beside_the_prediction(tmp_path):
    """The network gets a second set of channels, which reach ddpm; shift is noise added at every time."""
    options = TINY | {"schedule": "linear:steps=50,mended=True", "predict": "v", "times": "steps", "variance_weight": 0.001}
    model = sfumato.train("digits", tmp_path / "r", images=400, shift=2.0, quiet=True, **options)
    d = model.denoiser
    assert d.schedule.log_snr(0.5) == pytest.approx(
        sfumato.schedules.linear(steps=50, mended=True).log_snr(0.5) - 2 * math.log(2)
    )
    x0, fraction = d.guess(torch.zeros(2, 1, 8, 8), 0.5)
    assert x0.shape == fraction.shape == (2, 1, 8, 8)
    assert (fraction - 0.5).abs().max() > 1e-4  # it began at 1/2, where the network's output is 0
    assert sfumato.load(tmp_path / "r").sample(2, solver="ddpm:variance=learned", steps=4).shape == (2, 8, 8, 1)


def test_losses_by_band_average_to_the_loss(tmp_path):
    sfumato.train("digits", tmp_path / "r", quiet=True, images=200, log_every=50, **TINY)
    for record in Run(tmp_path / "r").records():
        assert min(record["loss_bands"].values()) <= record["loss"] <= max(record["loss_bands"].values())


def test_a_loss_that_is_not_a_number_stops_the_run_by_a_sentence(tmp_path):
    raw = TINY | {"lr": 1e12, "images": 1000, "checkpoint_every": 100, "clip": None, "warmup": 0}
    with pytest.raises(UserError, match="lower rate"):
        sfumato.train("digits", tmp_path / "r", quiet=True, **raw)
    assert checkpoint.listed(tmp_path / "r" / "checkpoints") == []


def test_the_fastest_placement_wins_through_noise_and_the_plain_one_wins_ties():
    def measured(*seconds):
        values = iter((9.0, *seconds))  # the first call of each is a warm-up
        return lambda: next(values)

    assert device.fastest([measured(2, 2, 2, 2, 2), measured(2.5, 1, 1, 1, 1)])[0] == 1
    assert device.fastest([measured(1, 1, 1, 1, 1), measured(0.97, 0.97, 0.97, 0.97, 0.97)])[0] == 0
    assert device.fastest([measured(1, 1, 1, 1, 1), measured(1.6)])[0] == 0  # far behind: not asked again
    assert device.fastest([measured(1, 1, 1, 1, 1), iter((36.1,)).__next__])[0] == 0  # nor that, after its first call
    assert device.fastest([measured(3, 3), measured(2.9, 2)])[0] == 1  # after two rounds, which took more than 5 seconds


def test_a_run_that_is_gone_on_with_is_not_measured_again(tmp_path, monkeypatch):
    sfumato.train("digits", tmp_path / "r", quiet=True, images=50, **TINY)
    monkeypatch.setattr(plans, "choose", None)  # who called it would fail
    with pytest.raises(UserError, match="batch was 50, now 25"):
        sfumato.train("digits", tmp_path / "r", quiet=True, images=100, **TINY | {"batch": 25})
    with pytest.raises(UserError, match="trained on other pictures"):
        sfumato.train(np.zeros((90, 8, 8, 1), np.uint8) + np.arange(90, dtype=np.uint8)[:, None, None, None], tmp_path / "r",
                      quiet=True, images=100, **TINY)  # fmt: skip
    assert sfumato.train("digits", tmp_path / "r", quiet=True, images=100, **TINY).images == 100


def test_the_choice_is_remembered_for_machine_and_network(tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    asked = []
    step = lambda net, placement: asked.append(placement)
    choose = lambda name: device.choose(step, torch.nn.Linear(1, 1), torch.device("cpu"), "auto", name)
    first = choose("a")
    assert len({(p.precision, p.channels_last, p.by_layer) for p in asked}) == 8
    asked.clear()
    assert choose("a") == first
    assert asked == []
    choose("b")
    assert asked
    (tmp_path / "cache" / "placements.json").write_text("not json")  # a damaged cache is measured again
    asked.clear()
    choose("a")
    assert asked


# ---- checkpoints -----------------------------------------------------------------------------------------------------


PARTS = ("model", "ema", "optimizer")


def saved(tmp_path, *images):
    for count in images:
        checkpoint.save(tmp_path, count, {name: {"w": torch.full((3,), float(count))} for name in PARTS}, {"note": count})


def test_checkpoints_round_trip_and_are_pruned(tmp_path):
    saved(tmp_path, 100, 200, 300)
    found = checkpoint.newest(tmp_path)
    assert found.state["note"] == 300
    assert torch.equal(found.tensors["model"]["w"], torch.full((3,), 300.0))
    (tmp_path / ".000000400.1").mkdir()  # what a killed writer leaves
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000200", "000000300"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove file", "remove state", "garble state", "empty state"])
def test_a_broken_checkpoint_gives_way_to_the_older_one_and_says_so(tmp_path, damage):
    saved(tmp_path, 100, 200)
    file, state = tmp_path / "000000200" / "model.safetensors", tmp_path / "000000200" / "state.json"
    if damage == "truncate":
        os.truncate(file, 60)
    elif damage == "flip":
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "remove file":
        file.unlink()
    elif damage == "remove state":
        state.unlink()
    else:
        state.write_text("{" if damage == "garble state" else "{}")
    found = checkpoint.newest(tmp_path)
    assert found.state["note"] == 100
    assert len(found.notes) == 1
    assert "older checkpoint is used" in found.notes[0]
    shutil.rmtree(tmp_path / "000000100")
    with pytest.raises(UserError, match="--run NEW"):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [("missing", "ema.safetensors is missing"), ("{}", "state.json is not what was written"), ("[", "is not what was written")],
)
def test_a_broken_checkpoint_is_described_in_words(tmp_path, damage, words):
    saved(tmp_path, 100)
    folder = tmp_path / "000000100"
    if damage == "missing":
        (folder / "ema.safetensors").unlink()
    else:
        (folder / "state.json").write_text(damage)
    with pytest.raises(UserError, match=words) as refused:
        checkpoint.newest(tmp_path)
    assert "Error" not in str(refused.value)


def test_prepare_tells_what_it_found():
    plan = trainer.prepare("digits", checked(Config()))
    assert plan.facts.shape == (1, 8, 8)
    assert plan.facts.train + plan.facts.held_out == 1797
    assert plan.facts.label_names == tuple("0123456789")
    x0 = data.AffineCodec(**plan.facts.codec).encode(plan.train.batch(range(len(plan.train)))["image"])
    assert plan.facts.sigma_data == pytest.approx(x0.std().item(), abs=1e-4)
    assert {*map(bytes, plan.train.array)}.isdisjoint({*map(bytes, plan.held_out.array)})


def test_a_hot_pixel_in_a_held_out_picture_leaves_a_deviation_above_zero():
    """It sets the range, of which all others have but a millionth, and a deviation has four digits, not four decimals."""
    found = []
    for hot in range(20):  # one in 20 is held out
        x = np.random.default_rng(0).normal(1, 0.1, (20, 8, 8)).astype(np.float32)
        x[hot, 4, 4] = 1e5
        found.append(trainer.prepare(x, checked(Config(images=16))).facts.sigma_data)
    assert 1e-7 < min(found) < 1e-5 < max(found)


class Normalised(torch.nn.Module):
    """A network that knows no label and normalises over the batch."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 1, 3, padding=1)
        )

    def forward(self, x, c_noise):
        return self.layers(x)


def test_labels_of_the_data_are_left_out_where_the_network_knows_none(tmp_path):
    model = sfumato.train("digits", tmp_path / "r", net=Normalised(), quiet=True, images=100, batch=50)
    assert model.labels is None
    assert model.config.facts.label_names is not None
    with pytest.raises(UserError, match="without labels"):
        model.sample(1, label=3)


def test_a_network_with_shared_weights_is_saved_once_and_averaged_once(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Conv2d(1, 1, 3, padding=1)
            self.second = self.first

        def forward(self, x, c_noise):
            return self.second(self.first(x))

    sfumato.train("digits", tmp_path / "r", net=Tied(), quiet=True, images=40, batch=20)
    loaded = sfumato.load(tmp_path / "r", net=Tied())
    assert set(tensors(loaded.denoiser.net.net)) == {"first.weight", "first.bias"}
    net = Tied()
    ema = EMA(net, half_life=100)
    before = net.first.weight.detach().clone()
    with torch.no_grad():
        net.first.weight += 1
    ema.update(net, images=10**6, batch=100)
    torch.testing.assert_close(ema.net.first.weight, before + 0.5)


def test_sampling_tells_the_noise_level_as_training_did(tmp_path):
    raw = TINY | {"schedule": "linear", "predict": "v", "images": 50}
    model = sfumato.train("digits", tmp_path / "r", quiet=True, **raw)
    assert model.denoiser.c_noise == model.config.c_noise == "log_snr"
    assert Run(tmp_path / "r").config().c_noise == "log_snr"  # what was told is stored,
    Run(tmp_path / "r").write_config(msgspec.structs.replace(model.config, c_noise=None))  # and runs from before it was
    assert sfumato.load(tmp_path / "r").denoiser.c_noise == "log_snr"  # are still read
    assert sfumato.train("digits", tmp_path / "r", quiet=True, **raw).images == 50  # and resumed


def test_held_out_loss_sees_all_classes():
    """The held-out part lists class after class; the pictures that are judged are drawn from all of it."""
    images = data.gather(data.open_source("digits"))
    by_class = images.subset(np.argsort(images.labels, kind="stable"))
    some = draws.shuffle(0, "held-out", torch.arange(256), len(by_class))
    assert by_class.batch(some)["label"].unique().tolist() == list(range(10))


def test_batchnorm_statistics_are_averaged_and_used_in_sampling(tmp_path):
    """The average's running mean follows the network's; sampling neither changes it nor depends on the batch."""
    said = []
    config = checked(Config(images=200, batch=50, accumulate=2, precision="float32"))
    model = trainer.train("digits", config, Run(tmp_path / "r"), Normalised(), say=said.append)
    assert any("normalises over the batch" in text for text in said)
    norm = model.denoiser.net.net.layers[1]
    before = norm.running_mean.clone()
    assert before.abs().max() > 0
    assert norm.num_batches_tracked == 8
    one, two = model.sample(2, steps=2, batch=1), model.sample(2, steps=2, batch=2)
    assert np.abs(one.astype(int) - two.astype(int)).max() <= 1
    assert torch.equal(before, norm.running_mean)


def test_data_is_opened_once_and_after_the_settings(tmp_path, monkeypatch):
    opened, said = [], []
    monkeypatch.setattr(trainer, "open_source", lambda name, *more: opened.append(name) or data.open_source(name, *more))
    for wrong in ({"net": "unet:width=0"}, {"optimizer": "adamw:betas=(2,3)"}, {"weight": "min_snr:g=-1"}, {"batch": 0}):
        with pytest.raises(UserError):
            trainer.train("digits", Config(**wrong), None, say=said.append)
    assert opened == said == os.listdir(tmp_path) == []
    trainer.train("digits", Config(**TINY, images=50), None, say=said.append)
    assert opened == ["digits"]
    assert said[0] == "runs/digits-default"
