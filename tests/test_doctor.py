"""`sfumato doctor`: it names what a run was broken by, and is silent on healthy ones."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import sfumato
from sfumato import draws, schedules, toy, trainer
from sfumato.cli import main
from sfumato.config import Config, Settled, with_options
from sfumato.errors import UserError
from sfumato.judge import doctor
from sfumato.judge.doctor import Case, Finding, course, network, pictures, samples, watcher
from sfumato.judge.doctor.case import power
from sfumato.judge.doctor.findings import UNKNOWN, VERDICTS, CannotTell, graded
from sfumato.judge.report import listed
from sfumato.run import Run
from sfumato.training.ema import tensors

from .broken import BROKEN, HEALTHY, Labelled, digits, textures

QUICK = ("wrong sigma_data", "overflow", "T too short")  # of the broken runs, those that cost little
TINY = {"net": "unet:width=8,mults=(1,)", "batch": 50, "precision": "float32", "sampling_steps": 1}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    """A healthy run on digits, and what was found of it."""
    given = HEALTHY["digits"](tmp_path_factory.mktemp("healthy") / "run")
    return given, doctor.examine(**given)


def bad(findings):
    return [finding for finding in findings if finding.bad]


# ---- whole runs ------------------------------------------------------------------------------------------------------


def test_nothing_is_said_of_a_healthy_run(healthy):
    _, found = healthy
    assert bad(found) == []
    assert {finding.check for finding in found} == doctor.CHECKS.keys()
    assert all(finding.verdict == "fine" for finding in found)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HEALTHY if name != "digits"])
def test_nothing_is_said_of_other_healthy_runs(name, tmp_path):
    assert bad(doctor.examine(**HEALTHY[name](tmp_path / "run"))) == []


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in BROKEN])
def test_what_a_run_was_broken_by_comes_first(name, healthy, tmp_path, monkeypatch):
    given = BROKEN[name].make(tmp_path / "run", healthy[0], monkeypatch)
    first = doctor.examine(**given)[0]
    assert first.bad
    assert first.check in BROKEN[name].named
    assert first.cause
    assert first.mend


# ---- what is known without a network ---------------------------------------------------------------------------------


def test_the_linear_filter_is_the_exact_denoiser_of_a_gaussian(monkeypatch):
    """Its error is that measured of the exact denoiser on draws from N(0, s^2), and v / (1 + snr v) in closed form."""
    schedule, std, count = schedules.cosine(), 0.6, 4000
    exact = toy.gaussian(schedule, torch.zeros(1, 4, 4), std)
    x0, t = exact.draw(count), schedule.time(1.0)
    eps = draws.normal(draws.keys(1, "test", range(count)), (1, 4, 4), torch.float64)
    measured = (exact(schedules.diffuse(schedule, x0, t, eps), t) - x0).square().mean().item()
    case = SimpleNamespace(spectrum=power(x0))
    error = Case.gaussian(case, 1.0)
    assert error == pytest.approx(std**2 / (1 + math.e * std**2), rel=5 * math.sqrt(2 / (16 * count)))
    assert measured == pytest.approx(error, rel=5 * math.sqrt(2 / (16 * count)))


def test_the_spectrum_holds_all_variance_and_knows_fine_from_coarse():
    x0 = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 3, 6, 4)))
    assert power(x0).mean() == pytest.approx(x0.square().mean().item(), rel=1e-12)
    flat = power(torch.ones(2, 3, 6, 4))
    assert flat[0, 0, 0] == pytest.approx(3 * 6 * 4)
    assert flat.sum() == pytest.approx(3 * 6 * 4)


def test_samples_with_too_much_noise_are_as_far_as_their_power_says():
    """White noise of twice the deviation: log 4 in all rings, but for the hundredth that is added to both."""
    x0 = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 1, 8, 8)))
    x0 -= x0.mean(0)
    case = SimpleNamespace(x0=x0, spectrum=power(x0), encoded=lambda found: found)
    assert samples._distance(case, 2 * x0) == pytest.approx(math.log(4.01 / 1.01), rel=1e-3)
    assert samples._distance(case, x0) == pytest.approx(0, abs=1e-12)


# ---- pictures --------------------------------------------------------------------------------------------------------


def looked(check, data, **options):
    return check(Case(with_options(Settled(), options), data=data))


def test_labels_are_tried_on_the_pictures():
    found, names = digits()
    assert looked(pictures.labels, Labelled(found, names)).verdict == "fine"
    shuffled = np.random.default_rng(0).permutation(names)
    assert looked(pictures.labels, Labelled(found, shuffled)).verdict == "wrong"
    assert looked(pictures.labels, found).verdict == "fine"  # there are none
    assert looked(pictures.labels, Labelled(found, shuffled % 2)).verdict == "look"  # so may cats and dogs be
    with pytest.raises(CannotTell, match="20 pictures or more of each"):
        looked(pictures.labels, Labelled(found, np.arange(len(names)) % 100))


def test_the_range_of_values():
    found = digits()[0]
    assert looked(pictures.values, found).verdict == "fine"
    assert "size 1" in looked(pictures.values, found, range="0,255").cause
    assert looked(pictures.values, found, range="0,1").verdict == "look"
    hot = found.astype(np.float32)
    hot[::90, 3, 3] = 2000  # the rest fills an eighth of the range
    assert looked(pictures.values, hot).verdict == "look"
    hot[::90, 3, 3] = 1e5
    assert looked(pictures.values, hot).verdict == "wrong"
    case = Case(Settled(), data=found)
    case.facts.codec["high"] = [127.0]  # what config.json says: pictures half as bright
    assert "outside" in pictures.values(case).cause


def test_plain_pictures_repeats_and_few_of_them():
    found = digits()[0]
    assert looked(pictures.contents, found).verdict == "fine"
    found[:5] = 0
    assert looked(pictures.contents, found).verdict == "look"
    found[:40] = 7
    assert looked(pictures.contents, found).verdict == "wrong"
    twice = np.concatenate([digits()[0], digits()[0][:400]])
    assert "by heart" in looked(pictures.contents, twice).cause
    assert looked(pictures.number, found).verdict == "fine"
    assert looked(pictures.number, found[:250]).verdict == "look"


# ---- settings and the log --------------------------------------------------------------------------------------------


def of_log(losses=(), norms=(), held=()):
    records = [{"images": 100 * (i + 1), "loss": float(loss)} for i, loss in enumerate(losses)]
    records += [{"images": 100, "grad_norm": float(norm)} for norm in norms]
    records += [{"images": 100, "held_out_loss": value} for value in held]
    return SimpleNamespace(records=records, config=Settled())


FALLING = [1 / (1 + i) + 0.2 for i in range(60)]


@pytest.mark.parametrize(
    ("losses", "held", "verdict"),
    [
        (FALLING, (), "fine"),
        ([1.0] * 60, (), "wrong"),
        ([0.5] * 3 + FALLING[3:] + [float("nan")], (), "wrong"),
        ([*FALLING, *[0.4] * 20], (), "look"),
        (FALLING, (0.3, 0.2, 0.21), "fine"),
        (FALLING, (0.3, 0.2, 0.26), "look"),
    ],
)
def test_a_loss_that_does_not_fall_or_rises(losses, held, verdict):
    assert course.plateau(of_log(losses, held=held)).verdict == verdict


@pytest.mark.parametrize(
    ("norms", "verdict"),
    [
        ([0.5] * 60, "fine"),
        ([0.5] * 40 + [6.0] * 20, "wrong"),
        ([0.5] * 60 + [60.0], "look"),
        ([0.5] * 59 + [math.inf], "look"),
    ],
)
def test_gradients_that_grow_or_jump(norms, verdict):
    assert course.gradients(of_log(norms=norms)).verdict == verdict


@pytest.mark.parametrize(
    ("schedule", "sd", "verdict"),
    [
        ("linear:steps=1000", 0.5, "fine"), ("linear:steps=300", 0.5, "wrong"), ("linear:steps=300,mended=True", 0.5, "fine"),
        ("linear:steps=600", 0.5, "look"), ("edm", 0.5, "fine"), ("edm", 100.0, "wrong"), ("cosine", 100.0, "fine"),
    ],
)  # fmt: skip
def test_schedules_that_stop_short_of_noise(schedule, sd, verdict):
    config = with_options(Settled(), {"schedule": schedule})
    assert course.noise(SimpleNamespace(config=config, facts=SimpleNamespace(sigma_data=sd))).verdict == verdict


def test_the_half_life_against_the_length_of_the_run():
    config = lambda **options: SimpleNamespace(config=with_options(Settled(), {"images": "100k"} | options))
    assert course.memory_of_average(config()).verdict == "fine"
    assert course.memory_of_average(config(ema="50k")).verdict == "fine"
    assert course.memory_of_average(config(ema="51k")).verdict == "look"


# ---- the network -----------------------------------------------------------------------------------------------------


def of_errors(rows, levels=(-2.0, 0.0, 2.0), **more):
    """A case whose errors by (weights, side) are these, one number for each level."""
    table = {key: torch.tensor(row, dtype=torch.float64)[:, None].expand(-1, 4) for key, row in rows.items()}
    errors = lambda weights="ema", side="held_out": table[weights, side]
    facts = SimpleNamespace(train=100, precision="float32")
    codec = SimpleNamespace(ends=(-1.0, 1.0))
    return SimpleNamespace(errors=errors, levels=list(levels), config=Settled(images=1000), facts=facts, codec=codec, **more)


def test_errors_against_what_is_known_without_training():
    v = np.full((1, 4, 4), 0.25)
    case = lambda *row: of_errors(
        {("ema", "held_out"): row}, spectrum=v, gaussian=lambda level: 0.25 / (1 + math.exp(level) * 0.25)
    )
    exact = [0.25 / (1 + math.exp(level) * 0.25) for level in (-2, 0, 2)]
    for check in (network.constant, network.gaussian, network.peak):
        assert check(case(*exact)).verdict == "fine"
    assert network.constant(case(0.38, *exact[1:])).verdict == "wrong"  # worse than the mean picture
    assert network.gaussian(case(*(1.3 * e for e in exact))).verdict == "look"
    assert network.gaussian(case(*(1.6 * e for e in exact))).verdict == "wrong"
    noisy = math.exp(-2)  # what x_t / alpha is wrong by at log-SNR 2
    assert network.peak(case(*exact[:2], 1.2 * noisy)).verdict == "look"
    assert network.peak(case(*exact[:2], 1.3 * noisy)).verdict == "wrong"
    assert network.finite(case(*exact)).verdict == "fine"
    assert network.finite(case(float("nan"), *exact[1:])).verdict == "wrong"


def test_average_and_raw_held_out_and_training():
    rows = lambda factor: {("ema", "held_out"): [0.1, 0.2, 0.3], ("model", "held_out"): [factor * e for e in (0.1, 0.2, 0.3)]}
    model = SimpleNamespace(images=1000)
    verdicts = [network.averaged(of_errors(rows(factor), model=model)).verdict for factor in (2, 0.9, 0.8, 0.5)]
    assert verdicts == ["fine", "fine", "look", "wrong"]
    rows = lambda factor: {("ema", "held_out"): [0.1, 0.2, 0.3], ("ema", "train"): [factor * e for e in (0.1, 0.2, 0.3)]}
    plan = SimpleNamespace(held_out=[1])
    verdicts = [network.by_heart(of_errors(rows(factor), plan=plan)).verdict for factor in (1.1, 0.9, 0.7, 0.5)]
    assert verdicts == ["fine", "fine", "look", "wrong"]


@pytest.mark.parametrize(
    ("layer", "verdict", "cause"),
    [(nn.Identity(), "fine", ""), (nn.Dropout(0.1), "wrong", "dropout"), (nn.BatchNorm2d(1), "wrong", "BatchNorm")],
)
def test_a_network_in_training_mode(layer, verdict, cause):
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), layer).train()
    denoise = sfumato.denoisers.Denoiser(lambda x, c_noise: net(x), schedules.cosine(), "v", "time")
    x0 = draws.normal(draws.keys(0, "test", range(8)), (1, 8, 8))
    x0 = x0 * torch.linspace(0.1, 3, 8)[:, None, None, None]
    case = SimpleNamespace(model=SimpleNamespace(denoiser=denoise), asked=lambda side: (x0, {}))
    found = network.mode(case)
    assert found.verdict == verdict
    assert cause in found.cause
    net.eval()
    assert network.mode(case).verdict == "fine"


def test_channels_that_were_exchanged():
    """The exact denoiser of coloured waves, asked with red and blue exchanged."""
    schedule = schedules.cosine()
    x0 = torch.from_numpy(textures(300)).permute(0, 3, 1, 2) / 127.5 - 1
    exact = toy.gaussian(schedule, x0.mean(0), x0.std(0))
    case = lambda pictures: SimpleNamespace(
        asked=lambda side: (pictures[:64], {}), levels=[0.0], model=SimpleNamespace(denoiser=exact)
    )
    assert network.channels(case(x0)).verdict == "fine"
    found = network.channels(case(x0.flip(1)))
    assert found.verdict == "wrong"
    assert "(2, 1, 0)" in found.figure


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_limits_and_order():
    verdicts = [graded(value, 1, 2, "f", "c", "m").verdict for value in (0, 1, 1.5, 2, 3, float("nan"))]
    assert verdicts == ["fine", "fine", "look", "look", "wrong", "wrong"]
    found = [Finding(verdict, "") for verdict in ("fine", "look", UNKNOWN, "wrong", "look")]
    assert [f.verdict for f in doctor.ordered(found)] == ["wrong", "look", "look", UNKNOWN, "fine"]
    assert sorted(VERDICTS, key=VERDICTS.index)[0] == "wrong"


def test_a_finding_that_stays_is_said_once(monkeypatch, tmp_path):
    said, run = [], Run(tmp_path)
    watch = watcher.Watch(run, trainer.prepare("digits", Settled()), said.append)
    monkeypatch.setattr(watcher, "made", lambda case, at: [Finding("look", f"{len(case.records)} lines.", check="x")])
    for kind in ("start", "log", "log", "end"):
        watch(SimpleNamespace(kind=kind, record={"images": 1}))
    assert said == ["x: 0 lines."]
    assert listed(run.findings)[0]["figure"] == "2 lines."  # what is kept is the last


def test_the_watcher_speaks_while_a_run_trains_and_changes_nothing(tmp_path, capsys):
    options = TINY | {"images": 1250, "schedule": "linear:steps=50", "predict": "v", "log_every": 50}
    model = sfumato.train("digits", tmp_path / "watched", **options)
    said = capsys.readouterr().out
    assert said.count("noise: At its end the schedule linear:steps=50 leaves") == 1
    run = Run.of(tmp_path / "watched")
    assert [one["check"] for one in listed(run.findings) if one["verdict"] == "wrong"] == ["noise"]
    config = with_options(Config(), options)
    alone = trainer.train("digits", config, Run.of(tmp_path / "alone"))
    for name, weight in tensors(model.denoiser.net).items():
        assert torch.equal(weight, tensors(alone.denoiser.net)[name]), name


def test_the_command_on_pictures_and_on_runs(tmp_path, capsys):
    assert main(["doctor", "digits"]) == 0
    assert "Nothing was found" in capsys.readouterr().out
    np.save("few.npy", digits()[0][:60])
    assert main(["doctor", "few.npy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["check"] == "number"
    assert found[0]["verdict"] == "look"
    sfumato.train("few.npy", tmp_path / "r", quiet=True, images=200, **TINY)
    (tmp_path / "few.npy").unlink()
    assert main(["doctor", str(tmp_path / "r")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "name them by --data" in said
    assert listed(Run.of(tmp_path / "r").findings)[0]["check"] == "number"  # known without the pictures
    np.save("moved.npy", digits()[0][:60])
    assert main(["doctor", str(tmp_path / "r"), "--data", "moved.npy", "--all"]) == 0
    assert "--data" not in capsys.readouterr().out


def test_what_cannot_be_examined_is_said_in_a_sentence(capsys):
    for words in (["nowhere"], ["digits", "--data", "digits"], []):
        assert main(["doctor", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(UserError, match="Expected a run folder"):
        doctor.examine("nowhere")
