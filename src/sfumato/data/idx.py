"""The idx files of MNIST and its relatives: a big-endian header, then the values.

Bytes 0 and 1 are zero, byte 2 is the type, byte 3 the number of axes; then one 32-bit length per axis.
"""

import gzip
import math
import re
import struct
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import IO, cast

import numpy as np

from ..errors import UserError
from .arrays import MOST_CLASSES, as_pictures, join, may_be_mirrored
from .headers import BLOCK, MOST_UNPACKED, read_into, refuse_beyond_memory, times
from .source import ArraySource

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_COUNTED = 1 << 28  # bytes that are unpacked only to say what is wrong
FILE_NAME = re.compile(r"idx\d", re.IGNORECASE)
_ENDING = re.compile(r"[-._ ]*(images)?[-._ ]*idx\d([-._ ]*ubyte)?$", re.IGNORECASE)
_PART = re.compile(r"(?<![a-z])(train(?:ing)?|test(?:ing)?|t10k)(?![a-z0-9])", re.IGNORECASE)


def short_name(path: Path) -> str:
    """`train` for train-images-idx3-ubyte.gz."""
    name = path.name.removesuffix(".gz")
    return _ENDING.sub("", name) or name


def is_images_name(name: str) -> bool:
    """Whether a file name looks like that of an idx file of images."""
    return bool(FILE_NAME.search(name)) and not re.search(r"labels|idx1", name, re.IGNORECASE)


def looks_like_idx(start: bytes) -> bool:
    """Whether the first four bytes of a file (unpacked, if it is a .gz) can begin an idx file."""
    return len(start) >= 4 and start[:2] == b"\0\0" and start[2] in TYPES and 1 <= start[3] <= 4


def unpacked_start(path: Path) -> bytes:
    """The first four bytes, unpacked if the file is a gzip; empty if it cannot be unpacked."""
    try:
        with _open(path) as file:
            return file.read(4)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b""


def open_idx(path: Path) -> ArraySource:
    """The images of an idx file, with the labels of the file beside it if there is one."""
    array = read_idx(path)
    if array.ndim < 3:
        raise UserError(f"'{path}' holds labels, not images: expected 3 or 4 axes, found {array.ndim}. Name the images.")
    beside = labels_path(path)
    labels = None if beside is None else read_labels(beside, len(array), path)
    pictures, notes = as_pictures(array, f"'{path}'")
    notes += (f"Labels are read from '{beside.name}' beside it." if beside else "There is no file of labels beside it.",)
    names = None if labels is None else tuple(str(k) for k in range(int(labels.max(initial=-1)) + 1))
    return ArraySource(pictures, short_name(path), "idx", labels, names, notes, natural=may_be_mirrored(path))


def open_idx_pair(train: Path, test: Path) -> ArraySource:
    """Both parts of a set in memory, the second held out, or the first alone where only that one has labels.

    Raises UserError if the pictures of the two differ in shape.
    """
    first, second = open_idx(train), open_idx(test)
    first.name = _ENDING.sub("", _PART.sub("", short_name(train)).strip("-._ ")) or train.absolute().parent.name
    if first.labels is not None and second.labels is None:
        first.notes += (f"'{test.name}' is not read, because there is no file of labels beside it.",)
        return first
    array, held = join(first.array, second.array, f"'{train}'", f"'{test}'")
    labels = names = None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
        names = max(first.label_names or (), second.label_names or (), key=len)  # both count from 0
    notes = (*first.notes, f"The {len(second)} images of '{test.name}' are held out.")
    return ArraySource(array, first.name, "idx", labels, names, notes, held, first.natural and second.natural)


