"""Sources: what a person typed, opened as a list of pictures of any size."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from ..errors import UserError
from .arrays import as_pictures, read_npy
from .decode import SUFFIXES, decode
from .folders import Found, find, meaning, nothing_found
from .idx import FILE_NAME, labels_path, looks_like_idx, read_idx, read_labels, short_name, unpacked_start

READ = "a folder of images, a folder of class folders, an idx file, a .npy file, or the word digits"


@dataclass(frozen=True)
class Item:
    """Where a picture is and what is known about it: a class index, a group that stays on one side, a caption."""

    path: str
    label: int | None = None
    group: str | None = None
    caption: str | None = None


class Source(Protocol):
    """A list of pictures of any size. `decode` is `read` that also tells what had to be changed to read it."""

    name: str  # short, for the names of folders
    kind: str  # folder, class folders, idx, npy, digits, array
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]  # what was found and which rule decided

    def __len__(self) -> int: ...
    def item(self, i: int) -> Item: ...
    def read(self, i: int) -> np.ndarray: ...  # (H, W, C) uint8, uint16 or float32
    def decode(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]: ...


class FolderSource:
    """The image files of a folder, with classes if its subfolders are classes."""

    def __init__(self, root: Path, found: Found, name: str):
        chosen = meaning(found.images)
        self.root, self.paths, self.labels = root, chosen.images, chosen.labels
        self.name, self.label_names = name, chosen.label_names
        self.kind = "class folders" if chosen.label_names else "folder"
        self.notes = chosen.notes

    def __len__(self) -> int:
        return len(self.paths)

    def item(self, i: int) -> Item:
        """The path is relative to the folder."""
        return Item(self.paths[i], None if self.labels is None else self.labels[i])

    def read(self, i: int) -> np.ndarray:
        return self.decode(i)[0]

    def decode(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        return decode(self.root / self.paths[i])


class ArraySource:
    """Pictures of one shape in an array (N, C, H, W) of uint8, uint16 or float32, perhaps memory-mapped."""

    def __init__(
        self,
        array: np.ndarray,
        name: str,
        kind: str,
        labels: np.ndarray | None = None,
        label_names: tuple[str, ...] | None = None,
        notes: Sequence[str] = (),
    ):
        self.array, self.labels = array, labels
        self.name, self.kind, self.label_names, self.notes = name, kind, label_names, tuple(notes)

    def __len__(self) -> int:
        return len(self.array)

    def item(self, i: int) -> Item:
        return Item(f"{self.name}[{i}]", None if self.labels is None else int(self.labels[i]))

    def read(self, i: int) -> np.ndarray:
        return np.asarray(self.array[i].transpose(1, 2, 0))

    def decode(self, i: int) -> tuple[np.ndarray, tuple[str, ...]]:
        return self.read(i), ()


def open_source(data: str | Path | np.ndarray | torch.Tensor) -> Source:
    """The pictures of a folder, an idx or .npy file, `digits`, an array or a tensor. Raises UserError for the rest."""
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        return _from_array(array, "array", "array", "The tensor", last=False)
    if isinstance(data, np.ndarray):
        return _from_array(data, "array", "array", "The array")
    if not isinstance(data, str | Path) or data == "":
        found = "an empty name" if data == "" else f"something of type {type(data).__name__}"
        raise UserError(f"Expected {READ}, an array or a tensor; found {found}.")
    if data == "digits":
        return _digits()
    path = Path(data).expanduser()
    if os.path.isdir(path):  # False for a name too long to be one, where Path.is_dir raises
        return _open_folder(path)
    if os.path.isfile(path):
        return _open_file(path)
    raise _missing(str(data), path)


def _open_folder(root: Path) -> Source:
    name = root.resolve().name or "images"
    found = find(root)
    if len(found.idx) > 1 or (not found.images and len(found.npy) > 1) or (found.idx and (found.images or found.npy)):
        sets = [*found.idx, *found.npy]
        listed = ", ".join(sets[:6]) + (f" and {len(sets) - 6} more" if len(sets) > 6 else "")
        listed += f" and {len(found.images)} image files" if found.images else ""
        raise UserError(f"'{root}' holds several data sets: {listed}. Name one of them, as in {root / sets[0]}.")
    if found.images:
        folder = FolderSource(root, found, name)
        if found.npy:
            folder.notes += (f"{len(found.npy)} .npy files in the folder are not read; name one to use it instead.",)
        return folder
    if found.idx or found.npy:
        source = _open_file(root / (*found.idx, *found.npy)[0])
        source.name = name
        return source
    raise nothing_found(root, found)


def _open_file(path: Path) -> Source:
    try:
        with path.open("rb") as file:
            start = file.read(6)
        picture = path.suffix.lower() in SUFFIXES
        idx = not picture and bool(FILE_NAME.search(path.name) or looks_like_idx(unpacked_start(path)))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    if path.suffix.lower() == ".npy" or start == b"\x93NUMPY":
        return _from_array(read_npy(path), path.name.removesuffix(".npy"), "npy", f"'{path}'")
    if start[:2] == b"PK":
        raise UserError(f"'{path}' is a zip archive. Unpack it and name its folder: what is read is {READ}.")
    if idx:
        return _open_idx(path)
    if picture:
        raise UserError(f"'{path}' is one picture. Name the folder that holds the pictures.")
    raise UserError(f"'{path}' is of no type that is read. Expected {READ}.")


def _open_idx(path: Path) -> Source:
    array = read_idx(path)
    if array.ndim < 3:
        raise UserError(f"'{path}' holds labels, not images: expected 3 or 4 axes, found {array.ndim}. Name the images.")
    beside = labels_path(path)
    if beside is None:
        source = _from_array(array, short_name(path), "idx", f"'{path}'")
        source.notes += ("There is no file of labels beside it.",)
        return source
    labels = read_labels(beside, len(array), path)
    source = _from_array(array, short_name(path), "idx", f"'{path}'")
    source.labels = labels
    source.label_names = tuple(str(k) for k in range(int(labels.max(initial=0)) + 1))
    source.notes += (f"Labels are read from '{beside.name}' beside it.",)
    return source


def _from_array(array: np.ndarray, name: str, kind: str, what: str, last: bool = True) -> ArraySource:
    pictures, notes = as_pictures(array, what, last)
    return ArraySource(pictures, name, kind, notes=notes)


def _digits() -> Source:
    from sklearn.datasets import load_digits  # slow to import, and needed by this source alone

    digits = load_digits()
    array = (digits.images * (255 / 16)).round().astype(np.uint8)[:, None]  # (1797, 1, 8, 8) from 0..16
    notes = ["These are the 1797 handwritten digits of 8x8 that come with scikit-learn."]
    if os.path.isdir("digits"):
        notes.append("For the folder of that name, type ./digits instead.")
    return ArraySource(array, "digits", "digits", digits.target.astype(np.int64), tuple("0123456789"), notes)


def _missing(typed: str, path: Path) -> UserError:
    names = sorted(set(os.listdir(path.parent)) - {path.name}) if os.path.isdir(path.parent) else []
    near = get_close_matches(typed.lower(), ["digits"], cutoff=0.6)
    if not near and path.name:
        near = [str(path.with_name(name)) for name in get_close_matches(path.name, names, n=1, cutoff=0.6)]
    hint = f"Did you mean '{near[0]}'?" if near else f"Expected {READ}."
    return UserError(f"There is no file or folder '{typed}'. {hint}")
