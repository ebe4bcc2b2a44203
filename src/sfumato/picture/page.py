"""The facts about a set of pictures laid out to be read: in a terminal, and as one page for a browser.

`facts` is what `sfumato inspect --json` prints: numbers, names and lists alone.
"""

from collections.abc import Iterable, Mapping
from math import ceil
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .hypertext import card, document, image, items, listing, plain, safe

Facts = Mapping[str, Any]

CLASSES, CHANNELS, BROKEN, PAIRS = 20, 8, 10, 5  # how many of each are named in a terminal; a page has TIMES as many
TIMES = 5
BLOCKS = " ▁▂▃▄▅▆▇█"
BAR = 28  # characters of the longest bar


def blocks(counts: Iterable[int]) -> str:
    """A line of bars one character wide, the highest full, an empty one for 0 alone."""
    counts = list(counts)
    most = max(counts) or 1
    return "".join(BLOCKS[-(-8 * count // most)] for count in counts)


def bar(share: float) -> str:
    """A bar of so large a share of the longest, in eighths of a character; an empty one for 0 alone."""
    whole, rest = divmod(ceil(8 * BAR * share), 8)
    return "█" * whole + " ▏▎▍▌▋▊▉"[rest].strip()


def terminal(facts: Facts) -> RenderableType:
    """All facts as tables that fit 80 columns."""
    parts: list[RenderableType] = [_table("Pictures", pictures(facts)), _list("What decided", facts["notes"])]
    if facts["broken"]:
        parts.append(_table("Broken", _named(((one["path"], one["reason"]) for one in facts["broken"]), BROKEN)))
    if facts["duplicate_pairs"]:
        parts.append(_table("Repeats", _named(facts["duplicate_pairs"], PAIRS, facts["duplicates"])))
    if facts["constant"]:
        parts.append(_list("Of one plain colour", _shown(facts["constant"], BROKEN)))
    if facts["labels"]:
        most = max(*facts["labels"].values(), 1)
        bars = [(label, f"{bar(n / most):{BAR}} {n:,}") for label, n in facts["labels"].items()]
        parts.append(_table("Classes", _named(bars, CLASSES)))
    lines = [(channel, f"{blocks(counts)} {ends}") for channel, counts, ends in _histograms(facts)]
    parts += [_table("Values", [*_named(lines, CHANNELS), *values(facts)])]
    parts += [_list("What training does with them", facts["split"]), _table("Training here", plan(facts["plan"]))]
    return Group(*parts)


def html(facts: Facts, sheet: bytes) -> str:
    """All facts as one page that needs no other file; `sheet` is the contact sheet, a PNG."""
    picture = image(sheet, "image/png", "Some of the pictures")
    cards = [card("Pictures", listing(pictures(facts))), card("What decided", items(facts["notes"]))]
    cards.append(card("Values", _plots(facts) + listing(values(facts))))
    if facts["labels"]:
        most = max(*facts["labels"].values(), 1)
        wide = lambda n: f'<span class="bar"><i style="width:{100 * n / most:.1f}%"></i></span><b>{n:,}</b>'
        named = list(facts["labels"].items())
        lines = [f"<li><span>{safe(label)}</span>{wide(n)}</li>" for label, n in named[: TIMES * CLASSES]]
        more = _more(len(named), TIMES * CLASSES)
        cards.append(card("Classes", f'<ul class="classes">{"".join(lines)}</ul>' + "".join(f"<p>{safe(m)}</p>" for m in more)))
    cards += [card("What training does with them", items(facts["split"])), card("Training here", listing(plan(facts["plan"])))]
    if facts["broken"]:
        named = [(one["path"], one["reason"]) for one in facts["broken"]]
        cards.append(card("Broken", listing(_named(named, TIMES * BROKEN))))
    if facts["duplicate_pairs"]:
        cards.append(card("Repeats", listing(_named(facts["duplicate_pairs"], TIMES * PAIRS, facts["duplicates"]))))
    if facts["constant"]:
        cards.append(card("Of one plain colour", items(_shown(facts["constant"], TIMES * BROKEN))))
    body = f"<h1>{safe(facts['name'])}</h1>\n<figure>{picture}</figure>\n<main>\n{''.join(cards)}</main>"
    return document(facts["name"], body, "inspect.css")


# ---- what is said, the same in both ----------------------------------------------------------------------------------


def pictures(facts: Facts) -> list[tuple[str, str]]:
    """Where the pictures come from, how many there are, and what they become."""
    height, width = facts["size"]
    sizes = [f"{size} ({count:,})" for size, count in list(facts["sizes"].items())[:3]]
    ends = [f"{h}x{w}" for h, w in (facts["smallest"], facts["largest"])]
    different = facts["different_sizes"]
    files = sizes[0] if different == 1 else f"{different:,} sizes, {ends[0]} to {ends[1]}; most often {', '.join(sizes)}"
    count = lambda number, nothing="none": f"{number:,}" if number else nothing
    rows = [
        ("from", f"{facts['name']} ({facts['kind']})"),
        ("images", f"{facts['images']:,}"),
        ("sizes in the files", files),
        ("modes in the files", ", ".join(f"{mode or 'unknown'} ({n:,})" for mode, n in facts["modes"].items())),
        ("they become", f"{height}x{width}, {facts['channels']} channel{'s' * (facts['channels'] > 1)} of {facts['dtype']}"),
        ("classes", count(len(facts["labels"] or ()))),
        ("broken files", count(len(facts["broken"]))),
        ("of one plain colour", count(len(facts["constant"]))),
        ("repeats of another", count(facts["duplicates"])),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]


def values(facts: Facts) -> list[tuple[str, str]]:
    """Means and deviations per channel, in stored units and in model space."""
    columns = zip(facts["histogram"], *(facts[name] for name in ("mean", "std", "mean_x0", "std_x0")), strict=True)
    said = [(f"mean of {c}", f"{m:.4g} ± {s:.4g}, in model space {m0:.3f} ± {s0:.3f}") for c, m, s, m0, s0 in columns]
    rows = _named(said, CHANNELS)
    rows.append(("sigma_data", f"{facts['sigma_data']:g}"))
    if facts["measured"] < facts["images"]:
        rows.append(("of", f"{facts['measured']:,} pictures, spread evenly over the set"))
    return rows


def plan(made: Facts) -> list[tuple[str, str]]:
    """What training would do."""
    budget = "as long as the time allows"
    if made["images"]:
        budget = f"{made['images']:,} images, {made['epochs']:.1f} epochs"
    speed = "not measured" if made["images_per_second"] is None else f"{made['images_per_second']:,.3g} images a second"
    return [
        ("network", f"{made['net']}, {made['parameters']:,} parameters"),
        ("batch", f"{made['batch']:,}"),
        ("budget", budget),
        ("precision", made["precision"]),
        ("on", made["machine"]),
        ("speed", speed),
        *([] if made["seconds"] is None else [("time", f"about {duration(made['seconds'])}")]),
    ]


def duration(seconds: float) -> str:
    """The two largest units of a time: `2 h 5 min`."""
    whole = max(1, round(seconds))
    for size, unit, less, smaller in ((86400, "days", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // less
            return f"{whole // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{whole} s"


def _histograms(facts: Facts) -> list[tuple[str, list[int], str]]:
    return [(c, counts, f"{facts['range'][c][0]:g} to {facts['range'][c][1]:g}") for c, counts in facts["histogram"].items()]


def _more(total: int, named: int) -> list[str]:
    return [f"and {total - named:,} more"] if total > named else []


def _named(rows: Iterable[Any], most: int, total: int | None = None) -> list[tuple[str, str]]:
    """The first rows, and how many more there are."""
    rows = [tuple(row) for row in rows]
    total = len(rows) if total is None else total
    return [*rows[:most], *((text, "") for text in _more(total, min(most, len(rows))))]


def _shown(names: list[str], most: int) -> list[str]:
    return [*names[:most], *_more(len(names), most)]


# ---- in a terminal ---------------------------------------------------------------------------------------------------


def _table(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    table = _headed(title)
    table.add_column(overflow="fold", max_width=32, style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(Text(plain(name)), Text(plain(value)))
    return table


def _list(title: str, sentences: Iterable[str]) -> Table:
    table = _headed(title)
    table.add_column(overflow="fold")
    for sentence in sentences:
        table.add_row(Text(plain(sentence)))
    return table


def _headed(title: str) -> Table:
    return Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        show_header=False,
        box=None,
        pad_edge=False,
        padding=(0, 2),
    )


# ---- in a browser ----------------------------------------------------------------------------------------------------


def _plots(facts: Facts) -> str:
    """A bar plot of each channel's values."""
    return "".join(_plot(*each, *facts["range"][each[0]]) for each in _histograms(facts)[: TIMES * CHANNELS])


def _plot(channel: str, counts: list[int], ends: str, low: float, high: float) -> str:
    most = max(counts) or 1
    bars = "".join(
        f'<rect x="{10 * k + 0.5}" y="{100 - 100 * n / most:.2f}" width="9" height="{100 * n / most:.2f}"/>'
        for k, n in enumerate(counts)
    )
    return (
        f'<figure class="plot {safe(channel)}">'
        f'<svg viewBox="0 0 {10 * len(counts)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="How often the values from {ends} occur in the channel {safe(channel)}">{bars}</svg>'
        f"<figcaption><span>{low:g}</span><span>{safe(channel)}</span><span>{high:g}</span></figcaption></figure>"
    )
