"""The rows of a set of the hub as units: in any order where the set lies on this machine, in their order where not."""

import os
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from .arrays import as_pictures
from .decode import decode
from .files import manner
from .hub_columns import Columns, listed, read_classes
from .source import Item, Picture


@dataclass(frozen=True)
class Part:
    """One split of a set with random access; whatever is read of it is memory-mapped."""

    name: str
    mark: str | None  # TRAIN, HELD_OUT, or None in a set of one split
    rows: int
    files: Any  # (rows) bytes of image files, or a data set whose rows are arrays
    paths: Any  # (rows) names of the image files, or None for arrays
    labels: Any  # (rows) as they are stored, or None
    captions: Any  # (rows) or None
    fingerprint: str


class HubSource:
    """The rows of a set that lies on this machine, in any order."""

    kind, policy, sequential, passing = "hub", "", False, False

    def __init__(self, parts: Sequence[Part], name: str, columns: Columns, root: Path | None, natural: bool):
        self.name, self.natural, self.numbers, self.root = name, natural, columns.numbers, root
        self.label_names, coded = read_classes([part.labels for part in parts], columns.classes)
        notes = list(columns.notes)
        bare = [part.name for part, codes in zip(parts, coded, strict=True) if codes is not None and (codes < 0).all()]
        if 0 < len(bare) < len(parts):  # a test split whose classes are kept secret would cost the others theirs
            notes.append(f"The split {listed(bare)} has no classes and is left out.")
        kept = [k for k, part in enumerate(parts) if len(bare) == len(parts) or part.name not in bare]
        self.parts, self.codes = [parts[k] for k in kept], [coded[k] for k in kept]
        self.ends = list(accumulate(part.rows for part in self.parts))
        missing = sum(int((codes < 0).sum()) for codes in self.codes if codes is not None)
        if missing:
            notes.append(f"{missing} of {len(self)} rows have no class in the column '{columns.label}'.")
        self.notes = tuple(notes)
        # Rows that only name a file somewhere may change while their table does not.
        linked = any(part.paths is not None and _linked(part) for part in self.parts)
        self.version = "" if linked else "-".join(part.fingerprint for part in self.parts) + f" {columns.used}"
        self.used = columns.used

    def __len__(self) -> int:
        return self.ends[-1]

    def item(self, i: int) -> Item:
        k, j = _place(self.ends, i)
        part, codes = self.parts[k], self.codes[k]
        label = -1 if codes is None else int(codes[j])
        caption = None if part.captions is None else part.captions[j].as_py()
        path = _row_name(part.name, j, None if part.paths is None else part.paths[j].as_py())
        return Item(path, label if label >= 0 else None, caption=caption, split=part.mark)

    def stamp(self, i: int) -> str:
        k, j = _place(self.ends, i)
        return f"{self.parts[k].fingerprint}:{j} {self.used}" if self.version else ""

    def manner(self, i: int) -> str:
        return manner(self.item(i).path)

    def load(self, i: int) -> bytes | np.ndarray:
        k, j = _place(self.ends, i)
        part = self.parts[k]
        if part.paths is None:
            (value,) = part.files[j].values()
            return _array(value, self.item(i).path)
        return _bytes(part.files[j].as_py(), part.paths[j].as_py(), self.root)

    def decode(self, i: int, stored: bytes | np.ndarray, enough: int | None = None) -> list[Picture]:
        return _decode(stored, self.item(i).path, enough)


