"""Samples as files: one PNG each, named after seed and number."""

import contextlib
import importlib.util
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..disk import whole_file
from ..errors import UserError
from .grids import grid
from .motion import apng, gif
from .pixels import save_png, to_pil


def make_room(folder: Path, array: Path | None = None) -> None:
    """Make the folder for samples, and that of the file for their array; raises UserError where one is named as the other."""
    if folder.suffix.lower() in (".png", ".jpg", ".jpeg", ".gif", ".apng") and not folder.is_dir():
        raise UserError(f"--out names a folder, for samples are files; found {folder}. Type --out {folder.with_suffix('')}.")
    for each in (folder, array.parent if array else folder):
        each.mkdir(parents=True, exist_ok=True)
    if array is not None and array.is_dir():
        raise UserError(f"--npy names a file, as in --npy samples.npy; {array} is a folder.")


def save_samples(
    stored: np.ndarray, displayed: np.ndarray, folder: Path, seed: int, first: int, text: dict[str, str]
) -> list[Path]:
    """Write sample number i as `folder`/sSEED-NNNNN.png and return the paths; i counts from `first`.

    What PNG cannot hold (16-bit colour, floating point, other channels than 1 or 3) is written a second time, exactly,
    as a TIFF of the same name, if tifffile is installed; the paths of these come after those of all PNGs.

    stored      (N, H, W, C) in the data's own type: 16-bit gray is kept as it is in the PNG
    displayed   (N, H, W, C) uint8, written for all others
    text        says how the samples were drawn: chunks of the PNG, JSON in the TIFF's ImageDescription
    """
    folder.mkdir(parents=True, exist_ok=True)
    channels = stored.shape[-1]
    deep = stored.dtype == np.uint16 and channels == 1
    paths = [folder / f"s{seed}-{number:05d}.png" for number in range(first, first + len(stored))]
    for path, own, shown in zip(paths, stored, displayed, strict=True):
        save_png(path, own if deep else to_pil(shown), text)
    if deep or (stored.dtype == np.uint8 and channels in (1, 3)) or importlib.util.find_spec("tifffile") is None:
        return paths
    for path, own in zip(tuple(paths), stored, strict=True):
        paths.append(path.with_suffix(".tif"))
        _save_tiff(paths[-1], own, text)
    return paths


def save_grid(
    displayed: np.ndarray,
    path: Path,
    text: dict[str, str],
    frames: Sequence[np.ndarray] = (),
    kinds: Sequence[str] = ("gif",),
    draw: Callable[[np.ndarray], Image.Image] = grid,
) -> list[Path]:
    """Write (N, H, W, C) uint8 as one picture, and if there are frames of it animations beside it; return the paths.

    `kinds` of animation are gif and apng; `draw` makes the picture of each (N, H, W, C).
    """
    save_png(path, draw(displayed), text)
    made, stills = [path], [draw(frame) for frame in frames] if kinds else []
    for kind in kinds if stills else ():
        made.append(path.with_suffix(f".{kind}"))
        if kind == "gif":
            gif(stills, made[-1], scale=1)
        else:
            apng(stills, made[-1], scale=1, text=text)
    return made


def claim(path: Path, word: str, named: bool) -> Path:
    """Where a picture of the kind `word` is written without loss: `path`, if nothing or an earlier one of its kind is there.

    Else NAME-2.png, NAME-3.png ... if nobody named the path, and UserError if it was named. The folder is made. What is
    written there has `picture`: word among its text chunks.
    """
    if path.suffix.lower() != ".png" or path.is_dir():
        raise UserError(f"--out names a PNG file, as in --out {word}.png; found {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    others = [path] if named else [path, *(path.with_stem(f"{path.stem}-{n}") for n in range(2, 1000))]
    for each in others:
        if not each.exists() or _text(each).get("picture") == word:
            return each
    raise UserError(f"{path} is there already and is no earlier picture of this kind; name another file with --out.")


def save_array(path: Path, pictures: np.ndarray) -> Path:
    """Write an array as .npy, whole or not at all."""
    with whole_file(path) as file:
        np.save(file, pictures, allow_pickle=False)
    return path


def set_aside(folder: Path, seed: int, text: dict[str, str]) -> str:
    """Move the samples of a seed that were drawn otherwise than `text` says to `folder`/older-N; a sentence if there were.

    What was drawn alike stays, so that a folder holds of each seed one drawing, whole or in part.
    """
    ours = re.compile(rf"s{seed}-(\d{{5,}}(-large|-halfway)?|grid|(classes-)?halfway|classes)\.(png|gif|apng|tif)")
    files = [path for path in folder.iterdir() if ours.fullmatch(path.name)]
    if all(_text(path) == text for path in files if path.suffix == ".png"):
        return ""
    older = next(path for n in itertools.count(1) if not (path := folder / f"older-{n}").exists())
    older.mkdir()
    for path in files:
        path.rename(older / path.name)
    return f"{len(files)} files of seed {seed} that were drawn otherwise are now in {older}."


def _save_tiff(path: Path, image: np.ndarray, text: dict[str, str]) -> None:
    """Write (H, W, C) of any number type with its text as JSON, whole or not at all."""
    import tifffile

    kind = "rgb" if image.shape[2] == 3 else "minisblack"
    layout = None if image.shape[2] == 1 else "contig"
    with whole_file(path) as file:
        tifffile.imwrite(
            file, image[:, :, 0] if image.shape[2] == 1 else image, photometric=kind, planarconfig=layout,
            description=json.dumps(text), metadata=None, software="sfumato",
        )  # fmt: skip


def _text(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, SyntaxError, AttributeError), Image.open(path) as image:
        return dict(image.text)  # type: ignore[attr-defined]
    return {}
