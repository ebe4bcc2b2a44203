"""What is left to a rule: batch, noise, network, rate and budget, from the pictures and from what a machine can do in the time.

Every choice comes with its reason. The measurements behind the numbers are in docs/defaults.md.
"""

import math
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import msgspec

from .config import Config, Settled, builtins, checked
from .nets import NETS
from .schedules import SCHEDULES
from .spec import Spec, make

BATCH, ELSEWHERE = {"cpu": 16}, 128  # by kind of device; an accelerator takes about as long for one picture as for many
MOST_NOISE, LEAST_NOISE = 80.0, 0.01  # sigma, of pictures of FULL pixels a side; a level of 255 and a quarter
FULL, SMALLEST = 64, 28  # pixels
MIDDLE, DEVIATION = -0.8, 0.5  # of log sigma in training, for pictures of that deviation
RATE = 2e-3  # at most, and of a network of the least width at a batch of 16
WIDTHS = (32, 48, 64, 96, 128, 192, 256)  # channels of the first level
# Images that the narrowest is worth training with, by the side of the squares it folds; a wider one as many more as it has
# parameters.
NEEDED = {1: 30_000, 2: 25_000}
# Pixels of a side up to which the first level sees single pixels; beyond, 2x2 folded into channels. Wider networks fold
# coloured ones sooner; the narrowest has too few channels for 2x2 pixels of three colours.
UNFOLDED, UNFOLDED_COLOUR = 32, 16
INNERMOST = 8  # pixels of a side, or fewer, at which halving ends
LEAST, MOST, EPOCHS = 60_000, 1_000_000, 40  # images, where no budget is named
PATIENCE = 3.0  # hours that a network may take, but for the narrowest, where the budget is no time
STEPS = 0.92  # of the time; the rest is for grids, checkpoints, the log and the held-out loss

Speed = Callable[[Settled], float]  # images a second of training
Raw = dict[str, Any]  # a config as plain data, of which more and more is settled


def settle(config: Config, speed: Speed | None, device: str = "cpu") -> tuple[Settled, list[str]]:
    """The config, whose facts are known, with all chosen that was left open but the budget; and a reason for each choice.

    speed    measures a candidate, 0 for one that does not fit into memory; None: nothing is measured
    """
    raw, said = builtins(config), list[str]()
    for name, rule in RULES.items():
        if getattr(config, name) is None:
            raw[name], why = rule(raw, speed, device)
            said.append(why)
    if said and raw["ema"] is None:
        said.append(
            "Average of the weights: half of it is of the last twentieth of the budget, in which the rate is all but 0."
        )
    return checked(raw, Settled), said


def _batch(raw: Raw, speed: Speed | None, device: str) -> tuple[int, str]:
    batch = max(BATCH.get(device, ELSEWHERE), raw["accumulate"])
    why = "in the same time small batches come further" if device in BATCH else "as many as keep an accelerator busy"
    return batch, f"Batch {batch}: {why}."


def _rate(raw: Raw, speed: Speed | None, device: str) -> tuple[float, str]:
    net = Spec.of(raw["net"])
    lr = rate(net, raw["batch"])
    by = "this network's own" if declared(net, "lr") else f"less for wider networks, more for larger batches, at most {RATE:g}"
    return lr, f"Learning rate {lr:g}: {by}."


def rate(net: Spec, batch: int) -> float:
    """min(1, sqrt(batch / 16) base / width) 2e-3, base 32 (128 for `dit`): Adam's steps are of one size, whatever the gradient.

    So the step of a sum over a layer's inputs grows with their number, and should not (Yang et al. 2021, muP); and noise in
    the gradient falls as the root of the batch, and with it the steps that go astray (Malladi et al. 2022). Networks that know
    no width are taken to have 64; one that has a rate of its own, as an attribute `lr`, is trained with that.
    """
    if (own := declared(net, "lr")) is not None:
        return own
    known = signature(NETS[net.name]).parameters if net.name in NETS else {}
    width: Any = net.kw.get("width", known["width"].default if "width" in known else 64)
    base = declared(net, "lr_width") or WIDTHS[0]
    return float(f"{min(1.0, math.sqrt(batch / 16) * base / width) * RATE:.2g}")


def declared(net: Spec, name: str) -> float | None:
    """What the class of a network says of the rate that it is trained with: `lr`, or the `lr_width` that takes all of it."""
    made = NETS.get(net.name)
    return getattr(getattr(made, "func", made), name, None)  # sizes are partial classes


def _noise(raw: Raw, speed: Speed | None, device: str) -> tuple[Any, str]:
    """EDM's schedule between ends that suit the picture, and why.

    Where sampling starts, the mean over a side of d pixels must drown: its noise is sigma / d. Karras et al. (2022) start at 80
    for 64 pixels, which is 1.25 d. In smaller pictures steps above it are wasted, as are those that clean what is finer than a
    level of 255, or than as much of a fainter contrast; in larger ones samples would have too little of their mean.
    """
    side, faint = max(raw["facts"]["shape"][1:]), min(1.0, raw["facts"]["sigma_data"] / DEVIATION)
    high, low = (float(f"{x:.3g}") for x in (MOST_NOISE * max(side, SMALLEST) / FULL, LEAST_NOISE * faint))
    spec, ends = Spec("edm", sigma_max=high, sigma_min=low), f"{high * raw['shift']:g} to {low * raw['shift']:g}"
    return spec.builtins(), f"Noise from {ends}: all that samples of {side} pixels and this contrast need."


