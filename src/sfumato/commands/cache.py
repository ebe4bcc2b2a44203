"""What is kept to be faster the next time: decoded pictures, their features, and where the copies of named sets lie.

sfumato cache list               packs of decoded pictures, features, and named sets
sfumato cache clear [NAME]       remove all packs and features, or the packs whose name begins so
sfumato cache add NAME PATH      where the local copy of a named set lies, such as fashion-mnist
sfumato cache forget NAME        no longer
"""

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..data import names, views
from ..disk import cache_folder
from ..errors import UserError, unknown

VERBS = {"list": (0, 0), "clear": (0, 1), "add": (2, 2), "forget": (1, 1)}  # fewest and most words that follow


def main(arguments: list[str]) -> int:
    console, cache = Console(highlight=False, soft_wrap=True), cache_folder()
    if not arguments or arguments[0] in ("-h", "--help"):
        console.print(__doc__, markup=False)
        return 0
    verb, *words = arguments
    if verb not in VERBS:
        raise unknown("thing to do with the cache called", verb, VERBS)
    fewest, most = VERBS[verb]
    if not fewest <= len(words) <= most:
        raise UserError(f"`sfumato cache {verb}` takes {most or 'no'} words, found {len(words)}. See sfumato cache --help.")
    if verb == "list":
        show(console, cache)
    elif verb == "clear":
        gone = views.clear(cache, words[0] if words else None)
        kept = [] if words else _features(cache)
        freed = sum(pack.bytes for pack in gone) + sum(path.stat().st_size for path in kept)
        for path in kept:
            path.unlink(missing_ok=True)
        console.print(f"{len(gone)} packs and {len(kept)} files of features removed, {_size(freed)} freed.")
    elif verb == "add":
        names.remember(cache, _named(words[0]), Path(words[1]).expanduser().resolve())
        console.print(f"{_named(words[0])} is at {words[1]} from now on.", markup=False)
    else:
        names.forget(cache, _named(words[0]))
        console.print(f"The copy of {_named(words[0])} is forgotten; the files stay where they are.")
    return 0


def show(console: Console, cache: Path) -> None:
    """Tables of the packs and of the named sets that have a copy here."""
    found = views.packs(cache)
    table = Table("pack", "pictures", "on disk", "last used", title=f"{cache / 'packs'}", title_justify="left")
    for pack in found:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(pack.used))
        table.add_row(pack.folder.name, f"{pack.pictures:,}", _size(pack.bytes), used)
    console.print(table if found else f"No pictures are kept in {cache / 'packs'}.")
    if found:
        console.print(f"{_size(sum(pack.bytes for pack in found))} in all; `sfumato cache clear` removes them.")
    if kept := _features(cache):
        size = _size(sum(path.stat().st_size for path in kept))
        console.print(f"{len(kept)} files of features, {size}, that `sfumato evaluate` compares pictures by.")
    for name, path in names.copies(cache).items():
        console.print(f"{name}: {path}", markup=False)


def _features(cache: Path) -> list[Path]:
    """What was trained to compare pictures by, and what it saw of them."""
    return sorted((cache / "features").glob("*.safetensors"))


def _named(typed: str) -> str:
    name = names.spell(typed)
    if name is None:
        raise unknown("named set", typed, names.NAMED)
    return name


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
