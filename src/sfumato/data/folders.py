"""What lies in a folder of images, and what its subfolders mean. Names are paths with forward slashes."""

import errno
import os
import re
import stat
import sys
import warnings
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress

import numpy as np

from ..errors import UserError
from .idx import is_images_name
from .source import HELD_OUT, TRAIN

TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation", "dev")
TESTING = ("test", "testing", "eval")
MANIFESTS = (".csv", ".tsv", ".json", ".jsonl")
USUAL = ("dataset.json", "metadata.csv", "metadata.jsonl", "manifest", "labels.csv", "index.csv")  # manifests
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
FORKED = 20_000  # from so many files on two processes ask for their stamps
_FILE, _FOLDER, _ODD, _GONE = stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, 0  # what a name may be; all else is odd too
_KINDS = stat.S_IFMT(-1 & 0xFFFFFFFF)
LINKED = 16  # how often one folder is listed when links lead to it, so that nested links do not multiply without end


@dataclass(frozen=True)
class Found:
    """Names in natural order, by what they are."""

    images: tuple[str, ...]  # what is read as pictures, one file at a time
    idx: tuple[str, ...]  # files of images, one per data set
    npy: tuple[str, ...]
    npz: tuple[str, ...]
    manifests: tuple[str, ...]
    parquet: tuple[str, ...]
    archives: tuple[str, ...]
    others: Counter[str]  # suffix -> count


@dataclass(frozen=True)
class Meaning:
    """Which images are used, the class of each (an index into `label_names`), and on which side of the split it is."""

    images: tuple[str, ...]
    labels: tuple[int, ...] | None
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    splits: tuple[str | None, ...] | None = None  # TRAIN or HELD_OUT, where subfolders say so


def sort_out(names: Sequence[str], readable: Callable[[str], bool]) -> Found:
    """Sort names by what they are; `readable` says of which ones pictures can be read."""
    images: list[str] = []
    idx: dict[str, str] = {}  # name without .gz -> path
    listed: dict[str, list[str]] = {kind: [] for kind in ("npy", "npz", "manifests", "parquet", "archives")}
    others: Counter[str] = Counter()
    for path in names:
        if readable(path):
            images.append(path)
            continue
        name = path.rpartition("/")[2]
        suffix = os.path.splitext(name)[1].lower()
        if suffix in (".npy", ".npz", ".parquet"):
            listed[suffix[1:]].append(path)
        elif is_manifest(name):
            listed["manifests"].append(path)
        elif is_images_name(name):
            unpacked = path.removesuffix(".gz")
            if unpacked not in idx or path == unpacked:  # of a file and its .gz the unpacked one is faster
                idx[unpacked] = path
        elif name.lower().endswith(ARCHIVES):
            listed["archives"].append(path)
        else:
            others[suffix or name] += 1
    kinds = {kind: _sorted(some) for kind, some in listed.items()}
    return Found(_sorted(images), _sorted(idx.values()), others=others, **kinds)


def meaning(images: Sequence[str]) -> Meaning:
    """Read the subfolders: classes if all images lie in them, the two sides of a split, nothing if images lie above.

    A single subfolder that holds everything is stepped into. Of `train` and `val`, or else `train` and `test`, the
    second is held out, and folders of one name in both are one class.
    """
    notes: list[str] = []
    used = [(path, path, None) for path in images]  # (path, what remains of it below the folder stepped into, side)
    while True:
        firsts = [rest.partition("/") for _, rest, _ in used]
        above = sum(not slash for _, slash, _ in firsts)
        names = sorted({name for name, slash, _ in firsts if slash}, key=natural)
        split = any(side for _, _, side in used)
        if above or not names:
            if names:
                notes.append(
                    f"{above} images lie in the folder itself and {len(used) - above} in its subfolders, so the "
                    "subfolders are not taken for classes."
                )
            return _meaning(used, None, None, notes)
        if len(names) == 1:
            notes.append(f"All images lie in the subfolder '{shown(names[0])}'.")
            used = [(path, rest, side) for (path, _, side), (_, _, rest) in zip(used, firsts, strict=True)]
        elif not split and _are_sides(names):
            sides: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
            for (path, _, _), (name, _, rest) in zip(used, firsts, strict=True):
                sides[name].append((path, rest))
            used = _sides(sides, notes)
        else:
            labels = {name: k for k, name in enumerate(names)}
            notes.append(f"Each of the {len(names)} subfolders is a class.")
            return _meaning(used, tuple(labels[name] for name, _, _ in firsts), tuple(names), notes)


