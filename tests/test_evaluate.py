"""`sfumato evaluate`: samples are compared with real pictures, drawn once however often it is asked, and copies are told."""

import json
import threading

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import sfumato
from sfumato.cli import main
from sfumato.errors import UserError
from sfumato.judge import drawn as parts
from sfumato.judge.drawn import drawn
from sfumato.judge.evaluate import evaluate, write
from sfumato.judge.memory import copying
from sfumato.judge.metrics.neighbours import copies
from sfumato.judge.networks import own
from sfumato.run import Run
from sfumato.training import checkpoint

TINY = {"net": "unet:width=8,mults=(1,)", "batch": 50, "precision": "float32", "sampling_steps": 2, "quiet": True}


class Known(nn.Module):
    """The exact denoiser of some pictures (K, 1, 8, 8) with a little noise: a network that has them by heart."""

    c_noise = "log_snr"

    def __init__(self, pictures, deviation):
        super().__init__()
        self.pictures = nn.Parameter(torch.as_tensor(pictures, dtype=torch.float32).flatten(1), requires_grad=False)
        self.deviation, self.unused = deviation, nn.Parameter(torch.zeros(()))

    def forward(self, x, c_noise):
        log_snr = -8 * c_noise.double()[:, None]  # c_noise = ln(sigma / alpha) / 4
        alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()  # of x_t / r
        variance = (alpha * self.deviation) ** 2 + sigma**2
        away = x.double().flatten(1)[:, None] - alpha[..., None] * self.pictures  # (B, K, 64)
        share = (-(away**2).sum(2) / (2 * variance)).softmax(1)  # (B, K)
        nearest = (share[..., None] * self.pictures).sum(1)
        slope = alpha * self.deviation**2 / variance
        guess = nearest + slope * (x.double().flatten(1) - alpha * nearest)
        return guess.reshape(x.shape).to(x.dtype) + 0 * self.unused


@pytest.fixture(autouse=True)
def _few(monkeypatch, tmp_path):
    monkeypatch.setattr(own, "SEEN", (640, 640))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate") / "r"
    sfumato.train("digits", folder, images=200, **TINY)
    return folder


def digits():
    return (load_digits().images * 255 / 16).round().astype(np.uint8)  # (1797, 8, 8)


# ---- copies ----------------------------------------------------------------------------------------------------------


def test_a_network_that_remembers_its_pictures_is_told_from_one_that_does_not():
    some = digits()
    train, held_out, new = some[:400, ..., None], some[400:800, ..., None], some[800:, ..., None]
    random = np.random.default_rng(0)
    sixteen = train[random.integers(0, 16, 200)]
    assert copying(copies(sixteen, train, held_out))
    assert copying(copies(np.clip(sixteen + random.integers(-3, 4, sixteen.shape), 0, 255).astype(np.uint8), train, held_out))
    assert not copying(copies(new[:200], train, held_out))


def judged(known):
    """What is found of a network that has pictures by heart, in a run on 640 digits with 160 held out."""
    net = Known(known.astype(np.float32) / 127.5 - 1, 0.05)
    given = dict(images=20, batch=20, held_out=0.2, predict="image", solver="dpmpp_2m")
    model = sfumato.train("digits.npy", "r", net=net, quiet=True, **given)
    return model, evaluate(model, n=250, named=nn.Flatten())


def value(found, name):
    """One number of an evaluation."""
    return next(row.value for row in found.groups["distances"] if row.name == name)


def test_a_network_that_knows_its_pictures_by_heart_is_warned_of():
    np.save("digits.npy", digits()[:800])
    plan = sfumato.trainer.prepare("digits.npy", sfumato.config.Config(held_out=0.2))
    _, found = judged(plan.train.array[:16])
    assert [row.value for row in found.groups["copies"]] == [1, 1]
    assert any("Warning" in sentence for sentence in found.said)
    assert value(found, "recall") < 0.3  # sixteen pictures are not what the data is


def test_one_that_draws_others_is_not_and_is_told_from_other_data():
    np.save("digits.npy", digits()[:800])
    np.save("inverted.npy", 255 - digits()[800:])
    model, near = judged(digits()[800:1200, None])
    assert all(row.value < 0.12 for row in near.groups["copies"])
    assert not any("Warning" in sentence for sentence in near.said)
    assert value(near, "recall") > 0.6
    far = evaluate(model, "inverted.npy", n=250, named=nn.Flatten())
    assert abs(value(near, "kernel")) < 0.1 < 1 < value(far, "kernel")  # other writers wrote the second half
    assert "distances of held-out pictures" in near.groups
    assert "distances of held-out pictures" not in far.groups
    assert far.groups["copies"]  # against the run's own pictures, whatever samples are compared with
    assert write(Run(model.path), near)[1].name == "closest.png"


