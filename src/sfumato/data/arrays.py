"""Arrays of pictures, from memory, a .npy or an .npz file, brought to (N, C, H, W) without copying where that can be."""

import math
import os
import re
import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .headers import MOST_UNPACKED, Header, read_header, read_into, reason, refuse_beyond_memory, times
from .source import ArraySource

FEW_CHANNELS, MOST_CHANNELS = 4, 64
LEAST_SIDE = 8  # smaller pictures with more than FEW_CHANNELS channels are taken for a mistake
MOST_CLASSES = 65536
MOST_KEYS = 1000  # arrays in one .npz file

LAYOUTS = f"(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to {MOST_CHANNELS} channels"
AGAIN = "Save the pictures again with numpy.save as one array of numbers (N, H, W) or (N, H, W, C)."
IMAGE_KEYS = ("images", "image", "imgs", "img", "x", "data", "pictures", "pixels")
LABEL_KEYS = ("labels", "label", "y", "targets", "target")
NAME_KEYS = ("label_names", "class_names", "classes")
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_npy(path: Path) -> ArraySource:
    """The pictures of a .npy file, with the labels in NAME-labels.npy, NAME_labels.npy or labels.npy beside it.

    labels.npy counts if it is the only other .npy file. Raises UserError for files that are damaged or do not fit.
    """
    what = f"'{path}'"
    array, notes = as_pictures(read_npy(path), what)
    name = path.name.removesuffix(".npy")
    beside = _labels_beside(path)
    labels = label_names = None
    if beside is not None:
        labels, label_names, found = class_indices(read_npy(beside), len(array), f"'{beside}'")
        notes += found or (f"Labels are read from '{beside.name}' beside it.",)
    return ArraySource(array, name, "npy", labels, label_names, notes, natural=may_be_mirrored(path))


