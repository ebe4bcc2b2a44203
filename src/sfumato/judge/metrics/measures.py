"""All distances between features of samples and features of real pictures."""

import numpy as np

from . import frechet, kernel, manifold
from .estimate import Estimate
from .frechet import Moments

MANY = 10_000  # samples, from which on the Frechet distance comes first


def measure(samples: np.ndarray, reference: np.ndarray, moments: Moments | None = None) -> list[Estimate]:
    """Kernel and Frechet distances, precision, recall, density and coverage of features (N, D) against (M, D).

    Below 10,000 samples the kernel distance comes first: the Frechet distance is biased by their number.
    With `moments`, of any number of real pictures, the Frechet distance is to them instead of to `reference`.
    Sets may be small, even empty: a number that cannot be told is None, and its note says why. Raises UserError for
    features of unequal length or that are not finite.
    """
    return [*distances(samples, reference, moments), *manifold.estimates(samples, reference)]


def distances(samples: np.ndarray, reference: np.ndarray, moments: Moments | None = None) -> list[Estimate]:
    """The distances alone, as `measure` has them."""
    found = [kernel.estimates(samples, reference), frechet.estimates(samples, reference, moments)]
    if len(samples) >= MANY:
        found.reverse()
    return [*found[0], *found[1]]
