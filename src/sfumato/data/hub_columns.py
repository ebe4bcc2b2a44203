"""Which columns of a set of the hub are pictures, classes and captions, and which of its splits is held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError, unknown
from .folders import natural
from .source import HELD_OUT, TRAIN

TRAINS = ("train", "training")
HELD = ("validation", "valid", "val", "dev", "test", "testing", "eval")  # the first that is there is held out
LABELS, CAPTIONS = ("label", "labels", "fine_label", "class", "target"), ("text", "caption", "sentence")


@dataclass(frozen=True)
class Columns:
    """Which columns are used, and how."""

    image: str
    numbers: bool  # the column holds arrays of numbers, not image files
    label: str | None
    classes: tuple[str, ...] | None  # where the column itself lists them
    caption: str | None
    notes: tuple[str, ...]

    @property
    def used(self) -> list[str]:
        return [column for column in (self.image, self.label, self.caption) if column]


def choose_columns(features: Mapping[str, Any], typed: str, image: str | None, label: str | None) -> Columns:
    """Settle the columns: `image` and `label` are names that a person gave.

    Raises UserError for names that are not there or hold something else, and where several columns hold images.
    """
    for asked in (image, label):
        if asked is not None and asked not in features:
            raise unknown("column", asked, features)
    found = _pictures(features)
    if image is None and len(found) != 1:
        if not found:
            raise UserError(f"'{typed}' has no column of images: expected one of image files; found {listed(features)}.")
        raise UserError(
            f"'{typed}' has several columns of images: {listed(found)}. Choose one, as in {typed}?image={found[0]}."
        )
    image = image or found[0]
    if not (_is_file(features[image]) or _is_text(features[image]) or _depth(features[image]) in (2, 3)):
        raise UserError(f"The column '{image}' does not hold images; of '{typed}' {listed(found) or 'none'} does.")
    notes: list[str] = []
    lists = [name for name, feature in features.items() if hasattr(feature, "names")]
    if label is None:
        label = next((name for name in LABELS if name in lists), lists[0] if len(lists) == 1 else None)
        others = [name for name in lists if name != label]
        if others and label:
            notes.append(f"Classes are those of the column '{label}'; {listed(others)} could be chosen with ?label=.")
        elif others:
            notes.append(f"Each of {listed(others)} could be the class; choose one with ?label=, as in ?label={others[0]}.")
    elif label not in lists and getattr(features[label], "dtype", "").removeprefix("u").rstrip("0123456789") not in (
        "int",
        "string",
        "large_string",
        "bool",
    ):
        raise UserError(f"Classes are expected to be whole numbers or words; the column '{label}' holds neither.")
    classes = tuple(features[label].names) if label in lists and label else None
    caption = next((name for name in CAPTIONS if name != label and _is_text(features.get(name))), None)
    return Columns(image, _depth(features[image]) in (2, 3), label, classes, caption, tuple(notes))


def choose_splits(names: Sequence[str]) -> tuple[list[tuple[str, str | None]], tuple[str, ...]]:
    """The splits to read with their marks, and what was left: train with validation, or with test if that is all."""
    if len(names) == 1:
        return [(names[0], None)], ()
    lower = {name.lower(): name for name in names}
    train = next((lower[word] for word in TRAINS if word in lower), None)
    if train is None:
        return [(name, None) for name in names], (f"None of the splits {listed(names)} is called train; all are used.",)
    held = next((lower[word] for word in HELD if word in lower), None)
    left = [name for name in names if name not in (train, held)]
    notes = (f"Of the splits {listed(left)} {'is' if len(left) == 1 else 'are'} left aside, for testing.",) if left else ()
    return [(train, TRAIN), *([(held, HELD_OUT)] if held else [])], notes


def read_classes(
    columns: Sequence[Any], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, list[np.ndarray | None]]:
    """Class names, and for each Arrow column of labels the indices (N,) into them, -1 for a row without class."""
    import pyarrow
    import pyarrow.compute as compute

    if not columns or columns[0] is None:
        return None, [None] * len(columns)
    if classes is None:
        distinct = {value for column in columns for value in compute.unique(column).to_pylist()} - {None}
        values = sorted(distinct, key=natural if any(isinstance(value, str) for value in distinct) else None)
        table = pyarrow.array(values, columns[0].type)
        columns = [compute.index_in(column, value_set=table) for column in columns]
        classes = tuple(str(value) for value in values)
    coded: list[np.ndarray | None] = []
    for column in columns:
        codes = compute.fill_null(column.cast(pyarrow.int64()), -1).to_numpy()
        coded.append(np.where((codes >= 0) & (codes < len(classes)), codes, -1))
    return classes or None, coded


def listed(names: Any) -> str:
    """'a', 'b' and 3 more."""
    names = [f"'{name}'" for name in names]
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _pictures(features: Mapping[str, Any]) -> list[str]:
    """Columns marked as images; without any, those of files' bytes; without these, those of arrays."""
    marked = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    files = [name for name, feature in features.items() if _is_file(feature)]
    return marked or files or [name for name, feature in features.items() if _depth(feature) in (2, 3)]


def _is_file(feature: Any) -> bool:
    if isinstance(feature, Mapping):  # an image that was written without the library's own mark
        return "bytes" in feature and _is_file(feature["bytes"])
    return type(feature).__name__ == "Image" or getattr(feature, "dtype", "") in ("binary", "large_binary")


def _is_text(feature: Any) -> bool:
    return type(feature).__name__ == "Value" and feature.dtype in ("string", "large_string")


def _depth(feature: Any) -> int:
    """The axes of an array of numbers; negative for anything else."""
    kind = type(feature).__name__
    if kind in ("Array2D", "Array3D"):
        return int(kind[5])
    if isinstance(feature, list) and len(feature) == 1:
        return 1 + _depth(feature[0])
    if kind in ("List", "LargeList", "Sequence"):
        return 1 + _depth(feature.feature)
    return 0 if kind == "Value" and feature.dtype.startswith(("int", "uint", "float", "bool")) else -9
