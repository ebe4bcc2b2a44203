"""`Images`: pictures of one shape, in memory or memory-mapped."""

import hashlib
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch

DTYPES = ("uint8", "uint16", "float32")
CHUNK_BYTES = 1 << 26  # how much of an array that may exceed memory is looked at at once
MAPPED_BYTES = 1 << 28  # a file up to so large may stay in memory once it has been touched; of larger ones pages are let go
RESIDENT_BYTES = 1 << 25
FAULT_BYTES = 1 << 16  # what a touch of a mapped file brings in at most


class Positions(Protocol):
    """A list of positions that need not be in memory."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> np.ndarray: ...


class AllBut:
    """The positions 0 .. total - 1 without a few, in order: a list of ten million that takes the memory of the few."""

    def __init__(self, few: np.ndarray, total: int):
        self.few, self.total = np.unique(few), total
        self._before = self.few - np.arange(len(self.few))  # how many stay before each that goes

    def __len__(self) -> int:
        return self.total - len(self.few)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return index + np.searchsorted(self._before, index, side="right")


class Images:
    """Pictures of one shape (C, H, W), with labels perhaps; arrays may be memory-mapped and larger than memory."""

    def __init__(
        self,
        array: np.ndarray,  # (M, C, H, W) uint8, uint16 or float32
        labels: np.ndarray | None = None,  # (N,) class indices
        label_names: Sequence[str] | None = None,
        name: str = "array",
        notes: Sequence[str] = (),  # what was found, and the rule that decided size and channels
        skipped: Sequence[tuple[str, str]] = (),  # (path, reason) of each unit that was left out
        *,
        rows: Positions | None = None,  # (N,) where in the array each picture is; in order unless said
        hashes: np.ndarray | None = None,  # (N,) uint64, if they are known
        groups: np.ndarray | None = None,  # (N,) int64: pictures of one group stay on one side of the split
        marked: np.ndarray | None = None,  # (N,) bool: the data itself keeps these for testing
        sizes: np.ndarray | None = None,  # (N, 2) height and width in the files
        modes: Mapping[str, int] | None = None,  # how the files store their pictures, and how many
        paths: Callable[[], Sequence[str]] | None = None,  # where each picture came from
        ends: tuple[Sequence[float], Sequence[float]] | None = None,  # least and greatest value of each channel
        natural: bool = True,  # may they be mirrored left to right?
    ):
        if array.ndim != 4 or array.dtype.name not in DTYPES:
            raise ValueError(f"expected (N, C, H, W) of {', '.join(DTYPES)}; found {array.shape} of {array.dtype}")
        self._array, self._rows = array, rows
        # Whole rows are gathered faster than pictures of three axes; what cannot be seen as rows stays as it is.
        self._flat = array.reshape(len(array), -1) if array.flags.c_contiguous else array
        if labels is not None and len(labels) != len(self):
            raise ValueError(f"{len(self)} images, but {len(labels)} labels")
        self.labels, self.name = labels, name
        self.label_names = None if label_names is None else tuple(label_names)
        self.notes, self.skipped = tuple(notes), tuple(skipped)
        self.groups, self.marked, self.sizes, self.modes = groups, marked, sizes, dict(modes or {})
        self.ends, self.natural, self._paths, self._touched = ends, natural, paths, 0
        if hashes is not None:
            self.hashes = hashes

    def __len__(self) -> int:
        return len(self._array) if self._rows is None else len(self._rows)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return self._array.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        return self._array.dtype

    @property
    def array(self) -> np.ndarray:
        """All pictures (N, C, H, W): the array itself if they are all of it, in order, else a copy in memory."""
        return self._array if self._rows is None else self.take(np.arange(len(self)))

    @cached_property
    def paths(self) -> Sequence[str]:
        """Where each picture came from."""
        return self._paths() if self._paths else [f"{self.name}[{i}]" for i in range(len(self))]

    @cached_property
    def hashes(self) -> np.ndarray:
        """A hash of each picture's pixels (N,) uint64: equal pictures have equal hashes."""
        out = np.empty(len(self), np.uint64)
        for part, rows in self.chunks():
            digests = [hashlib.blake2b(row.data, digest_size=8).digest() for row in rows.reshape(len(rows), -1)]
            out[part] = np.frombuffer(b"".join(digests), "<u8")
        return out

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any picture, its place, a label, a label name, shape or type."""
        whole = hashlib.blake2b(repr((self.shape, self.dtype.name, self.label_names)).encode(), digest_size=8)
        for part in parts(len(self), 8):
            whole.update(self.hashes[part].astype("<u8").tobytes())
        if self.labels is None:
            whole.update(b"unlabelled")
        else:
            for part in parts(len(self), 8):
                whole.update(self.labels[part].astype("<i8").tobytes())
        for sides in (self.marked, self.groups):  # on which side of the split a picture is
            if sides is not None:
                whole.update(np.ascontiguousarray(sides[:]).tobytes())
        release(self.hashes)
        return whole.hexdigest()

    @cached_property
    def label_counts(self) -> np.ndarray | None:
        """Pictures per class (K,), or None without labels."""
        if self.labels is None:
            return None
        classes = len(self.label_names or ())  # which is also the label of pictures that have none
        counts = [np.bincount(self.labels[part], minlength=classes)[:classes] for part in parts(len(self), 8)]
        return sum(counts, np.zeros(classes, np.int64))

    def take(self, index: np.ndarray) -> np.ndarray:
        """The pictures at these positions, (B, C, H, W), copied."""
        pictures = np.take(self._flat, index if self._rows is None else self._rows[index], axis=0).reshape(-1, *self.shape)
        self._touched += max(pictures.nbytes, FAULT_BYTES * len(pictures))
        if self._array.nbytes > MAPPED_BYTES and self._touched > RESIDENT_BYTES:
            for array in (self._array, self._rows, self.labels):
                release(array)
            self._touched = 0
        return pictures

    def batch(self, indices: Sequence[int] | np.ndarray | torch.Tensor) -> dict[str, torch.Tensor]:
        """`image` (B, C, H, W) in the stored type, and `label` (B,) int64 if there are labels; always copies."""
        index = np.asarray(indices, np.int64)
        out = {"image": torch.from_numpy(self.take(index))}
        if self.labels is not None:
            out["label"] = torch.from_numpy(self.labels[index].astype(np.int64))
        return out

    def chunks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All pictures in order, (slice, (n, C, H, W) contiguous), at most 64 MiB at once."""
        for part in parts(len(self), int(np.prod(self.shape)) * self.dtype.itemsize):
            whole = self._array[part] if self._rows is None else self.take(np.arange(part.start, part.stop))
            yield part, np.ascontiguousarray(whole)
            if self._array.nbytes > MAPPED_BYTES:
                release(self._array)

    def subset(self, indices: "Sequence[int] | np.ndarray | torch.Tensor | AllBut") -> "Images":
        """The pictures at these positions; nothing is copied but what is known of each."""
        index = indices if isinstance(indices, AllBut) else np.asarray(indices, np.int64)
        lazy = isinstance(index, AllBut)
        few: Callable[[Any], Any] = lambda values: None if values is None else _Some(values, index) if lazy else values[index]
        every = lambda: self._paths() if self._paths else self.paths  # read for this, and not kept
        where = lambda: (lambda paths: [paths[i] for i in index[np.arange(len(index))]])(every())
        return Images(
            self._array, few(self.labels), self.label_names, self.name, self.notes, self.skipped,
            rows=index if self._rows is None else _Some(self._rows, index), hashes=few(self.__dict__.get("hashes")),
            groups=few(self.groups), marked=few(self.marked), sizes=few(self.sizes), modes=self.modes, paths=where,
            ends=self.ends, natural=self.natural,
        )  # fmt: skip


class _Some:
    """Entries of a list, found when they are asked for."""

    def __init__(self, values: Positions, index: Positions):
        self.values, self.index = values, index
        self._mmap, self.mode = getattr(values, "_mmap", None), getattr(values, "mode", None)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        positions = np.arange(*index.indices(len(self))) if isinstance(index, slice) else index
        return self.values[self.index[positions]]


def parts(count: int, bytes_each: int) -> Iterator[slice]:
    """Slices that cover `count` entries, each of at most 64 MiB, so that a memory-mapped array is read in parts."""
    step = max(1, CHUNK_BYTES // max(1, bytes_each))
    return (slice(start, min(count, start + step)) for start in range(0, count, step))


def release(array: Any) -> None:
    """Let go of the memory that a mapped file's touched pages take; they are read again when they are wanted."""
    file = getattr(array, "_mmap", None)
    if file is not None and getattr(array, "mode", None) == "r" and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
