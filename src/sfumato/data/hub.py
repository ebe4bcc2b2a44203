"""Data sets of the Hugging Face hub and folders of Arrow or parquet files, read by the library `datasets`.

A row is a unit: an image file's bytes or an array of numbers, and perhaps a class and a caption.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from .decode import SUFFIXES
from .folders import natural as in_order
from .hub_columns import HELD, TRAINS, choose_columns, choose_splits, listed
from .hub_rows import HubSource, StreamSource, memory_mapped
from .names import NAMED
from .source import Source

TABLES = (".parquet", ".arrow")
SPLITS = dict.fromkeys(TRAINS, "train") | {word: "validation" if word in HELD[:4] else "test" for word in HELD}
PART = re.compile(r"\w[\w.+-]*")  # of a name on the hub
FORM = "hub:owner/name or hub:owner/name/config, perhaps with ?streaming or ?image=COLUMN&label=COLUMN at the end"
LOCAL = (
    "Without the hub, name a folder of parquet files, or give the local copy of a well-known set once, as in "
    "`sfumato cache add fashion-mnist PATH`."
)


@dataclass(frozen=True)
class Wanted:
    """What was typed: a set on the hub, or of a folder only the options behind its question mark."""

    typed: str
    streaming: bool = False
    image: str | None = None  # names of columns
    label: str | None = None


def open_hub(name: str, cache: Path) -> Source:
    """The set that `hub:owner/name`, `hub:owner/name/config` or either with ?options names.

    Without ?streaming it is downloaded into the cache folder and converted to Arrow there, all splits of it. Raises
    UserError for a name of another form, a set that cannot be reached or opened, and columns that cannot be settled.
    """
    where, _, options = name.removeprefix("hub:").partition("?")
    steps = where.split("/")
    if len(steps) > 3 or not all(PART.fullmatch(step) for step in steps):
        raise UserError(f"'{name}' is not the name of a set on the hub. Expected {FORM}.")
    repo, config = "/".join(steps[:2]), steps[2] if len(steps) == 3 else None
    wanted = _wanted(f"hub:{where}", options)
    if os.path.exists(repo):  # the library would read this folder and say nothing
        raise UserError(f"There is a folder '{repo}' here, which hides hub:{repo}. Type ./{repo} for it, or move it.")
    library = _library()
    with _quietly(cache), _said(wanted.typed):
        found = library.load_dataset(repo, config, cache_dir=str(cache / "hub" / "arrow"), streaming=wanted.streaming)
        version = _commit(repo) if wanted.streaming else ""
    natural = next((named.natural for named in NAMED.values() if named.hub == repo), True)
    return _source(dict(found), steps[-1], wanted, None, natural, library, cache, version)


def open_arrow(folder: Path, cache: Path, options: str = "") -> Source:
    """The set in a folder: one saved by `save_to_disk`, or .parquet or .arrow files with splits in their names.

    `options` is what was typed behind a question mark, as in image=COLUMN&label=COLUMN. Parquet files are converted to
    Arrow in the cache folder. Raises UserError for damaged files and columns that cannot be settled.
    """
    wanted = _wanted(str(folder), options)
    if wanted.streaming:
        raise UserError("?streaming is for sets on the hub; a folder on this machine is read without it.")
    library = _library()
    saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    files = {} if saved else _tables(folder)
    with _quietly(cache), _said(wanted.typed):
        if saved:
            found = {split: library.load_from_disk(str(where)) for split, where in _saved(folder).items()}
        else:
            kind = next(iter(files.values()))[0].suffix[1:]
            escaped = {split: [_literal(path) for path in paths] for split, paths in files.items()}
            found = dict(library.load_dataset(kind, data_files=escaped, cache_dir=str(cache / "hub" / "arrow")))
    return _source(found, folder.resolve().name or "rows", wanted, folder, True, library, cache)


def is_arrow(names: Sequence[str]) -> bool:
    """Whether a folder with these files, as paths relative to it, is one that `open_arrow` reads.

    A table or two beside more image files describe these, and the folder is then one of images.
    """
    if "dataset_dict.json" in names or {"state.json", "dataset_info.json"} <= set(names):
        return True
    ends = [os.path.splitext(name)[1].lower() for name in names]
    return 0 < sum(end in TABLES for end in ends) >= sum(end in SUFFIXES for end in ends)


def _wanted(typed: str, options: str) -> Wanted:
    found: dict[str, Any] = {}
    for option in filter(None, options.split("&")):
        key, _, value = option.partition("=")
        if key not in ("streaming", "image", "label"):
            raise unknown("option behind ? called", key, ("streaming", "image", "label"))
        if (key == "streaming") != (not value):
            raise UserError(f"'?{options}' is not understood. Expected ?streaming or ?image=COLUMN&label=COLUMN.")
        found[key] = value or True
    return Wanted(typed, **found)


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError("Sets of the hub and Arrow folders need a package: `pip install 'sfumato[hub]'`.") from error
    return datasets


@contextmanager
def _quietly(cache: Path) -> Iterator[None]:
    """No bars and no chatter, and every download below the cache folder.

    The library puts only its Arrow files into the `cache_dir` it is given; what it downloads goes to the folder of
    huggingface_hub, which is fixed when that is imported. A person who set HF_HOME or HF_HUB_CACHE has named a place.
    """
    import datasets
    from huggingface_hub import constants
    from huggingface_hub import logging as hub_logging

    bars, level, hub_level = (
        datasets.are_progress_bars_disabled(),
        datasets.logging.get_verbosity(),
        hub_logging.get_verbosity(),
    )
    moved = {}
    if not {"HF_HOME", "HF_HUB_CACHE"} & set(os.environ):
        for key in ("HF_HUB_CACHE", "HF_XET_CACHE", "AGENT_HARNESSES_PATH"):
            if hasattr(constants, key):
                moved[key] = getattr(constants, key)
                setattr(constants, key, str(cache / "hub" / Path(moved[key]).name))
    xet = os.environ.get("HF_XET_CACHE")
    try:
        datasets.disable_progress_bars()
        datasets.logging.set_verbosity(datasets.logging.CRITICAL)
        hub_logging.set_verbosity(hub_logging.CRITICAL)
        if moved and xet is None:
            os.environ["HF_XET_CACHE"] = str(cache / "hub" / "xet")  # read by a part that is not Python
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for key, value in moved.items():
            setattr(constants, key, value)
        if moved and xet is None:
            del os.environ["HF_XET_CACHE"]
        datasets.logging.set_verbosity(level)
        hub_logging.set_verbosity(hub_level)
        if not bars:
            datasets.enable_progress_bars()


@contextmanager
def _said(typed: str) -> Iterator[None]:
    """Whatever the library raises becomes a sentence."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        deepest: BaseException = error
        while deepest.__cause__ is not None and "generating the dataset" in str(deepest):
            deepest = deepest.__cause__
        text = str(deepest)
        kinds = {kind.__name__ for kind in type(error).__mro__}
        configs = re.search(r"(?:configs|Available): \[(.*?)\]", text)
        if configs:
            names = configs[1].replace("'", "")
            first = names.split(", ")[0]
            base = "/".join(typed.split("/")[:2])
            raise UserError(f"'{typed}' does not say which part is meant: {names}. Name one, as in {base}/{first}.") from error
        if "DatasetNotFoundError" in kinds:
            raise UserError(
                f"There is no set '{typed}' on the hub that may be read without `hf auth login`. {LOCAL}"
            ) from error
        if kinds & {"ConnectionError", "OfflineModeIsEnabled", "HfHubHTTPError", "TimeoutError", "ConnectError"}:
            raise UserError(f"'{typed}' was not reached: there is no connection to the hub. {LOCAL}") from error
        if "scripts are no longer supported" in text:
            raise UserError(f"'{typed}' is a script to be run and not data, and such sets are not read. {LOCAL}") from error
        lines = text.strip().splitlines()
        why = lines[0].rstrip(".") if lines else type(error).__name__
        if isinstance(deepest, KeyError):
            why = f"it lacks {why}"
        raise UserError(f"'{typed}' could not be opened ({why}). Check that it is whole, or fetch it again.") from error


