"""What a person typed, opened as a source."""

import hashlib
import os
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch

from ..disk import cache_folder, whole_file
from ..errors import UserError
from . import names
from .arrays import as_pictures, open_npy, open_npz
from .cifar import looks_like_cifar, open_cifar, open_cifar_file, refuse_pickled
from .decode import SUFFIXES, VOLUMES, is_readable, looks_like_dicom
from .files import FileSource, Listing
from .folders import Found, choose_manifest, is_manifest, meaning, nothing_found, shown, sort_out
from .hub import is_arrow, open_arrow, open_hub
from .idx import FILE_NAME, find_pairs, looks_like_idx, open_idx, open_idx_pair, unpacked_start
from .manifest import grouped, read_dataset_json, read_manifest
from .source import ArraySource, Item, Source
from .stores import Files, FolderStore, Store, open_store
from .work import VERSION

READ = "a folder of images or of class folders, a zip or tar of one, a manifest, an idx, npy or npz file, or the word digits"
LISTED = 5_000  # from so many files the listing is kept: sorting a hundred thousand names takes longer than reading them
EXPECTED = ("dataset", "metadata", "manifest")  # names that are given to manifests and to nothing else


def open_source(data: Any, group: str | None = None, window: tuple[float, float] | None = None) -> Source:
    """The pictures of whatever holds pictures: a path, a named set, a hub name, an array, a tensor, a torch Dataset.

    group    a regular expression on the paths: what it finds there stays on one side of the split
    window   (level, width) at which medical pictures are shown, in their own units
    Raises UserError for what cannot be opened.
    """
    if isinstance(data, torch.Tensor):
        data = data.detach().cpu()
        array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
        return _from_array(array, "The tensor", last=False)
    if isinstance(data, np.ndarray):
        return _from_array(data, "The array")
    if not isinstance(data, str | Path) and hasattr(data, "__getitem__"):
        from .torches import open_torch

        return open_torch(data)
    if not isinstance(data, str | Path) or data == "":
        if data == "":
            raise UserError(f"No data was named: expected {READ}, as in sfumato train photos/.")
        raise UserError(
            f"Expected {READ}, an array, a tensor or a torch Dataset; found something of type {type(data).__name__}."
        )
    if data == "digits":
        return _digits()
    text, cache = str(data), cache_folder()
    if text.startswith("hub:"):
        return open_hub(text, cache)
    path, _, options = text.partition("?")
    if options and os.path.isdir(path):  # which columns of a table, as in set?image=photo
        return open_arrow(Path(path), cache, options)
    if _there(Path(text).expanduser()):
        return _open_path(Path(text).expanduser(), group, window)
    name = names.spell(text)
    where = None if name is None else names.resolve(name, cache)
    if name is None or where is None:
        raise _missing(text, Path(text).expanduser())
    source = open_hub(where, cache) if isinstance(where, str) else _open_path(where, group, window)
    source.name, source.natural = name, names.NAMED[name].natural
    return source


def _open_path(path: Path, group: str | None, window: tuple[float, float] | None) -> Source:
    if path.suffix.lower() == ".npz":  # a zip too, but of arrays
        return open_npz(path)
    store = open_store(path)
    return _open_file(path, group, window) if store is None else _open_store(store, group, window)


def _there(path: Path) -> bool:
    return os.path.isdir(path) or os.path.isfile(path)  # False for a name too long to be one, where Path raises


def _open_store(store: Store, group: str | None, window: tuple[float, float] | None) -> Source:
    files = store.files()
    kept = _kept(f"{VERSION} {store.root.resolve()} {files.version} {group}") if len(files.names) > LISTED else None
    if kept is not None:
        with suppress(OSError, msgspec.DecodeError):
            return _files(store, files, msgspec.json.decode(kept.read_bytes(), type=Listing), group, window)
    found = sort_out(files.names, is_readable)
    source = _arrays(store, found, files.names)
    if source is not None:
        return source
    listing = _listing(store, files, found, group)
    if kept is not None:
        with suppress(OSError):
            kept.parent.mkdir(parents=True, exist_ok=True)
        with suppress(UnicodeEncodeError, OSError), whole_file(kept) as file:  # what cannot be kept is sorted anew each time
            file.write(msgspec.json.encode(listing))
    return _files(store, files, listing, group, window)


