"""Manifests: a table beside the pictures that says of each what it shows, whose it is and what it is for."""

import codecs
import csv
import io
import json
import posixpath
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from .folders import TESTING, TRAINING, VALIDATION, choose_manifest, is_manifest, natural, shown
from .source import HELD_OUT, TRAIN, Item

__all__ = ["Manifest", "choose_manifest", "grouped", "is_manifest", "read_dataset_json", "read_manifest"]

# The usual names of columns, without case, blanks, - and _; of several in one table the first counts.
COLUMNS = {
    "file": ("file", "filename", "path", "filepath", "image", "img", "imagepath", "imagefile", "imagename", "images"),
    "label": ("label", "labels", "class", "category", "target", "classname", "labelname"),
    "group": ("group", "patient", "patientid", "subject", "subjectid", "case", "caseid", "series", "seriesid"),
    "split": ("split", "set", "fold"),
    "caption": ("caption", "text", "description", "prompt"),
}
MOST_CLASSES, MOST_COMBINATIONS = 65536, 4096


@dataclass(frozen=True)
class Manifest:
    """What a manifest says, in its own order; labels are indices into `label_names`."""

    items: list[Item]
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Row:
    """One row as text; `place` names it in a sentence."""

    place: str
    file: str | None
    label: tuple[str, ...] | None = None
    group: str | None = None
    split: str | None = None
    caption: str | None = None


def read_manifest(name: str, text: bytes, files: Sequence[str]) -> Manifest:
    """Read a CSV or TSV with a header row, JSON (rows, columns, or rows under `images`), or JSONL.

    `files` are the pictures that there are. Paths count from the manifest's folder, or from the top. Several labels of
    one picture make a class of their own, named a+b. Raises UserError if this is no table, names no file that is
    there, or contradicts itself.
    """
    told = f"'{shown(name)}'"
    decoded, notes = _text(told, text)
    suffix = posixpath.splitext(name)[1].lower()
    if suffix in (".csv", ".tsv"):
        header, table = _csv_table(told, decoded)
    elif suffix == ".jsonl":
        header, table = _json_lines(told, decoded)
    else:
        data = _json(told, decoded)
        if isinstance(data, dict) and "labels" in data and "images" not in data and not _column("file", data):
            return _dataset(name, data, files, notes)
        header, table = _json_table(told, data, notes)
    there = _places(name, files)
    candidates = [k for k, title in enumerate(header) if _plain(title) in COLUMNS["file"]]
    if not candidates:
        raise UserError(
            f"{told} has no column that names the files: expected one called file, path or image; found "
            f"{', '.join(shown(title)[:40] for title in header[:8]) or 'none'}. Name the columns in the first row."
        )
    best = candidates[0]
    if len(candidates) > 1:
        hits = {k: sum(isinstance(row[k], str) and there(row[k]) is not None for _, row in table) for k in candidates}
        best = max(candidates, key=lambda k: (hits[k], -COLUMNS["file"].index(_plain(header[k]))))
    at = {role: header.index(title) for role in COLUMNS if (title := _column(role, header)) is not None} | {"file": best}
    notes.append(f"{told} says of each picture: " + ", ".join(f"{role} ('{shown(header[k])}')" for role, k in at.items()) + ".")
    ignored = [shown(title) or "(no name)" for k, title in enumerate(header) if k not in at.values()]
    if ignored:
        notes.append(f"{told} has columns that are not used: {', '.join(ignored[:8])}{', ...' * (len(ignored) > 8)}.")
    cut = _cutter(header[at["label"]], [row[at["label"]] for _, row in table]) if "label" in at else None
    rows = []
    for place, row in table:
        said = {role: _cell(told, place, row[k], role == "file") for role, k in at.items() if role != "label"}
        rows.append(_Row(place, label=cut(told, place, row[at["label"]]) if cut else None, **said))
    return _manifest(told, rows, files, there, notes)


def read_dataset_json(name: str, text: bytes, files: Sequence[str]) -> Manifest:
    """Read {"labels": [[FILE, LABEL], ...]} or {"labels": null}, as EDM and StyleGAN write it.

    A label is a whole number, or a vector of 0 and 1: the place of its one, or a combination of several.
    """
    decoded, notes = _text(f"'{shown(name)}'", text)
    return _dataset(name, _json(f"'{shown(name)}'", decoded), files, notes)


