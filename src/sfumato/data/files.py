"""Image files, wherever they lie: in a folder, in an archive, named by a manifest."""

from collections.abc import Sequence
from functools import cached_property

import msgspec

from .decode import VOLUMES, decode
from .source import Item, Picture
from .stores import Files, Store

BY_NAME = (*VOLUMES, ".tga")  # suffixes that decide how bytes are decoded


def manner(path: str) -> str:
    """The suffix of a file that is decoded by it, not by its bytes; else empty."""
    name = path.lower()
    return next(filter(name.endswith, BY_NAME)) if name.endswith(BY_NAME) else ""


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a source, as columns: a hundred thousand are read back in hundredths of a second."""

    paths: list[str]  # names in the store
    kind: str
    notes: tuple[str, ...]
    label_names: tuple[str, ...] | None = None
    labels: list[int | None] | None = None
    groups: list[str | None] | None = None
    splits: list[str | None] | None = None
    captions: list[str | None] | None = None

    @classmethod
    def of(cls, items: Sequence[Item], kind: str, label_names: tuple[str, ...] | None, notes: Sequence[str]) -> "Listing":
        """The columns of some items; one that says nothing is left out."""
        known = {"groups": "group", "labels": "label", "splits": "split", "captions": "caption"}
        columns = {name: [getattr(item, field) for item in items] for name, field in known.items()}
        columns = {name: column for name, column in columns.items() if any(value is not None for value in column)}
        paths = [item.path for item in items]
        return cls(paths=paths, kind=kind, notes=tuple(notes), label_names=label_names, **columns)


class FileSource:
    """The image files of a store, and what is known about each."""

    passing = False

    def __init__(
        self,
        store: Store,
        files: Files,
        listing: Listing,
        window: tuple[float, float] | None = None,  # level and width at which medical pictures are shown
        more: str = "",  # what else the listing depends on
        natural: bool = True,
    ):
        self.store, self.files, self.listing, self.window, self.natural = store, files, listing, window, natural
        self.name, self.kind, self.label_names, self.notes = store.name, listing.kind, listing.label_names, listing.notes
        self.place = str(store.root.resolve())  # equal names, sizes and times elsewhere are other files
        self.version = f"{self.place} {files.version} {more}"
        self.policy = "" if window is None else f"window={window[0]:g},{window[1]:g}"
        self.sequential = store.sequential

    def __len__(self) -> int:
        return len(self.listing.paths)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: k for k, name in enumerate(self.files.names)}

    def item(self, i: int) -> Item:
        at = lambda column: None if column is None else column[i]
        known = self.listing
        return Item(known.paths[i], at(known.labels), at(known.groups), at(known.captions), at(known.splits))

    def stamp(self, i: int) -> str:
        path = self.listing.paths[i]
        k = self._places.get(path)
        stamp = "" if k is None else self.files.stamp(k)
        return f"{self.place}\n{path}\n{stamp}" if stamp else ""

    def manner(self, i: int) -> str:
        return manner(self.listing.paths[i])

    def load(self, i: int) -> bytes:
        return self.store.read(self.listing.paths[i])

    def decode(self, i: int, stored: bytes, enough: int | None = None) -> list[Picture]:
        return decode(stored, self.listing.paths[i], self.window, enough)
