"""A map-style torch Dataset as a source: what its samples hold is found out from the first of them."""

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .arrays import as_pictures
from .names import NAMED, spell
from .source import Item, Picture, Source

EXPECTED = "an image, a tuple (image, label, ...) or a dict with the key image"
IMAGES, LABELS = ("image", "img", "pixel_values"), ("label", "labels", "target", "fine_label")
IN_TIFF = ("F", "I", "CMYK", "LAB", "YCbCr", "HSV")  # what a PNG file would not hold as it is


class TorchSource:
    """The samples of a map-style torch Dataset, with whatever transforms it applies."""

    kind, policy, version = "torch", "", ""

    def __init__(self, dataset: Any, name: str, labels: np.ndarray | None, label_names: tuple[str, ...] | None, natural: bool):
        self.dataset, self.labels = dataset, labels  # labels: (N,) indices into label_names, -1 where there is none
        self.sequential = self.passing = False
        self.name, self.label_names, self.natural = name, label_names, natural
        self.notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.dataset)

    def item(self, i: int) -> Item:
        label = -1 if self.labels is None else int(self.labels[i])
        return Item(f"{self.name}[{i}]", label if label >= 0 else None)

    def stamp(self, i: int) -> str:
        return ""

    manner = stamp

    def load(self, i: int) -> bytes | np.ndarray:
        """The file that a PIL picture would be saved as without loss, or an array (H, W, C)."""
        image = _image(self.dataset[i])
        if isinstance(image, Image.Image):
            file = io.BytesIO()
            if image.mode in IN_TIFF:
                image.save(file, "TIFF")
            else:
                image.save(file, "PNG", compress_level=1)
            return file.getvalue()
        what, last = f"{self.name}[{i}]", True
        if hasattr(image, "detach"):  # a tensor, which has its channels first
            image, last = image.detach().cpu(), False
            image = (image if image.element_size() != 2 or not image.is_floating_point() else image.float()).numpy()
        pictures, _ = as_pictures(np.asarray(image)[None], what, last)  # (1, C, H, W)
        return np.ascontiguousarray(pictures[0].transpose(1, 2, 0))

    def decode(self, i: int, stored: bytes | np.ndarray, enough: int | None = None) -> list[Picture]:
        if isinstance(stored, np.ndarray):
            return [Picture(stored)]
        from .decode import decode

        return decode(stored, f"{self.name}[{i}]", enough=enough)


def open_torch(dataset: Any) -> Source:
    """The pictures of a map-style torch Dataset: PIL pictures, tensors (C, H, W) or arrays (H, W, C) or (H, W).

    Classes are its `classes` and labels its `targets` where it has them; else one pass over the samples collects the
    labels. Raises UserError for a set without length or random access, and for samples of another form.
    """
    from torch.utils.data import IterableDataset, Subset

    name = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"A torch Dataset with a length and random access is expected; {name} can only be read in order. "
            "Save its pictures to a folder, or give it __len__ and __getitem__."
        )
    if len(dataset) == 0:
        raise UserError(f"The data set {name} is empty.")
    first = dataset[0]
    _check(_image(first), name)
    base, index = (dataset.dataset, np.asarray(dataset.indices)) if isinstance(dataset, Subset) else (dataset, slice(None))
    key = spell(type(base).__name__)
    found: Any = _targets(base, index, len(dataset))
    if found is None and _label(first) is not None:
        found = [_label(dataset[i]) for i in range(len(dataset))]
    labels, names, missing = _classes(found, getattr(base, "classes", None))
    source = TorchSource(dataset, type(base).__name__.lower(), labels, names, NAMED[key].natural if key else True)
    if labels is None:
        source.notes = ("Its samples hold no whole number as a label, so there are no classes.",)
    elif missing:
        source.notes = (f"{missing} of {len(dataset)} samples have no class.",)
    return source


def _image(sample: Any) -> Any:
    if isinstance(sample, Mapping):
        for key in IMAGES:
            if key in sample:
                return sample[key]
        raise UserError(f"A sample is expected to be {EXPECTED}; found a dict with the keys {', '.join(map(str, sample))}.")
    if isinstance(sample, tuple | list) and sample:
        return sample[0]
    return sample


def _check(image: Any, name: str) -> None:
    if not isinstance(image, Image.Image | np.ndarray) and not hasattr(image, "detach"):
        raise UserError(
            f"The samples of {name} are expected to be {EXPECTED}, the image as PIL picture, tensor or array; "
            f"found {type(image).__name__}."
        )


def _label(sample: Any) -> int | None:
    """The label of a sample if it is a whole number."""
    if isinstance(sample, Mapping):
        value: Any = next((sample[key] for key in LABELS if key in sample), None)
    else:
        value = sample[1] if isinstance(sample, tuple | list) and len(sample) > 1 else None
    array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    return int(array.reshape(())) if array.size == 1 and array.dtype.kind in "bui" else None


def _targets(base: Any, index: Any, count: int) -> np.ndarray | None:
    """`targets` as they are, unless the set changes labels on the way out."""
    targets = getattr(base, "targets", None)
    if targets is None or getattr(base, "target_transform", None) is not None:
        return None
    try:
        found = np.asarray(targets)[index]
    except (ValueError, IndexError, TypeError):
        return None
    return found if found.shape == (count,) and found.dtype.kind in "bui" else None


def _classes(found: Any, classes: Any) -> tuple[np.ndarray | None, tuple[str, ...] | None, int]:
    """Labels (N,) as indices with -1 for none, the names, and how many have none."""
    if found is None:
        return None, None, 0
    values = np.array([-1 if value is None else int(value) for value in found], np.int64)
    if isinstance(classes, tuple | list) and classes:
        values[values >= len(classes)] = -1
        values[values < 0] = -1
        return values, tuple(map(str, classes)), int((values < 0).sum())
    distinct = np.unique(values[values >= 0])  # not 0 to the largest, which may be a number of any size
    labels = np.where(values >= 0, np.searchsorted(distinct, values), -1)
    return labels, tuple(str(value) for value in distinct), int((labels < 0).sum())
