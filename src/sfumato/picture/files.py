"""Samples as files: one PNG each, named after seed and number."""

import contextlib
import itertools
import re
from pathlib import Path

import numpy as np
from PIL import Image

from .pixels import save_png, to_pil


def save_samples(
    stored: np.ndarray, displayed: np.ndarray, folder: Path, seed: int, first: int, text: dict[str, str]
) -> list[Path]:
    """Write sample number i as `folder`/sSEED-NNNNN.png and return the paths; i counts from `first`.

    stored      (N, H, W, C) in the data's own type: 16-bit gray is kept as it is
    displayed   (N, H, W, C) uint8, written for all others
    text        the chunks that say how the samples were drawn
    """
    folder.mkdir(parents=True, exist_ok=True)
    deep = stored.dtype == np.uint16 and stored.shape[-1] == 1
    paths = [folder / f"s{seed}-{number:05d}.png" for number in range(first, first + len(stored))]
    for path, own, shown in zip(paths, stored, displayed, strict=True):
        save_png(path, own if deep else to_pil(shown), text)
    return paths


def set_aside(folder: Path, seed: int, text: dict[str, str]) -> str:
    """Move the samples of a seed that were drawn otherwise than `text` says to `folder`/older-N; a sentence if there were.

    What was drawn alike stays, so that a folder holds of each seed one drawing, whole or in part.
    """
    ours = re.compile(rf"s{seed}-(\d{{5,}}|grid)\.(png|gif)")
    files = [path for path in folder.iterdir() if ours.fullmatch(path.name)]
    if all(_text(path) == text for path in files if path.suffix == ".png"):
        return ""
    older = next(path for n in itertools.count(1) if not (path := folder / f"older-{n}").exists())
    older.mkdir()
    for path in files:
        path.rename(older / path.name)
    return f"{len(files)} files of seed {seed} that were drawn otherwise are now in {older}."


def _text(path: Path) -> dict[str, str]:
    with contextlib.suppress(OSError, SyntaxError, AttributeError), Image.open(path) as image:
        return dict(image.text)  # type: ignore[attr-defined]
    return {}
