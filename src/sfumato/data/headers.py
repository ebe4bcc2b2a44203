"""What the header of a file of numbers promises, and how much of it is believed.

A promise is compared with what lies there before anything of that size is allocated.
"""

import io
import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

import numpy as np

from ..errors import UserError

MOST_HEADER = 1 << 16  # bytes
MOST_UNPACKED = 1032  # deflate makes at most so many bytes out of one
MOST_TEXT = 160  # characters that are repeated of an error
BLOCK = 1 << 20  # bytes read at once


@dataclass(frozen=True)
class Header:
    """What the beginning of a .npy file says of the array in it."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    offset: int  # bytes before the first value

    @property
    def size(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """The header of a .npy file. Raises ValueError if there is none, or one that no array can have."""
    start = file.read(MOST_HEADER)  # a header that says it is longer finds no more than this
    stream = io.BytesIO(start)
    if not start.startswith(np.lib.format.MAGIC_PREFIX):
        raise ValueError("it is empty" if not start else f"expected to begin with 93 'NUMPY', found {start[:6].hex(' ')}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of files written by Python 2, and reads them
            version = np.lib.format.read_magic(stream)
            parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = parse(stream)
    except Exception as error:  # what stands in the header is evaluated, and fails in many ways
        raise ValueError(f"its header cannot be read: {reason(error)}") from error
    if dtype.subdtype or not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"its header promises the shape {shape} of {dtype}")
    return Header(tuple(map(int, shape)), dtype, bool(fortran), stream.tell())


def read_into(file: IO[bytes], values: np.ndarray) -> int:
    """Fill an array (N,) uint8 from a file as far as that goes, and return the number of bytes that were read."""
    view, done = values.data, 0
    while done < len(view) and (count := file.readinto(view[done : done + BLOCK])):  # type: ignore[attr-defined]
        done += count
    return done


def refuse_beyond_memory(size: int, what: str) -> None:
    """Raise UserError if `size` bytes cannot be held in memory."""
    if size > memory():
        raise UserError(
            f"{what} unpacks to {size / 2**30:.1f} GiB, which is more than the memory of this machine. "
            "Unpack it and name the file in it, which is then read where it lies."
        )


def memory() -> int:
    """Bytes of memory of this machine, 64 GiB where that cannot be known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 36


def times(shape: Sequence[int]) -> str:
    """A shape as people write it: 60000 x 28 x 28."""
    return " x ".join(map(str, shape)) or "1"


def reason(error: Exception) -> str:
    """The first line of what an error says, without its full stop; some quote all that they found."""
    text = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " ..."