def _saved(folder: Path) -> dict[str, Path]:
    """The folder of each split that has rows; the library writes splits without any, but fails to read them."""
    found = {"all": folder}
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        found = {name: folder / name for name in names if PART.fullmatch(name)}
    return {name: path for name, path in found.items() if json.loads((path / "state.json").read_text())["_data_files"]}


def _tables(folder: Path) -> dict[str, list[Path]]:
    """The table files by split: the last word train, test, validation ... in a path below the folder decides."""
    found = [path for path in folder.rglob("*") if path.suffix.lower() in TABLES and path.is_file()]
    found = [path for path in found if not any(step.startswith(".") for step in path.relative_to(folder).parts)]
    kinds = {path.suffix.lower() for path in found}
    if len(kinds) != 1:
        raise UserError(
            f"'{folder}' is expected to hold .parquet or .arrow files of one kind; found {listed(kinds) or 'none'}."
        )
    splits: dict[str, list[Path]] = {}
    for path in sorted(found, key=lambda path: in_order(path.relative_to(folder).as_posix())):
        with path.open("rb") as file:
            start = file.read(7)
        if start == b"version":
            raise UserError(f"'{path}' only stands for a file that git-lfs keeps. Fetch the files with `git lfs pull`.")
        words = re.findall(r"[a-z]+", path.relative_to(folder).as_posix().removesuffix(path.suffix).lower())
        split = next((SPLITS[word] for word in reversed(words) if word in SPLITS), "train")
        splits.setdefault(split, []).append(path)
    return splits


