"""The packed cache: every unit is decoded and resized once, and its pictures become rows of plain files.

packs/NAME-64x64-crop/     pictures brought to one size in one way
  1-uint8.rows             the pictures of a kind (channels, type) one after another, only ever appended
  index.sqlite             what each content became, pictures or a reason why not, and the content of each file seen
  views/KEY/               what a run opens: which rows in which order, labels, names (see `views`)

A content is decoded once, whatever its file is called and wherever it lies. Rows that the index does not list, the rest of a
packing that was killed, are written over by the next; so a pack is whole at every moment, and readers need no lock.
"""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from filelock import FileLock

from ..errors import UserError
from .decode import reason
from .pixels import is_gray, luminance, resize
from .source import Picture, Source

VERSION = 1  # of everything that decides what a content becomes; a new one packs anew
CHUNK = 32  # units that a process works through at once
ALONE = 64  # up to so many units no processes are started
COMMIT_SECONDS = 2.0

Progress = Callable[[int, int], None]


class Differs(Exception):
    """A picture has another size than all were expected to have."""


@dataclass(frozen=True)
class Row:
    """A picture of a pack, and what its file was like."""

    kind: str  # channels and type, as in 3-uint8
    row: int  # its place among those of its kind
    height: int  # in its file
    width: int
    hash: int  # of its pixels: equal pictures have equal hashes
    low: tuple[float, ...]  # the least value of each channel
    high: tuple[float, ...]
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
        plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in source.name).strip(".-")[:80]
        return cache / "packs" / f"{plain or 'images'}-{h}x{w}-{self.fit}-{more}"