def is_manifest(name: str) -> bool:
    """Whether a file can be a manifest by its suffix: csv, tsv, json, jsonl."""
    return name.lower().endswith(MANIFESTS)


def choose_manifest(names: Sequence[str]) -> str | None:
    """Of all names of a store the manifest: one of a usual name, or else the only one at the top; None if none is.

    The top is the folder in which everything lies.
    """
    found = [name for name in names if is_manifest(name)]
    if not found:
        return None
    for usual in USUAL:
        alike = [name for name in found if usual in _endings(name)]
        depth = min((name.count("/") for name in alike), default=0)
        highest = [name for name in alike if name.count("/") == depth]
        if len(highest) == 1:
            return highest[0]
    top = os.path.commonpath([name.rpartition("/")[0] for name in (min(names), max(names))])
    above = [name for name in found if name.rpartition("/")[0] == top]
    return above[0] if len(above) == 1 else None


def nothing_found(where: str, found: Found, read: Iterable[str]) -> UserError:
    """The error for a place without images; `read` lists the suffixes that can be read."""
    types = " ".join(suffix.removeprefix(".") for suffix in read)
    counts = found.others.copy()
    for path in (*found.manifests, *found.parquet, *found.archives):
        counts[os.path.splitext(path)[1].lower()] += 1
    if not counts:
        return UserError(f"'{where}' is empty. Put images into it ({types}), or name the folder that holds them.")
    there = ", ".join(f"{count} {shown(suffix)}" for suffix, count in counts.most_common(4))
    there += " and more" if len(counts) > 4 else ""
    archive = f" To use what an archive holds, name it itself: {where}/{shown(found.archives[0])}." if found.archives else ""
    return UserError(f"'{where}' holds no images: expected files of type {types}; found {there}.{archive}")


def natural(path: str) -> tuple[str, str]:
    """A sorting key in which 2.png comes before 10.png, folder by folder."""
    folder, slash, name = path.rpartition("/")
    return (_ordered(folder) + "\0" if slash else "") + _ordering(name), path


def shown(name: str) -> str:
    """A name that can be printed: bytes that are no text and control characters are replaced."""
    return re.sub("[\0-\x1f\x7f-\x9f\ud800-\udfff]", "\ufffd", name)


def _endings(name: str) -> tuple[str, str]:
    last = name.rpartition("/")[2].lower()
    return last, os.path.splitext(last)[0]


def _sorted(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(names, key=natural))


def _ordering(text: str) -> str:
    """Text whose plain order is the natural one: a number goes by how many digits it has, before any letter."""
    return _numbers(_number, text.lower()).replace("/", "\0")


def _number(digits: re.Match) -> str:
    value = digits[0].lstrip("0") or "0"
    return f"\1{chr(len(value))}{value}"


_numbers = re.compile("[0-9]+").sub
_ordered = lru_cache(4096)(_ordering)  # of folders, which many paths share


def _meaning(used: list, labels: tuple[int, ...] | None, names: tuple[str, ...] | None, notes: list[str]) -> Meaning:
    splits = tuple(side for _, _, side in used)
    printed = None if names is None else tuple(shown(name) for name in names)
    images = tuple(path for path, _, _ in used)
    return Meaning(images, labels, printed, tuple(notes), splits if HELD_OUT in splits else None)


def _are_sides(names: Sequence[str]) -> bool:
    small = [name.lower() for name in names]
    return sum(name in TRAINING for name in small) == 1 and all(name in (*TRAINING, *VALIDATION, *TESTING) for name in small)


def _sides(sides: dict[str, list[tuple[str, str]]], notes: list[str]) -> list:
    """The images of the folder for training, and those of the one that is held out, with their sides."""
    train = next(name for name in sides if name.lower() in TRAINING)
    others = sorted((name for name in sides if name != train), key=lambda name: name.lower() in TESTING)
    rests, held = [rest for _, rest in sides[train]], ""
    for name in others:
        inside = _alike(rests, [rest for _, rest in sides[name]])
        if inside is None:
            notes.append(f"The subfolder '{name}' is not built like '{train}' and is left out.")
        elif held:
            notes.append(f"The subfolder '{name}' is left for testing.")
        else:
            held = name
            rests, held_rests = inside
    used = [(path, rest, TRAIN) for (path, _), rest in zip(sides[train], rests, strict=True)]
    if held:
        notes.append(f"The images in '{train}' are for training, the {len(held_rests)} in '{held}' are held out.")
        used += [(path, rest, HELD_OUT) for (path, _), rest in zip(sides[held], held_rests, strict=True)]
    return used


