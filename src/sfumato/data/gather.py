"""From a source to `Images`: the rules that decide size and channels, and the sentences that say what they decided."""

import hashlib
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..disk import cache_folder
from ..errors import UserError, unknown
from . import packed, views
from .folders import shown
from .images import Images, parts
from .packed import Progress
from .pixels import FITS, is_gray, luminance
from .source import HELD_OUT, ArraySource, Source
from .work import VERSION, Differs, Row, Way

SMALL = 64  # pictures of one size up to this keep it, others become SMALL x SMALL
SMALLEST, LARGEST = 4, 1024
GRAY_SHARE = 0.95  # from this share of gray pictures the set has one channel
LOOK = 8  # units that are looked at to guess whether all have one size


def gather(
    source: Source,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    fit: str = "crop",
    strict: bool = False,
    keep: int = SMALL,
    progress: Progress | None = None,
) -> Images:
    """Bring the pictures of a source to one size (H, W) and one number of channels, through the packed cache.

    Without `size`, pictures that all have one size of at most `keep` keep it, others become 64x64. Without `channels`, a
    set with at least 95 % gray pictures has one channel, any other three. `fit` is crop, pad or stretch. Files that
    cannot be read are skipped and named, or with `strict` refused. `progress(done, total)` is called along the way. Raises
    UserError for an impossible size, for fewer than two pictures, and if no file can be read or the pictures do not go
    together.
    """
    target = _target(size)
    if fit not in FITS:
        raise unknown("way to fit a picture called", fit, FITS)
    if channels is not None and channels < 1:
        raise UserError(f"The number of channels is expected to be 1 or 3; found {channels}.")
    if len(source) == 0:
        raise UserError(f"Training needs at least two images; '{source.name}' has none.")
    if isinstance(source, ArraySource):
        if source.array.dtype == np.float32:
            _refuse_not_finite(source.array)
        own = source.array.shape[2:]
        if target == own or (target is None and max(own) <= keep):
            return _as_it_is(source, channels, progress)
    cache = cache_folder()
    key = f"{VERSION} {source.version} {source.policy} {source.name} {target} {channels} {fit} {keep}"
    key = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=12).hexdigest()
    images = views.remembered(cache, key) if source.version else None
    if images is None:
        images, view, lasting = _packed(source, target, channels, fit, keep, cache, progress)
        if source.version and lasting:
            views.remember(cache, key, view)
    if strict and images.skipped:
        named = "; ".join(f"{shown(path)}: {why}" for path, why in images.skipped[:3])
        raise UserError(f"{len(images.skipped)} files cannot be read: {named}. Mend or remove them, or leave out --strict.")
    return images


def _as_it_is(source: ArraySource, channels: int | None, progress: Progress | None) -> Images:
    """Pictures that already have their size: no work for each, and no copy unless the channels change."""
    array, (count, found, H, W) = source.array, source.array.shape
    if count < 2:
        raise UserError(f"Training needs at least two images; '{source.name}' has {count}.")
    _target((H, W))
    slices = list(parts(count, found * H * W * array.itemsize))
    coloured = 0
    if found == 3 and channels != 3:
        coloured = count - sum(int(is_gray(array[part]).sum()) for part in slices)
    wanted, note = _channels(count, coloured, {found}, channels)
    if wanted == 1 and found == 3:
        equal = not coloured and all((array[part] == array[part][:, :1]).all() for part in slices)
        array = array[:, :1] if equal else np.concatenate([luminance(array[part]) for part in slices])
    elif wanted == 3 and found == 1:
        array = np.broadcast_to(array, (count, 3, H, W))
    if progress:
        progress(count, count)
    notes = (*source.notes, f"All {count} images are {H}x{W} and keep this size.", note)
    marked, natural = source.held_out, source.natural
    return Images(array, source.labels, source.label_names, source.name, notes, marked=marked, natural=natural)


def _packed(
    source: Source, target: tuple[int, int] | None, channels: int | None, fit: str, keep: int, cache: Path,
    progress: Progress | None,
) -> tuple[Images, Path, bool]:  # fmt: skip
    """The images of a source by way of its pack, their view, and whether the same would come out next time."""
    way = Way(target, fit, False) if target else _guess(source, fit, keep)
    try:
        (cache / "packs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The cache folder {cache} cannot be used ({error.strerror}). Name one in SFUMATO_CACHE.") from error
    try:
        return _by_way(way, source, target, channels, cache, progress)
    except Differs:
        return _by_way(_unequal(fit, keep), source, target, channels, cache, progress)


