"""Several runs beside each other on one page: samples from the same noise, losses, measures, and how their settings differ."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import picture
from ..config import spelt
from ..errors import UserError
from ..model import load
from ..picture.curves import columns, smoothed
from ..picture.hypertext import card, chart, document, image, line, number, safe, table
from ..run import Run, names
from ..trainer import Progress
from .report import facts, interval, listed


def page(runs: Sequence[Run], n: int = 16, seed: int = 0, progress: Progress = lambda done, total: None) -> str:
    """A page for a browser that needs no other file: n samples of each run, all from one seed, and what else is known.

    progress   (done, total), in steps of the samplers, each run taken for as long as the one before
    A run that cannot be drawn from is there with the sentence why. Raises UserError for fewer than two runs, or no samples.
    """
    if len(runs) < 2:
        raise UserError(f"Expected two runs or more to compare, as in sfumato compare runs/a runs/b; found {len(runs)}.")
    if n < 1:
        raise UserError(f"Expected at least 1 sample of each run, found -n {n}.")
    called = names(runs)
    drawn = []
    for k, run in enumerate(runs):
        part: Progress = lambda done, total, k=k: progress(k * total + done, len(runs) * total)  # type: ignore[misc]
        drawn.append(_samples(run, n, seed, part))
    noise = f"<p>{n} samples of seed {seed}: beside each other they come from the same noise, labels in turn.</p>"
    cards = [card(name, figure) for name, figure in zip(called, drawn, strict=True)]
    parts = [
        f"<header><h1>{safe(' · '.join(called))}</h1>{noise}</header>\n<main>\n",
        *cards,
        *(f"<section>{_losses(runs, called, unit)}</section>\n" for unit in ("images seen", "steps")),
        _measures(runs, called),
        _settings(runs, called),
    ]
    return document("Runs beside each other · Sfumato", "".join(parts) + "</main>\n", "report.css", "chart.js")


def differences(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """The settings and facts that are not the same in all runs: a name, and the value in each."""
    values = [spelt(config) | dict(facts(config)) for config in (run.config() for run in runs)]
    fields = dict.fromkeys(name for each in values for name in each)
    lines = [(name, *(each.get(name, "") for each in values)) for name in fields]
    return [(name, *found) for name, *found in lines if len(set(found)) > 1]


def _samples(run: Run, n: int, seed: int, progress: Progress) -> str:
    try:
        model = load(run)
        pictures = model.preview(n, seed, progress)
    except UserError as error:
        return f"<p>{safe(str(error))}</p>"
    png = io.BytesIO()
    picture.grid(pictures).save(png, format="PNG")
    alt = f"{n} samples after {model.images:,} images"
    how = f"{model.images:,} images seen; {model.evaluations} evaluations of the network for each sample."
    return f'<figure class="samples">{image(png.getvalue(), "image/png", alt)}</figure><p>{safe(how)}</p>'


def _losses(runs: Sequence[Run], called: Sequence[str], unit: str) -> str:
    """Smoothed training losses over each other, and held-out ones dotted, by images seen or by steps of the optimizer."""
    lines = []
    for k, (run, name) in enumerate(zip(runs, called, strict=True)):
        images, loss, held_out, _ = columns(run.records())
        x = images if unit == "images seen" else np.floor(images / run.config().batch)
        lines += [line(name, x, smoothed(loss), k % 8), line(f"{name}, held-out", x, held_out, k % 8, "dash")]
    return chart(f"Loss by {unit}; of training: smoothed", unit, lines)


def _measures(runs: Sequence[Run], called: Sequence[str]) -> str:
    found: list[dict[str, dict[str, Any]]] = []  # by group and name
    for run in runs:
        found.append({})
        for each in listed(run.evaluation):
            found[-1].setdefault(str(each.get("group", "")), {})[str(each.get("name"))] = each
    parts = ""
    for group in dict.fromkeys(group for groups in found for group in groups):
        mine = [groups.get(group, {}) for groups in found]
        lines = []
        for name in dict.fromkeys(name for each in mine for name in each):
            cells = [each.get(name, {}) for each in mine]
            lines.append((name, *(f"{number(cell.get('value'))} ({interval(cell)})".removesuffix(" ()") for cell in cells)))
        parts += table((group, *called), lines)
    return card("How good the samples are", parts, "all") if parts else ""


def _settings(runs: Sequence[Run], called: Sequence[str]) -> str:
    lines = differences(runs)
    return card("What differs", table(("", *called), lines) if lines else "<p>All settings are the same.</p>", "all")
