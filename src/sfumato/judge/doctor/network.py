"""Checks of the network: what it answers, against what is known without it."""

import copy
import itertools
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm

from ... import draws
from ...config import build_schedule
from ...denoisers import Denoiser
from ...schedules import diffuse
from ...spec import choose
from ...training import loop
from ...training.optimizers import OPTIMIZERS
from .case import Case, squared
from .findings import CannotTell, Finding, graded

EIGHT, STEPS, FEWEST_STEPS, SECONDS = 8, 150, 40, 60.0  # pictures, steps, and the seconds in which they are to be done
LEARNED = 0.75  # of the error without looking around: below, something was learned


@torch.no_grad()
def mode(case: Case) -> Finding:
    """Whether the network is a function of each picture: asked twice, and asked together with others, it says the same.

    Beyond 1 in 1,000 twice, or 1 in 20 in other company, of what it says at all: rounding, also of bfloat16, is smaller.
    """
    denoise, (x0, cond) = case.model.denoiser, _eight(case, "held_out")
    t = denoise.schedule.time(0.0)
    x_t = diffuse(denoise.schedule, x0, t, _noise(x0, 0))
    ask = lambda count: denoise(x_t[:count], t, **{name: value[:count] for name, value in cond.items()}).double()
    once, again, apart = ask(EIGHT), ask(EIGHT), ask(2)
    size = once.std().item()
    if not np.isfinite(size):
        raise CannotTell("The network's answers are no numbers.")
    twice, company = (float((a - b).abs().max()) / size for a, b in ((once, again), (once[:2], apart)))
    figure = f"Asked twice the network differs by {100 * twice:.2g} %, and beside other pictures by {100 * company:.2g} %."
    mend = "Put it into evaluation mode (net.eval()) before sampling, and see that its own code heeds self.training."
    if twice > 1e-3:
        return Finding("wrong", figure, "Chance is at work: it runs in training mode, with dropout.", mend)
    return graded(company, 0.05, 0.05, figure, "It mixes the pictures of a batch: it runs in training mode (BatchNorm).", mend)


def finite(case: Case) -> Finding:
    """Whether the network's answers are numbers."""
    errors = case.errors()
    bad = int((~errors.isfinite()).sum())
    figure = f"{bad} of {errors.numel()} answers of the network are not finite."
    cause = f"Numbers overflow inside the network, which runs in {case.facts.precision}."
    mend = "Train with --precision float32 and a lower rate; see that no layer works in float16."
    return graded(bad, 0, 0, figure, cause, mend)


def batch_statistics(case: Case) -> Finding:
    """BatchNorm's stored statistics: the training loss with them against that with the batch's own.

    Twice the loss is wrong, and so are statistics that were never taken or are not positive numbers.
    """
    net: Any = case.model.denoiser.net
    norms: list[Any] = [part for part in net.modules() if isinstance(part, BatchNorm) and part.track_running_stats]
    if not norms:
        return Finding("fine", "The network has no BatchNorm.")
    mend = "Average them as weights are, or take GroupNorm (--net unet has it)."
    unfit = sum(not part.num_batches_tracked or not (part.running_var > 0).all() for part in norms)  # NaN is not above 0
    if unfit:
        figure = f"{unfit} of {len(norms)} BatchNorm layers have no usable statistics."
        return Finding("wrong", figure, "They were never taken, or overflowed.", mend)
    stored, own = (_loss(case, case.model.denoiser.with_net(part)) for part in (net, copy.deepcopy(net).train()))
    figure = f"With BatchNorm's stored statistics the loss is {stored / own:.2f} times that with each batch's own."
    return graded(stored / own, 1.5, 2.0, figure, "The stored statistics are not those of training.", mend)


def averaged(case: Case) -> Finding:
    """The error of the averaged weights against that of the raw ones, over all noise levels.

    In healthy runs both are the same but for 1 % (docs/doctor.md).
    """
    average, raw = case.errors("ema").mean(1), case.errors("model").mean(1)
    ratio = float((average / raw).log().mean().exp())
    lengths = f"half-life {case.config.half_life:,}, {case.model.images:,} images seen"
    figure = f"The error of the averaged weights is {ratio:.2f} times that of the raw ones ({lengths})."
    cause = "The average lags behind: its half-life is too long for this run, or it was not updated."
    return graded(ratio, 1.2, 1.5, figure, cause, "Train with a shorter --ema; until then draw with `sfumato sample --raw`.")


