"""How good is a model? Its samples beside real pictures, whether it repeats them, how it denoises, how likely it finds them.

Each number stands with its counts and an interval where there is one, and real pictures that were held out are measured like
samples: nobody can ask for a smaller distance than theirs.
"""

import copy
import dataclasses
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image
from torch import nn

from .. import picture, trainer
from ..config import BUDGET
from ..disk import replace_text
from ..errors import UserError
from ..model import Model, load
from ..plan import Plan
from ..run import Run
from . import bands, likelihood, report
from .drawn import KEPT, Drawn, drawn
from .features import chosen, extract, features, reference
from .memory import Copies, closest, copies, copying, shown
from .metrics import kernel
from .metrics.estimate import Estimate
from .metrics.measures import distances, measure
from .opened import opened

REFERENCE = 10_000  # real pictures that samples are compared with, at most
LOOKED = 50_000  # training pictures that are looked through for copies by their features, at most
CLASSES = 100  # distances of single classes that are measured, at most
DENOISED = 256  # held-out pictures that are denoised

Progress = Callable[[int, int], None]
Stage = Callable[[str], Progress]
quietly: Stage = lambda what: lambda done, total: None


@dataclass
class Evaluation:
    """What was measured, group by group, and what was noticed."""

    groups: dict[str, list[Estimate]] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    closest: Image.Image | None = None

    def records(self) -> list[dict[str, Any]]:
        """All numbers as JSON has them."""
        return [{"group": group, **dataclasses.asdict(each)} for group, rows in self.groups.items() for each in rows]


def evaluate(
    model: Model,
    data: Any = None,
    n: int = 10_000,
    named: str | nn.Module = "own",
    seed: int = 0,
    likelihoods: int = 0,
    device: str | None = None,
    stage: Stage = quietly,
    **options: Any,
) -> Evaluation:
    """Measure a model whose run is in a folder.

    data         real pictures to compare with, a path or an array; those that it was trained on unless said, which must be
                 given where they were no file
    n            samples to be drawn; they are kept in the run folder and not drawn again, see `drawn`
    named        features: "own", "inception:FILE", "dinov2:FILE" or a module, see `features`
    likelihoods  held-out pictures whose likelihood is measured
    options      as in `Model.sample`: solver, steps, guidance
    Raises UserError if the pictures are not to be had.
    """
    if n < 2 or model.path is None:
        raise UserError(f"At least 2 samples of a run in a folder can be judged; found {n}.")
    model.refuse_undrawable(**options)  # before features are trained
    own = plan = None
    if data is None:
        own = plan = opened(model, stage("reading"))
    elif not isinstance(data, str | Path):
        with suppress(UserError):  # it may be what was trained on, which was no file
            own = plan = opened(model, stage("reading"), data)
    elif model.facts.train:
        own = opened(model, stage("reading"))
    plan = plan or _other(model, data, stage("reading"))
    seen = features(named, own or plan, device, stage("training features"))
    train = reference(seen, plan, n=LOOKED, device=device, progress=stage("real pictures"))
    held = None
    if own is not None and len(own.held_out):
        held = reference(seen, own, held_out=True, n=LOOKED, device=device, progress=stage("held-out pictures"))
    there = train[: max(REFERENCE, n)]
    made = drawn(
        model, lambda part: extract(seen, part, model.codec, device), seen.name, n, seed, model.path / "evaluation",
        stage("drawing"), **options,
    )  # fmt: skip
    found = Evaluation(said=[seen.about])
    stage("comparing")(0, 1)
    found.groups["distances"] = measure(made.features, there)
    if own is plan and held is not None and len(held) >= 4:
        found.groups["distances of held-out pictures"] = distances(held[:REFERENCE], there)
    found.groups |= {"classes": _classes(made, there, plan), "channels": _channels(model, made, plan)}
    if own is not None and held is not None:
        if not model.config.crop:
            train = train if own is plan else reference(seen, own, n=LOOKED, device=device, progress=stage("training pictures"))
            _memory(found, model, made, own, train, held, stage)
        _held_out(found, model, own, likelihoods, device, stage)
    return found


def _other(model: Model, data: Any, progress: Progress) -> Plan:
    """Pictures from elsewhere, all of them, as the model's own are read."""
    c, h, w = model.facts.shape
    free = dict.fromkeys((*BUDGET, "facts", "only_class"))
    config = msgspec.structs.replace(model.config, **free, held_out=0.0, size=(h, w), channels=c)
    return trainer.prepare(data, config, model.denoiser.net, progress)  # type: ignore[arg-type]