def _by_way(
    way: Way, source: Source, target: tuple[int, int] | None, channels: int | None, cache: Path, progress: Progress | None
) -> tuple[Images, Path, bool]:
    folder = way.folder(source, cache)
    with FileLock(views.lock_file(folder)):
        units = packed.pack(source, folder, way, progress)
        view = _view(units, source, way, target, channels, folder)
        try:
            return views.load(view), view, all(unit.known for unit in units)
        except (OSError, ValueError) as error:
            raise packed.damaged(folder, str(error).splitlines()[0]) from error


def _view(
    units: list[packed.Unit], source: Source, way: Way, target: tuple[int, int] | None, channels: int | None, folder: Path
) -> Path:
    """Write the view of a source whose units are packed."""
    skipped = [(unit.item.path, unit.fault) for unit in units if unit.fault]
    rows = [row for unit in units for row in unit.pictures]
    if not rows:
        raise UserError(f"None of the {len(units)} files of '{source.name}' can be read; {shown(': '.join(skipped[0]))}.")
    if len(rows) < 2:
        other = f"; of {len(units)} files only one can be read" if skipped else " has one"
        raise UserError(f"Training needs at least two images; '{source.name}'{other}.")
    items = [unit.item for unit in units for _ in unit.pictures]
    several = [len(unit.pictures) > 1 for unit in units for _ in unit.pictures]
    paths = [_path(unit, k) for unit in units for k in range(len(unit.pictures))]
    _refuse_mixture(paths, rows)
    wanted, notes = _settle(source, rows, way, target, channels, skipped, len(units))
    places = [(row.kind, at) for row, at in zip(rows, (at for unit in units for at in unit.rows), strict=True)]
    converted = packed.convert(folder, way.size, places, wanted)
    kind = f"{wanted}-{rows[0].kind.partition('-')[2]}"
    at = np.array([converted.get(place, place[1]) for place in places], np.int64)
    labels, splits = [item.label for item in items], [item.split for item in items]
    classes = len(source.label_names or ())  # is also the class of pictures without one: 'not told', as networks have it
    unlabelled = labels.count(None)
    if 0 < unlabelled < len(labels) and classes:
        notes.append(f"{unlabelled} of {len(labels)} images have no class, and are learned as that.")
    known = zip(items, rows, several, strict=True)
    groups = [item.group or row.group or (item.path if some else None) for item, row, some in known]
    number: dict[str, int] = {}
    told = classes > 0 and unlabelled < len(labels)
    facts = {
        "labels": np.array([classes if k is None else k for k in labels], np.min_scalar_type(classes)) if told else None,
        "label_names": source.label_names if told else None,
        "name": source.name,
        "notes": notes,
        "skipped": skipped,
        "rows": None if np.array_equal(at, np.arange(len(at))) else at,
        "hashes": np.array([row.hash for row in rows], np.uint64),
        "groups": None if not any(groups) else np.array([_number(number, g or p) for g, p in zip(groups, paths, strict=True)]),
        "marked": None if HELD_OUT not in splits else np.array([split == HELD_OUT for split in splits]),
        "sizes": np.array([(row.height, row.width) for row in rows], np.int32),
        "modes": dict(Counter(row.mode for row in rows).most_common()),
        "ends": _ends(rows, wanted),
        "natural": source.natural,
    }
    return views.save(folder, packed.pixels_file(folder, kind).name, (wanted, *way.size), facts, paths)