def test_a_run_on_an_array_is_judged_by_that_array():
    net = Known(digits()[:300, None].astype(np.float32) / 127.5 - 1, 0.05)
    array = digits()[:300, ..., None]
    model = sfumato.train(array, "r", net=net, images=20, batch=20, held_out=0.2, predict="image", quiet=True)
    with pytest.raises(UserError, match="name them as data"):
        evaluate(model, n=20, named=nn.Flatten())
    assert "copies" in evaluate(model, array, n=20, named=nn.Flatten()).groups
    assert "copies" not in evaluate(model, 255 - array, n=20, named=nn.Flatten()).groups


def test_a_run_with_a_budget_in_epochs_of_one_class_is_compared_with_other_pictures():
    np.savez("digits.npz", images=digits()[:400], labels=load_digits().target[:400])
    np.save("others.npy", digits()[800:1200])
    raw = {name: value for name, value in TINY.items() if name != "net"}
    net = Known(digits()[:300, None].astype(np.float32) / 127.5 - 1, 0.05)
    model = sfumato.train("digits.npz", "r", net=net, epochs=1.0, only_class="3", predict="image", **raw)
    assert value(evaluate(model, "others.npy", n=20, named=nn.Flatten()), "kernel") > 0


# ---- samples that are drawn once -------------------------------------------------------------------------------------


def counting(model):
    """How many samples a model draws from now on, in a list that grows."""
    asked, sample = [], model.sample
    model.sample = lambda n, *args, **options: (asked.append(n), sample(n, *args, **options))[1]
    return asked


def flat(pictures):
    return pictures.reshape(len(pictures), -1).astype(np.float32)


def test_what_was_drawn_is_not_drawn_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 20)
    monkeypatch.setattr(parts, "KEPT", 60)
    model = sfumato.load(run)
    asked = counting(model)
    few = drawn(model, flat, "flat", 30, 0, tmp_path)
    assert asked == [20, 10]
    assert few.mean == pytest.approx(few.features.mean(), rel=1e-6)
    more = drawn(model, flat, "flat", 90, 0, tmp_path)
    assert asked[2:] == [20, 20, 20, 10]  # the part that was begun is drawn anew
    some = drawn(model, flat, "flat", 50, 0, tmp_path)
    assert len(asked) == 6
    np.testing.assert_array_equal(some.features, more.features[:50])
    assert some.mean == pytest.approx(some.features.mean(), rel=1e-6)
    np.testing.assert_array_equal(more.features[:30], few.features)
    alone = model.sample(90, seed=0)
    np.testing.assert_allclose(more.features, flat(alone), atol=1)  # of 255
    np.testing.assert_array_equal(more.pictures, more.features[:60].reshape(60, 8, 8, 1))
    np.testing.assert_array_equal(more.labels, model.label_numbers(None, torch.arange(90), 0).numpy())
    assert more.mean == pytest.approx(more.features.mean(), rel=1e-6)
    assert more.deviation == pytest.approx(more.features.std(), rel=1e-6)
    worse = lambda: {"guidance": 2.0, "worse": sfumato.load(run)}  # the same, opened twice
    drawn(model, flat, "flat", 20, 0, tmp_path, steps=2, solver=model.config.solver_of())  # what the run does by itself
    assert len(asked) == 7
    for other in ({"steps": 1}, {"solver": "euler"}, {"guidance": 2.0}, worse()):  # other samples, other files
        before = len(asked)
        drawn(model, flat, "flat", 20, 0, tmp_path, **other)
        assert len(asked) == before + 1
    drawn(model, flat, "flat", 20, 0, tmp_path, **worse())
    assert len(asked) == before + 1