class StreamSource:
    """The rows of a set that stays on the hub, read in rising order; going back starts again from the beginning.

    A row's label is known once it is read: `item(i)` reads row i, and `load(i)` after it costs nothing more.
    """

    kind, policy, sequential, passing = "hub", "", True, True

    def __init__(
        self,
        parts: Sequence[tuple[str, str | None, int, Any]],  # (split, mark, rows, stream)
        name: str,
        columns: Columns,
        natural: bool,
        version: str = "",  # the commit on the hub, if it is known
    ):
        self.parts, self.name, self.natural, self.columns = parts, name, natural, columns
        self.version = f"{version} {columns.used}" if version else ""
        self.label_names = columns.classes
        self.notes = (*columns.notes, "Rows are read from the hub one after another, and nothing is kept on disk.")
        self.ends = list(accumulate(rows for _, _, rows, _ in parts))
        self._rows: Iterator[Mapping] = iter(())
        self._row: Mapping = {}
        self._at = -2  # the place of the row that is held; -2 is none

    def __len__(self) -> int:
        return self.ends[-1]

    def item(self, i: int) -> Item:
        row = self._read(i)
        k, j = _place(self.ends, i)
        label = row.get(self.columns.label) if self.columns.label else None
        known = label is not None and 0 <= label < len(self.label_names or ())
        caption = row.get(self.columns.caption) if self.columns.caption else None
        stored = row[self.columns.image]
        path = _row_name(self.parts[k][0], j, stored.get("path") if isinstance(stored, Mapping) else None)
        return Item(path, label if known else None, caption=caption, split=self.parts[k][1])

    def stamp(self, i: int) -> str:
        return f"{self.version}:{i}" if self.version else ""

    def manner(self, i: int) -> str:
        return manner(self.item(i).path)

    def load(self, i: int) -> bytes | np.ndarray:
        stored = self._read(i)[self.columns.image]
        if self.columns.numbers:
            return _array(stored, self.item(i).path)
        return _bytes(stored["bytes"], stored["path"], None) if stored else _bytes(None, None, None)

    def decode(self, i: int, stored: bytes | np.ndarray, enough: int | None = None) -> list[Picture]:
        return _decode(stored, self.item(i).path if i == self._at else f"{self.name}[{i}]", enough)

    def _read(self, i: int) -> Mapping:
        if i == self._at:
            return self._row
        (k, j), (old, _) = _place(self.ends, i), _place(self.ends, max(0, self._at))
        ahead = i - self._at - 1
        if i < self._at or self._at < 0 or k != old:
            self._rows, ahead = iter(self.parts[k][3].skip(j)), 0
        self._at = -2  # whatever breaks below, the next call starts anew
        for row in self._rows:  # forward: `skip` would begin at the first row again
            if ahead == 0:
                self._at, self._row = i, row
                return row
            ahead -= 1
        split, _, rows, _ = self.parts[k]
        raise UserError(f"The split '{split}' of {self.name} ended before row {j}, though {rows} rows were announced.")


def memory_mapped(split: str, mark: str | None, data: Any, columns: Columns, whole: Any, root: Path | None) -> Part:
    import pyarrow.compute as compute

    if data._indices is not None:
        raise UserError(f"The split '{split}' is an order of rows over another table. Save it again with save_to_disk.")
    column = {key: data.data.column(key) for key in data.column_names}
    for values in column.values():
        values.validate(full=True)  # wrong offsets in a damaged file would otherwise read memory that is not ours
    label = column[columns.label] if columns.label else None
    caption = column[columns.caption] if columns.caption else None
    fingerprint = whole._fingerprint
    if root is not None:  # a saved set keeps its fingerprint when its files are replaced
        stats = [os.stat(entry["filename"]) for entry in whole.cache_files]
        fingerprint += "".join(f"-{stat.st_size:x}-{stat.st_mtime_ns:x}" for stat in stats)
    if columns.numbers:
        rows = data.select_columns([columns.image]).with_format("numpy")
        return Part(split, mark, len(data), rows, None, label, caption, fingerprint)
    files = compute.struct_field(column[columns.image], "bytes")
    paths = compute.struct_field(column[columns.image], "path")
    return Part(split, mark, len(data), files, paths, label, caption, fingerprint)


def _linked(part: Part) -> bool:
    """Whether some rows only name a file that lies elsewhere."""
    import pyarrow.compute as compute

    return bool(compute.any(compute.and_(part.files.is_null(), part.paths.is_valid())).as_py())


def _place(ends: Sequence[int], i: int) -> tuple[int, int]:
    """Which part row i is in, and where there."""
    if not 0 <= i < ends[-1]:
        raise IndexError(f"row {i} of {ends[-1]}")
    k = bisect_right(ends, i)
    return k, i - (ends[k - 1] if k else 0)


def _row_name(split: str, j: int, path: str | None) -> str:
    """Which row it is, ending as its file does if that has a name."""
    return f"{split}[{j}]" + (f"/{os.path.basename(path)}" if path else "")


def _bytes(content: bytes | None, path: str | None, root: Path | None) -> bytes:
    if content is not None:
        return content
    if path is None:
        raise ValueError("the row has no image")
    if "://" in path:
        from datasets.utils.file_utils import xopen

        with xopen(path, "rb") as file:
            return file.read()
    where = path if root is None else os.path.join(root, path)  # of an absolute path only that is left
    if not os.path.isfile(where):  # also what would never end, such as a device
        raise FileNotFoundError(f"the row names the file '{path}', which is not there")
    return Path(where).read_bytes()


def _array(value: Any, what: str) -> np.ndarray:
    """(H, W), (H, W, C) or (C, H, W) of any numbers -> (H, W, C) as it is stored."""
    if value is None:
        raise ValueError("the row has no image")
    array = np.asarray(value)
    if array.dtype == object:
        raise ValueError("the rows of its array are of different lengths")
    pictures, _ = as_pictures(array[None], what)  # (1, C, H, W)
    return np.ascontiguousarray(pictures[0].transpose(1, 2, 0))


def _decode(stored: bytes | np.ndarray, path: str, enough: int | None) -> list[Picture]:
    if isinstance(stored, np.ndarray):
        return [Picture(stored)]
    return decode(stored, path, enough=enough)