def _classes(made: Drawn, there: np.ndarray, plan: Plan) -> list[Estimate]:
    """The kernel distance of the samples of each class to the real pictures of that class."""
    names, labels = plan.facts.label_names, plan.train.labels
    if made.labels is None or names is None or labels is None:
        return []
    real = np.asarray(labels)[chosen(plan.train, len(there)).numpy()]
    rows = []
    for k, name in enumerate(names[:CLASSES]):
        (row,) = kernel.estimates(made.features[made.labels == k], there[real == k])
        rows.append(dataclasses.replace(row, name=f"kernel, {name}"))
    return rows


def _channels(model: Model, made: Drawn, plan: Plan) -> list[Estimate]:
    """Mean and deviation of the stored values of each channel, with those of the data."""
    real = plan.train.take(np.sort(chosen(plan.train, 2000).numpy())).astype(np.float64)  # (M, C, H, W)
    rows = []
    for what, ours, theirs in (("mean", made.mean, real.mean((0, 2, 3))), ("deviation", made.deviation, real.std((0, 2, 3)))):
        for c, (mine, its) in enumerate(zip(ours, theirs, strict=True)):
            name = f"{what} of channel {c + 1}" if len(ours) > 1 else what
            rows.append(Estimate(name, float(mine), None, None, len(made.features), len(real), note=f"{its:.4g} in the data"))
    return rows


def _memory(found: Evaluation, model: Model, made: Drawn, own: Plan, train: np.ndarray, held: np.ndarray, stage: Stage) -> None:
    """Whether samples lie nearer to training pictures than new pictures do, by pixels and by features; the closest pairs."""
    stage("looking for copies")(0, 1)
    features = copies(made.features[:KEPT], train, held)
    order = chosen(own.train, LOOKED).numpy()
    near = {
        "by pixels": copies(made.pictures, shown(own.train), shown(own.held_out)),
        "by features": dataclasses.replace(features, indices=order[features.indices]),
    }
    found.groups["copies"] = [_share(how, each) for how, each in near.items()]
    if any(map(copying, near.values())):
        found.said.append(
            "Warning: more samples than should be lie next to a training picture; look at the closest pairs. More pictures, "
            "mirrors (--flip), or an earlier checkpoint (--stop-when plateau) help."
        )
    found.closest = closest(model, made.pictures, shown(own.train), near)


def _share(name: str, each: Copies) -> Estimate:
    """The share of samples that are as near to a training picture as only one in twenty of the held-out ones is."""
    total = len(each.distances)
    share, counts = each.count / total, (total, len(each.held_out_distances))
    estimate = Estimate.share(f"near copies, {name}", share, share * (1 - share) / total, total, counts)
    return dataclasses.replace(estimate, note=f"{each.expected / total:.2g} of new pictures are as near")


def _held_out(found: Evaluation, model: Model, own: Plan, likelihoods: int, device: str | None, stage: Stage) -> None:
    """The held-out loss in each band of noise, and the likelihood by both ways."""
    net = copy.deepcopy(model.denoiser.net.net)  # type: ignore[attr-defined]  # filled with the raw weights
    models = {"averaged": model, "raw": load(model.path, net, "model", device, model.images)}
    result = bands.measure(models, own.train, own.held_out, DENOISED, progress=stage("denoising"))
    rows, count = [], result.squared["averaged"].shape[1]
    for k, (low, high) in enumerate(pairwise(result.edges.tolist())):
        loss, psnr = result.losses["averaged"][k], {name: result.psnr(name)[k] for name in result.squared}
        note = f"{psnr['averaged']:.1f} dB; raw weights {psnr['raw']:.1f}, the mean picture {psnr[bands.CONSTANT]:.1f}, "
        note += f"a Gaussian {psnr[bands.GAUSSIAN]:.1f}"
        name = f"loss at log-SNR {low:.3g} to {high:.3g}"
        rows.append(Estimate.normal(name, loss.mean(), loss.var(ddof=1) / count, (count, len(own.train)), note=note))
    found.groups["denoising"] = rows
    if likelihoods:
        found.groups["likelihood"] = []
        for way in likelihood.WAYS:
            each = likelihood.measure(model, own.held_out, way, likelihoods, progress=stage(f"likelihood, {way}"))
            counts, note = (len(each.bits), 0), each.sentence()
            found.groups["likelihood"].append(Estimate.normal(f"bits, {way}", each.mean, each.error**2, counts, note=note))


def write(run: Run, found: Evaluation) -> list[Path]:
    """Keep what was found in the run folder, where the report looks for it; the files."""
    replace_text(run.evaluation, json.dumps(found.records(), indent=1) + "\n")
    if found.closest is not None:
        run.out.mkdir(parents=True, exist_ok=True)
        picture.save_png(run.closest, found.closest)
    return [path for path in (run.evaluation, run.closest, report.write(run)) if path.exists()]
