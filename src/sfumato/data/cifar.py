"""The binary version of CIFAR-10 and CIFAR-100: records of label bytes and 3x32x32 values, channels first."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UserError
from .arrays import join
from .source import ArraySource

SHAPE = (3, 32, 32)
VALUES = 3072
CLASSES = {1: (10,), 2: (20, 100)}  # label bytes of a record -> how many classes each of them tells; the last is used
NAMES = {1: "batches.meta.txt", 2: "fine_label_names.txt"}
MOST_TEXT = 1 << 16  # bytes of a file of names
_TRAIN = re.compile(r"data_batch_\d+\.bin")


def looks_like_cifar(names: Sequence[str]) -> bool:
    """Whether these files of one folder are the binary version of CIFAR-10 or CIFAR-100."""
    return any(_TRAIN.fullmatch(name) for name in names) or {"train.bin", NAMES[2]} <= set(names)


def refuse_pickled(names: Sequence[str]) -> UserError | None:
    """The error for a folder with these files if they are the python version of CIFAR, otherwise None."""
    if looks_like_cifar(names):
        return None
    ten = any(re.fullmatch(r"data_batch_\d+", name) for name in names) or {"batches.meta", "test_batch"} <= set(names)
    if not ten and not {"train", "test", "meta"} <= set(names):
        return None
    name = "cifar-10" if ten else "cifar-100"
    shown = "data_batch_1" if ten else "train"
    return UserError(
        f"This is the python version of {name.upper()}: files like {shown} are pickles, which can run any program and are "
        f"never loaded. Use the binary version ({name}-binary.tar.gz), or class folders of PNG files."
    )


def open_cifar(folder: Path) -> ArraySource:
    """The pictures of a folder of the binary version, test_batch.bin or test.bin held out where it is there.

    Of the two labels in CIFAR-100 the fine one is read. Raises UserError for files that are not whole.
    """
    try:
        files = {path.name: path for path in folder.iterdir()}
    except OSError as error:
        raise UserError(f"The folder '{folder}' cannot be read: {error.strerror}.") from error
    batches = sorted((name for name in files if _TRAIN.fullmatch(name)), key=lambda name: (len(name), name))
    labels, train, test = (1, batches, "test_batch.bin") if batches else (2, ["train.bin"], "test.bin")
    if not batches and "train.bin" not in files:
        raise UserError(f"'{folder}' holds no CIFAR files: expected data_batch_1.bin or train.bin. Name their folder.")
    first = np.concatenate([_records(files[name], labels) for name in train])
    array, classes, held = _pictures(first, labels), first[:, labels - 1], None
    notes: tuple[str, ...] = (f"The pictures are those of {', '.join(train)}.",)
    if test in files:
        second = _records(files[test], labels)
        array, held = join(array, _pictures(second, labels), f"'{folder}'", test)
        classes = np.concatenate([classes, second[:, labels - 1]])
        notes += (f"The {len(second)} pictures of {test} are held out.",)
    names, found = _names(folder, classes, labels)
    name = folder.absolute().name or "cifar"
    return ArraySource(array, name, "cifar", classes.astype(np.int64), names, (*notes, *found), held)


def open_cifar_file(path: Path) -> ArraySource:
    """The pictures of one .bin file of CIFAR-10 or CIFAR-100, known by its size and its labels."""
    size = path.stat().st_size if path.is_file() else 0
    labels = 2 if size % (1 + VALUES) and size % (2 + VALUES) == 0 else 1
    records = _records(path, labels)
    classes = records[:, labels - 1]
    names, notes = _names(path.parent, classes, labels)
    name = path.name.removesuffix(".bin")
    return ArraySource(_pictures(records, labels), name, "cifar", classes.astype(np.int64), names, notes)


def _records(path: Path, labels: int) -> np.ndarray:
    """(N, labels + 3072) uint8."""
    length = labels + VALUES
    try:
        size = path.stat().st_size
        records = np.fromfile(path, np.uint8) if size and size % length == 0 else None
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    whole = f"'{path}' is not a whole file of CIFAR-{CLASSES[labels][-1]} in its binary version: expected"
    if records is None or len(records) % length:
        raise UserError(f"{whole} records of {length} bytes; found {size} bytes. Fetch or copy it again.")
    records = records.reshape(-1, length)
    for k, classes in enumerate(CLASSES[labels]):
        if (found := int(records[:, k].max())) >= classes:
            raise UserError(f"{whole} labels from 0 to {classes - 1}; found {found}. Fetch or copy it again.")
    return records


def _pictures(records: np.ndarray, labels: int) -> np.ndarray:
    return records[:, labels:].reshape(-1, *SHAPE)


def _names(folder: Path, classes: np.ndarray, labels: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the classes and a note; numbers where the file of names is missing."""
    path, needed = folder / NAMES[labels], int(classes.max()) + 1
    numbers = tuple(str(k) for k in range(CLASSES[labels][-1]))
    if not path.is_file():
        return numbers, (f"There is no {path.name}, so the classes are named by their numbers.",)
    try:
        with path.open("rb") as file:
            lines = file.read(MOST_TEXT).decode("utf-8", "replace").split("\n")
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not needed <= len(names) <= len(numbers):
        raise UserError(f"'{path}' is expected to name {len(numbers)} classes; found {len(names)}. Fetch or copy it again.")
    return names, (f"The classes are named in {path.name}.",)