def grouped(items: Sequence[Item], pattern: str) -> tuple[list[Item], str]:
    """Give each item the group that a regular expression finds in its path, and say how that went.

    The group is the first part in parentheses, or the whole match without one; an item that does not match is a group
    of its own. Raises UserError for a pattern that is none, and for one that matches nothing.
    """
    try:
        search = re.compile(pattern).search
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(f"The pattern '{shown(pattern)}' for groups is no regular expression: {error}.") from error
    out, groups, alone = [], set(), 0
    for item in items:
        match = search(item.path)
        group = match[1 if match.re.groups else 0] if match else None
        if group:
            groups.add(group)
        else:
            alone += 1
        out.append(replace(item, group=group or item.path))
    if items and not groups:
        raise UserError(
            f"The pattern '{shown(pattern)}' for groups matches none of the {len(items)} paths, such as "
            f"'{shown(items[0].path)}'. Write one that does, as in '^[^_/]+'."
        )
    rest = f"; {alone} do not match and stand alone" if alone else ""
    return out, f"By the pattern '{shown(pattern)}' the {len(items)} paths form {len(groups)} groups{rest}."


def _manifest(
    told: str, rows: list[_Row], files: Sequence[str], there: Callable[[str], str | None], notes: list[str]
) -> Manifest:
    """Rows to items: files that are there, each once, with the classes and the sides of the split."""
    found: dict[str, _Row] = {}
    missing: list[str] = []
    unnamed = again = 0
    for row in rows:
        if not row.file:
            unnamed += 1
        elif (path := there(row.file)) is None:
            missing.append(row.file)
        elif path not in found:
            found[path] = row
        else:
            again += 1
            first = found[path]
            if first.label != row.label and None not in (first.label, row.label):
                raise UserError(
                    f"{told} contradicts itself about '{shown(path)}': {'+'.join(first.label or ())} ({first.place}) and "
                    f"{'+'.join(row.label or ())} ({row.place}). Keep one row; several labels go into one cell, as in a;b."
                )
    named = ", ".join(shown(file)[:200] for file in missing[:3]) + ", ..." * (len(missing) > 3)
    if not found:
        if not missing:
            raise UserError(f"{told} names no files: it has {len(rows)} rows. Write one row for each picture.")
        raise UserError(
            f"None of the {len(missing)} files that {told} names is there: {named}. "
            "Paths are expected relative to the manifest, as in images/1.png."
        )
    if unnamed:
        notes.append(f"{unnamed} rows of {told} name no file and are left out.")
    if missing:
        notes.append(f"{len(missing)} files that {told} names are not there and are left out: {named}.")
    if again:
        notes.append(f"{again} rows of {told} name a file again; its first row counts.")
    if len(found) < len(set(files)):
        notes.append(f"{len(set(files)) - len(found)} files are not named in {told} and are left out.")
    found, sides = _sides(told, found, notes)
    names, labels = _classes(told, found, notes)
    items = [Item(path, labels.get(path), row.group, row.caption, sides.get(path)) for path, row in found.items()]
    return Manifest(items, names, tuple(notes))


def _sides(told: str, found: dict[str, _Row], notes: list[str]) -> tuple[dict[str, _Row], dict[str, str]]:
    """The rows that are used, and the side of each: val is held out, or else test; of both, test is left out."""
    words = {row.split.lower() for row in found.values() if row.split}
    if not words:
        return found, {}
    said = {path: (row.split or "train").lower() for path, row in found.items()}
    strange = sorted(words - {*TRAINING, *VALIDATION, *TESTING})
    if strange or not {*TRAINING} & set(said.values()):
        listed = ", ".join(shown(word)[:40] for word in (strange or sorted(words))[:3])
        notes.append(f"The split in {told} is not used: expected train, and val or test; found {listed}.")
        return found, {}
    held = words & {*VALIDATION} or words & {*TESTING}
    left = [path for path, word in said.items() if word not in held and word not in TRAINING]
    if left:
        notes.append(f"{len(left)} files are left for testing, as {told} says.")
        found = {path: row for path, row in found.items() if said[path] in held or said[path] in TRAINING}
    sides = {path: HELD_OUT if said[path] in held else TRAIN for path in found}
    count = sum(side == HELD_OUT for side in sides.values())
    blank = sum(not row.split for row in found.values())
    rest = f"; {blank} of which it says nothing are for training" if blank else ""
    notes.append(f"{told} says which files are for training ({len(found) - count}) and held out ({count}){rest}.")
    return found, sides if count else {}


