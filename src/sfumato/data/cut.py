"""Pictures without their lowest rows, which some collections use for a line of text."""

from dataclasses import replace
from math import ceil
from typing import Any

from ..errors import UserError
from .source import Picture, Source


class Cut:
    """A source with `rows` pixels cut off the bottom of every picture as its file has it; else as that source is."""

    def __init__(self, source: Source, rows: int):
        self.source, self.rows = source, rows
        self.policy = f"{source.policy} cut={rows}".strip()

    def __getattr__(self, name: str) -> Any:
        if name == "source":  # not there yet
            raise AttributeError(name)
        return getattr(self.source, name)

    def __len__(self) -> int:
        return len(self.source)

    def decode(self, i: int, stored: Any, enough: int | None = None) -> list[Picture]:
        """Raises UserError for a picture of which nothing would be left."""
        return [self._cut(picture) for picture in self.source.decode(i, stored, enough)]

    def _cut(self, picture: Picture) -> Picture:
        high, wide = picture.size or picture.pixels.shape[:2]  # in the file; what was decoded may be smaller
        if high <= self.rows:
            raise UserError(f"A picture {high} pixels high has nothing left after {self.rows} are cut off")
        kept = len(picture.pixels) - ceil(self.rows * len(picture.pixels) / high)
        return replace(picture, pixels=picture.pixels[:kept], size=(high - self.rows, wide))
