"""From pictures and a Config to a trained run: what `sfumato train` and `sfumato.train` share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from . import defaults, draws, finetune, nets
from .config import BUDGET, FREE, Config, Facts, Settled, build_schedule, builtins, checked
from .data import AffineCodec, Source, gather, open_source, split
from .data.cut import Cut
from .data.gather import LARGEST, SMALL
from .denoisers import made_for
from .errors import UserError
from .losses import DISTANCES, WEIGHTS
from .model import MOST_STEPS, Model, assemble
from .plan import Plan, Say, silent
from .rates import RATES
from .run import Run
from .schedules import DENSITIES
from .spec import Spec, make
from .training import augment, checkpoint, loop, watch
from .training.compiled import compiled, plainly
from .training.device import Placement, device_named, machine
from .training.ema import fill
from .training.optimizers import OPTIMIZERS
from .training.stop import Plateau, stopping
from .training.stream import Stream

Progress = Callable[[int, int], None]


Watchers = Callable[[Run, Plan], Sequence[loop.Watcher]]  # those who watch a run, once it and its pictures are known


def prepare(
    data: Any,
    config: Config,
    net: nn.Module | None = None,
    progress: Progress | None = None,
    parent: finetune.Parent | None = None,
    device: str | None = None,
    measure: bool = False,
) -> Plan:
    """Read the pictures, split them, and choose what the config leaves open (all but the budget).

    measure   the speed of networks on the device, where the choice depends on it
    """
    config = validated(config, net)
    return _plan(data, opened(data, config), config, progress, parent, device_named(device), measure)


def opened(data: Any, config: Config) -> Source:
    """The source of what a person typed, as the config's data settings open it."""
    source = open_source(data, config.group, config.window)
    return Cut(source, config.cut_bottom) if config.cut_bottom else source


def validated(config: Config, net: nn.Module | None = None) -> Config:
    """The config after all checks that need no data; raises UserError."""
    config = checked(config)
    if net is not None:
        config = msgspec.structs.replace(config, net=Spec("mine"))
    elif config.net is not None:
        with torch.device("meta"):  # the largest would take minutes to draw
            make(nets.NETS, config.net, "network", config.channels or 3)
    make(OPTIMIZERS, config.optimizer, "optimizer", [torch.zeros(1, requires_grad=True)], config.lr or 1e-3)
    build_schedule(config)
    make(WEIGHTS, config.weight or Spec("edm"), "weight", torch.zeros(1), 0.5)
    make(DISTANCES, config.distance, "distance", torch.zeros(1), torch.zeros(1))
    make(RATES, config.rate, "rate", 0, 1, 1)
    return config