def _kept(key: str) -> Path:
    name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=12).hexdigest()
    return cache_folder() / "opened" / f"{name}.listing"


def _files(store: Store, files: Files, listing: Listing, group: str | None, window: tuple[float, float] | None) -> FileSource:
    medical = any(path.lower().endswith(VOLUMES) for path in listing.paths[:100])
    few = listing.label_names or ()
    letters = len(few) >= 5 and all(len(name) == 1 for name in few) and listing.kind != "manifest"
    return FileSource(store, files, listing, window, group or "", natural=not medical and not letters)


def _arrays(store: Store, found: Found, files: list[str]) -> Source | None:
    """The set of arrays or tables that a folder holds instead of image files, or None."""
    few = files if len(files) < 1000 else []
    if error := refuse_pickled(few):
        raise error
    if looks_like_cifar(few):
        return open_cifar(_folder(store, "CIFAR files"))
    if found.images:
        return None
    if is_arrow(files):
        return open_arrow(_folder(store, "parquet files"), cache_folder())
    sets = [*find_pairs(found.idx), *((name, None) for name in (*found.npy, *found.npz))]
    if len(sets) == 1:
        train, test = sets[0]
        root = _folder(store, "arrays")
        source = open_idx_pair(root / train, root / test) if test else _open_file(root / train, None, None)
        source.name = store.name
        if found.archives:
            beside = ", ".join(shown(name) for name in found.archives[:4])
            source.notes += (f"{len(found.archives)} archives beside it are not read ({beside}); name one to use it instead.",)
        return source
    if sets:
        raise _several(store, [name for name, _ in sets])
    return None


def _listing(store: Store, files: Files, found: Found, group: str | None) -> Listing:
    """The image files of a store, as its manifest says or else its folders."""
    notes: list[str] = []
    manifest = choose_manifest(found.manifests)
    items: list[Item] | None = None
    label_names: tuple[str, ...] | None = None
    kind = "folder"
    if manifest is not None and found.images:
        try:
            items, label_names, more = _manifest(store, manifest, found.images)
            kind, notes = "manifest", [*more]
        except UserError as error:
            if manifest.lower().rpartition("/")[2].startswith(EXPECTED):
                raise
            notes.append(f"{shown(manifest)} is not taken for a manifest ({str(error).rstrip('.')}).")
    if items is None:
        if not found.images:
            raise nothing_found(shown(str(store.root)), found, (*SUFFIXES, *VOLUMES))
        if found.idx or found.npy or found.npz:
            others = [*found.idx, *found.npy, *found.npz]
            notes.append(f"{len(others)} files of arrays beside the images are not read; name one to use it instead.")
        chosen = meaning(found.images)
        labels = chosen.labels or [None] * len(chosen.images)
        splits = chosen.splits or [None] * len(chosen.images)
        items = [Item(p, k, split=s) for p, k, s in zip(chosen.images, labels, splits, strict=True)]
        label_names, kind = chosen.label_names, "class folders" if chosen.label_names else "folder"
        notes = [*chosen.notes, *notes]
    if group is not None:
        items, note = grouped(items, group)
        notes.append(note)
    if found.others:
        kinds = ", ".join(shown(kind) for kind, _ in found.others.most_common(4))
        notes.append(f"{sum(found.others.values())} other files are not read ({kinds}).")
    label_names = None if label_names is None else tuple(shown(name) for name in label_names)
    return Listing.of(items, kind, label_names, [*notes, *files.notes])


def _manifest(store: Store, name: str, files: tuple[str, ...]) -> tuple[list[Item], tuple[str, ...] | None, tuple[str, ...]]:
    read = read_dataset_json if name.rpartition("/")[2] == "dataset.json" else read_manifest
    found = read(name, store.read(name), files)
    return found.items, found.label_names, found.notes


