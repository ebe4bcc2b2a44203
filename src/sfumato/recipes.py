"""Recipes: functions that return a Config. The first line of each docstring is what `sfumato recipes` prints.

Five come from published accounts of training a diffusion model on images. A recipe keeps the account's network, T, loss, batch,
optimizer and length, and mends its faults; `recipe(name, faithful=True)` has them as published (`PUBLISHED`).
"""

from collections.abc import Callable
from typing import Any

import msgspec

from .config import BUDGET, Config
from .errors import UserError, unknown
from .spec import Spec


def default() -> Config:
    """A small modern U-Net with the EDM objective; labels are used where the data has them."""
    return Config()


def _account(steps: int, **more: Any) -> Config:
    """What all five share: noise predicted on linear betas, here mended to reach noise, and Adam."""
    same: dict[str, Any] = dict(
        schedule=Spec("linear", steps=steps, mended=True) if steps < 1000 else Spec("linear", steps=steps),
        predict="noise",
        weight=Spec("simple"),
        times=Spec("steps"),
        lr=1e-3,
        rate=Spec("constant"),
        warmup=0,
        optimizer=Spec("adam", betas=(0.9, 0.999)),
        clip=None,
        flip=True,
        solver=Spec("dpmpp_2m"),
    )
    return Config(**(same | more))


def oasis() -> Config:
    """Brain MRI slices in gray at 128 pixels: a 31M-parameter max-pooling U-Net, T = 600, L1, batch 64, 205 epochs."""
    brains: dict[str, Any] = dict(size=(128, 128), channels=1, flip=False)
    return _account(600, **brains, net=Spec("maxpool_unet"), distance=Spec("l1"), batch=64, epochs=205.0)


def aircraft() -> Config:
    """Aircraft at 64 pixels: a 62M-parameter U-Net, T = 300, L1, batch 150, 4,000 epochs; 20 rows cut off at the bottom."""
    planes: dict[str, Any] = dict(size=(64, 64), channels=3, cut_bottom=20)
    return _account(300, **planes, net=Spec("simple_unet"), distance=Spec("l1"), batch=150, epochs=4000.0)


def cifar10() -> Config:
    """CIFAR-10 at 32 pixels: a 33M-parameter double-convolution U-Net, T = 1000, L2, batch 512, 15 epochs."""
    return _account(1000, size=(32, 32), channels=3, net=Spec("double_conv_unet"), distance=Spec("l2"), batch=512, epochs=15.0)


def cifar10_ship() -> Config:
    """The cifar10 recipe gone on with on one class for 10 epochs: --from RUN, and --only-class for another than ship."""
    return msgspec.structs.replace(cifar10(), epochs=10.0, only_class="ship")


def cars() -> Config:
    """Cars at 64 pixels: the network of aircraft, T = 300, L1, batch 128, 2 epochs."""
    motors: dict[str, Any] = dict(size=(64, 64), channels=3)
    return _account(300, **motors, net=Spec("simple_unet"), distance=Spec("l1"), batch=128, epochs=2.0)


def fashion_mnist() -> Config:
    """Clothes in gray at 28 pixels: a 3M-parameter ConvNeXt U-Net with attention, T = 200, smooth L1, batch 16, 10 epochs."""
    clothes: dict[str, Any] = dict(size=(28, 28), channels=1, weight=Spec("p2", g=0.0), distance=Spec("huber", beta=1.0))
    rates: dict[str, Any] = dict(lr=1e-4, rate=Spec("staircase"))
    return _account(200, **clothes, **rates, net=Spec("convnext_unet"), batch=16, epochs=10.0)


RECIPES: dict[str, Callable[[], Config]] = {
    "default": default,
    "oasis": oasis,
    "aircraft": aircraft,
    "cifar10": cifar10,
    "cifar10-ship": cifar10_ship,
    "cars": cars,
    "fashion-mnist": fashion_mnist,
}


# ---- as published ----------------------------------------------------------------------------------------------------

_EMA = (1, "the last weights alone are drawn from, and they waver from step to step; their average does not")
_FIT = ("stretch", "pictures are squashed to a square; the recipe cuts what hangs over and keeps their shape")
_CUT = (0, "each file ends in a strip of 20 pixels with its copyright, which would be learned")


def _walk(steps: int, alpha: str, variance: str = "posterior") -> dict[str, tuple[Any, str]]:
    """The betas and the sampler of an account of T steps, whose alpha_1 is `alpha`."""
    stop = f"at T = {steps} the betas stop at alpha = {alpha}, so that sampling begins from a noise that training never saw"
    betas = (Spec("linear", steps=steps), stop)  # at T = 1000 the recipe has the same
    how = "every one of the T steps is walked; the recipe's dpmpp_2m needs 20 evaluations for the same"
    return {"schedule": betas, "ema": _EMA, "solver": (Spec("ddpm", variance=variance), how), "sampling_steps": (steps, how)}


# What `faithful` puts back: recipe -> field -> the published value, and why the recipe has another.
PUBLISHED: dict[str, dict[str, tuple[Any, str]]] = {
    "oasis": _walk(600, "0.048"),
    "aircraft": _walk(300, "0.219") | {"fit": _FIT, "cut_bottom": _CUT},
    "cifar10": _walk(1000, "0.006", "beta")
    | {"range": ((0.0, 1.0), "pictures stay between 0 and 1, so that their mean is not 0, as that of the noise is")},
    "cars": _walk(300, "0.219") | {"fit": _FIT},
    "fashion-mnist": _walk(200, "0.364"),
}
PUBLISHED["cifar10-ship"] = PUBLISHED["cifar10"]


def recipe(name: str, faithful: bool = False) -> Config:
    """The Config of that name, or with `faithful` as it was published.

    Raises UserError offering the nearest name, and for a faithful recipe that was never published.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    config = RECIPES[name]()
    if not faithful:
        return config
    if name not in PUBLISHED:
        raise UserError(f"--faithful is for recipes of published accounts: {', '.join(PUBLISHED)}; found {name}.")
    return msgspec.structs.replace(config, **{field: value for field, (value, _) in PUBLISHED[name].items()})


def kept_faults(name: str, config: Config) -> list[str]:
    """What a faithful config keeps of an account that the recipe mends, and why it does, a sentence each."""
    mended = RECIPES[name]()
    sentences: dict[str, list[str]] = {}
    for field, (value, why) in PUBLISHED[name].items():
        if getattr(config, field) == value != getattr(mended, field):
            sentences.setdefault(why, []).append(f"{field} {_words(value)} (recipe: {_words(getattr(mended, field))})")
    return [f"As published: {' and '.join(fields)}: {why}." for why, fields in sentences.items()]


def budgeted(config: Config, base: Config) -> Config:
    """The config with only the budget that was asked for, where it was built on one that has a budget of its own."""
    asked = [name for name in BUDGET if getattr(config, name) != getattr(base, name)]
    return msgspec.structs.replace(config, **{name: None for name in BUDGET if asked and name not in asked})


def _words(value: Any) -> str:
    if isinstance(value, tuple):
        return " to ".join(f"{end:g}" for end in value)
    return "by rule" if value is None else str(value)
