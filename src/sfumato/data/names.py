"""Well-known data sets by a short name: where each lies on the hub, or in the copy that a person gave once."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..disk import replace_text
from ..errors import UserError, unknown

COPIES = "names.json"  # in the cache folder: name -> path of a local copy


@dataclass(frozen=True)
class Named:
    """Where a named set lies on the hub, and what its pictures bear."""

    hub: str  # owner/name
    about: str
    natural: bool = True  # may pictures be mirrored left to right? False for digits and letters
    config: str | None = None


NAMED: dict[str, Named] = {
    "mnist": Named("ylecun/mnist", "70,000 handwritten digits, gray, 28x28, 10 classes", natural=False),
    "fashion-mnist": Named("zalando-datasets/fashion_mnist", "70,000 pieces of clothing, gray, 28x28, 10 classes"),
    "kmnist": Named("tanganke/kmnist", "70,000 handwritten hiragana, gray, 28x28, 10 classes", natural=False),
    "cifar10": Named("uoft-cs/cifar10", "60,000 photographs of things and animals, 32x32, 10 classes"),
    "cifar100": Named("uoft-cs/cifar100", "60,000 photographs of things and animals, 32x32, 100 classes"),
    "svhn": Named("ufldl-stanford/svhn", "99,289 digits of house numbers, 32x32, 10 classes", False, "cropped_digits"),
    "oxford-flowers": Named("nelorth/oxford-flowers", "8,189 photographs of flowers, 102 classes"),
    "oxford-pets": Named("timm/oxford-iiit-pet", "7,349 photographs of cats and dogs, 37 breeds"),
    "food101": Named("ethz/food101", "101,000 photographs of dishes, 101 classes"),
    "celeba": Named("flwrlabs/celeba", "202,599 faces of well-known people, aligned, 178x218"),
    "stanford-cars": Named("tanganke/stanford_cars", "16,185 photographs of cars, 196 models"),
    "imagenette": Named("johnowhitaker/imagenette2-320", "13,394 photographs of ImageNet, 10 easy classes"),
    "tiny-imagenet": Named("zh-plus/tiny-imagenet", "110,000 photographs of ImageNet, 64x64, 200 classes"),
}
ALSO = {  # what people call them elsewhere, bare of punctuation
    "kuzushijimnist": "kmnist",
    "flowers102": "oxford-flowers",
    "oxfordflowers102": "oxford-flowers",
    "oxfordiiitpet": "oxford-pets",
    "oxfordiiitpets": "oxford-pets",
    "oxfordpet": "oxford-pets",
    "tinyimagenet200": "tiny-imagenet",
}


def spell(name: str) -> str | None:
    """The name in the table that is meant: fashion_mnist, FashionMNIST and cifar-10 are understood; None for others."""
    bare = re.sub(r"[-_ .]", "", name.lower())
    known = {key.replace("-", ""): key for key in NAMED} | ALSO
    return known.get(bare)


def hub_name(key: str) -> str:
    """What a person would type for the named set `key` on the hub: hub:owner/name, or hub:owner/name/config."""
    named = NAMED[key]
    return f"hub:{named.hub}" + (f"/{named.config}" if named.config else "")


def resolve(name: str, cache: Path) -> Path | str | None:
    """Where a named set is: the copy that was given if there is one, else its hub:owner/name; None for other names.

    Raises UserError if the copy is gone.
    """
    key = spell(name)
    if key is None:
        return None
    given = copies(cache).get(key)
    if given is None:
        return hub_name(key)
    if not os.path.exists(given):
        raise UserError(
            f"The local copy of {key} is no longer at '{given}'. Say where it is now with "
            f"`sfumato cache add {key} PATH`, or type {hub_name(key)} to take it from the hub."
        )
    return Path(given)


def copies(cache: Path) -> dict[str, str]:
    """The local copies that were given, as name -> absolute path. Raises UserError if their list is damaged."""
    path = cache / COPIES
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path) from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise _damaged(path)
    return found


def remember(cache: Path, name: str, path: Path) -> None:
    """From now on the named set is read from `path`. Raises UserError for an unknown name and where nothing is."""
    key = _known(name)
    path = Path(path).expanduser()
    if not os.path.exists(path):
        raise UserError(f"There is nothing at '{path}'. Name the folder or file that holds {key}.")
    _write(cache, copies(cache) | {key: str(path.resolve())})


def forget(cache: Path, name: str) -> None:
    """The named set is taken from the hub again; the copy itself stays. Raises UserError if none was given."""
    key = _known(name)
    rest = copies(cache)
    if rest.pop(key, None) is None:
        raise UserError(f"No local copy of {key} was given; there is {', '.join(sorted(rest)) or 'none of any set'}.")
    _write(cache, rest)


def _known(name: str) -> str:
    key = spell(name)
    if key is None:
        raise unknown("named data set", name, NAMED)
    return key


def _write(cache: Path, found: dict[str, str]) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    replace_text(cache / COPIES, json.dumps(found, indent=1, sort_keys=True))


def _damaged(path: Path) -> UserError:
    return UserError(f"'{path}', the list of local copies, cannot be read. Delete it and give them again.")
