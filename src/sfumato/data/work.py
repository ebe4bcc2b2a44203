"""The work of packing: units are fetched, decoded, resized and thinned out, by several processes where that is worth it."""

import ctypes
import gc
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import UserError
from .decode import reason
from .pixels import SAME, resize, spread
from .source import Item, Source

VERSION = 2  # of everything that decides what a content becomes; a new one packs anew
CHUNK = 32  # units that a process works through at once
ALONE = 64  # up to so many units no processes are started


class Differs(Exception):
    """A picture has another size than all were expected to have."""


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A picture of a pack, and what its file was like."""

    kind: str  # channels and type, as in 3-uint8
    height: int  # in its file
    width: int
    hash: int  # of its pixels: equal pictures have equal hashes
    low: tuple[float, ...]  # the least value of each channel
    high: tuple[float, ...]
    gray: bool  # one channel, or three that hardly differ
    mode: str
    remarks: tuple[str, ...]
    group: str | None


@dataclass(frozen=True)
class Way:
    """How pictures are brought to their size."""

    size: tuple[int, int]
    fit: str
    exact: bool  # all are expected to have this size

    def folder(self, source: Source, cache: Path) -> Path:
        """The pack of a source's pictures brought to size in this way."""
        h, w = self.size
        more = hashlib.blake2b(f"{source.policy}{VERSION}".encode(), digest_size=3).hexdigest()
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in source.name).strip(".-")
        plain = plain.encode(errors="ignore")[:150].decode(errors="ignore")  # file systems count bytes
        return cache / "packs" / f"{plain or 'images'}-{h}x{w}-{self.fit}-{more}"


def kind_of(pixels: np.ndarray) -> str:
    """The kind of a picture (C, H, W)."""
    return f"{len(pixels)}-{_NAMES[pixels.dtype]}"


_NAMES = {np.dtype(name): name for name in ("uint8", "uint16", "float32")}  # asking a dtype its name takes 20 us


class Items:
    """The items of a source; of one that is a stream those that have passed by, for it is not gone through twice."""

    def __init__(self, source: Source, known: dict[int, str]):
        self.source = source
        self.passed = {i: Item(*json.loads(text)) for i, text in known.items()}

    def __getitem__(self, i: int) -> Item:
        return self.passed[i] if i in self.passed else self.source.item(i)

    def text(self, i: int) -> str:
        """What the index keeps of an item that will not pass by again."""
        item = self.passed.get(i)
        return "" if item is None else json.dumps([item.path, item.label, item.group, item.caption, item.split])

    def fetched(self, i: int) -> Any:
        """What is stored of unit i of a stream, or the error."""
        try:
            self.passed[i] = self.source.item(i)
        except Exception:
            self.passed[i] = Item(f"{self.source.name}[{i}]")
        stored = _fetched(self.source, i)
        return Fault(reason(stored)) if isinstance(stored, Exception) else stored  # not every error can go to a process


class Fault(Exception):
    """Why something could not be fetched, in words."""


Result = tuple[int, str, str, str, list[str]]  # the unit, its content, why there are no pictures, them as JSON, their kinds
Results = tuple[list[Result], dict[str, bytes]]  # and the pixels of each kind


def work(items: Items, todo: list[int], way: Way, known: Iterable[str]) -> Iterator[Results]:
    """The results of some units, in order, from several processes where that is worth it."""
    job = _Job(items.source, way, frozenset(known))
    count = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool: Executor
    if len(todo) > ALONE and count > 1 and sys.platform == "linux" and items.source.kind != "torch":  # elsewhere forks hang
        context = multiprocessing.get_context("fork")
        pool = ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(job,))
        call: Callable = _in_process
    else:
        pool, call = ThreadPoolExecutor(count), job
    size = CHUNK if len(todo) > ALONE else 1
    chunks = iter([todo[k : k + size] for k in range(0, len(todo), size)])
    waiting: deque[Future] = deque()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it reads all the same
        try:
            for _ in range(4 * count):  # no more at once, so that results do not pile up, and streams are read in order
                _submit(pool, call, items, chunks, waiting)
            while waiting:
                results = waiting.popleft().result()
                _submit(pool, call, items, chunks, waiting)
                yield results
        except BrokenProcessPool:
            raise UserError(
                "A process that decoded pictures was ended from outside, for want of memory perhaps. What was decoded is kept; "
                "type the same again to go on."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: Executor, call: Callable, items: Items, chunks: Iterator[list[int]], waiting: deque[Future]) -> None:
    chunk = next(chunks, None)
    if chunk is None:
        return
    stored = [items.fetched(i) for i in chunk] if items.source.sequential else [None] * len(chunk)
    waiting.append(pool.submit(call, list(zip(chunk, stored, strict=True))))


def _fetched(source: Source, i: int) -> Any:
    try:
        return source.load(i)
    except Exception as error:  # readers of damaged files raise nearly anything
        return error


