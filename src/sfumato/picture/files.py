"""Samples as files: one PNG each, named after seed and number."""

from pathlib import Path

import numpy as np

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