def _guess(source: Source, fit: str, keep: int) -> Way:
    """The way that the sizes of a few units suggest; a later picture that differs will be noticed."""
    sizes = set()
    for i in {k * (len(source) - 1) // max(1, LOOK - 1) for k in range(1 if source.sequential else LOOK)}:
        with suppress(Exception):  # it will be named with its reason when the turn comes to it
            sizes |= {picture.pixels.shape[:2] for picture in source.decode(i, source.load(i))}
    if len(sizes) == 1 and max(own := sizes.pop()) <= keep:
        return Way(_target(own) or own, fit, True)
    return _unequal(fit, keep)


def _unequal(fit: str, keep: int) -> Way:
    if keep > SMALL:
        raise UserError(
            "Windows are cut from pictures of one size, and these differ or are too large: give it, as in --size 256."
        )
    return Way((SMALL, SMALL), fit, False)


def _settle(
    source: Source, rows: list[Row], way: Way, target: tuple[int, int] | None, channels: int | None,
    skipped: list[tuple[str, str]], units: int,
) -> tuple[int, list[str]]:  # fmt: skip
    """How many channels the set has, and all that is to be said of it."""
    kinds = Counter(row.kind for row in rows)
    found = {int(kind.partition("-")[0]) for kind in kinds}
    coloured = sum(not row.gray for row in rows if row.kind.startswith("3-"))
    wanted, channel_note = _channels(len(rows), coloured, found, channels)
    notes = [*source.notes, _size_note([(row.height, row.width) for row in rows], way, target), channel_note]
    remarks = Counter(remark for row in rows for remark in row.remarks)
    notes += [f"{count} of {len(rows)} images {remark}." for remark, count in remarks.items()]
    if skipped:
        named = "; ".join(f"{shown(path)} ({why})" for path, why in skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
        notes.append(f"{len(skipped)} of {units} files could not be read and are left out: {named}.")
    return wanted, notes


def _path(unit: packed.Unit, k: int) -> str:
    return f"{unit.item.path}#{k}" if len(unit.pictures) > 1 else unit.item.path


def _ends(rows: list[Row], channels: int) -> tuple[list[float], list[float]]:
    """The least and the greatest value of each channel; what had another number of channels counts for all."""
    wide = lambda ends, one: ends if len(ends) == channels else (one(ends),) * channels
    low, high = np.min([wide(row.low, min) for row in rows], 0), np.max([wide(row.high, max) for row in rows], 0)
    return low.tolist(), high.tolist()


def _refuse_mixture(paths: list[str], rows: list[Row]) -> None:
    types = Counter(row.kind.partition("-")[2] for row in rows)
    if len(types) > 1:
        example = {row.kind.partition("-")[2]: path for path, row in zip(reversed(paths), reversed(rows), strict=True)}
        listed = " and ".join(f"{count} of {name} (such as {shown(example[name])})" for name, count in types.most_common())
        raise UserError(f"All images are expected to be of one type; found {listed}. Convert or move one kind.")


def _number(known: dict[str, int], name: str) -> int:
    return known.setdefault(name, len(known))


def _target(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    H, W = size if isinstance(size, tuple | list) else (size, size)
    if not (SMALLEST <= H <= LARGEST and SMALLEST <= W <= LARGEST):
        raise UserError(
            f"{H}x{W} is an impossible size: height and width are expected from {SMALLEST} to {LARGEST}, as in --size 64."
        )
    return H, W


def _size_note(sizes: list[tuple[int, int]], way: Way, target: tuple[int, int] | None) -> str:
    (H, W), count, different = way.size, len(sizes), len(set(sizes))
    if different == 1 and sizes[0] == (H, W):
        return f"All {count} images are {H}x{W} and keep this size."
    smaller = sum(h < H or w < W for h, w in sizes)
    if different == 1:
        found = f"All {count} images are {sizes[0][0]}x{sizes[0][1]}"
    else:
        found = f"The {count} images have {different} sizes, heights {_span(sizes, 0)} and widths {_span(sizes, 1)}"
    asked = "" if target else ", the size for pictures that differ or are larger"
    grown = f"; {smaller} of them had to be enlarged" if smaller else ""
    return f"{found}; they become {H}x{W} ({way.fit}){asked}{grown}."


def _span(sizes: list[tuple[int, int]], axis: int) -> str:
    lengths = [size[axis] for size in sizes]
    return f"{min(lengths)} to {max(lengths)}"


def _channels(count: int, coloured: int, found: set[int], wanted: int | None) -> tuple[int, str]:
    """How many channels the set has, and the sentence that says why."""
    if not found <= {1, 3}:
        if len(found) > 1 or wanted not in (None, *found):
            raise UserError(f"Expected pictures of {wanted or 'one number of'} channels; found {sorted(found)}.")
        return min(found), f"All {count} images have {min(found)} channels."
    if wanted not in (None, 1, 3):
        raise UserError(f"The number of channels is expected to be 1 or 3; found {wanted}.")
    gray = count - coloured
    if wanted == 3:
        return 3, "The images have three channels, as the settings say."
    if wanted is None and gray < GRAY_SHARE * count:
        also = f"; {gray} gray ones among them have it three times" if gray else ""
        return 3, f"The images are in colour, so they have three channels{also}."
    lost = f"; {coloured} of {count} are in colour and became gray" if coloured else ""
    return 1, f"{'One channel, as the settings say' if wanted else 'The images are gray, so they have one channel'}{lost}."


def _refuse_not_finite(array: np.ndarray) -> None:
    slices = parts(len(array), array[:1].nbytes)
    values = np.concatenate([(~np.isfinite(array[part])).sum(axis=(1, 2, 3)) for part in slices])  # (N,)
    bad = int((values > 0).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(values)} images hold {int(values.sum())} values that are NaN or infinite, from position "
            f"{int(np.argmax(values > 0))} on; every pixel is expected to be a finite number. Replace or remove them."
        )
