"""What is left to a rule: network, batch, rate and budget, from the pictures and from what a machine can do in the time.

Every choice comes with its reason. The measurements behind the numbers are in docs/defaults.md.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from .config import BUDGET, Config, Settled, builtins, checked
from .spec import Spec

RULED = ("net", "batch", "lr")
BATCH = 32
RATE = 1e-3  # at that batch
WIDTHS = (32, 48, 64, 96, 128)  # channels of the first level
NEEDED = 10_000  # images that the narrowest is worth training with; a wider one as many more as it has parameters
INNERMOST = 8  # pixels of a side, or fewer, at which halving ends
LEAST, MOST, EPOCHS = 60_000, 1_000_000, 40  # images, where no budget is named
PATIENCE = 3.0  # hours that a network may take, but for the narrowest, where no budget is named
STEPS = 0.8  # of the time; a fifth is for the optimizer, the averages, the log, grids and checkpoints

Speed = Callable[[Settled], float]  # images a second of a training step


def settle(config: Config, speed: Speed) -> tuple[Settled, list[str]]:
    """The config, whose facts are known, with all chosen that was left open but the budget; and a reason for each choice."""
    raw, said = builtins(config), list[str]()
    if config.batch is None:
        raw["batch"] = max(BATCH, config.accumulate)
        said.append(
            f"Batch {raw['batch']}: in the same time small batches come further than large ones, until steps cost more."
        )
    if config.lr is None:
        raw["lr"] = float(f"{RATE * math.sqrt(raw['batch'] / BATCH):.2g}")
        said.append(f"Learning rate {raw['lr']:g}: with the square root of the batch, {RATE:g} at {BATCH}.")
    if config.net is None:
        raw["net"], why = _network(raw, speed)
        said.append(why)
    return checked(raw, Settled), said


def _network(raw: dict[str, Any], speed: Speed) -> tuple[Any, str]:
    """The widest U-Net that sees as many images as it needs, within the budget or where there is none in 3 hours, and why."""
    free, chosen, seen = not any(raw[name] is not None for name in BUDGET), None, 0
    for width in WIDTHS:
        spec = Spec("unet", width=width, mults=levels(tuple(raw["facts"]["shape"])))
        config = checked(raw | {"net": spec.builtins()}, Settled)
        images = budget(config, partial(speed, config)).images or 0
        needed = round(NEEDED * (width / WIDTHS[0]) ** 2)
        if chosen is not None and images < needed:
            why = f"one of width {width} would need {needed:,}, and could see {images:,}."
            return chosen.builtins(), f"Network {chosen}: it can see {seen:,} images; {why}"
        hours = images / STEPS / speed(config) / 3600 if free else 0.0
        if chosen is not None and hours > PATIENCE:
            why = f"one of width {width} would take {hours:.0f} hours for them here. With --time 12h, say, it may."
            return chosen.builtins(), f"Network {chosen}: it is to see {seen:,} images; {why}"
        chosen, seen = spec, images
    assert chosen is not None
    return chosen.builtins(), f"Network {chosen}: it can see {seen:,} images, and none wider is chosen by rule."


def levels(shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Channels of each level, as multiples of the first: as many levels as bring the picture to 8 pixels, 2 at least."""
    side = max(shape[1:]) / (1 if max(shape[1:]) < 16 else 2)
    return (1, *[2] * max(1, math.ceil(math.log2(side / INNERMOST))))


def budget(config: Settled, speed: Callable[[], float]) -> Settled:
    """The config with its budget in images, whatever it was stated in; `speed()` measures images a second."""
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
        images = int(STEPS * config.time * speed())
    else:
        images = min(max(LEAST, EPOCHS * facts.train), MOST)
    images = max(config.batch, images // config.batch * config.batch)
    return msgspec.structs.replace(config, images=images)
