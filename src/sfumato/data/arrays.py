"""Arrays of pictures, from memory or a .npy file, brought to (N, C, H, W) without copying where that can be."""

from pathlib import Path

import numpy as np

from ..errors import UserError

MOST_CHANNELS = 4


def read_npy(path: Path) -> np.ndarray:
    """The array of a .npy file, memory-mapped. Raises UserError if the file is cut short or holds Python objects."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"'{path}' is not a whole .npy file of numbers ({str(error).splitlines()[0].rstrip('.')}). "
            "Save the pictures again with numpy.save as one array of numbers (N, H, W) or (N, H, W, C)."
        ) from error


def as_pictures(array: np.ndarray, what: str, last: bool = True) -> tuple[np.ndarray, tuple[str, ...]]:
    """An array (N, H, W), (N, H, W, C) or (N, C, H, W) -> (N, C, H, W) as uint8, uint16 or float32, with notes.

    C is the axis that has 1 to 4 entries; if both could be, `last` decides. Raises UserError for another number of
    axes, and for contents that are not numbers of these types.
    """
    if array.dtype.kind not in "buif":
        raise UserError(f"{what}: pictures are numbers, but this array holds {array.dtype}. Save one numeric array.")
    layouts = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 to 4 channels"
    if array.ndim not in (3, 4):
        raise UserError(f"{what}: expected an array of {layouts}; found shape {array.shape}.")
    notes: tuple[str, ...] = ()
    if array.ndim == 3:
        if array.shape[2] <= MOST_CHANNELS:
            raise UserError(f"{what}: expected an array of {layouts}; found {array.shape}, which looks like one picture.")
        pictures = array[:, None]
    else:
        first_fits, last_fits = 1 <= array.shape[1] <= MOST_CHANNELS, 1 <= array.shape[3] <= MOST_CHANNELS
        if not first_fits and not last_fits:
            raise UserError(f"{what}: expected an array of {layouts}; found shape {array.shape}.")
        if first_fits and last_fits:
            order = "(N, H, W, C)" if last else "(N, C, H, W)"
            notes = (f"The shape {array.shape} could be read in two ways; it was read as {order}.",)
        pictures = array.transpose(0, 3, 1, 2) if last_fits and (last or not first_fits) else array
    pictures, converted = _as_stored(pictures, what)
    return pictures, notes + converted


def _as_stored(array: np.ndarray, what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255), ("True and False became 255 and 0.",)
    if kind == "f":
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and infinite values are counted and refused
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