def _folder(store: Store, what: str) -> Path:
    if isinstance(store, FolderStore):
        return store.root
    raise UserError(f"'{shown(str(store.root))}' is an archive of {what}. Unpack it and name its folder.")


def _several(store: Store, sets: list[str]) -> UserError:
    listed = ", ".join(shown(name) for name in sets[:6]) + (f" and {len(sets) - 6} more" if len(sets) > 6 else "")
    root = shown(str(store.root))
    return UserError(f"'{root}' holds several data sets: {listed}. Name one of them, as in {root}/{shown(sets[0])}.")


def _open_file(path: Path, group: str | None, window: tuple[float, float] | None) -> Source:
    try:
        with path.open("rb") as file:
            start = file.read(132)
        name, suffix = path.name, path.suffix.lower()
        picture = suffix in SUFFIXES
        idx = not picture and bool(FILE_NAME.search(name) or looks_like_idx(unpacked_start(path)))
    except OSError as error:
        raise UserError(f"'{path}' cannot be read: {error.strerror}.") from error
    if suffix == ".npy" or start[:6] == b"\x93NUMPY":
        return open_npy(path)
    if suffix == ".bin":
        return open_cifar_file(path)
    if idx:
        return open_idx(path)
    if suffix in (".parquet", ".arrow"):
        raise UserError(f"'{path}' is one file of a table. Name the folder that holds it.")
    if is_manifest(name):
        store = FolderStore(path.parent)
        files = store.files()
        found = sort_out(files.names, is_readable)
        items, label_names, notes = _manifest(store, name, found.images)
        if group is not None:
            items, note = grouped(items, group)
            notes = (*notes, note)
        source = _files(store, files, Listing.of(items, "manifest", label_names, notes), f"{name} {group}", window)
        source.name = path.stem if path.stem.lower() not in EXPECTED else store.name
        return source
    if is_readable(name) or looks_like_dicom(start):
        if suffix not in (".tif", ".tiff") and not name.lower().endswith(VOLUMES) and not looks_like_dicom(start):
            raise UserError(f"'{path}' is one picture. Name the folder that holds the pictures.")
        status = path.stat()
        state = np.array([(status.st_size, status.st_mtime_ns)])
        files = Files([name], state, f"{path.resolve()} {status.st_mtime_ns}")
        source = _files(FolderStore(path.parent), files, Listing(paths=[name], kind="volume", notes=()), group, window)
        source.name = path.stem
        return source
    raise UserError(f"'{path}' is of no type that is read. Expected {READ}.")


def _from_array(array: np.ndarray, what: str, last: bool = True) -> ArraySource:
    pictures, notes = as_pictures(array, what, last)
    return ArraySource(pictures, "array", "array", notes=notes)


def _digits() -> Source:
    from sklearn.datasets import load_digits  # slow to import, and needed by this source alone

    digits = load_digits()
    array = (digits.images * (255 / 16)).round().astype(np.uint8)[:, None]  # (1797, 1, 8, 8) from 0..16
    notes = ["These are the 1797 handwritten digits of 8x8 that come with scikit-learn."]
    if os.path.isdir("digits"):
        notes.append("For the folder of that name, type ./digits instead.")
    return ArraySource(array, "digits", "digits", digits.target.astype(np.int64), tuple("0123456789"), notes, natural=False)


def _missing(typed: str, path: Path) -> UserError:
    beside = sorted(set(os.listdir(path.parent)) - {path.name}) if os.path.isdir(path.parent) else []
    near = get_close_matches(typed.lower(), ["digits", *names.NAMED], cutoff=0.6)
    if not near and path.name:
        near = [str(path.with_name(name)) for name in get_close_matches(path.name, beside, n=1, cutoff=0.6)]
    hint = f"Did you mean '{shown(near[0])}'?" if near else f"Expected {READ}."
    return UserError(f"There is no file or folder '{shown(typed)}'. {hint}")
