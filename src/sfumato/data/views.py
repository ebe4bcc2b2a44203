"""Views of a pack: what a run opens. A folder of small arrays and facts; the pixels stay in the pack."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..disk import replace_text
from .images import Images

_ARRAYS = ("rows", "labels", "hashes", "groups", "marked", "sizes")


def save(pack: Path, pixels: str, shape: tuple[int, int, int], images: dict[str, Any], paths: Sequence[str]) -> Path:
    """Write a view of a pack, whole or not at all, and return its folder, which is named after its contents.

    pixels   the file of the pack that holds the rows
    images   what `Images` is made of; arrays that are None are left out
    """
    facts = {"pixels": pixels, "shape": shape} | {name: value for name, value in images.items() if name not in _ARRAYS}
    key = hashlib.blake2b(json.dumps([facts, paths]).encode(), digest_size=12)
    arrays = {name: images[name] for name in _ARRAYS if images.get(name) is not None}
    for name, array in arrays.items():
        key.update(name.encode() + np.ascontiguousarray(array).tobytes())
    folder = pack / "views" / key.hexdigest()
    if folder.exists():
        return folder
    sibling = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(sibling, ignore_errors=True)
    sibling.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(sibling / f"{name}.npy", array, allow_pickle=False)
    (sibling / "facts.json").write_text(json.dumps(facts))
    (sibling / "paths.json").write_text(json.dumps(paths))
    with contextlib.suppress(OSError):  # somebody else was faster
        os.replace(sibling, folder)
    shutil.rmtree(sibling, ignore_errors=True)
    return folder


def load(folder: Path) -> Images:
    """Open a view: nothing of it is read but its facts. Raises OSError or ValueError if it is not whole."""
    facts = json.loads((folder / "facts.json").read_text())
    arrays = {name: np.load(path, mmap_mode="r") for name in _ARRAYS if (path := folder / f"{name}.npy").exists()}
    file, shape = folder.parent.parent / facts.pop("pixels"), tuple(facts.pop("shape"))
    dtype = np.dtype(file.stem.partition("-")[2])
    count = file.stat().st_size // (int(np.prod(shape)) * dtype.itemsize)
    array = np.memmap(file, dtype, mode="r", shape=(count, *shape))
    os.utime(folder)  # when it was last used
    return Images(array, **facts, **arrays, paths=partial(_paths, folder / "paths.json"))


def _paths(file: Path) -> list[str]:
    return json.loads(file.read_text())


# ---- what is open already --------------------------------------------------------------------------------------------


def remembered(cache: Path, key: str) -> Images | None:
    """The images of a source that has not changed since they were packed, or None."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return load(cache / "packs" / (cache / "opened" / key).read_text())
    return None


def remember(cache: Path, key: str, view: Path) -> None:
    (cache / "opened").mkdir(parents=True, exist_ok=True)
    replace_text(cache / "opened" / key, str(view.relative_to(cache / "packs")))
