"""Where what can be made again is kept, and how a file is written so that it is there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4


def cache_folder() -> Path:
    """SFUMATO_CACHE, else sfumato/ in the user's cache folder."""
    if folder := os.environ.get("SFUMATO_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sfumato"


@contextmanager
def whole_file(path: str | os.PathLike[str], flush: bool = False) -> Iterator[BinaryIO]:
    """A temporary sibling of `path`, open for writing, renamed to it when the block ends well and removed when not.

    With `flush` the contents are on the disk before the name is, so that a loss of power leaves the old file or the new.
    """
    path = Path(path)
    temporary = path.with_name(f".{uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            if flush:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_text(path: Path, text: str) -> None:
    """Write a text so that the file is there whole or not at all, whatever happens to the machine."""
    with whole_file(path, flush=True) as file:
        file.write(text.encode())