def pack(source: Source, folder: Path, way: Way, progress: Progress | None = None) -> tuple[list[list[Row] | str], list[str]]:
    """Decode what is not yet in a pack; for each unit its pictures or why it cannot be read, and for each its content.

    The content of a unit that could not even be fetched is empty. `progress(done, total)` counts units that are decoded
    now. Raises Differs, and UserError if the disk is full or a process was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"), closing(_index(folder)) as index, closing(_Files(folder, index)) as files:
        known: dict[str, str] = dict(index.execute("SELECT content, found FROM units"))
        seen: dict[str, str] = dict(index.execute("SELECT stamp, content FROM files"))
        stamps = [_stamp(source, i) for i in range(len(source))]
        contents = ["" if seen.get(stamp, "") not in known else seen[stamp] for stamp in stamps]
        found: list[list[Row] | str] = [[] for _ in stamps]
        todo = [i for i, content in enumerate(contents) if not content]
        fresh, saved = not known, time.perf_counter()
        try:
            for done, (i, content, result) in enumerate(_work(source, todo, way, known.keys())):
                if content and content not in known:
                    known[content] = result if isinstance(result, str) else files.append(result)
                    index.execute("INSERT INTO units VALUES (?, ?)", (content, known[content]))
                elif not content:
                    found[i] = str(result)
                contents[i] = content
                if content and stamps[i]:
                    index.execute("INSERT OR REPLACE INTO files VALUES (?, ?)", (stamps[i], content))
                if time.perf_counter() - saved > COMMIT_SECONDS:
                    files.commit()
                    saved = time.perf_counter()
                if progress:
                    progress(done + 1, len(todo))
            files.commit()
        except Differs:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except (OSError, sqlite3.OperationalError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error):
                free = "Make room with `sfumato cache clear`, or name another folder in the variable SFUMATO_CACHE."
                raise UserError(f"The disk that holds {folder.parent} is full. {free}") from error
            raise
    rows = {content: _rows(text) for content, text in known.items()} if len(set(contents)) > len(known) // 2 else {}
    for i, content in enumerate(contents):
        if content:
            found[i] = rows.get(content) or _rows(known[content])
    return found, contents


def convert(folder: Path, rows: Iterable[Row], channels: int) -> dict[tuple[str, int], int]:
    """Give pictures of one or three channels the other number of them: (kind, row) -> row among those with `channels`."""
    wanted = {(row.kind, row.row) for row in rows if not row.kind.startswith(f"{channels}-")}
    with FileLock(folder / ".lock"), closing(_index(folder)) as index, closing(_Files(folder, index)) as files:
        query = "SELECT kind, row, other FROM converted WHERE channels = ?"
        there = {(kind, row): other for kind, row, other in index.execute(query, (channels,))}
        for kind, row in sorted(wanted - there.keys()):
            pixels = files.read(kind, row)
            other = luminance(pixels[None])[0] if channels == 1 else pixels.repeat(channels, 0)
            there[kind, row] = files.write(other)[1]
            index.execute("INSERT INTO converted VALUES (?, ?, ?, ?)", (kind, row, channels, there[kind, row]))
        files.commit()
    return there


def pixels_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.rows"


# ---- the files -------------------------------------------------------------------------------------------------------


def _index(folder: Path) -> sqlite3.Connection:
    path = folder / "index.sqlite"
    try:
        index = sqlite3.connect(path)
        for table in (
            "units (content TEXT PRIMARY KEY, found TEXT)",
            "files (stamp TEXT PRIMARY KEY, content TEXT)",
            "kinds (kind TEXT PRIMARY KEY, shape TEXT, rows INTEGER)",
            "converted (kind TEXT, row INTEGER, channels INTEGER, other INTEGER)",
        ):
            index.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} is damaged ({error}). Type `sfumato cache clear {folder.name}` and then the same again.") from error
    return index


class _Files:
    """The files of pixels of a pack, open for appending; what the index does not know of is written over."""

    def __init__(self, folder: Path, index: sqlite3.Connection):
        self.folder, self.index = folder, index
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.counts: dict[str, int] = {}
        self.open: dict[str, BinaryIO] = {}
        for kind, shape, count in index.execute("SELECT kind, shape, rows FROM kinds"):
            self.shapes[kind], self.counts[kind] = tuple(json.loads(shape)), count

    def write(self, pixels: np.ndarray) -> tuple[str, int]:
        """Append a picture (C, H, W); its kind and row."""
        kind = f"{len(pixels)}-{pixels.dtype.name}"
        if kind not in self.open:
            path = pixels_file(self.folder, kind)
            self.open[kind] = open(path, "r+b" if path.exists() else "w+b")
            self.open[kind].seek(self.counts.setdefault(kind, 0) * pixels.nbytes)
            self.shapes[kind] = pixels.shape
        self.open[kind].write(np.ascontiguousarray(pixels).data)
        self.counts[kind] += 1
        return kind, self.counts[kind] - 1

    def read(self, kind: str, row: int) -> np.ndarray:
        if kind in self.open:
            self.open[kind].flush()
        dtype, shape = np.dtype(kind.partition("-")[2]), self.shapes[kind]
        count = int(np.prod(shape))
        return np.fromfile(pixels_file(self.folder, kind), dtype, count, offset=row * count * dtype.itemsize).reshape(shape)

    def append(self, pictures: list[tuple[np.ndarray, list[Any]]]) -> str:
        """Append the pictures of a unit; what the index says of them."""
        return json.dumps([[*self.write(pixels), *facts] for pixels, facts in pictures])

    def commit(self) -> None:
        """Pixels first, then the index that speaks of them."""
        for kind, file in self.open.items():
            file.flush()
            os.fsync(file.fileno())
            shape = json.dumps(self.shapes[kind])
            self.index.execute("INSERT OR REPLACE INTO kinds VALUES (?, ?, ?)", (kind, shape, self.counts[kind]))
        self.index.commit()

    def close(self) -> None:
        for file in self.open.values():
            file.close()


def _rows(found: str) -> list[Row] | str:
    """What the index says of a unit, read; a text that is no list is a reason."""
    if not found.startswith("["):
        return found
    return [Row(k, r, h, w, int(x), tuple(lo), tuple(hi), m, tuple(re), g) for k, r, h, w, x, lo, hi, m, re, g in json.loads(found)]


def _stamp(source: Source, i: int) -> str:
    stamp = source.stamp(i)
    return f"{source.item(i).path}\n{stamp}" if stamp else ""


# ---- the work --------------------------------------------------------------------------------------------------------

Result = tuple[int, str, Any]  # the unit, its content, and its pictures, or why there are none


def _work(source: Source, todo: list[int], way: Way, known: Iterable[str]) -> Iterator[Result]:
    """The results of some units, in order, from several processes where that is worth it."""
    job = _Job(source, way, frozenset(known))
    count = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    pool: Executor
    if len(todo) > ALONE and count > 1 and sys.platform == "linux":  # forking is not safe elsewhere
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
                _submit(pool, call, source, chunks, waiting)
            while waiting:
                results = waiting.popleft().result()
                _submit(pool, call, source, chunks, waiting)
                yield from results
        except BrokenProcessPool:
            raise UserError(
                "A process that decoded pictures was ended from outside, for want of memory perhaps. What was decoded is kept; "
                "type the same again to go on."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: Executor, call: Callable, source: Source, chunks: Iterator[list[int]], waiting: deque[Future]) -> None:
    chunk = next(chunks, None)
    if chunk is None:
        return
    stored = [_fetched(source, i) for i in chunk] if source.sequential else [None] * len(chunk)
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

    def __call__(self, units: list[tuple[int, Any]]) -> list[Result]:
        return [self.one(i, stored) for i, stored in units]

    def one(self, i: int, stored: Any) -> Result:
        """Fetch, and unless the content is known decode, resize and thin out unit i."""
        try:
            stored = _fetched(self.source, i) if stored is None else stored
            if isinstance(stored, Exception):
                raise stored
            content = _content(stored)
        except Exception as error:
            return i, "", reason(error)
        if content in self.known:
            return i, content, None
        try:
            return i, content, [self.row(picture) for picture in self.source.decode(i, stored)]
        except Differs:
            raise
        except (UserError, MemoryError) as error:  # may be mended without touching the file
            return i, "", reason(error)
        except Exception as error:
            return i, content, reason(error)

    def row(self, picture: Picture) -> tuple[np.ndarray, list[Any]]:
        """A picture (C, H, W) at its size, gray ones with one channel, and the facts that the index keeps of it."""
        pixels = picture.pixels
        h, w = pixels.shape[:2]
        if min(h, w) < 1 or pixels.size == 0:
            raise ValueError("it has no pixels")
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ValueError("it holds values that are NaN or infinite")
        if self.way.exact and (h, w) != self.way.size:
            raise Differs(f"{h}x{w}")
        pixels = resize(pixels, self.way.size, self.way.fit).transpose(2, 0, 1)
        if len(pixels) == 3 and is_gray(pixels[None])[0]:
            pixels = luminance(pixels[None])[0]
        pixels = np.ascontiguousarray(pixels)
        number = int.from_bytes(hashlib.blake2b(pixels.data, digest_size=8).digest(), "little")
        low, high = (end.astype(float).tolist() for end in (pixels.min((1, 2)), pixels.max((1, 2))))
        return pixels, [h, w, str(number), low, high, picture.mode, list(picture.remarks), picture.group]


_job: _Job


def _begin(job: _Job) -> None:
    """In a new process: Ctrl-C is the parent's to answer."""
    global _job
    _job = job
    with suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _in_process(units: list[tuple[int, Any]]) -> list[Result]:
    return _job(units)


def _content(stored: Any) -> str:
    """A name for what is stored that equal contents share."""
    if isinstance(stored, np.ndarray):
        head = f"{stored.shape}{stored.dtype}".encode()
        return hashlib.blake2b(np.ascontiguousarray(stored).tobytes(), digest_size=16, salt=head[:16]).hexdigest()
    return hashlib.blake2b(stored, digest_size=16).hexdigest()
