"""The Frechet distance of two sets of features: that of the Gaussians with their means and covariances."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from ...disk import whole_file
from ...errors import UserError
from .estimate import Estimate, rows

ENOUGH = 4  # rows to a dimension from which on the bias and the interval are told


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and covariance of N rows of D features, in float64; those of two sets add up to those of both.

    So the moments of a set are the sum of the moments of its parts, whoever computed those, and in whatever order.
    """

    count: int
    mean: np.ndarray  # (D,)
    scatter: np.ndarray  # (D, D), sum of (x - mean)(x - mean)^T

    @classmethod
    def of(cls, features: np.ndarray) -> "Moments":
        """Moments of features (N, D); N may be 0."""
        x = rows(features)
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of both sets together (Chan, Golub, LeVeque 1983): no difference of large numbers."""
        if self.mean.shape != other.mean.shape:
            raise UserError(f"Features of one length can be put together; found {len(self.mean)} and {len(other.mean)}.")
        count = self.count + other.count
        gap = other.mean - self.mean
        share = other.count / max(1, count)
        scatter = self.scatter + other.scatter + self.count * share * np.outer(gap, gap)
        return Moments(count, self.mean + share * gap, scatter)

    @property
    def covariance(self) -> np.ndarray:
        """The unbiased covariance (D, D), of at least two rows."""
        return self.scatter / (self.count - 1)

    def save(self, path: str | Path) -> None:
        """Write a .safetensors file, whole or not at all."""
        with whole_file(path) as file:
            file.write(save({"count": np.array(self.count), "mean": self.mean, "scatter": self.scatter}))

    @classmethod
    def load(cls, path: str | Path) -> "Moments":
        """Read what `save` wrote; raises UserError if it is not that."""
        try:
            saved = load_file(path)
            return cls(int(saved["count"]), saved["mean"], saved["scatter"])
        except (OSError, SafetensorError, KeyError) as error:
            raise UserError(f"{path} does not hold the moments of features ({error}); delete it.") from None


def frechet(a: Moments, b: Moments) -> float:
    """The squared Frechet (2-Wasserstein) distance between two Gaussians, in squared units of the features.

        |m_a - m_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^(1/2)),    tr((C_a C_b)^(1/2)) = sum of singular values of R_a^T R_b

    for any roots C = R R^T, here those of symmetric eigenvalues: no eigenvalue below zero can arise, covariances may be
    singular. This is what FID is: of samples, it is too large, the more so the fewer they are and the more features (see
    `estimates`). Raises UserError for fewer than two rows. Source: Dowson, Landau 1982; Heusel et al. 2017, eq. 6.
    """
    if a.mean.shape != b.mean.shape:
        raise UserError(f"Features of one length can be compared; found {len(a.mean)} and {len(b.mean)}.")
    if min(a.count, b.count) < 2:
        raise UserError(f"A covariance needs at least two rows; found {a.count} and {b.count}.")
    return _distance(a, b, np.linalg.svd(_root(a).T @ _root(b), compute_uv=False))


def estimates(samples: np.ndarray, reference: np.ndarray, moments: Moments | None = None, seed: int = 0) -> list[Estimate]:
    """The Frechet distance of features (N, D) to (M, D) as it is published, and freed of its bias.

    - `frechet`: as usual. Its interval is for the mean of this number over other draws of N and M pictures.
    - `frechet_limit`: what endlessly many pictures would give (Chong, Forsyth 2020), with an interval for that. It may fall
      a little below zero. Compare numbers of unequal counts by this one.

    With `moments` the reference is what they say, and is taken as known exactly; `reference` is not looked at.
    The variance is the delta method's, from the first derivative of the distance in each row. Where the distributions are
    equal it is too large (the derivative vanishes, its estimate does not), so that intervals are wider than need be there.
    The bias is taken off twice: to order 1/N from the second derivative, with fourth moments from the rows, and to order
    1/N^2 by computing the rest on halves of the rows too (drawn from `seed`). A plain bootstrap would add a bias of the
    same kind instead: its repeated rows have fewer independent ones among them.
    """
    x = rows(samples)
    y = rows(reference, x.shape[1]) if moments is None else None
    against = Moments.of(reference) if moments is None else moments
    counts = (len(x), against.count)
    names = ("frechet", "frechet_limit")
    if min(counts) < 2:
        return [Estimate.unknown(name, counts, "Needs at least 2 samples and 2 reference pictures.") for name in names]

    dimensions = x.shape[1]
    if len(x) < ENOUGH * dimensions or (y is not None and len(y) < ENOUGH * dimensions):
        why = f"Needs at least {ENOUGH * dimensions} pictures on each side, four to a feature, to be freed of its bias."
        note = f"Biased upward by an unknown amount: fewer than {ENOUGH * dimensions} pictures."
        value = frechet(Moments.of(x), against)
        return [Estimate(names[0], value, None, None, *counts, None, note), Estimate.unknown(names[1], counts, why)]

    value, bias, variance = _expansion(x, y, against)
    random = np.random.default_rng(seed)
    mixed_x, mixed_y = random.permutation(x), None if y is None else random.permutation(y)
    halves = [_expansion(mixed_x[k::2], None if mixed_y is None else mixed_y[k::2], against) for k in (0, 1)]
    half = sum(distance - bias for distance, bias, _ in halves) / 2
    limit = (4 * (value - bias) - half) / 3  # what is left falls as 1/N^2: at half the rows it is four times as large
    note = f"About {value - limit:.3g} of it comes from the number of pictures."
    return [
        Estimate.normal(names[0], value, variance, counts, least=0.0, note=note),
        Estimate.normal(names[1], limit, variance, counts, note="As of endlessly many pictures."),
    ]


def _expansion(x: np.ndarray, y: np.ndarray | None, against: Moments) -> tuple[float, float, float]:
    """The distance of rows x to rows y (or to the moments `against`), its bias to order 1/N, and its variance.

    With R_a^T R_b = P diag(s) Q^T, the coordinates z = diag(1/s) Q^T R_b^T (x - m_a) have unit covariance, and

        influence(x) = 2 (m_a - m_b)^T (x - m_a) + |x - m_a|^2 - sum_i s_i z_i^2
        bias = (tr(C_a) + 1/2 sum_ij s_i s_j / (s_i + s_j) (E[z_i^2 z_j^2] - [i = j])) / N

    and the same for y, with a and b exchanged.
    """
    a = Moments.of(x)
    b = against if y is None else Moments.of(y)
    root_a, root_b = _root(a), _root(b)
    p, s, q = np.linalg.svd(root_a.T @ root_b, full_matrices=False)
    value = _distance(a, b, s)
    some = s > s.max(initial=0.0) * len(s) * np.finfo(float).eps
    p, s, q = p[:, some], s[some], q[some]
    weight = np.outer(s, s) / np.add.outer(s, s)  # (r, r)
    gap = a.mean - b.mean  # (D,)
    bias = variance = 0.0
    for part, mean, direction, axes in ((x, a.mean, gap, root_b @ q.T), (y, b.mean, -gap, root_a @ p)):
        if part is None:
            continue
        centred = part - mean  # (N, D)
        squares = (centred @ axes / s) ** 2  # (N, r)
        length = (centred**2).sum(axis=1)  # (N,)
        influence = 2 * centred @ direction + length - squares @ s
        variance += influence.var(ddof=1) / len(part)
        fourth = np.sum(weight * (squares.T @ squares)) / len(part) - s.sum() / 2
        bias += (length.mean() + fourth / 2) / len(part)
    return value, bias, variance


def _distance(a: Moments, b: Moments, s: np.ndarray) -> float:
    gap = a.mean - b.mean
    return max(0.0, float(gap @ gap + np.trace(a.covariance) + np.trace(b.covariance) - 2 * s.sum()))


def _root(moments: Moments) -> np.ndarray:
    """R (D, r) with R R^T the covariance of rank r; what is rounding among its eigenvalues is left out."""
    values, vectors = np.linalg.eigh(moments.covariance)
    some = values > values[-1] * len(values) * np.finfo(float).eps
    return vectors[:, some] * np.sqrt(values[some])
