"""Checks of the settings and of the log: they cost nothing, and are made while a run trains."""

import msgspec
import numpy as np

from ...config import build_schedule
from .case import Case
from .findings import CannotTell, Finding, graded

FEWEST = 24  # lines of a log that is judged


def noise(case: Case) -> Finding:
    """Whether noise wins at the end: the signal-to-noise ratio where sampling starts.

    Training warns above 0.001, where a picture's mean shows through its noise (Lin et al. 2024); above 0.01, a hundred levels'
    worth of signal that sampling does not begin with, it is wrong. Values wider than 1 count by their deviation.
    """
    schedule = build_schedule(case.config)
    ratio = schedule.terminal_snr * max(1.0, case.facts.sigma_data**2)
    figure = f"At its end the schedule {case.config.schedule} leaves a signal-to-noise ratio of {ratio:.2g}."
    cause = "Sampling begins from a noise that training never saw: with so few steps, or such values, the pictures never drown."
    mend = "Train with more steps, with mended=true for linear betas, or with --schedule cosine."
    return graded(ratio, 1e-3, 1e-2, figure, cause, mend)


def memory_of_average(case: Case) -> Finding:
    """The half-life of the averaged weights against the length of the run.

    With a half-life of half the run, a quarter of the average is what the weights were at first, or before they had settled.
    """
    config, budget = case.config, case.config.images or 0
    half_life, usual = config.half_life, msgspec.structs.replace(config, ema=None).half_life
    figure = f"The half-life of the averaged weights, in images, is {half_life:,}, in a run of {budget:,}."
    cause = "The average still remembers the beginning of the run."
    mend = f"Train with --ema {usual}."
    return graded(half_life, max(budget / 2, config.batch), np.inf, figure, cause, mend)


def gradients(case: Case) -> Finding:
    """The norm of the gradient over the run, by the lines of the log.

    In healthy runs it falls (docs/doctor.md); ten times as much at the end as in the first half is divergence. A line 100
    times above the median is a spike that the limit on the norm must have caught.
    """
    norms = np.array([record["grad_norm"] for record in case.records if "grad_norm" in record], dtype=float)
    if len(norms) < FEWEST:
        raise CannotTell(f"The log is judged from {FEWEST} lines on; it has {len(norms)}.")
    middle, last = np.median(norms), np.median(norms[-len(norms) // 4 :]) / np.median(norms[: len(norms) // 2])
    figure = (
        f"The gradient's norm is {middle:.2g} in the middle and {norms.max():.2g} at most, and at the end {last:.2g} times "
        "that of the first half."
    )
    mend = f"Train with a lower rate (--lr {case.config.lr / 10:.1g}) and with a limit (--clip 1)."
    if not last <= 10:
        return Finding("wrong", figure, "Training diverges: the rate is too high.", mend)
    return graded(norms.max() / middle, 100, np.inf, figure, "Single steps throw the weights far off.", mend)


def plateau(case: Case) -> Finding:
    """Whether the loss fell, and still does; the mean of each quarter of the run against the first lines and the best quarter.

    Wrong: the last quarter is not a twentieth below the first 5 % of the lines. Worth a look: it is a tenth above the best
    quarter (the loss rises), or the held-out loss ends a quarter above its lowest value (learned by heart).
    """
    losses = np.array([record["loss"] for record in case.records if "loss" in record], dtype=float)
    if len(losses) < FEWEST:
        raise CannotTell(f"The log is judged from {FEWEST} lines on; it has {len(losses)}.")
    first, quarters = losses[: max(1, len(losses) // 20)].mean(), [part.mean() for part in np.array_split(losses, 4)]
    held = [record["held_out_loss"] for record in case.records if record.get("held_out_loss") is not None]
    figure = f"The loss went from {first:.3g} to {quarters[-1]:.3g}."
    slower = f"Train with a lower rate (--lr {case.config.lr / 10:.1g})."
    if not quarters[-1] <= 0.95 * first:
        return Finding("wrong", figure, "The loss has not fallen: nothing was learned.", slower)
    if quarters[-1] > 1.1 * min(quarters):
        return Finding("look", figure, "The loss rises again.", slower)
    if len(held) > 2 and held[-1] > 1.25 * min(held):
        figure, cause = f"The held-out loss rose from {min(held):.3g} to {held[-1]:.3g}.", "Pictures are learned by heart."
        return Finding("look", figure, cause, "Draw from --checkpoint best, or collect more pictures.")
    flat = " It has been flat for half of the run." if abs(quarters[-1] / quarters[-2] - 1) < 0.01 else ""
    return Finding("fine", figure + flat)
