"""Checkpoints: folders of safetensors and one JSON file, whole or not there at all, and never a pickle."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from ..disk import replace_text
from ..errors import UserError

FORMAT = 1


class Broken(Exception):
    """A checkpoint that is truncated, altered or incomplete; the text says how."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint read back: its tensors by file and name, its state, and sentences on others that could not be used."""

    path: Path
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]
    notes: tuple[str, ...] = ()


def save(folder: Path, images: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Path:
    """Write `folder`/IMAGES: each set of tensors as NAME.safetensors, and state.json with their digests.

    Everything is written to a temporary sibling, flushed to the disk, and then renamed.
    """
    target = folder / f"{images:09d}"
    sibling = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(sibling, ignore_errors=True)
    sibling.mkdir(parents=True)
    digests = {}
    for name, content in tensors.items():
        file = sibling / f"{name}.safetensors"
        save_file({key: tensor.detach().cpu().contiguous() for key, tensor in content.items()}, file)
        digests[name] = _digest(file)
    document = {"format": FORMAT, "images": images, "digests": digests, **state}
    (sibling / "state.json").write_text(json.dumps(document, indent=1))
    for file in sibling.iterdir():
        _flush(file)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(sibling, target)
    _flush(folder)
    return target


def load(path: Path, names: tuple[str, ...] | None = None) -> Checkpoint:
    """Read a checkpoint, or only the named sets of tensors; raises Broken unless it is whole."""
    try:
        state = json.loads((path / "state.json").read_text())
        digests, tensors = state["digests"], {}
        if not isinstance(state["images"], int) or not set(names or ("model", "ema", "optimizer")) <= digests.keys():
            raise ValueError
        for name, digest in digests.items():
            if names is not None and name not in names:
                continue
            file = path / f"{name}.safetensors"
            if _digest(file) != digest:
                raise Broken(f"{file} is not what was written (truncated or altered)")
            tensors[name] = load_file(file)
    except OSError as error:
        raise Broken(f"{error.filename} {'is missing' if error.errno == ENOENT else 'cannot be read'}") from None
    except (KeyError, ValueError, TypeError, AttributeError):
        raise Broken(f"{path / 'state.json'} is not what was written (truncated or altered)") from None
    return Checkpoint(path, tensors, state)


def listed(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted((p for p in folder.glob("[0-9]*") if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name))


def newest(folder: Path, names: tuple[str, ...] | None = None) -> Checkpoint | None:
    """The newest whole checkpoint, with a note on each newer one that is broken; None if there is none at all.

    Raises UserError if there are checkpoints but none is whole.
    """
    notes: list[str] = []
    for path in reversed(listed(folder)):
        try:
            found = load(path, names)
        except Broken as error:
            notes.append(f"{error}; an older checkpoint is used.")
            continue
        return Checkpoint(found.path, found.tensors, found.state, tuple(notes))
    if notes:
        raise UserError(
            f"No checkpoint in {folder} is whole: {notes[0].split(';')[0]}. Train again into a new folder (--run NEW)."
        )
    return None


def at(folder: Path, images: int | str, names: tuple[str, ...] | None = None) -> Checkpoint:
    """The checkpoint after so many images, or the one that is 'best'; raises UserError if it is not there, or not whole."""
    which = best(folder) if images == "best" else int(images) if str(images).isdigit() else None
    there = [int(path.name) for path in listed(folder)]
    if which not in there:
        raise UserError(f"There is no checkpoint '{images}' in {folder}; there is {', '.join(map(str, there)) or 'none'}.")
    try:
        return load(folder / f"{which:09d}", names)
    except Broken as error:
        raise UserError(
            f"{error}. Take another checkpoint: {', '.join(map(str, sorted({*there} - {which}))) or 'none'}."
        ) from None


def best(folder: Path) -> int | None:
    """After how many images the best checkpoint was written, see `compare`; None if that is not known."""
    found = _best(folder).get("images")
    return found if isinstance(found, int) and (folder / f"{found:09d}").is_dir() else None


def compare(folder: Path, images: int, value: float | None, by: str = "held_out_loss") -> None:
    """Name the checkpoint after so many images the best, in best.json, unless the one that is has less by this measure."""
    before = _best(folder).get(by)
    if value is not None and (best(folder) is None or not isinstance(before, float) or value < before):
        replace_text(folder / "best.json", json.dumps({"images": images, by: value}))


def told(folder: Path) -> str:
    """Which checkpoint is the best and by what, a sentence; nothing where it is the newest, or none is known to be."""
    images, there = best(folder), listed(folder)
    if images is None or int(there[-1].name) == images:
        return ""
    by = " and ".join(name.replace("_", " ") for name in _best(folder) if name != "images")
    return f"The best checkpoint by {by} is that after {images:,} images (--checkpoint best)."


def _best(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "best.json").read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def prune(folder: Path, keep: int, older: int | None = None) -> None:
    """Remove all but the newest `keep` checkpoints, the best, and with `older` one that is older by so many images.

    That one lies `older` to twice as many images before the newest: the first of each stretch of so many is kept, for this
    stretch and the one before. What interrupted writers left behind is removed too.
    """
    there = listed(folder)
    kept = {path.name for path in there[-keep:]} | {f"{best(folder) or 0:09d}"}
    if older and there:
        firsts: dict[int, Path] = {}
        for path in there:
            firsts.setdefault(int(path.name) // older, path)
        kept |= {firsts[stretch].name for stretch in sorted(firsts)[-2:]}
    for path in (*(path for path in there if path.name not in kept), *folder.glob(".[0-9]*")):
        shutil.rmtree(path, ignore_errors=True)


def _digest(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _flush(path: Path) -> None:
    """Bring a file, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