@dataclass(frozen=True)
class _Job:
    """What a process needs to know to work through units."""

    source: Source
    way: Way
    known: frozenset[str]

    def __call__(self, units: list[tuple[int, Any]]) -> Results:
        blocks: dict[str, list[np.ndarray]] = {}
        found = [self.one(i, stored, blocks) for i, stored in units]
        empty = lambda block: np.empty((len(block), *block[0].shape), block[0].dtype)  # stack alone would keep their strides
        stacks = {kind: np.stack(block, out=empty(block)) for kind, block in blocks.items()}  # (n, C, H, W) each
        facts = {kind: _facts(stack) for kind, stack in stacks.items()}
        results = []
        for i, content, fault, pictures in found:
            rows = []
            for kind, h, w, gray, mode, remarks, group in pictures:
                number, low, high = next(facts[kind])
                rows.append(Row(kind, h, w, number, low, high, gray, mode, remarks, group))
            results.append((i, content, fault, msgspec.json.encode(rows).decode(), [row.kind for row in rows]))
        return results, {kind: stack.tobytes() for kind, stack in stacks.items()}

    def one(self, i: int, stored: Any, blocks: dict[str, list[np.ndarray]]) -> tuple[int, str, str, list[tuple]]:
        """Fetch, and unless the content is known decode, resize and thin out unit i; its pixels are added to the blocks.

        Returns the unit, its content, why there are no pictures, and of each its kind, size in the file, and further facts.
        """
        try:
            stored = _fetched(self.source, i) if stored is None else stored
            if isinstance(stored, Exception):
                raise stored
            content = _content(stored) + self.source.manner(i)
        except Exception as error:
            return i, "", reason(error), []
        if content in self.known:
            return i, content, "", []
        try:
            enough = None if self.way.exact else 2 * max(self.way.size)  # so that the last step of resizing is a good one
            pictures = self.source.decode(i, stored, enough)
            brought = [self.brought(picture.pixels, picture.size) for picture in pictures]
        except Differs:
            raise
        except Exception as error:  # what may be mended without touching the file is tried again the next time
            mended = isinstance(error, MemoryError) or "pip install" in str(error)
            return i, "" if mended else content, reason(error), []
        found = []
        for (pixels, gray), picture in zip(brought, pictures, strict=True):
            kind = kind_of(pixels)
            blocks.setdefault(kind, []).append(pixels)
            size = picture.size or picture.pixels.shape[:2]
            found.append((kind, *size, gray, picture.mode, picture.remarks, picture.group))
        return i, content, "", found

    def brought(self, pixels: np.ndarray, size: tuple[int, int] | None = None) -> tuple[np.ndarray, bool]:
        """A picture (h, w, C), of `size` in its file, at its size (C, H, W), and whether it is gray.

        Three equal channels become one. Raises Differs, and ValueError for what is no picture.
        """
        h, w, channels = pixels.shape
        if pixels.size == 0:
            raise ValueError("it has no pixels")
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ValueError("it holds values that are NaN or infinite")
        if self.way.exact and (size or (h, w)) != self.way.size:
            raise Differs(f"{h}x{w}")
        pixels = resize(pixels, self.way.size, self.way.fit).transpose(2, 0, 1)
        if channels != 3:
            return pixels, channels == 1
        middle = pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].tolist()  # one pixel tells most colours from gray
        allowed = SAME.get(pixels.dtype, 0)
        if max(middle) - min(middle) > allowed:
            return pixels, False
        tint = spread(pixels[None])[0]
        return (pixels if tint else pixels[:1]), bool(tint <= allowed)


def _facts(stack: np.ndarray) -> Iterator[tuple[int, tuple, tuple]]:
    """Of each of some pictures (n, C, H, W) its hash, and the least and greatest value of each channel."""
    flat = stack.reshape(*stack.shape[:2], -1)
    ends = zip(map(tuple, flat.min(2).tolist()), map(tuple, flat.max(2).tolist()), strict=True)
    for picture, (low, high) in zip(stack, ends, strict=True):
        yield int.from_bytes(hashlib.blake2b(picture.data, digest_size=8).digest(), "little"), low, high


_job: _Job


def _begin(job: _Job) -> None:
    """In a new process: Ctrl-C is the parent's to answer."""
    global _job
    _job = job
    with suppress(OSError, AttributeError):  # on Linux: end with the parent, however it ends
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    gc.freeze()  # what the parent has need not be gone through, and so not be copied, whenever garbage is looked for
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_process(units: list[tuple[int, Any]]) -> Results:
    return _job(units)


def _content(stored: Any) -> str:
    """A name for what is stored that equal contents share."""
    if isinstance(stored, np.ndarray):
        head = f"{stored.shape}{stored.dtype}".encode()
        return hashlib.blake2b(np.ascontiguousarray(stored).tobytes(), digest_size=16, salt=head[:16]).hexdigest()
    return hashlib.blake2b(stored, digest_size=16).hexdigest()
