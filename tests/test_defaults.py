"""What is left to rules: given settings stay, choices follow the budget, and a run that is gone on with keeps them."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from sfumato import defaults, trainer
from sfumato.cli import main
from sfumato.config import Config, Facts, Settled, build_schedule, builtins, checked
from sfumato.denoisers import Denoiser
from sfumato.losses import gain
from sfumato.run import Run
from sfumato.schedules import DENSITIES
from sfumato.spec import Spec, choose

NETWORK = list(defaults.RULES).index("net")  # of the reasons, where nothing was said
CODEC = {"low": [0.0], "high": [255.0], "dtype": "uint8", "ends": [-1.0, 1.0]}


def known(shape=(1, 28, 28), train=57_000, **options):
    facts = Facts(data="d", fingerprint="", train=train, held_out=0, shape=shape, codec=CODEC, sigma_data=0.5)
    return checked(Config(facts=facts, **options))


def quick(config):
    return 1e6


def width(**options):
    return defaults.settle(known(**options), quick)[0].net.kw["width"]


def test_what_is_said_stays():
    said = dict(net=Spec("unet", width=24), schedule=Spec("cosine"), weight=Spec("v"), times=Spec("uniform"), batch=48, lr=3e-3)
    config, reasons = defaults.settle(known(images=1_000_000, **said), quick)
    assert isinstance(config, Settled)
    assert {name: getattr(config, name) for name in said} == said
    assert reasons == []
    for name, value in said.items():  # one of them alone
        config, reasons = defaults.settle(known(images=50_000, **{name: value}), quick)
        assert getattr(config, name) == value
        assert len(reasons) == len(defaults.RULES) - 1 + 1  # and one for the average


def test_a_wider_network_for_more_images():
    """A network is chosen from as many images on as it has squared channels, in those of the narrowest."""
    least, first = defaults.NEEDED[1], defaults.WIDTHS[0]
    assert width(images=least // 10) == first  # there is none narrower
    for narrower, wide in zip(defaults.WIDTHS, defaults.WIDTHS[1:], strict=False):
        needed = round(least * wide**2 / first**2)
        batch = 1  # so that images are not rounded to batches
        assert width(images=needed - 1, batch=batch) == narrower
        assert width(images=needed, batch=batch) == wide
    assert width(images=10**9) == defaults.WIDTHS[-1]
    assert width(epochs=2.0) == width(images=2 * 57_000) == width(steps=2 * 57_000 // 16)


def test_what_a_time_allows():
    """1,000 images a second at width 32, a quarter of that at 64: measured only as far as need be."""
    asked = []

    def speed(config):
        asked.append(config.net.kw["width"])
        return 1000 * (32 / asked[-1]) ** 2

    for seconds, expected in ((1.0, 32), (200.0, 48), (600.0, 64), (1e6, defaults.WIDTHS[-1])):
        asked.clear()
        config, reasons = defaults.settle(known(time=seconds), speed)
        allowed = [
            w for w in defaults.WIDTHS if 1000 * defaults.STEPS * seconds * (32 / w) ** 2 >= defaults.NEEDED[1] * (w / 32) ** 2
        ]
        assert config.net.kw["width"] == max([32, *allowed]) == expected
        assert asked == [w for w in defaults.WIDTHS if w <= expected] + [w for w in defaults.WIDTHS if w > expected][:1]
        assert config.images is None  # that is measured with the network chosen
        assert f"Network {config.net}" in reasons[NETWORK]


@pytest.mark.parametrize("given", [{}, {"images": 1_000_000}, {"epochs": 1e6 / 57_000}])
def test_what_three_hours_allow_where_the_budget_is_no_time(given):
    """A million images, 2,000 a second at width 32, fewer by the fourth power of the width: 10 minutes, 2.8 hours at 64."""
    speed = lambda config: 2000 * (32 / config.net.kw["width"]) ** 4
    hours = lambda width: 1e6 / defaults.STEPS / 2000 * (width / 32) ** 4 / 3600
    config, reasons = defaults.settle(known(**given), speed)
    assert hours(64) < defaults.PATIENCE < hours(96)
    assert config.net.kw["width"] == 64
    assert f"would take {hours(96):.0f} hours" in reasons[NETWORK]
    assert (
        defaults.settle(known(**given), lambda config: 0.1)[0].net.kw["width"] == defaults.WIDTHS[0]
    )  # there is none narrower
    config, reasons = defaults.settle(known(**given), lambda config: 1e6 * (config.net.kw["width"] < 64))
    assert config.net.kw["width"] == 48
    assert "width 64 does not fit into the memory" in reasons[NETWORK]


def test_where_nothing_is_measured_a_time_allows_the_narrowest():
    config, reasons = defaults.settle(known(time=1e6), None)
    assert config.net.kw["width"] == defaults.WIDTHS[0]
    assert "would have to be measured" in reasons[NETWORK]
    assert defaults.settle(known(images=10**9), None)[0].net.kw["width"] == defaults.WIDTHS[-1]


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (8, (1, 2)),
        (16, (1, 2)),
        (28, (1, 2, 2)),
        (32, (1, 2, 2)),
        (33, (1, 2, 2)),
        (64, (1, 2, 2)),
        (99, (1, 2, 2, 2)),
        (128, (1, 2, 2, 2)),
    ],
)
def test_halved_until_eight_pixels_are_left(side, expected):
    folded = defaults.patch((1, side, 4), 64)
    assert folded == (1 if side <= 32 else 2)
    assert defaults.levels((1, side, 4), folded) == defaults.levels((1, 4, side), folded) == expected
    inside = side / folded / 2 ** (len(expected) - 1)
    assert 4 <= inside <= 8.5


@pytest.mark.parametrize(
    ("shape", "narrow", "wide"),
    [((1, 32, 32), 1, 1), ((1, 33, 8), 2, 2), ((3, 16, 16), 1, 1), ((3, 32, 32), 1, 2), ((3, 33, 32), 2, 2)],
)
def test_colour_is_folded_sooner_than_gray_by_networks_wide_enough_for_it(shape, narrow, wide):
    for width, images, side in ((32, defaults.NEEDED[2], narrow), (64, 4 * defaults.NEEDED[wide], wide)):
        net = defaults.settle(known(shape=shape, images=images, batch=1), quick)[0].net
        assert (net.kw["width"], net.kw["patch"]) == (width, side)
        inside = max(shape[1:]) / side / 2 ** (len(net.kw["mults"]) - 1)
        assert 4 < inside <= 8.5


def test_noise_drowns_the_mean_of_every_picture_as_deep_as_edm_drowns_that_of_64_pixels():
    """sigma / d, the noise of a mean over a side of d pixels, where sampling starts."""
    sigma = lambda side: build_schedule(defaults.settle(known(shape=(1, side, 4), images=1), None)[0])(1.0)[1].item()
    for side in (28, 32, 48, 64, 128, 512):
        assert sigma(side) / side == pytest.approx(80 / 64)
    assert sigma(8) == sigma(28)


def test_noise_ends_in_proportion_to_a_faint_contrast():
    """Where it begins it has a mean to drown, which may lie anywhere in the range whatever the contrast."""

    def ends(deviation):
        facts = msgspec.structs.replace(known().facts, sigma_data=deviation)
        return defaults.settle(msgspec.structs.replace(known(images=1), facts=facts), None)[0].schedule.kw

    assert ends(1.0) == ends(0.5)
    assert ends(0.005) == ends(0.5) | {"sigma_min": pytest.approx(ends(0.5)["sigma_min"] / 100)}


def test_the_noise_of_training_is_as_wide_as_the_pictures():
    """Pictures of any contrast are noised as deep: sigma / sigma_data has one distribution."""
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)

    def relative(deviation):
        facts = msgspec.structs.replace(known().facts, sigma_data=deviation)
        config = defaults.settle(msgspec.structs.replace(known(images=1), facts=facts), None)[0]
        schedule = build_schedule(config)
        return schedule(choose(DENSITIES, config.times, "density")(schedule, u))[1] / deviation

    torch.testing.assert_close(relative(0.25), relative(0.5), rtol=0.005, atol=0)  # the mean has two digits
    torch.testing.assert_close(relative(0.7071), relative(0.5), rtol=0.005, atol=0)
    assert relative(0.5)[9].item() == pytest.approx(math.exp(-0.8) / 0.5)


@pytest.mark.parametrize("d", [128, 256])
def test_large_pictures_are_drawn_with_all_of_their_mean(d):
    """The solver's answer for means of deviation m, exactly: Gaussian noise of sigma / d is left of a start at sigma.

    A probability flow keeps the quantile, so that the deviation drawn is m sigma / sqrt(sigma^2 + (m d)^2): of 0.3 all but 3 %.
    """
    config = defaults.settle(known(shape=(1, d, d), images=1), None)[0]
    sigma = build_schedule(config)(1.0)[1].item()
    assert sigma / math.hypot(sigma, 0.3 * d) > 0.97


@pytest.mark.parametrize(("d", "shift"), [(128, 1.0), (256, 1.0), (64, 2.0), (128, 2.0)])
def test_twice_as_many_pixels_or_a_shift_of_two_train_with_twice_the_noise(d, shift):
    """Hoogeboom et al. 2023, eq. 4: a mean of 2 x 2 pixels has half of their noise."""
    u = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)

    def noise(side, shift):
        config = defaults.settle(known(shape=(1, side, side), images=1, shift=shift), None)[0]
        schedule = build_schedule(config)
        return schedule(choose(DENSITIES, config.times, "density")(schedule, u))[1]

    torch.testing.assert_close(noise(d, shift) / noise(64, 1.0), torch.full_like(u, d / 64 * shift), rtol=0.005, atol=0)


OBJECTIVES = [  # what is asked for, and the weight and density of its paper
    ({}, "edm", "log_normal"),  # Karras et al. 2022
    ({"predict": "noise", "schedule": "linear:steps=1000"}, "simple", "steps"),  # Ho et al. 2020
    ({"predict": "noise", "schedule": "cosine"}, "simple", "uniform"),  # Nichol & Dhariwal 2021
    ({"predict": "v", "schedule": "cosine"}, "v", "uniform"),  # Salimans & Ho 2022
    ({"predict": "flow", "schedule": "flow"}, "flow", "logit_normal"),  # Esser et al. 2024
    ({"predict": "noise", "schedule": "cosine", "variance_weight": 0.001}, "simple", "uniform"),  # L_hybrid
    ({"variance_weight": 0.001}, "edm", "uniform"),
    ({"predict": "image"}, "image", "log_normal"),
]


@pytest.mark.parametrize(("asked", "weight", "times"), OBJECTIVES)
def test_an_objective_counts_all_errors_alike(asked, weight, times):
    """The gain on the error of what the network puts out is 1 at every noise level, whatever is predicted."""
    config = defaults.settle(known(images=1, **asked), None)[0]
    assert (config.weight.name, config.times.name) == (weight, times)
    denoiser = Denoiser(lambda x, c_noise: x, build_schedule(config), config.predict, "log_snr", 0.5)
    torch.testing.assert_close(gain(denoiser, config.weight, torch.linspace(-9, 9, 7).double()), torch.ones(7).double())


def test_the_rate():
    """Half of it at twice the width, twice of it at four times the batch, and never more than the most."""
    rate = lambda width, batch: defaults.rate(Spec("unet", width=width), batch)
    assert rate(32, 16) == rate(32, 64) == rate(16, 16) == rate(64, 64) == defaults.RATE
    assert rate(64, 16) == pytest.approx(defaults.RATE / 2)
    assert rate(128, 16) == pytest.approx(defaults.RATE / 4)
    assert rate(128, 64) == pytest.approx(defaults.RATE / 2)
    assert (
        defaults.rate(Spec("dit_s"), 16) == defaults.rate(Spec("dit", width=384), 16) == rate(96, 16)
    )  # of four times the base
    assert defaults.rate(Spec("ddpm_unet"), 16) == defaults.rate(Spec("ddpm_unet", width=128), 16) == rate(128, 16)
    assert defaults.rate(Spec("mine"), 16) == rate(64, 16)
    for name in ("edm2_xs", "edm2_unet", "edm2_xxl"):  # whose weights are brought back to one length, whatever the width
        assert defaults.rate(Spec(name), 16) == defaults.rate(Spec(name), 2048) == 0.01
    config = defaults.settle(known(images=100_000, net=Spec("unet", width=128)), quick)[0]
    assert (config.batch, config.lr) == (16, rate(128, 16))
    assert defaults.settle(known(images=100_000), quick, "cuda")[0].batch == 128


def test_a_dry_run_says_why_beside_its_json(capsys):
    assert main(["train", "digits", "--images", "30000", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    config = checked(json.loads(out), Settled)
    assert str(config.net) in err
    assert f"Batch {config.batch}" in err
    assert f"Learning rate {config.lr:g}" in err


COMMANDS = [
    line.partition("#")[0].split()[1:]
    for line in (Path(__file__).parents[1] / "docs" / "objectives.md").read_text().splitlines()
    if line.startswith("sfumato train digits")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_objective_of_the_page_can_be_trained_and_drawn(command):
    small = ["--net", "unet:width=8,mults=(1,)", "--batch", "32", "--images", "96", "--precision", "float32", "--lr", "1e-3"]
    assert main([*command, *small, "--run", "r"]) == 0
    steps = [record["loss"] for record in Run.of("r").records() if "loss" in record]
    assert steps
    assert all(math.isfinite(loss) and loss < 10 for loss in steps)  # all errors count alike, and none explodes


def test_a_dry_run_of_a_time_says_how_many_images_it_is(capsys):
    assert main(["train", "digits", "--time", "1m", "--net", "unet:width=8,mults=(1,)", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert told["images"] >= told["batch"]
    assert told["images"] % told["batch"] == 0
    assert f"Budget {told['images']:,} images" in err


def test_a_run_that_is_gone_on_with_keeps_its_choices():
    pictures = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1), np.uint8)
    run = Run.of("r")
    config = checked(Config(images=64, net="unet:width=8,mults=(1,)", precision="float32", held_out=0.0, sampling_steps=1))
    trainer.train(pictures, config, run)
    begun = run.config()
    assert (begun.batch, begun.lr) == (16, defaults.RATE)
    old = msgspec.structs.replace(begun, batch=32, lr=5e-4)  # as another version would have chosen
    run.write_config(old)
    trainer.train(pictures, msgspec.structs.replace(config, images=96), run)
    assert (run.config().batch, run.config().lr) == (32, 5e-4)
    assert builtins(run.config())["net"] == builtins(old)["net"]


def test_a_dry_run_of_what_was_begun_says_how(capsys):
    Run.of("begun").write_config(Settled(net=Spec("unet", width=8), batch=24, lr=7e-4, flip=False))
    assert main(["train", "digits", "--run", "begun", "--images", "1000", "--dry-run"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["batch"], told["lr"], told["net"]) == (24, 7e-4, {"name": "unet", "width": 8})