def _alike(train: list[str], held: list[str]) -> tuple[list[str], list[str]] | None:
    """Both without folders that hold all of one side, as far as they differ; None if one has classes and the other none."""
    while True:
        a, b = _firsts(train), _firsts(held)
        if a & b or not (a or b):
            return train, held
        if len(b) == 1:
            held = [rest.partition("/")[2] for rest in held]
        elif len(a) == 1:
            train = [rest.partition("/")[2] for rest in train]
        else:
            return None


def _firsts(rests: list[str]) -> set[str]:
    """The first folders, or none where some images lie above them."""
    firsts = {rest.partition("/")[0] if "/" in rest else "" for rest in rests}
    return set() if "" in firsts else firsts


def walk(root: str) -> tuple[list[str], np.ndarray, list[str]]:
    """The files below a folder, size and time of change of each, and what is neither file nor folder.

    The names are sorted; the numbers are int64 of shape (files, 2), -1 where they cannot be known. Of hidden entries and
    __MACOSX there is nothing. Raises UserError for a folder that cannot be read.
    """
    names: list[str] = []
    odd: list[str] = []
    states = [np.empty((0, 2), np.int64)]
    listed: Counter[tuple[int, int]] = Counter()
    level = {"": frozenset[tuple[int, int]]()}  # folders at one depth, and those that lead to each
    while level:
        entries: list[str] = []
        for prefix, above in level.items():
            folder = os.path.join(root, prefix)
            try:
                status = os.stat(folder)
                here = status.st_dev, status.st_ino
                if here in above or listed[here] == LINKED:
                    continue
                listed[here] += 1
                level[prefix] = above | {here}
                entries += [prefix + name for name in os.listdir(folder) if name[0] != "." and name != "__MACOSX"]
            except OSError as error:
                raise UserError(
                    f"The folder '{shown(folder)}' cannot be read: {error.strerror}. Allow it to be read, or move it away."
                ) from error
        entries.sort()
        found = _states(root, entries)
        kinds = found[:, 0]
        files = kinds == _FILE
        names += entries if files.all() else compress(entries, files)
        states.append(found[files, 1:])
        odd += [entries[k] for k in np.flatnonzero(~files & (kinds != _FOLDER) & (kinds != _GONE))]
        inner = [f"{entries[k]}/" for k in np.flatnonzero(kinds == _FOLDER)]
        level = {prefix: level[prefix[: prefix.rfind("/", 0, -1) + 1]] for prefix in inner}
    numbers = np.concatenate(states)
    if sum(map(len, states)) > max(map(len, states)):  # those of one depth are sorted already
        order = sorted(range(len(names)), key=names.__getitem__)
        names, numbers = [names[k] for k in order], numbers[order]
    return names, numbers, sorted(odd)


def _states(root: str, names: Sequence[str]) -> np.ndarray:
    """What each name is, its size and its time of change, as rows of int64.

    Asking takes 6 us a name, so that a second process, on Linux, takes half of many. It sends its numbers through a
    pipe; if it dies, they are too few, and the work is done here.
    """
    if len(names) < FORKED or sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2:
        return _ask(root, names)
    half = len(names) // 2
    out, into = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: the child takes no lock of theirs
        child = os.fork()
    if child == 0:
        try:
            with open(into, "wb") as pipe:
                pipe.write(_ask(root, names[half:]).tobytes())
        finally:
            os._exit(0)
    os.close(into)
    try:
        with open(out, "rb") as pipe:
            first = _ask(root, names[:half])
            sent = pipe.read()
    finally:
        os.waitpid(child, 0)
    whole = len(sent) == first.itemsize * 3 * (len(names) - half)
    second = np.frombuffer(sent, np.int64).reshape(-1, 3) if whole else _ask(root, names[half:])
    return np.concatenate([first, second])


def _ask(root: str, names: Sequence[str]) -> np.ndarray:
    numbers = array("q")
    ask, add = os.stat, numbers.append  # looked up once: a third of the time is Python's
    for name in names:
        try:
            status = ask(f"{root}/{name}")
        except OSError as error:  # gone meanwhile, a link to nothing or to itself, or in a place that may not be searched
            gone = error.errno in (errno.ENOENT, errno.ELOOP)
            kind = _FILE if not gone else _ODD if os.path.islink(f"{root}/{name}") else _GONE
            numbers.extend((kind, -1, -1))
        else:
            add(status[stat.ST_MODE])
            add(status[stat.ST_SIZE])
            add(status.st_mtime_ns + status.st_ctime_ns)  # only the first can be set by hand
    found = np.frombuffer(numbers, np.int64).reshape(-1, 3).copy()
    found[:, 0] &= _KINDS
    return found
