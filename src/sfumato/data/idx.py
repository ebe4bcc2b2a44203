"""The idx files of MNIST and its relatives: a big-endian header, then the values.

Bytes 0 and 1 are zero, byte 2 is the type, byte 3 the number of axes; then one 32-bit length per axis.
"""

import gzip
import math
import re
import struct
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MOST_CLASSES = 65536
FILE_NAME = re.compile(r"idx\d", re.IGNORECASE)
_ENDING = re.compile(r"[-._ ]*(images)?[-._ ]*idx\d([-._ ]*ubyte)?$", re.IGNORECASE)


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


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file, memory-mapped unless it is a .gz. Raises UserError if the file is not whole."""
    try:
        with _open(path) as file:
            start = file.read(4)
            if not looks_like_idx(start):
                raise UserError(
                    f"'{path}' does not begin like an idx file: expected 00 00, a type and 1 to 4 axes "
                    f"(00 00 08 03 for images), found {start.hex(' ') or 'nothing'}. Fetch or copy the file again."
                )
            axes = start[3]
            lengths = file.read(4 * axes)
            whole = len(lengths) == 4 * axes
            shape = struct.unpack(f">{axes}I", lengths) if whole else ()
            dtype = np.dtype(TYPES[start[2]])
            packed = isinstance(file, gzip.GzipFile)
            values = file.read() if packed else b""
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"'{path}' is cut short or damaged: it cannot be unpacked. Fetch or copy it again.") from error
    offset = 4 + 4 * axes
    found = len(values) if packed else path.stat().st_size - offset
    expected = math.prod(shape) * dtype.itemsize
    if not whole or found != expected:
        promised = f"its header promises {' x '.join(map(str, shape))} values, {expected} bytes" if whole else "no header"
        raise UserError(f"'{path}' is cut short or damaged: {promised}; found {max(found, 0)}. Fetch or copy it again.")
    if packed or not expected:
        return np.frombuffer(values, dtype).reshape(shape)
    return np.memmap(path, dtype, mode="r", offset=offset, shape=shape)


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


def _open(path: Path):
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if packed else path.open("rb")