def _objective(raw: Raw, speed: Speed | None, device: str) -> tuple[Any, str]:
    """The weight by which all errors of what is predicted count alike: any other makes some noise levels drown the rest."""
    name = {"noise": "simple"}.get(raw["predict"], raw["predict"])
    return name, f"Weight {name}: by it all errors of what is predicted, {raw['predict']}, count alike."


def _times(raw: Raw, speed: Speed | None, device: str) -> tuple[Any, str]:
    """The density of training times, and why.

    On `edm`'s schedule, and for its objective, log sigma ~ N(-0.8 + log(sigma_data / 0.5) + log(d / 64), 1.2^2), the last term
    for pictures of more than 64 pixels. Pictures of twice the contrast with twice the noise are the same pictures, so that what
    holds for a deviation of 0.5 holds for others in proportion; and of twice as many pixels a side as drown in as much noise
    again (Hoogeboom et al. 2023, eq. 4). EDM's mean is -1.2 (Karras et al. 2022, table 1); -0.8 is what Karras et al. (2024)
    train pixels of 64 with, and what measured better here.

    Straight paths take what Esser et al. (2024) found best; other schedules are meant to be drawn from evenly, and so is the
    bound that teaches a variance (Nichol & Dhariwal 2021).
    """
    schedule = Spec.of(raw["schedule"])
    if raw["variance_weight"]:
        return _evenly(schedule, "the bound that teaches a variance is")
    if schedule.name == "edm" or raw["predict"] == "edm":
        wider = max(1.0, max(raw["facts"]["shape"][1:]) / FULL) * raw["shift"]
        mean = float(f"{MIDDLE + math.log(raw['facts']['sigma_data'] / DEVIATION * wider):.2f}")
        spec = Spec("log_normal", mean=mean)
        return spec.builtins(), f"Training noise about {math.exp(mean):.2g}: as much as size and contrast ask for."
    if schedule.name == "flow":
        return "logit_normal", "Training times logit_normal: most in the middle of the straight path."
    return _evenly(schedule, f"{schedule.name} is")


def _evenly(schedule: Spec, what: str) -> tuple[str, str]:
    name = "steps" if make(SCHEDULES, schedule, "schedule").steps else "uniform"
    return name, f"Training times {name}: {what} made to be drawn from evenly."


def _network(raw: Raw, speed: Speed | None, device: str) -> tuple[Any, str]:
    """The widest U-Net that sees as many images as it needs, in 3 hours where the budget is no time, and why."""

    def seen(spec: Spec) -> tuple[Settled, int]:
        config = checked(raw | {"net": spec.builtins(), "lr": raw["lr"] or RATE}, Settled)
        return config, budget(config, partial(speed, config) if speed else lambda: 0.0).images or 0

    shape = tuple(raw["facts"]["shape"])
    narrowest, *others = [Spec("unet", width=w, patch=patch(shape, w), mults=levels(shape, patch(shape, w))) for w in WIDTHS]
    if speed is None and raw["time"] is not None:
        return narrowest.builtins(), f"Network {narrowest}: for more, speeds would have to be measured."
    chosen, images, why = narrowest, seen(narrowest)[1], "none wider is chosen by rule."
    for spec in others:
        config, count = seen(spec)
        width: Any = spec.kw["width"]
        needed = round(NEEDED[patch(shape, width)] * (width / WIDTHS[0]) ** 2)
        if count < needed:
            why = f"one of width {width} would need {needed:,}, and could see {count:,}."
            break
        fast = math.inf if config.time or speed is None else speed(config)
        if fast == 0:
            why = f"one of width {width} does not fit into the memory here."
            break
        if (hours := count / STEPS / fast / 3600) > PATIENCE:
            why = f"one of width {width} would take {hours:.0f} hours for them here. With --time 12h, say, it may."
            break
        chosen, images = spec, count
    return chosen.builtins(), f"Network {chosen}: it sees {images:,} images; {why}"


# Each knows what those before it have chosen.
RULES = {"batch": _batch, "schedule": _noise, "weight": _objective, "times": _times, "net": _network, "lr": _rate}


def patch(shape: tuple[int, int, int], width: int) -> int:
    """Side of the square of pixels that a network of this width folds into channels."""
    folds = shape[0] > 1 and width > WIDTHS[0]
    return 1 if max(shape[1:]) <= (UNFOLDED_COLOUR if folds else UNFOLDED) else 2


def levels(shape: tuple[int, int, int], folded: int) -> tuple[int, ...]:
    """Channels of each level, as multiples of the first: as many levels as bring the picture to 8 pixels, 2 at least."""
    return (1, *[2] * max(1, math.ceil(math.log2(max(shape[1:]) / folded / INNERMOST))))


def budget(config: Settled, speed: Callable[[], float], spent: Callable[[], float] = lambda: 0.0) -> Settled:
    """The config with its budget in images, whatever it was stated in; `speed()` measures images a second.

    spent    says how many seconds of the time are gone, once that is measured
    """
    facts = config.facts
    assert facts is not None
    if config.images is not None and config.images >= config.batch:
        return config
    if config.images is not None:
        images = config.batch  # a step is always a whole batch
    elif config.epochs is not None:
        images = round(config.epochs * facts.train)
    elif config.steps is not None:
        images = config.steps * config.batch
    elif config.time is not None:
        fast = speed()
        images = int(STEPS * max(0.0, config.time - spent()) * fast)
    else:
        images = min(max(LEAST, EPOCHS * facts.train), MOST)
    images = max(config.batch, images // config.batch * config.batch)
    return msgspec.structs.replace(config, images=images)