def find_pairs(names: Sequence[str]) -> list[tuple[str, str | None]]:
    """Which of these idx files of images belong together, as (train, test); every other stands alone with None.

    Names may be paths. Two belong together if they differ in the words train, test and t10k alone.
    """
    tests: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if _part(name) == "test":
            tests[_PART.sub("*", name.removesuffix(".gz"))].append(name)
    partner: dict[str, str] = {}
    for name in names:
        fitting = tests[_PART.sub("*", name.removesuffix(".gz"))]
        if _part(name) == "train" and fitting:
            partner[name] = fitting.pop(0)
    taken = set(partner.values())
    return [(name, partner.get(name)) for name in names if name not in taken]


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file, memory-mapped unless it is a .gz. Raises UserError if the file is not whole."""
    try:
        with _open(path) as file:
            packed = isinstance(file, gzip.GzipFile)
            start = file.read(4)
            _check_start(start, path)
            axes, dtype = start[3], np.dtype(TYPES[start[2]])
            lengths = file.read(4 * axes)
            if len(lengths) < 4 * axes:
                raise UserError(f"'{path}' is cut short or damaged: no header is left. Fetch or copy it again.")
            shape = struct.unpack(f">{axes}I", lengths)
            expected, room = math.prod(shape) * dtype.itemsize, path.stat().st_size - (0 if packed else file.tell())
            fits = 0 < expected <= room * MOST_UNPACKED if packed else 0 < expected == room
            if fits and not packed:
                return np.memmap(path, dtype, mode="r", offset=file.tell(), shape=shape)
            if fits:
                refuse_beyond_memory(expected, f"'{path}'")
                values = np.empty(expected, np.uint8)
                found = read_into(file, values)
                if found == expected and not file.read(1):
                    return values.view(dtype).reshape(shape)
                there = "more" if found == expected else str(found)
            else:
                swapped = struct.unpack(f"<{axes}I", lengths)
                other = math.prod(swapped) * dtype.itemsize
                if other and (other == room if not packed else other <= MOST_COUNTED and _holds(file, other)):
                    raise UserError(_little(path, f"lengths {times(swapped)}"))
                there = f"a file of {path.stat().st_size}"
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"'{path}' is cut short or damaged: it cannot be unpacked. Fetch or copy it again.") from error
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    raise UserError(
        f"'{path}' is cut short or damaged: its header promises {times(shape)} values, {expected} bytes; found {there}. "
        "Fetch or copy it again."
    )


def labels_path(images: Path) -> Path | None:
    """The file of labels that belongs to a file of images, if it lies beside it."""
    plain = images.name.removesuffix(".gz")
    name = re.sub(r"idx\d", "idx1", plain.replace("images", "labels").replace("Images", "Labels"))
    if name == plain:
        return None
    beside = [images.with_name(name + ending) for ending in ("", ".gz")]
    return next((path for path in beside if path.is_file()), None)


def read_labels(path: Path, count: int, images: Path) -> np.ndarray:
    """Labels (count,) int64 of an idx file. Raises UserError if they are not one class number per image."""
    labels = read_idx(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"'{path}' is expected to hold one class number per image; found shape {labels.shape}.")
    if len(labels) != count:
        raise UserError(
            f"'{images.name}' holds {count} images, but '{path.name}' beside it holds {len(labels)} labels. "
            "Put the file that belongs to it there, or move it away to train without labels."
        )
    if count and not 0 <= labels.min() <= labels.max() < MOST_CLASSES:
        raise UserError(f"'{path}': class numbers from 0 are expected; found {labels.min()} to {labels.max()}.")
    return labels.astype(np.int64)


def _check_start(start: bytes, path: Path) -> None:
    if looks_like_idx(start):
        return
    if looks_like_idx(start[::-1]):
        raise UserError(_little(path, f"first bytes {start.hex(' ')}"))
    raise UserError(
        f"'{path}' does not begin like an idx file: expected 00 00, a type and 1 to 4 axes "
        f"(00 00 08 03 for images), found {start.hex(' ') or 'nothing'}. Fetch or copy the file again."
    )


def _little(path: Path, what: str) -> str:
    return (
        f"'{path}' was written with its bytes in the wrong order: an idx file is big-endian, but its {what} are "
        "little-endian. Write the header again with the largest byte first."
    )


def _holds(file: IO[bytes], count: int) -> bool:
    """Whether exactly so many bytes are left, without keeping them."""
    while count > 0:
        part = len(file.read(min(count, BLOCK)))
        if not part:
            return False
        count -= part
    return not file.read(1)


def _part(name: str) -> str:
    """train or test by the last such word of a name, empty without one."""
    words = _PART.findall(name)
    return "" if not words else "train" if words[-1].lower().startswith("train") else "test"


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")
