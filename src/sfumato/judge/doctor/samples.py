"""Checks of samples: what comes out, against the pictures that went in."""

import numpy as np
import torch

from ...model import Model
from .case import Case, power
from .findings import Finding, graded

FINE = 80  # steps of dpmpp_2m, whose result hardly changes with more


def writing(case: Case) -> Finding:
    """Whether pictures survive being encoded and decoded, and values beyond the range stay at its ends."""
    stored, codec = case.stored["image"][:64], case.codec
    x0 = codec.encode(stored)
    missed = float((codec.encode(codec.decode(x0)) - x0).abs().max()) / (codec.ends[1] - codec.ends[0])
    low, high = codec.ends
    ramp = torch.linspace(2 * low - high, 2 * high - low, 301)[:, None, None, None].expand(-1, len(codec.low), 1, 1)
    falls = bool((codec.encode(codec.decode(ramp)).diff(dim=0) < -1e-3 * (high - low)).any())
    figure = f"Written and read again, pictures differ by {100 * missed:.2g} % of the range."
    if falls:
        figure = "Values beyond the range come out at its other end when pictures are written."
        cause = "They overflow: what is brighter than white turns black."
        return Finding("wrong", figure, cause, "Clamp before the cast to whole numbers: x.clamp(low, high).round().")
    cause = "Pictures are not written as they are read."
    return graded(missed, 0.01, 0.01, figure, cause, "Decode must undo encode: see data/codec.py.")


def colour(case: Case) -> Finding:
    """The mean of each channel of samples against that of the pictures, in the pictures' deviations.

    Beyond 4 standard errors of so few samples, 0.25 deviations are worth a look and 0.5 wrong; healthy runs had at most
    0.04 (docs/doctor.md).
    """
    drawn, x0 = case.encoded(case.samples).double(), case.x0.double()
    each = drawn.mean((2, 3))  # (N, C)
    off = (each.mean(0) - x0.mean((0, 2, 3))) / x0.std((0, 2, 3))
    noise = each.std(0) / len(each) ** 0.5 / x0.std((0, 2, 3))
    sure = off.abs() > 4 * noise
    values = ", ".join(f"{value:+.2f}" for value in off.tolist())
    figure = f"The means of samples are off by {values} deviations of the pictures."
    tint = len(off) > 1 and float((off - off.mean()).abs().max()) > float(off.mean().abs())
    cause = "Samples have a tint." if tint else f"Samples are too {'bright' if off.mean() > 0 else 'dark'}."
    mend = "Train longer, with a longer --ema; a schedule that ends in noise (--schedule cosine) and more --steps help too."
    return graded(float((off.abs() * sure).max()), 0.25, 0.5, figure, cause, mend)


def saturation(case: Case) -> Finding:
    """The share of values at the ends of the range, in samples and in pictures.

    Healthy runs had 0.03 more at most (docs/doctor.md).
    """
    (low, high), slack = case.codec.ends, 0.01 * (case.codec.ends[1] - case.codec.ends[0])
    share = lambda x: float(((x <= low + slack) | (x >= high - slack)).double().mean())
    drawn, there = share(case.encoded(case.samples)), share(case.x0)
    figure = f"{100 * drawn:.0f} % of the samples' values are at the ends of the range, of the pictures' {100 * there:.0f} %."
    cause = "Samples saturate: guesses leave the range and are cut off."
    return graded(drawn - there, 0.2, 0.4, figure, cause, "Lower --guidance, take --threshold 0.995, or more --steps.")


def sampler(case: Case) -> Finding:
    """Mean, deviation and spectrum of samples against the pictures', and whether a finer solution brings them nearer.

    The distance is the root mean square, over the cosines in 8 rings from coarse to fine, of log(power of samples / power of
    pictures): 0.7 is a factor of 2. The finer solution is dpmpp_2m in 80 steps. Wrong if that halves a distance above 0.7;
    else a distance above 1 is worth a look, and one above 2 wrong. Healthy runs come to 0.2 .. 0.5 (docs/doctor.md).
    """
    model: Model = case.model
    far = _distance(case, case.samples)
    finer = _distance(case, model.sample(16, steps=FINE, solver="dpmpp_2m"))
    drawn, x0 = case.encoded(case.samples).double(), case.x0.double()
    figure = (
        f"Samples have a deviation of {float(drawn.std()):.2f}, the pictures {float(x0.std()):.2f}; their spectra differ by "
        f"{far:.2f}, and by {finer:.2f} with {FINE} steps of dpmpp_2m."
    )
    if not far <= 0.7 and finer < far / 2:
        cause = f"{model.config.sampling_steps} steps of {model.config.solver_of()} do not solve what the network says."
        return Finding("wrong", figure, cause, f"Draw with --steps {FINE} --solver dpmpp_2m.")
    cause = "Samples are noise, or smooth, whatever the solver: it is the network, or how it is asked."
    return graded(far, 1.0, 2.0, figure, cause, "See the findings above; if there are none, train longer.")


def _distance(case: Case, samples: np.ndarray) -> float:
    """How far the spectrum of samples about the mean picture is from the pictures' own, in rings from coarse to fine.

    To both a hundredth of the pictures' variance is added, in all rings alike: fainter noise is not seen.
    """
    drawn, there = power(case.encoded(samples) - case.x0.mean(0)), case.spectrum
    _, height, width = there.shape
    radius = np.hypot(np.arange(height)[:, None] / height, np.arange(width) / width)  # (H, W)
    ring = np.minimum((radius * 8).astype(int), 7)
    sums = lambda found: np.bincount(ring.ravel(), (found + 0.01 * there.mean()).sum(0).ravel(), 8)
    return float(np.sqrt((np.log(sums(drawn) / sums(there)) ** 2).mean()))