def channels(case: Case) -> Finding:
    """Whether the network knows the channels in this order: its error for pictures with channels exchanged.

    Wrong if one is below 0.9 of the error in order, by more than 3 standard errors of the difference.
    """
    x0, cond = case.asked("held_out")
    count = x0.shape[1]
    if count == 1:
        return Finding("fine", "The pictures have one channel.")
    orders = list(itertools.permutations(range(count)))[1:] if count <= 3 else [tuple(reversed(range(count)))]
    level = min(case.levels, key=abs)
    plain = squared(case.model.denoiser, x0, level, cond)
    others = {order: squared(case.model.denoiser, x0[:, list(order)], level, cond) for order in orders}
    order, least = min(others.items(), key=lambda each: float(each[1].mean()))
    ratio, gap = float(least.mean() / plain.mean()), plain - least
    figure = f"With channels in the order {order} the error is {ratio:.2f} times that in their own."
    if ratio < 0.9 and float(gap.mean()) > 3 * float(gap.std()) / len(gap) ** 0.5:
        cause = "The network was trained with its channels in that order (BGR for RGB, say)."
        return Finding("wrong", figure, cause, "Read and write pictures with the channels in one order.")
    return Finding("fine", figure)


def eight(case: Case) -> Finding:
    """Whether a fresh network learns eight pictures at one noise level in 150 steps at the run's rate, or else at a lower one.

    The level is that at which each value of variance v has lost half of it, snr v = 1. Judged is the error over what shrinking
    each value by itself leaves, v / (1 + snr v): below 1 the network has used what stands around a value, and 2 is left by the
    mean picture. A rate below 0.001 may need more steps, so the network is then tried at 0.001.
    """
    rate = case.config.lr
    shares = {rate: _learned(case, rate)}
    for other in (1e-3, 1e-4):
        if min(shares.values()) > LEARNED and other != rate:
            shares[other] = _learned(case, other)
    best = min(shares, key=lambda each: shares[each])
    told = ", ".join(f"{share:.2f} with --lr {each:g}" for each, share in shares.items())
    figure = f"A fresh network brings the error on eight pictures, over that without looking around, to {told}."
    if shares[best] <= LEARNED < shares[rate] and best < rate:
        return Finding("wrong", figure, "The rate is too high.", f"Train with --lr {best:g}, and leave the warm-up in.")
    cause = "It cannot learn even these, whatever the rate: something between pictures, network and loss is broken."
    mend = "See the other findings; try --net unet and the default recipe on the same pictures."
    return graded(shares[best], LEARNED, 1.0, figure, cause, mend)


def constant(case: Case) -> Finding:
    """The error at each noise level against that of the best constant guess, the mean picture.

    Where nearly all is noise there is hardly anything else to say, and young networks come to 1.1: a quarter is allowed.
    """
    ratios = case.errors().mean(1).numpy() / case.spectrum.mean()
    figure = f"Error over that of the mean picture: {_table(case, ratios)}."
    cause = "At such noise the network does worse than to answer with the mean picture."
    mend = "It has not learned there: see the findings above, lower the rate, train longer."
    return graded(float(np.max(ratios)), 1.25, 1.5, figure, cause, mend)


def gaussian(case: Case) -> Finding:
    """The error at each noise level against that of the exact denoiser of a Gaussian with the pictures' mean and spectrum.

    That one is a linear filter and needs no training; a network that has learned anything of the pictures beats it. Judged is
    the mean over the levels, in logarithms. Healthy runs come to 0.7 .. 0.8 (docs/doctor.md).
    """
    ratios = case.errors().mean(1).numpy() / [case.gaussian(level) for level in case.levels]
    figure = f"Error over that of the best linear filter: {_table(case, ratios)}."
    cause = "A linear filter denoises better: the network has learned little, or is asked something else than in training."
    mend = "Train longer, or lower the rate; see the findings above."
    return graded(float(np.exp(np.log(ratios).mean())), 1.1, 1.5, figure, cause, mend)


