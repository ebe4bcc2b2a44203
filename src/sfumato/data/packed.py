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
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import PIL

from ..errors import UserError
from .pixels import luminance
from .source import Item, Source
from .work import Differs, Items, Row, Way, kind_of, work

COMMIT_SECONDS = 2.0
_FAULT = f"!{PIL.__version__} "  # before why a content cannot be read: another Pillow may read it

Progress = Callable[[int, int], None]
Place = tuple[str, int]  # kind and row


@dataclass(frozen=True)
class Unit:
    """A unit of a source, packed."""

    item: Item
    pictures: list[Row]
    rows: list[int]  # where each picture is among those of its kind
    fault: str  # why there are none, else empty
    known: bool  # whether its content is known, so that the same will be found the next time


def pack(source: Source, folder: Path, way: Way, progress: Progress | None = None) -> list[Unit]:
    """Decode what is not yet in a pack, and return all units; the pack is locked by the caller.

    `progress(done, total)` counts units that are decoded now. Raises Differs, and UserError if the disk is full or a process
    was killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _sound(folder), closing(_index(folder)) as index, closing(_Files(folder, way.size, index)) as files:
        units = index.execute("SELECT * FROM units")
        known = {c: (rows, found) for c, rows, found in units if found.startswith(("[", _FAULT))}
        seen = {stamp: (content, item) for stamp, content, item in index.execute("SELECT * FROM files")}
        stamps = [_digest(source.stamp(i)) for i in range(len(source))]
        contents = [content if (content := seen.get(stamp, ("", ""))[0]) in known else "" for stamp in stamps]
        todo = [i for i, content in enumerate(contents) if not content]
        passed = {i: seen[stamp][1] for i, stamp in enumerate(stamps) if contents[i]} if source.passing else {}
        items, faults = Items(source, passed), dict[int, str]()
        fresh, saved, done = not known, time.perf_counter(), 0
        try:
            for results, blocks in work(items, todo, way, known.keys()):
                next_row = {kind: files.write(kind, block) for kind, block in blocks.items()}
                for i, content, fault, found, kinds in results:
                    rows = [next(next_row[kind]) for kind in kinds]
                    if content and content not in known:
                        known[content] = " ".join(map(str, rows)), f"{_FAULT}{fault}" if fault else found
                        files.units.append((content, *known[content]))
                    faults[i], contents[i] = fault, content
                    if content and stamps[i]:
                        files.seen.append((stamps[i], content, items.text(i)))
                    done += 1
                    if progress:
                        progress(done, len(todo))
                if time.perf_counter() - saved > COMMIT_SECONDS:
                    files.commit()
                    saved = time.perf_counter()
            files.commit()
        except Differs:
            if fresh:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        except (KeyboardInterrupt, UserError):
            files.commit()  # what was done is kept
            raise
        except (OSError, sqlite3.OperationalError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "full" in str(error):
                free = "Make room with `sfumato cache clear`, or name another folder in the variable SFUMATO_CACHE."
                raise UserError(f"The disk that holds {folder.parent} is full. {free}") from error
            raise
    packed = [_unit(items[i], known.get(content), faults.get(i, "")) for i, content in enumerate(contents)]
    if way.exact and any((row.height, row.width) != way.size for unit in packed for row in unit.pictures):
        raise Differs
    return packed


def convert(folder: Path, size: tuple[int, int], places: Iterable[Place], channels: int) -> dict[Place, int]:
    """Give pictures of one or three channels the other number of them: (kind, row) -> row among those with `channels`."""
    wanted = {place for place in places if not place[0].startswith(f"{channels}-")}
    if not wanted:
        return {}
    with _sound(folder), closing(_index(folder)) as index, closing(_Files(folder, size, index)) as files:
        query = "SELECT kind, row, other FROM converted WHERE channels = ?"
        there = {(kind, row): other for kind, row, other in index.execute(query, (channels,))}
        for kind, row in sorted(wanted - there.keys()):
            pixels = files.read(kind, row)
            other = luminance(pixels[None])[0] if channels == 1 else pixels.repeat(channels, 0)
            there[kind, row] = next(files.write(kind_of(other), other.tobytes()))
            index.execute("INSERT INTO converted VALUES (?, ?, ?, ?)", (kind, row, channels, there[kind, row]))
        files.commit()
    return there


def pixels_file(folder: Path, kind: str) -> Path:
    return folder / f"{kind}.rows"


# ---- the files -------------------------------------------------------------------------------------------------------


def _index(folder: Path) -> sqlite3.Connection:
    index = sqlite3.connect(folder / "index.sqlite")
    for table in (
        "units (content TEXT PRIMARY KEY, rows TEXT, found TEXT)",
        "files (stamp TEXT PRIMARY KEY, content TEXT, item TEXT)",
        "kinds (kind TEXT PRIMARY KEY, rows INTEGER)",
        "converted (kind TEXT, row INTEGER, channels INTEGER, other INTEGER)",
    ):
        index.execute(f"CREATE TABLE IF NOT EXISTS {table}")
    return index


def _digest(stamp: str) -> str:
    """A stamp as the index keeps it: names need not be text."""
    return hashlib.blake2b(stamp.encode(errors="surrogateescape"), digest_size=12).hexdigest() if stamp else ""


@contextmanager
def _sound(folder: Path) -> Iterator[None]:
    """Says in a sentence that a pack is damaged."""
    try:
        yield
    except sqlite3.OperationalError:  # the disk, not the pack
        raise
    except sqlite3.DatabaseError as error:
        raise damaged(folder, str(error)) from error


def damaged(folder: Path, why: str) -> UserError:
    return UserError(f"{folder} is damaged ({why}). Type `sfumato cache clear {folder.name}` and then the same again.")


class _Files:
    """The files of pixels of a pack, open for appending; what the index does not know of is written over."""

    def __init__(self, folder: Path, size: tuple[int, int], index: sqlite3.Connection):
        self.folder, self.size, self.index = folder, size, index
        self.counts: dict[str, int] = dict(index.execute("SELECT kind, rows FROM kinds"))
        for kind, count in self.counts.items():
            path = pixels_file(folder, kind)
            if not path.exists() or path.stat().st_size < count * self._bytes(kind):
                raise damaged(folder, f"{path.name} is shorter than the index says")
        self.open: dict[str, BinaryIO] = {}
        self.units: list[tuple] = []  # for the index, once the pixels are on the disk
        self.seen: list[tuple] = []

    def write(self, kind: str, block: bytes) -> Iterator[int]:
        """Append the pixels of some pictures of a kind; their rows."""
        if kind not in self.open:
            path = pixels_file(self.folder, kind)
            self.open[kind] = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115  # closed by close
            self.open[kind].seek(self.counts.setdefault(kind, 0) * self._bytes(kind))
        self.open[kind].write(block)
        first = self.counts[kind]
        self.counts[kind] += len(block) // self._bytes(kind)
        return iter(range(first, self.counts[kind]))

    def read(self, kind: str, row: int) -> np.ndarray:
        if kind in self.open:
            self.open[kind].flush()
        channels, _, name = kind.partition("-")
        count, dtype = self._bytes(kind) // np.dtype(name).itemsize, np.dtype(name)
        pixels = np.fromfile(pixels_file(self.folder, kind), dtype, count, offset=row * self._bytes(kind))
        return pixels.reshape(int(channels), *self.size)

    def commit(self) -> None:
        """Pixels first, then the index that speaks of them."""
        for kind, file in self.open.items():
            file.flush()
            os.fsync(file.fileno())
            self.index.execute("INSERT OR REPLACE INTO kinds VALUES (?, ?)", (kind, self.counts[kind]))
        self.index.executemany("INSERT OR REPLACE INTO units VALUES (?, ?, ?)", self.units)
        self.index.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", self.seen)
        self.index.commit()
        self.units, self.seen = [], []

    def close(self) -> None:
        for file in self.open.values():
            file.close()

    def _bytes(self, kind: str) -> int:
        channels, _, name = kind.partition("-")
        return int(channels) * self.size[0] * self.size[1] * np.dtype(name).itemsize


_pictures = msgspec.json.Decoder(list[Row])


def _unit(item: Item, known: tuple[str, str] | None, fault: str) -> Unit:
    if known is None:
        return Unit(item, [], [], fault, False)
    rows, found = known
    if found.startswith(_FAULT):
        return Unit(item, [], [], found[len(_FAULT) :], True)
    return Unit(item, _pictures.decode(found), [int(row) for row in rows.split()], "", True)
