"""Checks of the pictures, as training sees them."""

import numpy as np

from .case import Case
from .findings import CannotTell, Finding, graded

FEWEST = 300  # pictures, below which published runs drew their training pictures over again


def contents(case: Case) -> Finding:
    """Files that cannot be read, pictures of one plain colour, and repeats.

    A grid of 64 samples of a perfect model shows a plain one if 1 in 64 is plain: that is wrong; 1 in 1,000 is worth a look.
    Of unreadable files 1 in 20, of repeats 1 in 10 are.
    """
    found, images = case.survey, case.plan.images
    broken, plain, again = len(images.skipped), len(found.constant), len(found.repeats)
    figure = f"{broken:,} files cannot be read; {plain:,} of {len(images):,} pictures are one plain colour, {again:,} repeats."
    inspect = "`sfumato inspect DATA` names them"
    if plain > len(images) / 1000:
        cause = "Plain pictures are learned like all others, and samples are as often plain."
        return graded(plain / len(images), 1 / 1000, 1 / 64, figure, cause, f"{inspect}; take them out.")
    if broken > (broken + len(images)) / 20:
        return Finding("look", figure, "Much of the data was left out of training.", f"{inspect}; save them again.")
    cause = "What is there several times is learned by heart first."
    return graded(again / len(images), 0.1, 1.0, figure, cause, f"{inspect}; keep one of each.")


def values(case: Case) -> Finding:
    """The range of values that the network sees, and how much of it the pictures fill.

    Schedules are made for values of size 1 around 0. Wrong: more than 1 in 1,000 values beyond the range that the run thinks
    they have, for samples saturate there; a range more than 4 times as wide as [-1, 1]; and pictures whose values, but for 1 in
    500, fill less than a tenth of the range, for their deviation is that small too, and most noise levels show them nothing.
    Worth a look: a quarter of the range, and a range whose middle is far from 0.
    """
    x0, (low, high) = case.x0.double(), case.codec.ends
    span = high - low
    outside = float(((x0 < low - 0.01 * span) | (x0 > high + 0.01 * span)).double().mean())
    ends = np.quantile(x0.numpy(), (0.001, 0.999), axis=(0, 2, 3))  # (2, C)
    filled = float((ends[1] - ends[0]).max() / span)
    figure = (
        f"The network sees values from {float(x0.min()):.3g} to {float(x0.max()):.3g}, mean {float(x0.mean()):.2f}, deviation "
        f"{float(x0.std()):.2g}; all but 1 in 500 fill {100 * min(1.0, filled):.0f} % of the range."
    )
    if outside > 0.001:
        cause = f"{100 * outside:.1f} % of the values lie outside of {low:g} to {high:g}, the range that samples are cut to."
        mend = "The codec in config.json is not that of these pictures: train again, or put its low and high right."
        return Finding("wrong", figure, cause, mend)
    if not 0.25 <= span / 2 <= 4:
        cause = f"Noise schedules are made for values of size 1, and these go from {low:g} to {high:g}."
        return Finding("wrong", figure, cause, "Train with --range=-1,1.")
    if filled < 0.25:
        cause = "A few outliers decide the range, and the pictures are squeezed into a small part of it."
        return graded(1 - filled, 0.75, 0.9, figure, cause, "Cut the outliers off before training, or --window LEVEL,WIDTH.")
    if abs(low + high) > span / 4:
        cause = f"Values from {low:g} to {high:g} have a mean far from 0, which that of the noise is."
        return Finding("look", figure, cause, "Train with --range=-1,1.")
    return Finding("fine", figure)


def number(case: Case) -> Finding:
    """How many pictures there are to learn from.

    Public reports of samples that repeat training pictures have 140 and 300 of them. `memory` measures whether they do.
    """
    count = case.facts.train or len(case.plan.train)
    figure = f"There are {count:,} pictures to train on."
    mend = "Collect more, mirror and shift them (--augment 0.12), or go on from a larger set's run (--from RUN)."
    return graded(-count, -FEWEST, 0, figure, "A network learns so few by heart and draws them again.", mend)


def labels(case: Case) -> Finding:
    """Whether labels have to do with pictures: how often the nearest picture has the same label, against chance.

    Of n pictures with label shares p_k chance expects n sum p_k^2, with deviation sqrt(n c (1 - c)), c = sum p_k^2. Less than 3
    deviations above that is what shuffled labels give, in 999 of 1,000 sets. It is also what kinds give that few values tell
    apart: two or three that look alike are worth a look alone, and of kinds with fewer than 20 pictures nothing can be told.
    """
    if case.plan.train.label_names is None:
        return Finding("fine", "The pictures have no labels.")
    from ..metrics.neighbours import nearest  # brings scikit-learn, which takes seconds to import

    half = len(case.stored["label"]) // 2
    told = case.stored["label"].numpy() < len(case.plan.train.label_names)  # the last means: not told
    pictures, label = case.x0.numpy(), case.stored["label"].numpy()
    here, there = np.flatnonzero(told[:half]), half + np.flatnonzero(told[half:])
    if min(len(here), len(there)) < 50:
        raise CannotTell("Whether labels fit their pictures is seen with 100 labelled pictures or more.")
    share = lambda rows: np.bincount(label[rows], minlength=len(case.plan.train.label_names or ())) / len(rows)
    chance = float(share(here) @ share(there))
    if chance > 0.9:
        return Finding("fine", "Nearly all pictures have the same label.")
    if chance * len(there) < 20:
        raise CannotTell("Whether labels fit their pictures is seen with 20 pictures or more of each.")
    agree = float((label[there][nearest(pictures[here], pictures[there])[1]] == label[here]).mean())
    deviations = (agree - chance) / np.sqrt(chance * (1 - chance) / len(here))
    figure = f"The nearest picture has the same label in {100 * agree:.0f} % of cases; by chance {100 * chance:.0f} % would."
    cause = "The labels say nothing of the pictures: they are shuffled, or stand in another order than the files."
    mend = "Read labels and files in one order; `sfumato inspect DATA --sheet FILE.png` shows them."
    return graded(-deviations, -3, -3 if chance < 0.25 else np.inf, figure, cause, mend)


def deviation(case: Case) -> Finding:
    """The standard deviation that the network was told (sigma_data) against that of the pictures.

    `edm` scales what goes into and comes out of the network by it. A run that went on from another keeps its parent's, which
    a class alone may differ from: above a factor of 1.5 it is worth a look, above 2 wrong.
    """
    found, told = float(case.x0.double().std()), case.facts.sigma_data
    figure = f"sigma_data is {told:g}, and the pictures have a deviation of {found:.3g}."
    if "edm" not in (case.config.predict, case.config.weight.name):
        return Finding("fine", f"{figure} Nothing of this run depends on it.")
    cause = "The network's inputs and outputs are scaled wrongly: it was trained on other pictures, or config.json was changed."
    mend = f"Train again, or put sigma_data in config.json back to what it was in training (about {found:.2g})."
    factor = max(found / told, told / max(found, 1e-9))
    return graded(factor, 1.5, 2.0, figure, cause, mend)
