"""`Images`: pictures of one shape, and `gather`, which makes them from a source."""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..errors import UserError, unknown
from .decode import reason
from .pixels import FITS, is_gray, luminance, resize
from .sources import ArraySource, Item, Source

DTYPES = ("uint8", "uint16", "float32")
SMALL = 64  # pictures of one size up to this keep it, others become SMALL x SMALL
SMALLEST, LARGEST = 4, 1024
GRAY_SHARE = 0.95  # from this share of gray pictures the set has one channel
CHUNK_BYTES = 1 << 26  # how much of an array that may exceed memory is looked at at once

Progress = Callable[[int, int], None]


class Images:
    """Pictures of one shape (C, H, W), with labels perhaps; the array may be memory-mapped and larger than memory."""

    def __init__(
        self,
        array: np.ndarray,  # (N, C, H, W) uint8, uint16 or float32
        labels: np.ndarray | None = None,  # (N,) class indices
        label_names: Sequence[str] | None = None,
        name: str = "array",
        notes: Sequence[str] = (),  # what was found, and the rule that decided size and channels
        skipped: Sequence[tuple[str, str]] = (),  # (path, reason) of each file that was left out
    ):
        if array.ndim != 4 or array.dtype.name not in DTYPES:
            raise ValueError(f"expected (N, C, H, W) of {', '.join(DTYPES)}; found {array.shape} of {array.dtype}")
        if labels is not None and len(labels) != len(array):
            raise ValueError(f"{len(array)} images, but {len(labels)} labels")
        self.array, self.name = array, name
        self.labels = None if labels is None else np.asarray(labels, np.int64)
        self.label_names = None if label_names is None else tuple(label_names)
        self.notes, self.skipped = tuple(notes), tuple(skipped)

    def __len__(self) -> int:
        return len(self.array)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self.array.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self.array.dtype

    @cached_property
    def hashes(self) -> np.ndarray:
        """A hash of each picture's pixels (N,) uint64: equal pictures have equal hashes."""
        out = np.empty(len(self), np.uint64)
        for part in chunks(len(self), self._image_bytes):
            rows = np.ascontiguousarray(self.array[part])
            digests = [hashlib.blake2b(row.data, digest_size=8).digest() for row in rows.reshape(len(rows), -1)]
            out[part] = np.frombuffer(b"".join(digests), "<u8")
        return out

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any picture, its place, a label, a label name, shape or type."""
        whole = hashlib.blake2b(repr((self.shape, self.dtype.name, self.label_names)).encode(), digest_size=8)
        whole.update(self.hashes.astype("<u8").tobytes())
        whole.update(b"unlabelled" if self.labels is None else self.labels.astype("<i8").tobytes())
        return whole.hexdigest()

    @cached_property
    def label_counts(self) -> np.ndarray | None:
        """Pictures per class (K,), or None without labels."""
        if self.labels is None:
            return None
        return np.bincount(self.labels, minlength=len(self.label_names or ()))

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
        """`image` (B, C, H, W) in the stored type, and `label` (B,) int64 if there are labels; always copies."""
        index = np.asarray(indices, np.int64)
        out = {"image": torch.from_numpy(np.array(self.array[index], order="C"))}
        if self.labels is not None:
            out["label"] = torch.from_numpy(self.labels[index])
        return out

    def subset(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> "Images":
        """The pictures at these positions, copied into memory."""
        index = np.asarray(indices, np.int64)
        labels = None if self.labels is None else self.labels[index]
        part = Images(np.array(self.array[index]), labels, self.label_names, self.name, self.notes, self.skipped)
        if "hashes" in self.__dict__:
            part.__dict__["hashes"] = self.hashes[index]
        return part

    @property
    def _image_bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize


def gather(
    source: Source,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "crop",
    progress: Progress | None = None,
) -> Images:
    """Bring the pictures of a source to one size (H, W) and one number of channels.

    Without `size`, pictures that all have one size of at most 64 keep it, others become 64x64. Without `channels`, a
    set with at least 95 % gray pictures has one channel, any other three. `fit` is crop, pad or stretch. Files that
    cannot be read are skipped and named. `progress(done, total)` is called along the way. Raises UserError for an
    impossible size, for fewer than two pictures, and if no file can be read or the pictures do not go together.
    """
    target = _target(size)
    if fit not in FITS:
        raise unknown("way to fit a picture called", fit, FITS)
    if channels is not None and channels < 1:
        raise UserError(f"The number of channels is expected to be 1 or 3; found {channels}.")
    if len(source) < 2:
        raise UserError(f"Training needs at least two images; '{source.name}' has {len(source)}.")
    if isinstance(source, ArraySource):
        own = source.array.shape[2:]
        if target == own or (target is None and max(own) <= SMALL):
            return _as_it_is(source, channels, progress)
    return _one_by_one(source, target, channels, fit, progress)


def chunks(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices that cover `count` entries, each of at most 64 MiB, so that a memory-mapped array is read in parts."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    return (slice(start, min(count, start + step)) for start in range(0, count, step))


def _as_it_is(source: ArraySource, channels: int | None, progress: Progress | None) -> Images:
    """Pictures that already have their size: no work for each, and no copy unless the channels change."""
    array, (count, found, H, W) = source.array, source.array.shape
    _target((H, W))
    parts = list(chunks(count, found * H * W * array.itemsize))
    if array.dtype == np.float32:
        _refuse_not_finite(np.concatenate([(~np.isfinite(array[part])).sum(axis=(1, 2, 3)) for part in parts]))
    coloured = 0
    if found == 3 and channels != 3:
        coloured = count - sum(int(is_gray(array[part]).sum()) for part in parts)
    wanted, note = _channels(count, coloured, {found}, channels)
    if wanted == 1 and found == 3:
        equal = not coloured and all((array[part] == array[part][:, :1]).all() for part in parts)
        array = array[:, :1] if equal else np.concatenate([luminance(array[part]) for part in parts])
    elif wanted == 3 and found == 1:
        array = np.broadcast_to(array, (count, 3, H, W))
    if progress:
        progress(count, count)
    notes = (*source.notes, f"All {count} images are {H}x{W} and keep this size.", note)
    return Images(array, source.labels, source.label_names, source.name, notes)


@dataclass(frozen=True)
class _Read:
    """A picture that was read: gray ones have lost their equal channels."""

    pixels: np.ndarray  # (C, H, W)
    size: tuple[int, int]  # in the file
    remarks: tuple[str, ...]
    not_finite: int


def _one_by_one(
    source: Source, target: tuple[int, int] | None, channels: int | None, fit: str, progress: Progress | None
) -> Images:
    def read(i: int) -> _Read | str:
        try:
            pixels, remarks = source.decode(i)
            h, w = pixels.shape[:2]
            not_finite = 0 if pixels.dtype.kind != "f" else int((~np.isfinite(pixels)).sum())
            if target or max(h, w) > SMALL:  # one above SMALL settles the rule for all
                pixels = resize(pixels, target or (SMALL, SMALL), fit)
            return _Read(_thin(pixels.transpose(2, 0, 1), channels), (h, w), remarks, not_finite)
        except MemoryError:
            raise
        except Exception as error:  # readers of damaged files raise nearly anything
            return reason(error)

    total, done = len(source), 0
    kept: list[_Read] = []
    places: list[int] = []
    skipped: list[tuple[str, str]] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
        # In blocks, so that Ctrl-C waits for one block and not for a million files.
        for start in range(0, total, 256):
            block = range(start, min(total, start + 256))
            for i, result in zip(block, pool.map(read, block), strict=True):
                if isinstance(result, str):
                    skipped.append((source.item(i).path, result))
                else:
                    kept.append(result)
                    places.append(i)
                done += 1
                if progress:
                    progress(done, total)
    if not kept:
        raise UserError(f"None of the {total} files of '{source.name}' can be read; {skipped[0][0]}: {skipped[0][1]}.")
    if len(kept) < 2:
        raise UserError(f"Training needs at least two images; of {total} files of '{source.name}' only one can be read.")

    items = [source.item(i) for i in places]
    _refuse_not_finite(np.array([one.not_finite for one in kept]))
    _refuse_mixture(kept, items)
    shape, size_note = _settle_size([one.size for one in kept], target, fit)
    coloured = sum(len(one.pixels) == 3 for one in kept)
    wanted, channel_note = _channels(len(kept), coloured, {len(one.pixels) for one in kept}, channels)
    notes = [*source.notes, size_note, channel_note]
    remarks = Counter(remark for one in kept for remark in one.remarks)
    notes += [f"{count} of {len(kept)} images {remark}." for remark, count in remarks.items()]
    if skipped:
        named = "; ".join(f"{path} ({why})" for path, why in skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
        notes.append(f"{len(skipped)} of {total} files could not be read and are left out: {named}.")

    array = np.empty((len(kept), wanted, *shape), kept[0].pixels.dtype)
    for j in reversed(range(len(kept))):
        pixels = kept.pop().pixels  # popped, so that the set is in memory once
        pixels = resize(pixels.transpose(1, 2, 0), shape, fit).transpose(2, 0, 1)
        array[j] = luminance(pixels[None])[0] if wanted == 1 and len(pixels) == 3 else pixels
    found = [item.label for item in items]
    labels = None if None in found else np.array(found, np.int64)
    return Images(array, labels, source.label_names, source.name, notes, skipped)


def _target(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    H, W = size if isinstance(size, tuple | list) else (size, size)
    if not (SMALLEST <= H <= LARGEST and SMALLEST <= W <= LARGEST):
        raise UserError(f"{H}x{W} is an impossible size: height and width are expected from {SMALLEST} to {LARGEST}.")
    return H, W


def _thin(pixels: np.ndarray, channels: int | None) -> np.ndarray:
    """One channel (1, H, W) for a gray picture (3, H, W), unless three are wanted."""
    if len(pixels) == 3 and channels != 3 and is_gray(pixels[None])[0]:
        return luminance(pixels[None])[0]
    return pixels


def _settle_size(sizes: list[tuple[int, int]], target: tuple[int, int] | None, fit: str) -> tuple[tuple[int, int], str]:
    count, different = len(sizes), len(set(sizes))
    h, w = sizes[0]
    if different == 1 and (target == (h, w) or (target is None and max(h, w) <= SMALL)):
        _target((h, w))
        return (h, w), f"All {count} images are {h}x{w} and keep this size."
    shape = target or (SMALL, SMALL)
    smaller = sum(h < shape[0] or w < shape[1] for h, w in sizes)
    if different == 1:
        found = f"All {count} images are {h}x{w}"
    else:
        found = f"The {count} images have {different} sizes, heights {_span(sizes, 0)} and widths {_span(sizes, 1)}"
    asked = "" if target else ", the size for pictures that differ or are larger"
    grown = f"; {smaller} of them had to be enlarged" if smaller else ""
    return shape, f"{found}; they become {shape[0]}x{shape[1]} ({fit}){asked}{grown}."


def _span(sizes: list[tuple[int, int]], axis: int) -> str:
    lengths = [size[axis] for size in sizes]
    return f"{min(lengths)} to {max(lengths)}"


def _channels(count: int, coloured: int, found: set[int], wanted: int | None) -> tuple[int, str]:
    """How many channels the set has, and the sentence that says why."""
    if not found <= {1, 3}:
        if len(found) > 1 or wanted not in (None, *found):
            raise UserError(f"Expected pictures of {wanted or 'one number of'} channels; found {sorted(found)}.")
        return min(found), f"All {count} images have {min(found)} channels."
    if wanted not in (None, 1, 3):
        raise UserError(f"The number of channels is expected to be 1 or 3; found {wanted}.")
    gray = count - coloured
    if wanted == 3:
        return 3, "The images have three channels, as was asked."
    if wanted is None and gray < GRAY_SHARE * count:
        also = f"; {gray} gray ones among them have it three times" if gray else ""
        return 3, f"The images are in colour, so they have three channels{also}."
    lost = f"; {coloured} of {count} are in colour and became gray" if coloured else ""
    return 1, f"{'One channel, as was asked' if wanted else 'The images are gray, so they have one channel'}{lost}."


def _refuse_not_finite(values: np.ndarray) -> None:
    """`values` (N,) counts what is not finite in each picture."""
    bad = int((values > 0).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(values)} images hold {int(values.sum())} values that are NaN or infinite, from position "
            f"{int(np.argmax(values > 0))} on; every pixel is expected to be a finite number. Replace or remove them."
        )


def _refuse_mixture(kept: list[_Read], items: list[Item]) -> None:
    names = [one.pixels.dtype.name for one in kept]
    found = Counter(names).most_common()
    if len(found) > 1:
        listed = " and ".join(f"{count} of {name} (such as {items[names.index(name)].path})" for name, count in found)
        raise UserError(f"All images are expected to be of one type; found {listed}. Convert or move one kind.")