def _plan(
    data: Any,
    source: Source,
    config: Config,
    progress: Progress | None,
    parent: finetune.Parent | None,
    place: torch.device,
    measure: bool,
    say: Say = silent,
) -> Plan:
    keep = LARGEST if config.crop else SMALL  # windows are cut from pictures as they are
    images = gather(source, config.size, config.channels, config.fit, config.strict, keep, progress)
    shape = augment.checked(config, images.shape)
    flip, flipped = augment.mirrored(config, images)
    config = msgspec.structs.replace(config, flip=flip)
    train, held, said = split(images, config.held_out)
    reasons = [*images.notes, flipped, *augment.moves(config, *shape[1:]), said]
    codec = AffineCodec.fit(images, config.range or (-1.0, 1.0))
    if config.only_class:
        train, held = finetune.only(train, config.only_class), finetune.only(held, config.only_class)
        reasons.append(f"Of these, {len(train):,} and {len(held):,} are of class {config.only_class}, which alone is used.")
    if parent is not None:
        parent.refuse_other(config, images)
        (train, told), (held, _) = parent.told(train), parent.told(held)
        reasons += [told] * bool(told)
    elif config.only_class and "," not in config.only_class:  # one label says nothing
        train, held = finetune.with_labels(train, None, None), finetune.with_labels(held, None, None)
    if not len(train):
        raise UserError("No pictures are left to train on.")
    some = draws.shuffle(0, "sigma_data", torch.arange(min(len(train), 10_000)), len(train))
    sigma_data = codec.encode(train.batch(some)["image"]).std().item()
    if not sigma_data > 0:
        raise UserError("All pictures are one and the same plain colour; there is nothing to learn.")
    facts = Facts(
        data=str(data) if isinstance(data, str | Path) else source.name,
        fingerprint=images.fingerprint,
        train=len(train),
        held_out=len(held),
        shape=shape,
        codec={"low": list(codec.low), "high": list(codec.high), "dtype": codec.dtype, "ends": list(codec.ends)},
        sigma_data=float(f"{sigma_data:.4g}"),
        label_names=train.label_names,
        label_counts=None if train.label_counts is None else tuple(train.label_counts.tolist()),
    )
    facts = facts if parent is None else parent.facts_of(facts, codec.dtype)
    c, h, w = facts.shape
    labels = f", {len(facts.label_names)} labels" if facts.label_names else ", no labels"
    reasons.append(f"{facts.train:,} pictures to train on, {facts.held_out:,} held out; {h}x{w}x{c} {codec.dtype}{labels}.")
    config = msgspec.structs.replace(config, facts=facts)

    begun = time.perf_counter()
    planned = lambda config, why: Plan(config, train, held, [*reasons, *why], images, source.kind, begun)

    def speed(candidate: Settled) -> float:
        plan = planned(candidate, [])
        net = plan.build()
        try:
            return plan.speed(net, plan.fastest(net, place, say)[0], 1.0)
        except torch.OutOfMemoryError:
            return 0.0

    settled, why = defaults.settle(config, speed if measure else None, place.type)
    half = torch.tensor([0.5], dtype=torch.float64)
    make(DENSITIES, settled.times, "density of training times", build_schedule(settled), half)
    return planned(settled, why)


def train(
    data: Any,
    config: Config,
    run: Run | None,
    net: nn.Module | None = None,
    watchers: Watchers = lambda run, plan: (),
    say: Say = lambda text: None,
    device: str | None = None,
    recipe: str = "default",
    reading: Progress | None = None,
    parent: finetune.Parent | None = None,
    said: Sequence[str] = (),
) -> Model:
    """Train, or go on training, the run at `run`, runs/DATA-RECIPE unless said; returns its model.

    With a `parent` a new run begins from the averaged weights of that one.

    Settings are checked before `say` names the run folder, and pictures read before it is made. Raises UserError for
    whatever a person can mend.
    """
    place = device_named(device)
    asked = validated(config, net)
    source = opened(data, asked)
    run = run or Run.of(f"runs/{source.name}-{recipe}")
    if run.started and (there := run.config().facts) is not None and there.train == 0:
        raise UserError(
            f"{run.path} holds imported weights, which can be drawn from but not trained on. Name another folder: --run NEW."
        )
    say(str(run.path))
    plan = _plan(data, source, as_begun(asked, run), reading, parent, place, True, say)
    with run.locked():
        for reason in (*said, *plan.reasons):
            say(reason)
        if run.started:
            refuse_changes(run, plan.config)
        torch.manual_seed(asked.seed)  # the initial weights
        built = plan.build(net)
        if parent is not None and not run.started:
            weights, seen = parent.weights()
            fill(built, weights)
            say(f"The weights are those of {parent.run.path} after {seen:,} images.")
        say(f"{plan.config.net}: {nets.parameters(built):,} parameters.")
        if plan.config.accumulate > 1 and any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in built.modules()):
            say("This network normalises over the batch: working through it in parts changes its statistics, and the result.")
        if run.started:
            plan.config = resumed(run.config(), plan.config)
        placement, faster = _placed(plan, run, built, place, say)
        say(f"{placement}{', compiled' * faster} on {machine(place)}.")
        chosen = msgspec.structs.replace(plan.facts, machine=machine(place), compiled=faster, **placement.kept())
        c_noise = plan.config.c_noise or made_for(built, build_schedule(plan.config))
        plan.config = msgspec.structs.replace(plan.config, facts=chosen, c_noise=c_noise)
        assemble(built, plan.config, placement).refuse_undrawable()  # what could not be drawn later is said now
        spent = lambda: time.perf_counter() - plan.begun
        plan.config = defaults.budget(plan.config, lambda: plan.speed(built, placement, 3.0, faster), spent)
        return _fit(plan, run, built, placement, watchers, say)