def _literal(path: Path) -> str:
    """A path that the library will not take for a pattern."""
    return re.sub(r"([*?[])", r"[\1]", str(path.resolve()))


def _source(
    found: dict[str, Any], name: str, wanted: Wanted, root: Path | None, natural: bool, library: Any, cache: Path,
    version: str = "",
) -> Source:  # fmt: skip
    counts = {split: _count(data, split, wanted) for split, data in found.items()}
    filled = [split for split in found if counts[split]]
    if not filled:
        raise UserError(f"'{wanted.typed}' has no rows.")
    chosen, notes = choose_splits(filled)
    features = found[chosen[0][0]].features
    if features is None:
        raise UserError(f"'{wanted.typed}' does not say which columns it has, which streaming needs; leave ?streaming out.")
    columns = choose_columns(features, wanted.typed, wanted.image, wanted.label)
    columns = replace(columns, notes=(*notes, *columns.notes))
    if wanted.streaming and columns.label and columns.classes is None:
        raise UserError(f"The column '{columns.label}' does not list its classes, which streaming needs; leave ?streaming out.")
    with _quietly(cache), _said(wanted.typed):
        read = {split: found[split].select_columns(columns.used) for split, _ in chosen}
        if not columns.numbers:
            file = library.Image(decode=False)
            read = {split: data.cast_column(columns.image, file) for split, data in read.items()}
        if wanted.streaming:
            streams = [(split, mark, counts[split], read[split]) for split, mark in chosen]
            return StreamSource(streams, name, columns, natural, version)
        parts = [memory_mapped(split, mark, read[split], columns, found[split], root) for split, mark in chosen]
        return HubSource(parts, name, columns, root, natural)


def _commit(repo: str) -> str:
    """What a set on the hub is now, so that a stream that was read need not be read again; empty where nobody says."""
    from huggingface_hub import HfApi

    try:
        return f"{repo}@{HfApi().dataset_info(repo).sha}"
    except Exception:  # whatever the network does; the stream itself has answered
        return ""


def _count(data: Any, split: str, wanted: Wanted) -> int:
    if not wanted.streaming:
        return len(data)
    info = (data.info.splits or {}).get(split)
    if info is None or info.num_examples is None:
        raise UserError(
            f"How many rows the split '{split}' of '{wanted.typed}' has is not written there, which streaming needs. "
            "Leave ?streaming out to download it."
        )
    return info.num_examples