def _classes(told: str, found: dict[str, _Row], notes: list[str]) -> tuple[tuple[str, ...] | None, dict[str, int]]:
    """The names of the classes in natural order, and the class of each path that has one."""
    said = {path: "+".join(row.label) for path, row in found.items() if row.label}
    if not said:
        return None, {}
    names = sorted(set(said.values()), key=natural)
    several = any(len(row.label or ()) > 1 for row in found.values())
    most = MOST_COMBINATIONS if several else MOST_CLASSES
    if len(names) > most:
        what = "combinations of labels" if several else "labels"
        raise UserError(
            f"{told} has {len(names)} different {what}, more than the {most} that can be classes. "
            "Rename the column of labels to train without it, or put fewer labels into it."
        )
    if several:
        notes.append(f"Some files have several labels; each of the {len(names)} combinations in {told} is a class.")
    if len(said) < len(found):
        notes.append(f"{len(found) - len(said)} of {len(found)} files have no label in {told}.")
    index = {name: k for k, name in enumerate(names)}
    return tuple(names), {path: index[name] for path, name in said.items()}


def _dataset(name: str, data: Any, files: Sequence[str], notes: list[str]) -> Manifest:
    told = f"'{shown(name)}'"
    if not isinstance(data, dict) or not isinstance(data.get("labels", 0), list | None):
        raise UserError(f'{told} is expected to hold {{"labels": [[FILE, LABEL], ...]}} or {{"labels": null}}; {_what(data)}.')
    if data["labels"] is None:
        rest = [file for file in files if file != name]
        return Manifest([Item(file) for file in rest], None, (*notes, f"{told} gives no labels."))
    rows, lengths = [], set()
    for k, pair in enumerate(data["labels"]):
        place = f"entry {k + 1}"
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[0], str):
            raise UserError(f'{told}, {place}: expected [FILE, LABEL], as in ["1.png", 6]; {_what(pair)}.')
        file, label = pair
        if isinstance(label, list):
            lengths.add(len(label))
            if any(isinstance(value, list | dict | str | None) or value not in (0, 1) for value in label):
                raise UserError(f"{told}, {place}: a label is expected to be a whole number or a vector of 0 and 1.")
            ones = tuple(str(i) for i, value in enumerate(label) if value)
            rows.append(_Row(place, file, ones or None))
        elif label is None or isinstance(label, int) or (isinstance(label, float) and label.is_integer()):
            rows.append(_Row(place, file, None if label is None else (str(int(label)),)))
        else:
            raise UserError(f"{told}, {place}: a label is expected to be a whole number or a vector; {_what(label)}.")
    if len(lengths) > 1:
        raise UserError(f"{told}: vectors of one length are expected as labels; found {sorted(lengths)[:4]}.")
    return _manifest(told, rows, files, _places(name, files), notes)


def _places(name: str, files: Iterable[str]) -> Callable[[str], str | None]:
    """A function from what a manifest calls a file to its name in the store, or None."""
    known, folder = set(files), posixpath.dirname(name)
    composed: dict[str, str] = {}  # some systems store an accent as a character of its own

    def there(called: str) -> str | None:
        if not folder and called in known:
            return called
        called = called.strip().replace("\\", "/")
        for path in (posixpath.normpath(posixpath.join(folder, called)), posixpath.normpath(called)):
            if path in known:
                return path
            if not path.isascii():
                composed.update({} if composed else {unicodedata.normalize("NFC", file): file for file in known})
                if unicodedata.normalize("NFC", path) in composed:
                    return composed[unicodedata.normalize("NFC", path)]
        return None

    return there


def _cutter(title: str, values: Iterable[Any]) -> Callable[[str, str, Any], tuple[str, ...] | None]:
    """A function from a cell of labels to its labels, sorted; None for an empty cell.

    Cells of a column called labels are lists, or texts cut at the first of | ; , that the column holds. Where all
    labels are whole numbers, 1.0 is 1.
    """
    texts = [value for value in values if isinstance(value, str)]
    many = _plain(title) == "labels"
    cut = next((mark for mark in "|;," if any(mark in text for text in texts if text[:1] != "[")), None) if many else None
    whole = all(re.fullmatch(r"(-?[0-9]+(\.0+)?)?", text) for text in texts)

    def labels(told: str, place: str, value: Any) -> tuple[str, ...] | None:
        if many and isinstance(value, str):
            value = _json(f"{told}, {place}", value) if value[:1] == "[" else value.split(cut) if cut else value
        some = [_cell(told, place, one) for one in (value if isinstance(value, list) else [value])]
        some = [text.partition(".")[0] if text and whole and re.fullmatch(r"-?[0-9]+\.0+", text) else text for text in some]
        kept = {text for text in some if text}
        return tuple(sorted(kept, key=natural) if len(kept) > 1 else kept) or None

    return labels


