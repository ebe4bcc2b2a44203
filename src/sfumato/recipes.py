"""Recipes: functions that return a Config. The first line of each docstring is what `sfumato recipes` prints."""

from collections.abc import Callable

from .config import Config
from .errors import unknown
from .spec import Spec


def default() -> Config:
    """A small modern U-Net with the EDM objective; labels are used where the data has them."""
    return Config()


def _simple(batch: int) -> Config:
    """What the accounts on aircraft and cars share: 300 steps of linear betas, noise prediction, L1, Adam at 1e-3."""
    return Config(
        size=(64, 64),
        channels=3,
        flip=True,
        net=Spec("simple_unet"),
        schedule=Spec("linear", steps=300, mended=True),
        predict="noise",
        weight=Spec("simple"),
        distance=Spec("l1"),
        times=Spec("steps"),
        batch=batch,
        lr=1e-3,
        rate="constant",
        warmup=0,
        optimizer=Spec("adam"),
        clip=None,
    )


def aircraft() -> Config:
    """A 62M-parameter U-Net on 64-pixel aircraft, T = 300, L1, batch 150; betas mended to reach noise."""
    return _simple(batch=150)


def cars() -> Config:
    """The same U-Net on 64-pixel cars, batch 128; betas mended to reach noise."""
    return _simple(batch=128)


RECIPES: dict[str, Callable[[], Config]] = {"default": default, "aircraft": aircraft, "cars": cars}


def recipe(name: str) -> Config:
    """The Config of that name; raises UserError offering the nearest one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]()