def test_those_who_ask_together_share_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 10)
    monkeypatch.setattr(parts, "LOOK", 0.01)
    models = [sfumato.load(run) for _ in range(3)]
    asked, found = [counting(model) for model in models], {}
    ask = lambda k: found.update({k: drawn(models[k], flat, "flat", 120, 0, tmp_path).features})
    threads = [threading.Thread(target=ask, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, asked)) == 12  # each part once
    assert min(map(len, asked)) > 0
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_command_prints_keeps_and_goes_on(run, capsys):
    assert main(["evaluate", str(run), "-n", "60"]) == 0
    text = capsys.readouterr().out
    assert all(
        word in text for word in ("kernel", "frechet", "coverage", "near copies", "log-SNR", "in the data", "report.html")
    )
    kept = json.loads(Run(run).evaluation.read_text())
    assert main(["evaluate", str(run), "-n", "60", "--json", "--likelihood", "4"]) == 0
    again = json.loads(capsys.readouterr().out)
    both = [[row for row in rows if row["group"] != "likelihood"] for rows in (kept, again)]
    assert both[0] == both[1]
    assert len([row for row in again if row["group"] == "likelihood"]) == 2
    assert {row["samples"] for row in kept if row["group"] == "distances"} == {60}
    assert "kernel" in Run(run).report.read_text()


def test_what_is_judged_is_what_the_flags_name(run, capsys):
    worse = Run(run).checkpoints / f"{sfumato.load(run).images:09d}"
    guided = f"--guidance 2 --interval 0.5,3 --checkpoint {sfumato.load(run).images} --worse {worse}"
    there = {"guidance": 2.0, "interval": (0.5, 3.0), "worse": sfumato.load(run)}
    for flags, weights, options in ((guided, "ema", there), ("--raw", "model", {})):
        assert main(["evaluate", str(run), "-n", "20", "--json", *flags.split()]) == 0
        means = [row["value"] for row in json.loads(capsys.readouterr().out) if row["name"] == "mean"]
        drawn = sfumato.load(run, weights=weights).sample(20, 0, **options)
        np.testing.assert_allclose(means, drawn.mean(), rtol=1e-6)
    assert main(["evaluate", str(run), "--raw", "--ema", "0.1"]) == 2
    assert "type one of them" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(60, 8, 12, 5), (7, 9, 8, 1)], ids=["5 channels, wide", "7 pictures"])
def test_any_channels_any_shape_few_pictures(shape):
    np.save("odd.npy", np.random.default_rng(0).integers(0, 4000, shape).astype(np.uint16))
    model = sfumato.train("odd.npy", "r", images=20, **(TINY | {"batch": 5}))
    found = evaluate(model, n=20)
    counts = {(row.samples, row.reference) for row in found.groups["distances"]}
    assert counts == {(20, model.facts.train)}
    assert len(found.groups["channels"]) == 2 * shape[3]
    assert json.dumps(found.records(), allow_nan=False)  # what could not be told is null, not NaN


def test_what_cannot_be_judged_is_refused(run, capsys):
    assert main(["evaluate", str(run), "-n", "1"]) == 2
    assert "At least 2 samples" in capsys.readouterr().err
    assert main(["evaluate", "nowhere"]) == 2
    assert main(["evaluate", str(run), "--features", "incepton:file"]) == 2
    assert "inception:FILE" in capsys.readouterr().err
    with pytest.raises(UserError, match="no file or folder"):
        evaluate(sfumato.load(run), "nothing-here", n=10)
    with pytest.raises(UserError, match="guidance above 1"):  # before there is any need of pictures
        evaluate(sfumato.load(run), "nothing-here", n=10, guidance=1.0, interval=(0.2, 3.0))


# ---- the best checkpoint ---------------------------------------------------------------------------------------------


def test_the_best_is_chosen_by_the_samples_if_asked(tmp_path, monkeypatch):
    from sfumato.judge import best

    monkeypatch.setattr(best, "SAMPLES", 20)
    monkeypatch.setattr(best.Share, "allows", lambda self: True)  # however long it takes
    values = iter((0.5, 0.2, 0.3))
    monkeypatch.setattr(best.kernel, "estimates", lambda made, real: [type("Row", (), {"value": next(values)})])
    sfumato.train("digits", "r", images=150, checkpoint_every=50, best="kernel", **TINY)
    assert json.loads((tmp_path / "r/checkpoints/best.json").read_text()) == {"images": 100, "kernel_distance": 0.2}
    assert {path.name for path in checkpoint.listed(tmp_path / "r/checkpoints")} == {"000000100", "000000150"}
    assert sfumato.load("r", at="best").images == 100
    assert checkpoint.told(tmp_path / "r/checkpoints") == (
        "The best checkpoint by kernel distance is that after 100 images (--checkpoint best)."
    )
    checkpoint.compare(tmp_path / "r/checkpoints", 150, 0.1, "kernel_distance")
    assert not checkpoint.told(tmp_path / "r/checkpoints")