def _cell(told: str, place: str, value: Any, exact: bool = False) -> str | None:
    """A value as text, without what is no character unless it is to be `exact`; None for what is empty."""
    if value is None or value != value:  # not a number
        return None
    if isinstance(value, list | dict):
        raise UserError(f"{told}, {place}: expected a text or a number in each cell; {_what(value)}.")
    text = (str(value).lower() if isinstance(value, bool) else str(value)).strip()
    return (text if exact or text.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", text)) or None


def _csv_table(told: str, text: str) -> tuple[list[str], list[tuple[str, list]]]:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(",;\t", key=lambda mark: len(next(csv.reader([first], delimiter=mark), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    table: list[tuple[str, list]] = []
    try:
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not header:
                header = [cell.strip() for cell in row]
                continue
            if any(cell.strip() for cell in row[len(header) :]):
                raise UserError(
                    f"{told}, line {reader.line_num}: expected {len(header)} cells, as in the first row; found {len(row)}. "
                    f"Text that holds a {'tab' if delimiter == chr(9) else delimiter} is put into quotes."
                )
            cells: list[str | None] = [cell.strip() or None for cell in row[: len(header)]]
            table.append((f"line {reader.line_num}", cells + [None] * (len(header) - len(row))))
    except csv.Error as error:
        raise UserError(f"{told}, line {reader.line_num}: this is no table of text ({error}). Save it as CSV again.") from error
    return header, table


def _json_lines(told: str, text: str) -> tuple[list[str], list[tuple[str, list]]]:
    rows = ((f"line {k}", line) for k, line in enumerate(text.split("\n"), 1) if line.strip())
    return _objects(told, [(place, _json(f"{told}, {place}", line)) for place, line in rows])


def _json_table(told: str, data: Any, notes: list[str]) -> tuple[list[str], list[tuple[str, list]]]:
    if isinstance(data, dict) and isinstance(data.get("images"), list) and all(isinstance(one, dict) for one in data["images"]):
        rest = [shown(key) for key in data if key != "images"]
        if rest:
            notes.append(f"{told} has parts that are not used: {', '.join(rest[:8])}.")
        data = data["images"]
    if isinstance(data, dict) and data and all(isinstance(column, list) for column in data.values()):
        lengths = {key: len(column) for key, column in data.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{told}: columns of one length are expected; found {list(lengths.values())[:8]}.")
        rows = zip(*data.values(), strict=True)
        return list(data), [(f"row {k}", list(row)) for k, row in enumerate(rows, 1)]
    if not isinstance(data, list):
        raise UserError(
            f'{told} is expected to hold rows [{{"file": "1.png", "label": "cat"}}, ...], columns {{"file": [...], '
            f'"label": [...]}} or rows under "images"; {_what(data)}.'
        )
    return _objects(told, [(f"row {k}", row) for k, row in enumerate(data, 1)])


def _objects(told: str, rows: list[tuple[str, Any]]) -> tuple[list[str], list[tuple[str, list]]]:
    """Objects to a table: the columns are all their keys."""
    keys: dict[str, None] = {}
    for place, row in rows:
        if not isinstance(row, dict):
            raise UserError(f'{told}, {place}: expected an object, as in {{"file": "1.png", "label": "cat"}}; {_what(row)}.')
        keys.update(dict.fromkeys(row))
    return list(keys), [(place, [row.get(key) for key in keys]) for place, row in rows]


def _json(told: str, text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError as error:
        raise UserError(f"{told} is no table: its JSON is nested too deeply.") from error
    except ValueError as error:
        raise UserError(f"{told} is not whole JSON ({error}). Mend it or write it again.") from error


def _text(told: str, text: bytes) -> tuple[str, list[str]]:
    """The text of a file, with a note if its encoding is a guess. Raises UserError if it is empty or no text."""
    notes = []
    try:
        utf16 = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        decoded = text.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
        notes.append(f"{told} is not UTF-8; it was read as Latin-1, so look at names with accents.")
    if "\0" in decoded:
        raise UserError(f"{told} holds NUL bytes, so it is no text. Save the table as UTF-8 text.")
    if not decoded.strip():
        raise UserError(f"{told} is empty. Write a first row with the names of the columns, and one row for each picture.")
    return decoded, notes


def _column(role: str, header: Iterable[str]) -> str | None:
    """The column that has a role; of several the one whose name is listed first."""
    fitting = [title for title in header if _plain(title) in COLUMNS[role]]
    return min(fitting, key=lambda title: COLUMNS[role].index(_plain(title)), default=None)


def _plain(title: str) -> str:
    return re.sub(r"[ _-]", "", title).lower()


def _what(found: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", type(None): "nothing", bool: "true or false"}
    return f"found {kinds.get(type(found), 'a number')}"