def peak(case: Case) -> Finding:
    """One-step denoising: the PSNR of x0_hat at each noise level against that of the noisy picture itself, x_t / alpha."""
    span = case.codec.ends[1] - case.codec.ends[0]
    psnr = 10 * np.log10(span**2 / case.errors().mean(1).numpy())
    noisy = 10 * np.log10(span**2 * np.exp(case.levels))
    figure = f"PSNR of one step of denoising: {_table(case, psnr)} dB."
    cause = f"At log-SNR {case.levels[int(np.argmin(psnr - noisy))]:g} the network makes pictures worse than their noise did."
    return graded(
        float(np.max(noisy - psnr)), 0.0, 1.0, figure, cause, "Train longer; put more training times there (--times uniform)."
    )


def by_heart(case: Case) -> Finding:
    """The error on held-out pictures against that on training pictures, over all noise levels.

    Healthy runs come to 0.98 .. 1.02 (docs/doctor.md).
    """
    if not len(case.plan.held_out):
        raise CannotTell("No pictures were held out, by which learning by heart could be seen.")
    ratio = float((case.errors().mean(1) / case.errors("ema", "train").mean(1)).log().mean().exp())
    figure = f"The error on held-out pictures is {ratio:.2f} times that on training pictures."
    mend = "Collect more pictures, train for less long, use --augment 0.12 or dropout; see `sfumato sample --copies`."
    return graded(ratio, 1.3, 1.6, figure, f"The {case.facts.train:,} training pictures are learned by heart.", mend)


# ---- small pieces ----------------------------------------------------------------------------------------------------


def _table(case: Case, row: Any) -> str:
    return ", ".join(f"{value:.2g} at log-SNR {level:g}" for level, value in zip(case.levels, row, strict=True))


def _eight(case: Case, side: str) -> tuple[Tensor, dict[str, Any]]:
    x0, cond = case.asked(side)
    return x0[:EIGHT], {name: value[:EIGHT] for name, value in cond.items()}


@torch.no_grad()
def _loss(case: Case, denoiser: Denoiser) -> float:
    """The training loss of a network on some training pictures."""
    x0, cond = case.asked("train")
    t = loop.times(case.config.times, denoiser, draws.golden(0, "doctor", torch.arange(len(x0))))
    return float(loop.loss_of(case.config, denoiser, x0, t, _noise(x0, 0), cond).mean())


def _noise(x0: Tensor, step: int) -> Tensor:
    return draws.normal(draws.keys(0, "doctor", range(len(x0)), call=step), tuple(x0.shape[1:])).to(x0.device)


def _learned(case: Case, rate: float) -> float:
    """The error of a fresh network on eight pictures after 150 steps on them at snr v = 1, over v / (1 + snr v)."""
    config, begun = case.config, time.perf_counter()
    x0, cond = _eight(case, "train")
    variance = float(x0.double().var(0).mean()) or 1.0
    level = -float(np.log(variance))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = case.fresh()
        denoiser = Denoiser(net.train(), build_schedule(config), config.predict, config.c_noise, case.facts.sigma_data)
        t = torch.full((len(x0),), denoiser.schedule.time(level), dtype=torch.float64)
        optimizer = choose(OPTIMIZERS, config.optimizer, "optimizer")(list(net.parameters()), rate)
        for step in range(STEPS):
            if time.perf_counter() - begun > SECONDS:
                if step < FEWEST_STEPS:
                    raise CannotTell(f"The network is too slow here to train it on eight pictures within {SECONDS:g} seconds.")
                break
            optimizer.param_groups[0]["lr"] = rate * (1.0 if config.warmup == 0 else min(1.0, (step + 1) / 20))
            loop.loss_of(config, denoiser, x0, t, _noise(x0, step), cond).mean().backward()
            if config.clip:
                nn.utils.clip_grad_norm_(net.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
    net.eval()
    return float(squared(denoiser, x0, level, cond).mean()) / (variance / 2)
