"""The contract of a source: a list of units, each stored somewhere, each holding one picture or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

HELD_OUT, TRAIN = "held-out", "train"


@dataclass(frozen=True)
class Item:
    """Where a unit is and what is known about it without reading it."""

    path: str
    label: int | None = None  # an index into label_names
    group: str | None = None  # what stays on one side of the split: a patient, a sequence of frames
    caption: str | None = None
    split: str | None = None  # TRAIN or HELD_OUT where the data itself says so


@dataclass(frozen=True)
class Picture:
    """One picture of a unit, as it was decoded."""

    pixels: np.ndarray  # (H, W, C) uint8, uint16 or float32
    remarks: tuple[str, ...] = ()  # what had to be changed to read it, as predicates of a sentence
    mode: str = ""  # how it was stored, in its format's own words: RGB, L, P, I;16, CMYK ...
    group: str | None = None  # what its file says of where it belongs
    size: tuple[int, int] | None = None  # height and width in its file, where it was decoded smaller


class Source(Protocol):
    """A list of units of any number of pictures of any size.

    A unit is what is read at once: an image file, a volume of slices, a row of a table. `load` fetches what is stored
    (bytes as a rule) and `decode` makes pictures of it, so that what was decoded before is known by its content. Where that
    is faster, it may make smaller ones, with sides of at least `enough`. Both raise whatever a damaged file makes their
    readers raise; the unit is then skipped and named.
    """

    name: str  # short, for the names of folders
    kind: str  # folder, class folders, zip, tar, manifest, idx, npy, npz, cifar, hub, digits, array ...
    label_names: tuple[str, ...] | None
    notes: tuple[str, ...]  # what was found and which rule decided
    version: str  # changes whenever what is listed or stored may have changed; empty where that cannot be known
    policy: str  # what decides how units are decoded besides their bytes, as in "window=40,400"; empty as a rule
    sequential: bool  # must units be loaded in their order, as from a stream?
    passing: bool  # is an item known only while its unit is loaded?
    natural: bool  # may pictures be mirrored left to right without looking wrong? False for digits, letters, medicine

    def __len__(self) -> int: ...
    def item(self, i: int) -> Item: ...
    def stamp(self, i: int) -> str: ...  # of unit i alone; changes whenever it may have changed; empty where nobody knows
    def manner(self, i: int) -> str: ...  # what of unit i besides its bytes decides how they are decoded, such as a suffix
    def load(self, i: int) -> Any: ...  # bytes, or an array
    def decode(self, i: int, stored: Any, enough: int | None = None) -> list[Picture]: ...


class ArraySource:
    """Pictures of one shape in an array (N, C, H, W) of uint8, uint16 or float32, perhaps memory-mapped."""

    version = policy = ""
    sequential = passing = False

    def __init__(
        self,
        array: np.ndarray,
        name: str,
        kind: str,
        labels: np.ndarray | None = None,  # (N,) class indices
        label_names: tuple[str, ...] | None = None,
        notes: Sequence[str] = (),
        held_out: np.ndarray | None = None,  # (N,) bool where the data itself says which pictures are kept for testing
        natural: bool = True,
    ):
        self.array, self.labels, self.held_out = array, labels, held_out
        self.name, self.kind, self.label_names, self.notes = name, kind, label_names, tuple(notes)
        self.natural = natural

    def __len__(self) -> int:
        return len(self.array)

    def item(self, i: int) -> Item:
        split = None if self.held_out is None else HELD_OUT if self.held_out[i] else TRAIN
        return Item(f"{self.name}[{i}]", None if self.labels is None else int(self.labels[i]), split=split)

    def stamp(self, i: int) -> str:
        return ""

    manner = stamp

    def load(self, i: int) -> np.ndarray:
        return np.asarray(self.array[i].transpose(1, 2, 0))

    def decode(self, i: int, stored: np.ndarray, enough: int | None = None) -> list[Picture]:
        return [Picture(stored)]
