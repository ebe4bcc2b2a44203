"""Nearest images, and whether samples lie nearer to the training images than new images would."""

from dataclasses import dataclass

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ...errors import UserError

_BLOCK = 2**28  # bytes of references held as floats at a time: they may be a memory-mapped array larger than memory


@dataclass(frozen=True, eq=False)
class Copies:
    """How many of N samples lie as near to a training image as only the nearest share of M held-out images do.

    Distances are those of `nearest`, in the units of the arrays.
    """

    count: int  # samples at a distance of at most `threshold`
    expected: float  # what new images from the data's own distribution would count, on average
    threshold: float  # the quantile of `held_out_distances`
    distances: np.ndarray  # (N,) from each sample to its nearest training image
    indices: np.ndarray  # (N,) which training image that is
    held_out_distances: np.ndarray  # (M,) from each held-out image to its nearest training image

    def sentence(self) -> str:
        """The finding in one plain sentence."""
        samples = len(self.distances)
        share = 100 * self.expected / samples
        return (
            f"{self.count} of {samples} samples {'is' if self.count == 1 else 'are'} nearer to a training image than "
            f"the nearest {share:.3g} % of held-out images are ({self.expected:.3g} expected of new images)."
        )


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) in float64 and index (N,) of the reference nearest to each query.

        d(a, b) = sqrt(mean((a - b)^2)), the mean over pixels and channels

    Queries (N, ...) and references (M, ...) of one shape and in the same units, which are the distance's units; integer
    arrays do not wrap. Exact search. Raises UserError if there are no references, or shapes differ, or a value is not
    finite.
    """
    queries, references = np.asarray(queries), np.asanyarray(references)
    if not len(references):
        raise UserError("The nearest image is looked for among at least one reference; found none.")
    if queries.shape[1:] != references.shape[1:]:
        raise UserError(f"Images of one shape can be compared; found {queries.shape[1:]} and {references.shape[1:]}.")
    if not len(queries):
        return np.zeros(0), np.zeros(0, dtype=np.int64)

    dtype = np.result_type(queries, references, np.float32)  # float32 holds 16-bit integers exactly
    wanted = _flat(queries, dtype)  # (N, D)
    block = max(1, _BLOCK // (wanted.shape[1] * dtype.itemsize))
    distances = np.full(len(queries), np.inf)
    indices = np.zeros(len(queries), dtype=np.int64)
    for start in range(0, len(references), block):
        near = _flat(references[start : start + block], dtype)  # (at most block, D)
        found = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(near).kneighbors(wanted, return_distance=False)
        # Measured again: the search expands |a - b|^2 into products, and the copy of an image would not be at 0.
        gap = near[found[:, 0]].astype(np.float64) - wanted  # (N, D)
        distance = np.sqrt(np.mean(gap**2, axis=1))  # (N,)
        closer = distance < distances
        distances[closer], indices[closer] = distance[closer], start + found[closer, 0]
    return distances, indices


def copies(samples: np.ndarray, train: np.ndarray, held_out: np.ndarray, quantile: float = 0.05) -> Copies:
    """Count the samples whose nearest training image is at most as far as the `quantile` of held-out images have it.

    A sample counts if distance <= threshold. `<=` and not `<`, so that where held-out images are themselves duplicates
    of training images and the threshold is 0, exact copies still count. The quantile is Weibull's, k / (M + 1) at the
    k-th smallest of M, for which a new image falls below it with probability `quantile`; M of at least 1 / quantile is
    needed for that, else the threshold is the smallest distance. Arrays as in `nearest`. Raises UserError if there are
    no samples or no held-out images.
    """
    if not 0 < quantile < 1:
        raise UserError(f"A quantile lies between 0 and 1; found {quantile}.")
    if not len(held_out):
        raise UserError("Copies are judged against held-out images, and there are none; hold some out of training.")
    if not len(samples):
        raise UserError("Copies are looked for among samples, and there are none.")
    distances, indices = nearest(samples, train)
    held_out_distances, _ = nearest(held_out, train)
    threshold = float(np.quantile(held_out_distances, quantile, method="weibull"))
    count = int(np.sum(distances <= threshold))
    return Copies(count, quantile * len(samples), threshold, distances, indices, held_out_distances)


def _flat(images: np.ndarray, dtype: np.dtype) -> np.ndarray:
    rows = np.asarray(images).reshape(len(images), -1).astype(dtype, copy=False)
    if not np.isfinite(rows).all():
        raise UserError("Distances between images need finite values; found NaN or infinity.")
    return rows
