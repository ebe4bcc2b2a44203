"""Averages of the weights of any length, made after training (Karras et al. 2024, section 3 and appendix C).

How long the average should be is only known from its pictures. So two are kept while training whose memory grows with it
(`ema.PowerEMA`), and written down now and then. Any other profile is nearly a sum of theirs, with factors found by least
squares; what is summed is weights, so that the average comes out as if it had been kept all along.

The length of a profile is its standard deviation as a share of the training, sigma_rel = sqrt(g + 1) / ((g + 2) sqrt(g + 3)).
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import UserError
from . import checkpoint

LENGTHS = (0.05, 0.10)  # sigma_rel of those that are kept
LONGEST = 0.28  # below that of g = 0, the mean of all weights ever, 1 / sqrt(12)


def exponent(length: float) -> float:
    """The g of a profile whose standard deviation is a share `length` of the training (Karras et al. 2024, appendix C).

    Raises UserError unless 0 < length <= 0.28.
    """
    if not 0 < length <= LONGEST:
        raise UserError(f"The length of an average is a share of the training, from 0.01 to {LONGEST}; found {length:g}.")
    roots = np.roots([1, 7, 16 - length**-2, 12 - length**-2])  # (g + 2)^2 (g + 3) sigma_rel^2 = g + 1
    return float(roots[np.isreal(roots)].real.max())


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The integral of the product of two profiles; (..., 2) each, of (g, t), broadcast.

    A profile is (g + 1) u^g / t^(g + 1) from u = 0 to t. With t_a <= t_b that is (g_a + 1) (g_b + 1) / (g_a + g_b + 1)
    (t_a / t_b)^g_b / t_b.
    """
    early = one[..., 1] <= other[..., 1]
    ga, gb = np.where(early, one[..., 0], other[..., 0]), np.where(early, other[..., 0], one[..., 0])
    ta, tb = np.minimum(one[..., 1], other[..., 1]), np.maximum(one[..., 1], other[..., 1])
    return (ga + 1) * (gb + 1) / (ga + gb + 1) * (ta / tb) ** gb / tb


def factors(kept: Sequence[tuple[float, int]], target: tuple[float, int]) -> np.ndarray:
    """The factors (K,) with which the profiles (g, t) that were kept come nearest to a target, adding up to 1.

    Least squares over the profiles as functions of time, with a multiplier for the sum.
    """
    scale = float(target[1])  # profiles over shares of the training are of about one size
    points, aim = np.array([(g, t / scale) for g, t in kept]), np.array((target[0], 1.0))
    count = len(points)
    matrix = np.ones((count + 1, count + 1))
    matrix[:count, :count] = overlap(points[:, None], points[None])
    matrix[count, count] = 0
    right = np.append(overlap(points, aim), 1.0)
    return np.linalg.lstsq(matrix, right, rcond=None)[0][:count]


def made(folder: Path, length: float, images: int) -> dict[str, Tensor]:
    """The average of that length over a run's first `images` images, from the snapshots in a folder; float32.

    What is no floating number is as it was in the last snapshot. Raises UserError if there are no snapshots, or one is not
    whole.
    """
    g = exponent(length)
    there = [path for path in checkpoint.listed(folder) if int(path.name) <= images]
    if not there:
        raise UserError(
            f"No averages were kept in {folder} up to {images:,} images, from which others could be made; a new run keeps "
            "them with --posthoc 16."
        )
    found = dict[str, Tensor]()
    each = factors([(exponent(kept), int(path.name)) for path in there for kept in LENGTHS], (g, images))
    for path, pair in zip(there, each.reshape(-1, len(LENGTHS)), strict=True):
        try:
            saved = checkpoint.load(path, tuple(map(name_of, LENGTHS))).tensors
        except checkpoint.Broken as error:
            raise UserError(f"{error}. Remove {path} to do without it.") from None
        for kept, factor in zip(LENGTHS, pair, strict=True):
            for name, tensor in saved[name_of(kept)].items():
                if tensor.is_floating_point():
                    found[name] = found.get(name, 0) + factor * tensor.double()
                else:
                    found[name] = tensor
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in found.items()}


def name_of(length: float) -> str:
    """What a kept average is called in snapshots and checkpoints."""
    return f"ema-{length:.3f}"
