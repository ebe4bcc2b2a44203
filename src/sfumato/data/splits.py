"""Which images are kept out of training: those the data itself keeps, else some chosen by their content."""

import numpy as np

from ..errors import UserError
from .images import AllBut, Images, release

FEWEST, MOST, LARGEST_SHARE = 64, 10_000, 0.2
TOO_FEW = 10  # below this many images nothing is held out
AT_ONCE = 1 << 20  # hashes that are put into order at once


def split(images: Images, fraction: float = 0.05) -> tuple[Images, Images, str]:
    """The pictures to train on, those held out, and the sentence that says which.

    What the data itself keeps for testing is held out, except for exact copies of training pictures; else `held_out`
    chooses, by content, and keeps groups together. fraction = 0 holds none out: what is kept for testing is then left out.
    """
    total = len(images)
    if images.marked is not None:
        marked = np.flatnonzero(images.marked)
        copies = np.isin(images.hashes[marked], images.hashes[np.flatnonzero(~np.asarray(images.marked))])
        if images.groups is not None:
            copies |= np.isin(images.groups[marked], images.groups[np.flatnonzero(~np.asarray(images.marked))])
        kept, note = marked[~copies], f"{len(marked) - copies.sum():,} pictures are held out as the data says"
        if copies.all():
            note = f"None are held out: all {len(marked):,} that the data marks, or their groups, are in the training part too"
        elif copies.any():
            note += f"; {copies.sum():,} more are left out, for they or their groups are in the training part too"
        if fraction == 0:
            kept, note = kept[:0], f"None are held out; {len(marked):,} that the data keeps for testing are left out"
        rest = AllBut(marked, total)
    else:
        kept = held_out(images.hashes, fraction, images.groups)
        release(images.hashes)
        rest = AllBut(kept, total)
        note = f"{len(kept):,} pictures ({len(kept) / total:.1%}) are held out, chosen by their content"
        note += ", groups together" if images.groups is not None else ""
        if not len(kept):
            few = total < TOO_FEW
            why = (
                ", as was asked"
                if fraction == 0
                else f": fewer than {TOO_FEW} are there"
                if few
                else ": no group is small enough"
            )
            note = f"No pictures are held out{why}"
    if len(rest) == 0:
        raise UserError("All pictures are marked for testing, and none are left to train on.")
    return images.subset(rest), images.subset(kept), note + "."


def held_out(hashes: np.ndarray, fraction: float = 0.05, groups: np.ndarray | None = None) -> np.ndarray:
    """Sorted int64 positions of the images held out, from their content hashes (N,) uint64 and groups (N,), if any.

    `fraction` of N is held out, at least 64, at most 10,000, never above 20 % of N; 0 holds out none, and so do fewer
    than 10 images. The choice depends on contents alone: other names or another order of the same files change
    nothing, and equal images, and images of one group, stand on one side. Raises UserError for a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"The held-out fraction is expected between 0 and 1, as in 0.05; found {fraction}.")
    total = len(hashes)
    if fraction == 0 or total < TOO_FEW:
        return np.empty(0, np.int64)
    wanted = min(max(round(fraction * total), FEWEST), MOST, int(LARGEST_SHARE * total))
    if groups is not None:
        together = _together(np.asarray(hashes), np.asarray(groups))
        return _chosen(_least_of(_mixed(np.asarray(hashes, np.uint64)), together)[together], wanted)[0]
    few = _smallest(hashes, 4 * wanted)  # all that is likely to be chosen, with all its copies
    chosen, met = _chosen(_mixed(np.asarray(hashes[few], np.uint64)), wanted)
    if met == wanted or len(few) == total:
        return few[chosen]
    return _chosen(_mixed(np.asarray(hashes, np.uint64)), wanted)[0]


def _chosen(keys: np.ndarray, wanted: int) -> tuple[np.ndarray, int]:
    """Positions of the least keys (N,), all that are equal or none, as many as fit into `wanted`; and how many."""
    _, key, copies = np.unique(keys, return_inverse=True, return_counts=True)
    chosen, held = np.zeros(len(copies), bool), 0
    for k in range(len(copies)):
        if held == wanted:
            break
        if held + copies[k] <= wanted:  # what has more copies than there is room for stays in training
            chosen[k] = True
            held += copies[k]
    return np.flatnonzero(chosen[key]).astype(np.int64), held


def _smallest(hashes: np.ndarray, count: int) -> np.ndarray:
    """Sorted positions of at least `count` images with the least keys, and of all their copies; in little memory."""
    if len(hashes) <= max(count, AT_ONCE):
        return np.arange(len(hashes))
    positions, keys = np.empty(0, np.int64), np.empty(0, np.uint64)
    for start in range(0, len(hashes), AT_ONCE):
        part = _mixed(np.asarray(hashes[start : start + AT_ONCE], np.uint64))
        positions = np.concatenate((positions, np.arange(start, start + len(part))))
        keys = np.concatenate((keys, part))
        if len(keys) > count:
            keep = keys <= np.partition(keys, count)[count]
            positions, keys = positions[keep], keys[keep]
    return positions


def _together(hashes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The component (N,) of each image where equal contents and equal groups are linked."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    content = np.unique(hashes, return_inverse=True)[1]
    group = np.unique(groups, return_inverse=True)[1] + content.max() + 1
    size = int(group.max()) + 1
    links = coo_array((np.ones(len(content), bool), (content, group)), shape=(size, size))
    return np.unique(connected_components(links, directed=False)[1][content], return_inverse=True)[1]


def _least_of(keys: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The least key of each component (K,), which names it whatever the order of its members."""
    least = np.full(members.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, members, keys)
    return least


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """The hashes in another order, one to one: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014)."""
    z = hashes + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
