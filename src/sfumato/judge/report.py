"""`report.html` in a run folder: one page with what a person looks at while a model is trained, and afterwards.

It is made of the files of the run alone, so that whoever has measured something writes it again with `write(run)`. A part
whose file is missing is left out.
"""

import functools
import io
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..config import Config, spelt
from ..disk import replace_text
from ..picture import hypertext
from ..picture.curves import columns, smoothed
from ..picture.hypertext import card, chart, document, line, listing, number, safe, table
from ..picture.page import duration
from ..run import Run
from ..training.loop import Event
from ..training.watch import Share

GRIDS = 40  # on the timeline, at most
LARGE, WIDTH = 60_000, 1200  # bytes above which a picture is kept as WebP in the page, and then pixels it is wide, at most
ANIMATION = 6_000_000  # bytes of an animation, at most
VERDICTS = ("wrong", "look", "could not be told", "fine")


class Report:
    """A watcher that writes the page after lines of the log, within a share of the time, and at the end in any case."""

    def __init__(self, run: Run, share: float = 0.005):
        self.run, self.share = run, Share(share)

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self.share.begin()
        elif event.kind == "end" or (event.kind == "log" and self.share.allows()):
            with self.share.spending():
                write(self.run)


def write(run: Run) -> Path:
    """Write the page of a run from what lies in its folder; returns its path. Raises UserError if there is no config."""
    replace_text(run.report, page(run))
    return run.report


def page(run: Run) -> str:
    """The page, as `write` has it in a file."""
    config, records, name = run.config(), run.records(), run.path.resolve().name
    missing = []
    parts = [f"<header><h1>{safe(name)}</h1>{_progress(config, records)}</header>\n<main>\n", _timeline(run)]
    for found, what in (
        (_findings(listed(run.findings)), f"the doctor's findings (sfumato doctor {run.path})"),
        (_metrics(listed(run.evaluation)), f"how good the samples are (sfumato evaluate {run.path})"),
    ):
        parts.append(found)
        missing += [what] * (not found)
    parts += [_curves(records), _closest(run), _denoising(run), _settings(config)]
    if missing:
        parts.append(f"<p class='all'>Not here yet: {safe(', '.join(missing))}.</p>\n")
    return document(f"{name} · Sfumato", "".join(parts) + "</main>\n", "report.css", "chart.js", "report.js")


