"""A survey of images: what values they hold, which are plain, which repeat others, and how large they were in their files."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .codec import AffineCodec
from .images import Images, parts

BINS = 32
MEASURED = 200_000  # of more pictures than this, the values of so many are counted, spread evenly
SIZES, PAIRS = 20, 100  # that are listed
CLASSES, EACH, SPREAD = 10, 8, 64  # classes and pictures of each that are shown; pictures where there are no classes
COLOURS = {1: ("gray",), 3: ("red", "green", "blue")}
_BLOCK_VALUES = 1 << 23  # values that are counted at once: numpy makes 64-bit copies of them


@dataclass(frozen=True)
class Survey:
    """What one look at all pictures tells."""

    low: tuple[float, ...]  # the range that the bins divide, one value per channel: the codec's
    high: tuple[float, ...]
    histogram: np.ndarray  # (C, BINS) int64: how many values of each channel fall into each part of its range
    mean: np.ndarray  # (C,) in stored units
    std: np.ndarray
    mean_x0: np.ndarray  # (C,) in model space
    std_x0: np.ndarray
    measured: int  # pictures that the histogram, means and deviations are of
    constant: np.ndarray  # (K,) positions of pictures that are one plain colour
    repeats: np.ndarray  # (R, 2) positions: a picture, and a later one that equals it
    sizes: dict[tuple[int, int], int]  # height and width in the files, and how many; the most common first


def survey(images: Images, progress: Callable[[int, int], None] | None = None, codec: AffineCodec | None = None) -> Survey:
    """Look at all pictures once; `progress(done, total)` is called along the way.

    codec   the one that training uses, fitted to the images unless given

    All is exact, but for more than 200,000 pictures the values are those of 200,000, spread evenly. Equal pictures are
    those with equal hashes.
    """
    codec = AffineCodec.fit(images) if codec is None else codec
    total, measured = len(images), min(len(images), MEASURED)
    chosen = np.arange(measured) * total // measured
    values = _Floats(codec) if images.dtype == np.float32 else _Integers(codec)
    constant = []
    for part, rows in images.chunks():
        flat = rows.reshape(*rows.shape[:2], -1)  # (n, C, HW)
        constant.append(part.start + np.flatnonzero((flat.min(2) == flat.max(2)).all(1)))
        first, last = np.searchsorted(chosen, (part.start, part.stop))
        some = flat if last - first == len(flat) else flat[chosen[first:last] - part.start]
        step = max(1, _BLOCK_VALUES // flat.shape[2])
        for c in range(images.shape[0]):
            for start in range(0, len(some), step):
                values.add(c, some[start : start + step, c])
        if progress:
            progress(part.stop, total)
    mean, std = values.mean_and_std()
    x0 = lambda stored: codec.encode(torch.from_numpy(stored)[None, :, None, None])[0, :, 0, 0].double().numpy()
    return Survey(
        low=codec.low, high=codec.high, histogram=values.histogram(), mean=mean, std=std, mean_x0=x0(mean),
        std_x0=x0(mean + std) - x0(mean), measured=measured, constant=np.concatenate(constant),
        repeats=repeats(images.hashes[: len(images)]), sizes=_sizes(images),
    )  # fmt: skip


def repeats(hashes: np.ndarray) -> np.ndarray:
    """Pairs of positions (R, 2): for each picture whose hash (N,) stood before, the first with that hash and itself."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    fresh = np.concatenate(([True], ordered[1:] != ordered[:-1]))[: len(order)]
    firsts = order[fresh][np.cumsum(fresh) - 1]  # of stably sorted equals the first stands first
    pairs = np.stack((firsts[~fresh], order[~fresh]), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def listed(images: Images, found: Survey) -> dict[str, Any]:
    """All that a survey and the images themselves tell, as JSON has it.

    Channels are red, green and blue, or gray, or numbers from 1; of sizes the most common are told, of equal pictures the
    first.
    """
    C, H, W = images.shape
    channels = COLOURS.get(C) or tuple(str(c + 1) for c in range(C))
    counts = images.label_counts
    sizes = sorted(found.sizes, key=lambda size: (size[0] * size[1], size))
    named = lambda positions: [images.paths[i] for i in positions]
    return {
        "name": images.name, "images": len(images), "channels": C, "size": [H, W], "dtype": images.dtype.name,
        "labels": None if counts is None else dict(zip(images.label_names or (), counts.tolist(), strict=True)),
        "sizes": {f"{h}x{w}": count for (h, w), count in list(found.sizes.items())[:SIZES]},
        "different_sizes": len(sizes), "smallest": list(sizes[0]), "largest": list(sizes[-1]), "modes": images.modes,
        "broken": [{"path": path, "reason": reason} for path, reason in images.skipped],
        "constant": named(found.constant), "duplicates": len(found.repeats),
        "duplicate_pairs": [named(pair) for pair in found.repeats[:PAIRS]],
        "range": dict(zip(channels, zip(found.low, found.high, strict=True), strict=True)),
        "histogram": dict(zip(channels, found.histogram.tolist(), strict=True)), "measured": found.measured,
        "mean": found.mean.tolist(), "std": found.std.tolist(), "mean_x0": found.mean_x0.tolist(),
        "std_x0": found.std_x0.tolist(), "notes": list(images.notes),
    }  # fmt: skip


def examples(images: Images) -> tuple[np.ndarray, list[str] | None]:
    """Positions of pictures to show, and the class of each: a few of each class, or some spread over the whole set."""
    spread = lambda among, count: among[np.arange(min(count, len(among))) * len(among) // min(count, len(among))]
    if images.labels is None or images.label_counts is None or not images.label_names:
        return spread(np.arange(len(images)), SPREAD), None
    there = np.flatnonzero(images.label_counts)[:CLASSES]
    rows = [spread(np.flatnonzero(images.labels[: len(images)] == k), EACH) for k in there]
    return np.concatenate(rows), [images.label_names[k] for k, row in zip(there, rows, strict=True) for _ in row]


class _Integers:
    """How often each value of each channel occurs, which tells all the rest exactly."""

    def __init__(self, codec: AffineCodec):
        self.top = int(max(codec.high))
        self.counts = np.zeros((len(codec.high), self.top + 1), np.int64)

    def add(self, c: int, values: np.ndarray) -> None:
        found = np.bincount(values.ravel(), minlength=self.top + 1)
        self.counts[c] += found[: self.top + 1]
        self.counts[c, self.top] += found[self.top + 1 :].sum()  # a codec saturates

    def histogram(self) -> np.ndarray:
        bins = np.arange(self.top + 1) * BINS // (self.top + 1)
        return np.stack([np.bincount(bins, counts, BINS).astype(np.int64) for counts in self.counts])

    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        values, total = np.arange(self.top + 1, dtype=np.float64), self.counts.sum(1)
        mean = self.counts @ values / total
        return mean, np.sqrt((self.counts * (values - mean[:, None]) ** 2).sum(1) / total)


class _Floats:
    """Counts in each part of the range, and means and squared deviations that are merged from block to block."""

    def __init__(self, codec: AffineCodec):
        self.ends = list(zip(codec.low, codec.high, strict=True))
        self.counts = np.zeros((len(self.ends), BINS), np.int64)
        self.total, self.mean, self.squares = np.zeros((3, len(self.ends)))

    def add(self, c: int, values: np.ndarray) -> None:
        low, high = self.ends[c]
        values = values.astype(np.float64)
        if low < high:
            self.counts[c] += np.histogram(values.clip(low, high), BINS, (low, high))[0]
        else:  # one value fills the first bin, as it does for integers
            self.counts[c, 0] += values.size
        before, own = self.total[c], values.mean()
        self.total[c] += values.size
        share = values.size / self.total[c]
        self.squares[c] += ((values - own) ** 2).sum() + (own - self.mean[c]) ** 2 * before * share
        self.mean[c] += (own - self.mean[c]) * share

    def histogram(self) -> np.ndarray:
        return self.counts

    def mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        return self.mean, np.sqrt(self.squares / self.total)


def _sizes(images: Images) -> dict[tuple[int, int], int]:
    if images.sizes is None:
        return {images.shape[1:]: len(images)}
    found: Counter[int] = Counter()
    for part in parts(len(images), 8):
        sides = np.asarray(images.sizes[part], np.int64)
        numbers, counts = np.unique(sides[:, 0] << 32 | sides[:, 1], return_counts=True)
        found.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    return {(number >> 32, number & 0xFFFFFFFF): count for number, count in found.most_common()}
