"""What lies in a folder of images, and what its subfolders mean."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .decode import SUFFIXES
from .idx import is_images_name

TRAIN = ("train", "training")
SPLITS = (*TRAIN, "test", "testing", "val", "valid", "validation", "dev", "eval")


@dataclass(frozen=True)
class Found:
    """The files below a folder, as paths relative to it in natural order."""

    images: tuple[str, ...]
    idx: tuple[str, ...]  # files of images, one per data set
    npy: tuple[str, ...]
    others: Counter[str]  # suffix -> count


@dataclass(frozen=True)
class Meaning:
    """Which images are used, and the class of each: an index into `label_names`, or None without classes."""

    images: tuple[str, ...]
    labels: tuple[int, ...] | None
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]


def find(root: Path) -> Found:
    """List a folder and its subfolders, leaving out hidden ones and __MACOSX; links that lead in a circle end there."""
    images: list[str] = []
    idx: dict[str, str] = {}  # name without .gz -> path
    npy: list[str] = []
    others: Counter[str] = Counter()
    for path in _walk(root, root, ()):
        name = path.rpartition("/")[2]
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            images.append(path)
        elif suffix == ".npy":
            npy.append(path)
        elif is_images_name(name):
            unpacked = path.removesuffix(".gz")
            if unpacked not in idx or path == unpacked:  # of a file and its .gz the unpacked one is faster
                idx[unpacked] = path
        else:
            others[suffix or name] += 1
    sort = lambda paths: tuple(sorted(paths, key=natural))
    return Found(sort(images), sort(idx.values()), sort(npy), others)


def meaning(images: tuple[str, ...]) -> Meaning:
    """Read the subfolders: classes if all images lie in them, `train` of train and test, nothing if images lie above.

    A single subfolder that holds everything is stepped into.
    """
    notes: list[str] = []
    prefix = ""
    while True:
        firsts = [path[len(prefix) :].partition("/") for path in images]
        above = sum(not slash for _, slash, _ in firsts)
        names = sorted({name for name, slash, _ in firsts if slash}, key=natural)
        if above:
            if names:
                notes.append(
                    f"{above} images lie in the folder itself and {len(images) - above} in its subfolders, so the "
                    "subfolders are not taken for classes."
                )
            return Meaning(images, None, None, tuple(notes))
        train = [name for name in names if name.lower() in TRAIN]
        if len(names) == 1:
            chosen = names[0]
            notes.append(f"All images lie in the subfolder '{chosen}'.")
        elif len(train) == 1 and all(name.lower() in SPLITS for name in names):
            chosen = train[0]
            left = " and ".join(f"'{name}'" for name in names if name != chosen)
            notes.append(f"Of the subfolders only '{chosen}' is used; {left} is left for testing.")
        else:
            labels = {name: k for k, name in enumerate(names)}
            classes = tuple(labels[name] for name, _, _ in firsts)
            notes.append(f"Each of the {len(names)} subfolders is a class.")
            return Meaning(images, classes, tuple(names), tuple(notes))
        prefix += chosen + "/"
        images = tuple(path for path in images if path.startswith(prefix))


def nothing_found(root: Path, found: Found) -> UserError:
    """The error for a folder without images."""
    read = " ".join(suffix.removeprefix(".") for suffix in SUFFIXES)
    if not found.others:
        return UserError(f"'{root}' is empty. Put images into it ({read}), or name the folder that holds them.")
    kinds = found.others.most_common(4)
    there = ", ".join(f"{count} {suffix}" for suffix, count in kinds) + (" and more" if len(found.others) > 4 else "")
    unpack = " Unpack the zip and name its folder." if ".zip" in found.others else ""
    return UserError(f"'{root}' holds no images: expected files of type {read}; found {there}.{unpack}")


def natural(path: str) -> tuple:
    """A sorting key in which 2.png comes before 10.png, folder by folder."""
    parts = (re.split(r"([0-9]+)", part.lower()) for part in path.split("/"))
    return tuple(tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in part if p) for part in parts), path


def _walk(folder: Path, root: Path, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Paths relative to `root` with forward slashes; `above` identifies the folders that we are in."""
    try:
        status = folder.stat()
        if (status.st_dev, status.st_ino) in above:
            return
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name != "__MACOSX"]
    except OSError as error:
        raise UserError(f"The folder '{folder}' cannot be read: {error.strerror}.") from error
    for entry in visible:
        if entry.is_dir():
            yield from _walk(Path(entry.path), root, (*above, (status.st_dev, status.st_ino)))
        else:
            yield Path(entry.path).relative_to(root).as_posix()
