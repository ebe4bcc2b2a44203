"""Precision, recall, density and coverage: whose balls of nearest neighbours hold whom."""

from collections.abc import Iterator

import numpy as np

from .estimate import Estimate, blocks, rows

NAMES = ("precision", "recall", "density", "coverage")
NEAR, WIDE = 3, 5  # neighbours: of precision and recall; of density and coverage
DRAWS = 32  # subsets from which the spread is told
ROWS = 1000  # in the smaller set of each pair of subsets; at least a fifth and at most half of all
LEAST = 40  # rows without which subsets would tell nothing


def estimates(samples: np.ndarray, reference: np.ndarray, seed: int = 0) -> list[Estimate]:
    """The four numbers of `shares` for features (N, D) against (M, D), with intervals.

    All four depend on N and M; the intervals are for their mean over other draws of as many. The spread is that of subsets
    drawn without replacement from both sets (from `seed`), a share f of each (half up to 2,000 rows, less of more), times
    f / (1 - f) in variance (Politis, Romano 1994). A bootstrap would draw rows repeatedly, and the balls of repeated rows
    shrink to points; a jackknife that takes away single rows gave twice the true deviation.
    """
    x = rows(samples)
    y = rows(reference, x.shape[1])
    counts = (len(x), len(y))
    if min(counts) <= WIDE:
        note = f"Needs at least {WIDE + 1} samples and {WIDE + 1} reference pictures."
        return [Estimate.unknown(name, counts, note) for name in NAMES]
    values = shares(x, y)
    if min(counts) < LEAST:
        note = f"Needs at least {LEAST} samples and {LEAST} reference pictures for an interval."
        return [
            Estimate(name, float(value), None, None, *counts, None, note) for name, value in zip(NAMES, values, strict=True)
        ]
    fraction = min(0.5, max(0.2, ROWS / min(counts)))
    random = np.random.default_rng(seed)
    some = lambda each: each[random.choice(len(each), round(fraction * len(each)), replace=False)]
    variances = np.var([shares(some(x), some(y)) for _ in range(DRAWS)], axis=0, ddof=1) * fraction / (1 - fraction)
    of = dict(precision=len(x), recall=len(y), coverage=len(y))  # the rows that each is a share of
    return [
        Estimate.share(name, value, variance, of[name], counts)
        if name in of
        else Estimate.factor(name, value, variance, counts)
        for name, value, variance in zip(NAMES, values, variances, strict=True)
    ]


def shares(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Precision, recall, density and coverage (4,) of samples x (N, D) against a reference y (M, D), N and M above 5.

    - precision: the share of samples within the ball of any reference row; recall with the two exchanged. k = 3.
    - density: the number of reference balls, k = 5, that hold a sample, on average, divided by k; 1 on average if the
      distributions are equal.
    - coverage: the share of reference balls, k = 5, that hold a sample.

    A ball reaches to the k-th nearest of the other rows of its own set, its surface included; that of a row with k
    duplicates holds its copies alone. Distances come from products, so what is as near as rounding is a copy, and what is
    as far as a radius lies on the ball.
    Source: Kynkaanniemi et al. 2019, eq. 1, 2; Naeem et al. 2020, sec. 3.
    """
    middle = y.mean(axis=0)
    x, y = x - middle, y - middle  # products round least near the origin
    slack = 1e-12 * max(np.mean(np.sum(part**2, axis=1)) for part in (x, y))
    of_x, _ = _radii(x) + slack  # (N,)
    of_y, wide_y = _radii(y) + slack  # (M,)
    precise, holders = np.zeros(len(x), dtype=bool), np.zeros(len(x))
    recalled, filled = np.zeros(len(y), dtype=bool), np.zeros(len(y), dtype=bool)
    for part, near in _tables(x, y):  # (B, M)
        precise[part] = np.any(near <= of_y, axis=1)
        recalled |= np.any(near <= of_x[part, None], axis=0)
        inside = near <= wide_y
        holders[part] = inside.sum(axis=1)
        filled |= inside.any(axis=0)
    return np.array([precise.mean(), recalled.mean(), holders.mean() / WIDE, filled.mean()])


def _radii(x: np.ndarray) -> np.ndarray:
    """Squared distances (2, N) from each row to the third and the fifth nearest of the others."""
    radii = np.zeros((2, len(x)))
    for part, near in _tables(x, x):
        np.fill_diagonal(near[:, part], np.inf)  # nobody is their own neighbour
        near.partition((NEAR - 1, WIDE - 1), axis=1)
        radii[:, part] = near[:, [NEAR - 1, WIDE - 1]].T
    return radii


def _tables(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Squared distances (B, M) of some rows of x at a time to all of y."""
    of_x, of_y = np.sum(x**2, axis=1), np.sum(y**2, axis=1)
    for part in blocks(len(x), len(y)):
        table = x[part] @ y.T
        table *= -2
        table += of_x[part, None]
        table += of_y
        yield part, table
