"""A measured number with its interval, and what all measures ask of the features they are given."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...errors import UserError

Z = 1.959964  # 95 % of a normal distribution lie within so many standard deviations
_BLOCK = 2**21  # numbers of an (N, M) table held at a time


@dataclass(frozen=True)
class Estimate:
    """One number, its 95 % interval, and how many pictures it was made from; None where there were too few to tell."""

    name: str
    value: float | None
    low: float | None
    high: float | None
    samples: int
    reference: int
    error: float | None = None  # its standard error
    note: str = ""

    @classmethod
    def normal(
        cls, name: str, value: float, variance: float, counts: tuple[int, int], least: float = -np.inf, note: str = ""
    ) -> "Estimate":
        """value -+ 1.96 sqrt(variance), cut off below at `least`."""
        error = float(np.sqrt(variance))
        low, high = max(least, value - Z * error), max(least, value + Z * error)
        return cls(name, float(value), float(low), float(high), *counts, error, note)

    @classmethod
    def factor(cls, name: str, value: float, variance: float, counts: tuple[int, int]) -> "Estimate":
        """A number above 0 that is skewed upward: value exp(-+ 1.96 sqrt(variance) / value); no interval at 0."""
        error = float(np.sqrt(variance))
        low, high = (float(value * np.exp(sign * Z * error / value)) if value else None for sign in (-1, 1))
        return cls(name, float(value), low, high, *counts, error, "" if value else "Nothing was found to tell a spread from.")

    @classmethod
    def share(cls, name: str, value: float, variance: float, of: int, counts: tuple[int, int]) -> "Estimate":
        """A share p of n rows: the interval of Agresti and Coull (1998), which does not shrink to a point at 0 and 1.

            p' = (n p + z^2 / 2) / (n + z^2),  p' -+ z sqrt(variance + (p' (1 - p') - p (1 - p)) / (n + z^2))

        With variance = p (1 - p) / (n + z^2) this is theirs; ours also holds what the choice of the other set adds.
        """
        total = of + Z**2
        centre = (of * value + Z**2 / 2) / total
        half = Z * np.sqrt(variance + (centre * (1 - centre) - value * (1 - value)) / total)
        low, high = max(0.0, centre - half), min(1.0, centre + half)
        return cls(name, float(value), float(low), float(high), *counts, float(np.sqrt(variance)))

    @classmethod
    def unknown(cls, name: str, counts: tuple[int, int], note: str) -> "Estimate":
        """No number, and the sentence why."""
        return cls(name, None, None, None, *counts, None, note)


def rows(features: np.ndarray, dimensions: int | None = None) -> np.ndarray:
    """Features (N, D) in float64; raises UserError if they are not a table of finite numbers with D columns."""
    features = np.asarray(features, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] == 0 or dimensions not in (None, features.shape[1]):
        wanted = f"(N, {dimensions or 'D'})"
        raise UserError(f"Features of shape {wanted} are compared, one row to a picture; found {features.shape}.")
    if not np.isfinite(features).all():
        raise UserError("Features must be finite; found NaN or infinity. Do the pictures hold such values?")
    return features


def blocks(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows, so that a table of `width` columns fits in memory block by block."""
    size = max(1, _BLOCK // max(1, width))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))
