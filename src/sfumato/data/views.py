"""Views of a pack: what a run opens. A folder of small arrays and facts; the pixels stay in the pack."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from ..disk import replace_text
from ..errors import UserError, unknown
from .images import Images

_ARRAYS = ("rows", "labels", "hashes", "groups", "marked", "sizes")


def save(pack: Path, pixels: str, shape: tuple[int, int, int], images: dict[str, Any], paths: Sequence[str]) -> Path:
    """Write a view of a pack, whole or not at all, and return its folder, which is named after its contents.

    pixels   the file of the pack that holds the rows
    images   what `Images` is made of; arrays that are None are left out
    """
    rows = images.get("rows")
    count = len(images["hashes"]) if rows is None else int(rows.max()) + 1  # rows of the file that are looked at
    facts = {"pixels": pixels, "shape": [count, *shape]} | {
        name: value for name, value in images.items() if name not in _ARRAYS
    }
    key = hashlib.blake2b(json.dumps([facts, paths]).encode(), digest_size=12)
    arrays = {name: images[name] for name in _ARRAYS if images.get(name) is not None}
    for name, array in arrays.items():
        key.update(name.encode() + np.ascontiguousarray(array).tobytes())
    folder = pack / "views" / key.hexdigest()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        load(folder)
        return folder  # it is there, and whole
    shutil.rmtree(folder, ignore_errors=True)
    sibling = folder.with_name(f".{uuid4().hex}")
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
    array = np.memmap(file, dtype, mode="r", shape=shape)  # ValueError if the file is shorter
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


# ---- what the cache holds --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pack:
    """A pack in the cache."""

    folder: Path
    pictures: int  # in the largest of its views
    bytes: int
    used: float  # when a run last opened it, in seconds since 1970


def packs(cache: Path) -> list[Pack]:
    """The packs of a cache, the one used last first."""
    found = []
    for folder in (cache / "packs").glob("*"):
        if folder.is_dir() and not folder.name.startswith("."):
            sizes = [np.load(path, mmap_mode="r").shape[0] for path in folder.glob("views/*/hashes.npy")]
            used = max((path.stat().st_mtime for path in (folder, *folder.glob("views/*"))), default=0.0)
            taken = sum(_on_disk(path) for path in folder.rglob("*") if path.is_file())
            found.append(Pack(folder, max(sizes, default=0), taken, used))
    return sorted(found, key=lambda pack: -pack.used)


def lock_file(pack: Path) -> Path:
    """What is locked while a pack is made: it lies beside the folder, which may come and go."""
    return pack.with_name(f".{pack.name}.lock")


def _on_disk(path: Path) -> int:
    status = path.stat()
    return getattr(status, "st_blocks", -(-status.st_size // 512)) * 512


def clear(cache: Path, name: str | None = None) -> list[Pack]:
    """Remove the packs of a cache, or those whose name begins so, and return them.

    Runs that have one open keep it until they end. Raises UserError if there is none of that name, or one is being made.
    """
    there = packs(cache)
    chosen = [pack for pack in there if name is None or pack.folder.name.startswith(name)]
    if name is not None and not chosen:
        raise unknown("pack in the cache called", name, [pack.folder.name for pack in there])
    for pack in chosen:
        try:
            with FileLock(lock_file(pack.folder), timeout=0):
                gone = pack.folder.with_name(f".{pack.folder.name}.{os.getpid()}")
                os.replace(pack.folder, gone)
        except Timeout:
            raise UserError(f"{pack.folder} is being made by another process. Wait for it, or stop it.") from None
        shutil.rmtree(gone, ignore_errors=True)
    for file in (cache / "opened").glob("*"):
        if file.suffix == ".listing" or not (cache / "packs" / file.read_text()).exists():
            file.unlink(missing_ok=True)
    return chosen
