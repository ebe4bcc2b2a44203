"""Which images are kept out of training, chosen by their content."""

import numpy as np

from ..errors import UserError

FEWEST, MOST, LARGEST_SHARE = 64, 10_000, 0.2
TOO_FEW = 10  # below this many images nothing is held out


def held_out(hashes: np.ndarray, fraction: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Sorted int64 positions of the images to train on and of those held out, from their content hashes (N,) uint64.

    `fraction` of N is held out, at least 64, at most 10,000, never above 20 % of N; 0 holds out none, and so do fewer
    than 10 images. The choice depends on contents alone: other names or another order of the same files change
    nothing, and equal images stand on one side. Raises UserError for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"The held-out fraction is expected between 0 and 1, as in 0.05; found {fraction}.")
    total = len(hashes)
    wanted = 0
    if fraction > 0 and total >= TOO_FEW:
        wanted = min(max(round(fraction * total), FEWEST), MOST, int(LARGEST_SHARE * total))

    contents, content, copies = np.unique(np.asarray(hashes, np.uint64), return_inverse=True, return_counts=True)
    chosen = np.zeros(len(contents), bool)
    held = 0
    for k in np.argsort(_mixed(contents)):
        if held == wanted:
            break
        if held + copies[k] <= wanted:  # a content with more copies than there is room for stays in training
            chosen[k] = True
            held += copies[k]
    out = chosen[content]
    return np.flatnonzero(~out).astype(np.int64), np.flatnonzero(out).astype(np.int64)


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The hashes in another order, one to one: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    z = hashes + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