def _fit(plan: Plan, run: Run, net: nn.Module, placement: Placement, watchers: Watchers, say: Say) -> Model:
    config = plan.config
    schedule = build_schedule(config)
    if schedule.terminal_snr > 1e-3:
        say(
            f"The schedule ends at a signal-to-noise ratio of {schedule.terminal_snr:.2g}: sampling begins from a noise that "
            "training never saw. The option mended=true of linear avoids it."
        )
    state = loop.start(config, net, schedule, plan.facts.sigma_data, placement)
    if plan.facts.compiled:
        compiled(state.net)
    saved = checkpoint.newest(run.checkpoints)
    if saved is not None:
        for note in saved.notes:
            say(note)
        loop.restore(state, saved)
        if state.images >= (config.images or 0):
            more = 2 * state.images
            say(
                f"This run is finished: it has seen {state.images:,} images, and the budget is {config.images:,}. "
                f"To go on, give a larger one, as in --images {more}."
            )
            return assemble(state.ema.net, config, placement, run.path, state.images)
        say(f"Resuming after {state.images:,} of {config.images:,} images.")
        if run.config().images != config.images:
            say(
                "The budget has changed, and with it the learning rate's course and the averages: this is a new trajectory. "
                "Network, batch and rate are those that the run began with; --run NEW has them chosen anew."
            )
    else:
        say(
            f"{config.images:,} images in all, {(config.images or 0) / plan.facts.train:.1f} epochs, batches of {config.batch}."
        )
    run.write_config(config)
    run.write_held_out(plan.held_out.paths)
    run.rewind_log(state.images)
    stream = Stream.of(config, plan.train, plan.codec, placement, state.denoiser.conditions)
    drawn = lambda weights: assemble(weights, config, placement).preview()
    pictures = watch.Pictures(drawn, run.grid, run.records, run.loss_curve)
    everyone: list[loop.Watcher] = [watch.Log(run.log), pictures]
    if config.strip_every:
        strip = lambda weights: assemble(weights, config, placement).strip(steps=min(config.sampling_steps, MOST_STEPS))
        everyone.append(watch.Strips(strip, run.strip, config.strip_every))
    if config.posthoc:
        everyone.append(watch.Snapshots(run.averages, max(config.batch, (config.images or 0) // config.posthoc), config.batch))
    plateau = Plateau(run.records)
    if config.stop_when == "plateau":
        everyone.append(plateau)
    everyone += watchers(run, plan)  # who may look at what the others have drawn
    if plan.facts.compiled:
        everyone = [plainly(watcher) for watcher in everyone]
    with stopping(say) as stop:
        loop.train(config, stream, plan.held_out, state, run.checkpoints, everyone, lambda: stop.is_set() or plateau.reached)
    if plateau.reached:
        say("The held-out loss no longer falls, so training ends here, as was asked. To go on, leave --stop-when out.")
    return assemble(state.ema.net, config, placement, run.path, state.images)


def as_begun(config: Config, run: Run) -> Config:
    """The config with what it leaves to rules as a run that is gone on with was begun."""
    ruled = (*defaults.RULES, "flip", "c_noise")
    left = [name for name in ruled if getattr(config, name) is None] if run.started else []
    return msgspec.structs.replace(config, **{name: getattr(run.config(), name) for name in left})


def refuse_changes(run: Run, new: Config) -> None:
    """Raise UserError if a run was begun on other pictures, or with settings that differ in more than budget, log, device."""
    old = run.config()
    raw_old, raw_new = builtins(old), builtins(new)
    different = [name for name in raw_old if name not in FREE and raw_old[name] != raw_new[name]]
    if old.facts and new.facts and old.facts.fingerprint != new.facts.fingerprint:
        raise UserError(
            f"{run.path} was trained on other pictures ({old.facts.data}, {old.facts.train:,} to train on). "
            "Name another folder (--run NEW)."
        )
    if different:
        changes = ", ".join(f"{n} was {_short(raw_old[n])}, now {_short(raw_new[n])}" for n in different)
        raise UserError(
            f"{run.path} was begun with other settings: {changes}. Give the old ones, or name another folder (--run NEW)."
        )


def resumed(old: Settled, new: Settled) -> Settled:
    """The config that a run goes on with: the new one, but for where its pictures were, and its budget unless that changes."""
    facts = msgspec.structs.replace(new.facts, data=old.facts.data) if old.facts and new.facts else new.facts
    same_budget = all(getattr(new, n) in (None, getattr(old, n)) for n in BUDGET)
    kept = {n: getattr(old, n) for n in BUDGET} if same_budget else {}
    return msgspec.structs.replace(new, facts=facts, **kept)


def _short(value: Any) -> str:
    return str(Spec.of(value)) if isinstance(value, dict) else str(value)


def _placed(plan: Plan, run: Run, net: nn.Module, place: torch.device, say: Say) -> tuple[Placement, bool]:
    """Where a run is trained, and whether compiled: as is measured to be the fastest, or as before, to go on bit for bit.

    A run that is gone on with keeps its precision unless another is asked for, and on the same machine the rest.
    """
    asked, before = plan.config.precision, run.config().facts if run.started else None
    if before is not None and asked == "auto":
        asked = before.precision
    if before is not None and asked != before.precision:
        say(f"Precision changes from {before.precision} to {asked}: the run goes on, but no longer bit for bit.")
    if before is None or before.machine != machine(place):
        found, each = plan.fastest(net, place, say, asked)
    else:
        found, each = replace(Placement.of(place, before), precision=asked), 0.0
        if plan.config.compile == "auto":
            faster = before.compiled and plan.faithful(net, found)
            if before.compiled and not faster:
                say("The run was begun with compiled code, which has other gradients here: it goes on without.")
            return found, faster
    return found, plan.compiles(net, found, each, say)


@dataclass(frozen=True)
class Estimate:
    """What training by a plan would be, on one device."""

    config: Settled  # with its budget in images, unless that is a time and nothing was measured
    parameters: int
    precision: str  # the one measured, or what the config asks for
    machine: str
    speed: float | None = None  # images a second
    seconds: float | None = None  # for the whole budget

    def __str__(self) -> str:
        speed = "" if self.speed is None else f", {self.speed:.0f} a second here in {self.precision}"
        return f"Budget {self.config.images:,} images{speed}."


def estimate(plan: Plan, device: str | None = None, seconds: float = 3.0) -> Estimate:
    """What training by a plan would take on a device, from about so many seconds of training steps; 0 measures nothing.

    Nothing of the plan is changed. Raises UserError as `train` does.
    """
    place, config = device_named(device), plan.config
    with torch.device("cpu" if seconds else "meta"):  # to count parameters none need be drawn
        net = plan.build()
    parameters = nets.parameters(net)
    if not seconds:
        known = config if config.time else defaults.budget(config, lambda: 0.0)
        return Estimate(known, parameters, config.precision, machine(place), seconds=config.time)
    placement, _ = plan.fastest(net, place)
    speed = plan.speed(net, placement, seconds)
    config = defaults.budget(config, lambda: speed)
    needed = (config.images or 0) / (defaults.STEPS * speed)
    return Estimate(config, parameters, placement.precision, machine(place), speed, needed)