def listed(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON list in a file; none where there is no such file, or it holds something else."""
    try:
        found = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return []
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


# ---- how far it is ---------------------------------------------------------------------------------------------------


def _progress(config: Config, records: Sequence[Mapping[str, Any]]) -> str:
    images, loss, held_out, speed = columns(records, ("loss", "held_out_loss", "images_per_second"))
    budget, seen = config.images or 0, int(images[-1]) if len(images) else 0
    rows = [("images seen", f"{seen:,} of {budget:,}")]
    if len(images):
        rows.append(("training loss, smoothed", number(smoothed(loss)[-1])))
    if (known := np.flatnonzero(np.isfinite(held_out))).size:
        best = known[np.argmin(held_out[known])]
        rows.append(("held-out loss", number(held_out[known[-1]])))
        rows.append(("lowest held-out", f"{number(held_out[best])} at {int(images[best]):,}"))
    if (recent := speed[np.isfinite(speed)][-10:]).size and (rate := float(np.median(recent))) > 0:
        rows.append(("images a second", number(rate)))
        if seen < budget:
            rows.append(("time left", duration((budget - seen) / rate)))
    rows.append(("written", time.strftime("%d %b %Y, %H:%M")))
    cells = "".join(f"<div><dt>{safe(name)}</dt><dd>{safe(value)}</dd></div>" for name, value in rows)
    unfinished = " data-unfinished" * (seen < budget)
    return f'<progress max="{max(1, budget)}" value="{seen}"{unfinished} aria-label="images seen"></progress><dl>{cells}</dl>'


# ---- pictures --------------------------------------------------------------------------------------------------------


def _timeline(run: Run) -> str:
    grids = run.grids()
    moments = list(grids)
    some = np.unique(np.linspace(len(moments) - 1, 0, min(len(moments), GRIDS)).round().astype(int))
    shown = []
    for images in (moments[i] for i in some):
        hidden = " hidden" * (images != moments[-1])
        shown.append(embedded(grids[images], f"Samples after {images:,} images", f'data-images="{images}"{hidden}'))
    shown = [each for each in shown if each]
    if not shown:
        return ""
    slider = (
        f'<div class="slider"><button type="button">Play</button><input type="range" min="0" max="{len(shown) - 1}" '
        f'value="{len(shown) - 1}" aria-label="Images seen when the samples were drawn"><output></output></div>'
    )
    note = (
        "<p>The same noise each time. Above, samples of the weights as they are; below, of their average, which is what "
        "<code>sfumato sample</code> draws from.</p>"
    )
    return card("Samples while training", f"{slider}<figure>{''.join(shown)}</figure>{note}", "timeline all")


def _closest(run: Run) -> str:
    shown = embedded(run.closest, "Samples, each beside the training image nearest to it")
    return shown and card("Closest training images", f"<figure>{shown}</figure>", "all")


def _denoising(run: Run) -> str:
    paths = run.denoising()
    strips, moving = ([path for path in paths if (path.suffix == ".gif") is kind] for kind in (False, True))
    shown = [embedded(path, "A sample coming out of noise") for path in (*strips[:1], *moving[:1])]
    figures = "".join(f'<figure class="scrolled" tabindex="0">{each}</figure>' for each in shown if each)
    return figures and card("Out of noise", f'<div class="stages">{figures}</div>', "all")


def embedded(path: Path, alt: str, attributes: str = "") -> str:
    """A picture file as part of the page; nothing where there is none, or a large animation."""
    try:
        status = path.stat()
        data, kind = _bytes(path, status.st_mtime_ns, status.st_size)
    except OSError:
        return ""
    return hypertext.image(data, kind, alt, attributes) if data else ""


@functools.lru_cache(2 * GRIDS)
def _bytes(path: Path, changed: int, size: int) -> tuple[bytes, str]:
    """What a page holds of a picture file, and of which kind that is; kept, for grids do not change."""
    if path.suffix == ".gif":
        return (path.read_bytes(), "image/gif") if size <= ANIMATION else (b"", "")
    if size <= LARGE:
        return path.read_bytes(), "image/png"
    with Image.open(path) as picture:
        picture.thumbnail((WIDTH, 10 * WIDTH))
        small = io.BytesIO()
        picture.convert("RGB").save(small, format="WEBP", quality=85)
    return small.getvalue(), "image/webp"


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _curves(records: Sequence[Mapping[str, Any]]) -> str:
    images, loss, held_out, lr = columns(records)
    course = [
        line("training, raw weights", images, loss, 0, "faint"),
        line("the same, smoothed", images, smoothed(loss), 0),
        line("held-out, averaged weights", images, held_out, 1, "dots"),
    ]
    parts = [{"images": record["images"], **(record.get("loss_bands") or {})} for record in records]
    names = list(dict.fromkeys(name for part in parts for name in part if name != "images"))
    _, *bands = columns(parts, names)
    by_noise = [
        line(_band(name), images, smoothed(values), i) for i, (name, values) in enumerate(zip(names, bands, strict=True))
    ]
    charts = [
        chart("Loss", "images seen", course),
        chart("Training loss by noise (log-SNR), smoothed", "images seen", by_noise),
        chart("Learning rate", "images seen", [line("rate", images, lr, 0)], zero=True),
    ]
    return "".join(f'<section class="{kind}">{each}</section>\n' for each, kind in zip(charts, ("all", "", ""), strict=True))


def _band(name: str) -> str:
    """`..-4` is below -4, the most noise."""
    low, _, high = name.partition("..")
    return f"{low} to {high}" if low and high else f"above {low}, least noise" if low else f"below {high}, most noise"


def _metrics(measured: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[str, list[tuple[str, ...]]] = {}
    for each in measured:
        line = (
            str(each.get("name", "")), number(each.get("value")), interval(each), number(each.get("samples")),
            _text(each.get("reference")), _text(each.get("note")),
        )  # fmt: skip
        groups.setdefault(str(each.get("group", "")), []).append(line)
    heads = ("value", "95 % interval", "samples", "against", "")
    tables = "".join(table((group, *heads), lines) for group, lines in groups.items())
    return card("How good the samples are", tables, "all") if tables else ""


def interval(measured: Mapping[str, Any]) -> str:
    """The interval of a measured value."""
    low, high = measured.get("low"), measured.get("high")
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def _text(value: Any) -> str:
    return "" if value is None else number(value) if isinstance(value, int | float) else str(value)


def _findings(found: Sequence[Mapping[str, Any]]) -> str:
    if not found:
        return ""
    lines: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for each in found:
        verdict = str(each.get("verdict"))
        verdict = verdict if verdict in VERDICTS else VERDICTS[2]
        said = " ".join(f"<span>{safe(_text(each.get(part)))}</span>" for part in ("figure", "cause", "mend"))
        lines[verdict].append(
            f'<li class="{verdict.split()[0]}"><b>{verdict}</b> <strong>{safe(_text(each.get("check")))}</strong> {said}</li>'
        )
    urgent = [*lines["wrong"], *lines["look"]]
    calm = [*lines["could not be told"], *lines["fine"]]
    inside = (
        f'<ul class="findings">{"".join(urgent)}</ul>'
        if urgent
        else "<p>Nothing was found to be wrong by what was looked at.</p>"
    )
    if calm:
        others = f'<ul class="findings">{"".join(calm)}</ul>'
        inside += f"<details><summary>{len(calm)} more checks</summary>{others}</details>"
    return card("The doctor's findings", inside, "all")


def _settings(config: Config) -> str:
    usual, now = spelt(Config()), spelt(config)
    changed = [(name, value) for name, value in now.items() if value != usual[name]]
    same = [(name, value) for name, value in now.items() if value == usual[name]]
    others = f"<details><summary>{len(same)} more, as they are unless said</summary>{listing(same)}</details>"
    return card("Settings", listing(changed) + others) + card("Data and machine", listing(facts(config)))


def facts(config: Config) -> list[tuple[str, str]]:
    """What a run is trained on, and where."""
    found = config.facts
    if found is None:
        return []
    channels, height, width = found.shape
    layout = "by layer" if found.by_layer else "channels last" if found.channels_last else "channels first"
    rows = [
        ("data", found.data),
        ("pictures", f"{found.train:,} to train on, {found.held_out:,} held out"),
        ("size", f"{height}x{width}, {channels} channel{'s' * (channels > 1)} of {found.codec.get('dtype', '')}"),
        ("labels", f"{len(found.label_names)}: {', '.join(found.label_names)}"[:200] if found.label_names else "none"),
        ("sigma_data", number(found.sigma_data)),
        ("begun from", found.start),
        ("machine", found.machine),
        ("precision", f"{found.precision}, {layout}{', compiled' * found.compiled}"),
    ]
    return [(name, value) for name, value in rows if value]