def open_npz(path: Path) -> ArraySource:
    """The pictures of an .npz file, found by the names and shapes of its arrays, with its labels if it has some.

    Of the parts train, val and test two are read, train and the first of the others, which is then held out. Raises
    UserError if the file is damaged or the arrays cannot be told apart.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = _headers(archive)
            keys, label_keys, notes = _choose(headers, path)
            refuse_beyond_memory(sum(headers[key].size for key in (*keys, *label_keys)), f"'{path}'")
            read = [as_pictures(_member(archive, headers, key), f"{key} in '{path}'") for key in keys]
            raw = [_member(archive, headers, key) for key in label_keys]
            names = _names(archive, headers)
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"'{path}': {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # the readers of damaged archives raise nearly anything
        raise UserError(
            f"'{path}' is not a whole .npz file ({reason(error)}). "
            "Save the pictures again with numpy.savez_compressed(path, images=images, labels=labels)."
        ) from error
    notes += tuple(dict.fromkeys(note for _, found in read for note in found))  # each once, though both parts say it
    held = None
    array = read[0][0]
    if len(read) == 2:
        array, held = join(array, read[1][0], f"{keys[0]} in '{path}'", keys[1])
    labels = label_names = None
    if raw:
        what = f"{' and '.join(label_keys)} in '{path}'"
        for key, part, (pictures, _) in zip(label_keys, raw, read, strict=True):
            if part.shape[:1] != (len(pictures),) or part.shape[1:] != raw[0].shape[1:]:
                raise UserError(f"{key} in '{path}' is expected to label {len(pictures)} pictures; found shape {part.shape}.")
        labels, label_names, found = class_indices(np.concatenate(raw), len(array), what)
        notes += found
        if label_names and names and raw[0].dtype.kind not in "US":
            if len(names) < len(label_names):
                raise UserError(f"{what} has {len(label_names)} classes, but the file names {len(names)}.")
            label_names = names
    name = path.name.removesuffix(".npz")
    return ArraySource(array, name, "npz", labels, label_names, notes, held, may_be_mirrored(path))


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped. Raises UserError if the file is cut short or holds Python objects."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            found = os.fstat(file.fileno()).st_size - header.offset
        if header.dtype.hasobject:
            raise ValueError("it holds Python objects, which are never loaded")
        if found < header.size:
            raise ValueError(f"its header promises {times(header.shape)} values, {header.size} bytes; found {found}")
        order: Any = "F" if header.fortran else "C"
        if not header.size:
            return np.empty(header.shape, header.dtype, order)
        return np.memmap(path, header.dtype, "r", header.offset, header.shape, order)
    except (ValueError, OSError) as error:
        raise UserError(f"'{path}' is not a whole .npy file of numbers ({reason(error)}). {AGAIN}") from error


def as_pictures(array: np.ndarray, what: str, last: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """An array (N, H, W), (N, H, W, C) or (N, C, H, W) -> (N, C, H, W) as uint8, uint16 or float32, with notes.

    C is the axis that has 1 to 4 entries; if both could be, `last` decides. Where neither has so few, C is the one of
    at most 64 entries that is smaller than H and W, which are then at least 8. Raises UserError for another number of
    axes, and for contents that are not numbers of these types.
    """
    if array.dtype.kind not in "buif":
        raise UserError(f"{what}: pictures are numbers, but this array holds {array.dtype}. Save one numeric array.")
    axis, notes = _channel_axis(array.shape, what, last)
    pictures = array[:, None] if axis == 0 else array if axis == 1 else array.transpose(0, 3, 1, 2)
    pictures, converted = _as_stored(pictures, what)
    return pictures, notes + converted


def class_indices(
    labels: np.ndarray, count: int, what: str
) -> tuple[np.ndarray | None, tuple[str, ...] | None, tuple[str, ...]]:
    """Labels (count,) int64 and their names, from whole numbers (N,) or (N, 1), one-hot rows (N, K) or text (N,).

    Rows that mark several classes give no labels and a note. Raises UserError for everything else.
    """
    expected = f"{what}: expected one class number from 0 for each of {count} pictures"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim not in (1, 2) or len(labels) != count or labels.dtype.kind not in "buifUS":
        raise UserError(f"{expected}; found shape {labels.shape} of {labels.dtype}.")
    if labels.dtype.kind in "US":
        if labels.ndim == 2:
            raise UserError(f"{expected}; found text of shape {labels.shape}.")
        texts, classes = np.unique(labels, return_inverse=True)
        return _counted(classes, len(texts), expected), _decoded(texts), ()
    if labels.ndim == 2:
        if not ((labels == 0) | (labels == 1)).all():
            raise UserError(f"{expected}, or one-hot rows of 0 and 1; found shape {labels.shape} with other numbers.")
        if (labels.sum(axis=1) != 1).any():
            return None, None, (f"{what} marks none or several classes for some pictures, so there are no classes.",)
        return labels.argmax(axis=1).astype(np.int64), _numbers(labels.shape[1]), ()
    if labels.dtype.kind == "f" and not (np.isfinite(labels) & (labels == np.floor(labels))).all():
        raise UserError(f"{expected}; found numbers that are not whole.")
    low, high = (int(labels.min()), int(labels.max())) if count else (0, -1)
    if low < 0:
        raise UserError(f"{expected}; found {low} to {high}.")
    return _counted(labels, high + 1, expected), _numbers(high + 1), ()


def join(train: np.ndarray, held: np.ndarray, train_name: str, held_name: str) -> tuple[np.ndarray, np.ndarray]:
    """Two parts (N, C, H, W) in one array, and which pictures are of the second, (N,) bool.

    Raises UserError if their pictures differ in shape.
    """
    if train.shape[1:] != held.shape[1:]:
        c, h, w = train.shape[1:]
        raise UserError(
            f"The pictures of {train_name} are {h}x{w} with {c} channels, those of {held_name} "
            f"{held.shape[2]}x{held.shape[3]} with {held.shape[1]}. Give both parts one shape, or put one of them away."
        )
    return np.concatenate([train, held]), np.arange(len(train) + len(held)) >= len(train)


def may_be_mirrored(path: Path) -> bool:
    """False where the names of the file and its folder speak of MNIST or a relative of it with signs, or of digits."""
    folder = path.absolute().parent
    names = [path.name, folder.name] + ([folder.parent.name] if folder.name.lower() in ("raw", "processed") else [])
    words = [name.lower().partition(".")[0] for name in names]
    signs = any("mnist" in word or word == "digits" for word in words)
    return not signs or any("fashion" in word for word in words)


def _channel_axis(shape: Sequence[int], what: str, last: bool = True) -> tuple[int, tuple[str, ...]]:
    """1 or 3, or 0 if there is none, with notes."""
    shape = tuple(shape)
    notes: tuple[str, ...] = ()
    expected = f"{what}: expected an array of {LAYOUTS}; found"
    if len(shape) == 2:
        raise UserError(f"{expected} shape {shape}. If each row is a picture, {_unrolled(shape[1])}.")
    if len(shape) not in (3, 4):
        raise UserError(f"{expected} shape {shape}.")
    if len(shape) == 3:
        if 0 < shape[2] <= FEW_CHANNELS:
            raise UserError(f"{expected} {shape}, which looks like one picture.")
        axis = 0
    else:
        fits = [axis for axis in (1, 3) if 1 <= shape[axis] <= FEW_CHANNELS]
        many = not fits
        if many:
            sides = {1: min(shape[2:]), 3: min(shape[1:3])}
            fits = [axis for axis in (1, 3) if shape[axis] <= MOST_CHANNELS and max(shape[axis], LEAST_SIDE - 1) < sides[axis]]
        if not fits:
            raise UserError(f"{expected} shape {shape}.")
        axis = fits[-1 if last else 0]
        order = "(N, H, W, C)" if axis == 3 else "(N, C, H, W)"
        if len(fits) == 2:
            notes = (f"The shape {shape} could be read in two ways; it was read as {order}.",)
        elif many:
            notes = (f"The shape {shape} was read as {order}, with {shape[axis]} channels.",)
    if 0 in shape[1:]:
        raise UserError(f"{expected} shape {shape}, pictures without pixels.")
    return axis, notes


def _unrolled(length: int) -> str:
    """How to make pictures of rows of this length."""
    for channels, lead in ((1, ""), (3, "3, ")):
        side = math.isqrt(length // channels)
        if length and side * side * channels == length and side >= LEAST_SIDE:
            return f"save array.reshape(-1, {lead}{side}, {side}) instead"
    return "save array.reshape(-1, H, W) with its height and width instead"


def _as_stored(array: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255), ("True and False became 255 and 0.",)
    if kind == "f":
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # what overflows becomes infinite, and infinite values are counted and refused
            return (array if array.dtype == np.float32 else array.astype(np.float32)), ()
    if kind == "u" and size <= 2:
        return (array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))), ()
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for stored, top in ((np.uint8, 255), (np.uint16, 65535)):
        if low >= 0 and high <= top:
            return array.astype(stored), (f"Whole numbers from {low} to {high} are stored as {stored.__name__}.",)
    if max(-low, high) <= 2**24:  # float32 holds whole numbers exactly up to here
        return array.astype(np.float32), (f"Whole numbers from {low} to {high} are stored as float32.",)
    raise UserError(
        f"{what}: whole numbers are expected between -2**24 and 2**24; found {low} to {high}. "
        "Save the pictures as uint8, uint16 or float32."
    )


def _labels_beside(path: Path) -> Path | None:
    stem = path.name.removesuffix(".npy")
    names = [f"{stem}-labels.npy", f"{stem}_labels.npy", path.name.replace("images", "labels")]
    others = [other for other in path.parent.glob("*.npy") if other.name != path.name]
    if [other.name for other in others] == ["labels.npy"]:
        names.append("labels.npy")
    return next((other for name in names for other in others if other.name == name), None)


def _headers(archive: zipfile.ZipFile) -> dict[str, Header]:
    """The header of each array of an .npz file by its key, checked against the directory of the archive."""
    members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
    if not members:
        listed = ", ".join(archive.namelist()[:6]) or "nothing"
        raise UserError(f"An .npz file holds arrays, written by numpy.savez; in this archive there is {listed}.")
    if len(members) > MOST_KEYS:
        raise UserError(f"The archive holds {len(members)} arrays. Save the pictures as one array with numpy.stack.")
    headers: dict[str, Header] = {}
    for info in members:
        key = info.filename.removesuffix(".npy")
        if key in headers:
            raise UserError(f"There are two arrays named {key}. Save them under different names.")
        headers[key] = _header(archive, info)
    return headers


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Header:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{info.filename} is encrypted or packed in a way that numpy does not write. Save it again.")
    try:
        with archive.open(info) as file:
            header = read_header(file)
    except ValueError as error:
        raise UserError(f"{info.filename} is damaged: {reason(error)}. Save the file again.") from error
    if header.dtype.hasobject:  # refused when it is read: the other arrays may be all that is needed
        return header
    whole = header.offset + header.size == info.file_size
    room = info.compress_size * (1 if info.compress_type == zipfile.ZIP_STORED else MOST_UNPACKED)
    if not whole or info.file_size > room:
        raise UserError(
            f"{info.filename} is cut short or damaged: its header promises {times(header.shape)} values, {header.size} "
            f"bytes; found {info.file_size - header.offset}, packed in {info.compress_size}. Save the file again."
        )
    return header


def _member(archive: zipfile.ZipFile, headers: Mapping[str, Header], key: str) -> np.ndarray:
    header = headers[key]
    if header.dtype.hasobject:
        raise UserError(f"{key} holds Python objects, which are never loaded. Save numbers or text, as astype makes them.")
    values = np.empty(header.size, np.uint8)
    with archive.open(key + ".npy") as file:
        file.read(header.offset)
        if read_into(file, values) != header.size or file.read(1):
            raise UserError(f"{key} is cut short. Save the file again.")
    return values.view(header.dtype).reshape(header.shape, order="F" if header.fortran else "C")


def _choose(headers: Mapping[str, Header], path: Path) -> tuple[list[str], list[str], tuple[str, ...]]:
    """The keys of the pictures, first those to train on and perhaps those to hold out; of their labels; notes."""
    found = _image_keys(headers, path)
    first = next(part for part in ("", "train", "val", "test") if part in found)
    held = next((part for part in ("val", "test") if part in found and part != first), None)
    several = any(len(keys) > 1 for keys in found.values()) or {"", "train"} <= set(found)
    if several or (held and first == "val"):
        raise UserError(
            f"'{path}' holds several arrays that could be the pictures: {_listed(headers)}. "
            "Save one of them as images, or two as train_images and test_images."
        )
    parts = [first, held] if held else [first]
    keys = [found[part][0] for part in parts]
    label_keys = [_label_key(headers, part, found[part][0], path) for part in parts]
    if len(found) == 1 and label_keys == [None]:
        label_keys = [_label_key(headers, "", keys[0], path)]
    notes: tuple[str, ...] = ()
    if label_keys[0] is not None and label_keys[-1] is None:
        notes += (f"'{keys[1]}' is not read, because it has no labels.",)
        keys, label_keys = keys[:1], label_keys[:1]
    labels = [] if label_keys[0] is None else [key for key in label_keys if key is not None]
    read = " and ".join(f"'{key}'" for key in keys)
    told = f", labels from {' and '.join(repr(key) for key in labels)}" if labels else ", and no labels"
    notes = (f"Pictures are read from {read}{told}.", *notes)
    if len(keys) == 2:
        notes += (f"The pictures of '{keys[1]}' are held out.",)
    if held == "val" and "test" in found:
        notes += (f"'{found['test'][0]}' is left for testing.",)
    return keys, labels, notes


def _image_keys(headers: Mapping[str, Header], path: Path) -> dict[str, list[str]]:
    """The keys that can be pictures, by part: those with a name for pictures, or else all that have such a shape."""
    shaped, refused = [], []
    for key, header in headers.items():
        try:
            _channel_axis(header.shape, f"{key} in '{path}'")
        except UserError as error:
            refused.append((key, error))
        else:
            shaped += [key] if header.dtype.kind in "buif" else []
    for names in (IMAGE_KEYS, None):
        found: dict[str, list[str]] = defaultdict(list)
        for key in shaped:
            base, part = _read_key(key)
            if names is None or base in names:
                found[part].append(key)
        if found:
            return found
    for key, refusal in refused:
        if _read_key(key)[0] in IMAGE_KEYS or len(headers) == 1:
            raise refusal
    raise UserError(f"'{path}' holds no pictures: expected an array of {LAYOUTS}; found {_listed(headers)}.")


def _label_key(headers: Mapping[str, Header], part: str, images: str, path: Path) -> str | None:
    found = [key for key in headers if _read_key(key)[1] == part and _read_key(key)[0] in LABEL_KEYS]
    if not found and images == "arr_0" and "arr_1" in headers:  # numpy.savez(path, images, labels)
        header = headers["arr_1"]
        if header.shape[:1] == headers["arr_0"].shape[:1] and header.dtype.kind in "buiUS":
            found = ["arr_1"]
    if len(found) > 1:
        raise UserError(f"'{path}' holds several arrays that could be the labels: {_listed(headers)}. Save one of them.")
    return found[0] if found else None


def _read_key(key: str) -> tuple[str, str]:
    """A key without the word for its part, and the part: ("x", "train") for x_train, trainX or train/x."""
    words = re.split(r"[^a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower())
    parts = [PARTS[word] for word in words if word in PARTS]
    return "_".join(word for word in words if word not in PARTS), parts[-1] if parts else ""


def _names(archive: zipfile.ZipFile, headers: Mapping[str, Header]) -> tuple[str, ...]:
    """The names of the classes, where the file has an array of text for them."""
    for key in NAME_KEYS:
        if key in headers and headers[key].dtype.kind in "US" and len(headers[key].shape) == 1 and headers[key].size:
            return _decoded(_member(archive, headers, key))
    return ()


def _counted(classes: np.ndarray, count: int, expected: str) -> np.ndarray:
    if count > MOST_CLASSES:
        raise UserError(f"{expected}; found {count} classes, of {MOST_CLASSES} at most.")
    return classes.astype(np.int64)


def _decoded(texts: np.ndarray) -> tuple[str, ...]:
    return tuple(text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in texts.tolist())


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(str(k) for k in range(count))


def _listed(headers: Mapping[str, Header]) -> str:
    shown = [f"{key} {header.shape} {header.dtype}" for key, header in list(headers.items())[:12]]
    return ", ".join(shown) + (f" and {len(headers) - 12} more" if len(headers) > 12 else "")
