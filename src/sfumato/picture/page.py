"""The facts about a set of pictures laid out to be read: in a terminal, and as one page for a browser.

`facts` is what `sfumato inspect --json` prints: numbers, names and lists alone.
"""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from math import ceil
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

Facts = Mapping[str, Any]

CLASSES, CHANNELS, BROKEN, PAIRS = 20, 8, 10, 5  # how many of each are named in a terminal; a page has TIMES as many
TIMES = 5
BLOCKS = " ▁▂▃▄▅▆▇█"
BAR = 28  # characters of the longest bar


def plain(text: str) -> str:
    """The text in one line that any terminal and any file can take: what cannot be shown is spelt, as in \\udcff."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


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
    image = f'<img alt="Some of the pictures" src="data:image/png;base64,{base64.b64encode(sheet).decode()}">'
    cards = [_card("Pictures", _rows(pictures(facts))), _card("What decided", _items(facts["notes"]))]
    cards.append(_card("Values", _plots(facts) + _rows(values(facts))))
    if facts["labels"]:
        most = max(*facts["labels"].values(), 1)
        wide = lambda n: f'<span class="bar"><i style="width:{100 * n / most:.1f}%"></i></span><b>{n:,}</b>'
        named = list(facts["labels"].items())
        lines = [f"<li><span>{_safe(label)}</span>{wide(n)}</li>" for label, n in named[: TIMES * CLASSES]]
        more = _more(len(named), TIMES * CLASSES)
        cards.append(
            _card("Classes", f'<ul class="classes">{"".join(lines)}</ul>' + "".join(f"<p>{_safe(m)}</p>" for m in more))
        )
    cards += [_card("What training does with them", _items(facts["split"])), _card("Training here", _rows(plan(facts["plan"])))]
    if facts["broken"]:
        named = [(one["path"], one["reason"]) for one in facts["broken"]]
        cards.append(_card("Broken", _rows(_named(named, TIMES * BROKEN))))
    if facts["duplicate_pairs"]:
        cards.append(_card("Repeats", _rows(_named(facts["duplicate_pairs"], TIMES * PAIRS, facts["duplicates"]))))
    if facts["constant"]:
        cards.append(_card("Of one plain colour", _items(_shown(facts["constant"], TIMES * BROKEN))))
    name = _safe(facts["name"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n"
        f'<figure>{image}</figure>\n<main>\n{"".join(cards)}</main></body></html>\n'
    )  # fmt: skip


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

_STYLE = """
:root{color-scheme:light dark;--ink:#1c1b19;--soft:#6b6760;--paper:#faf9f6;--card:#fff;--line:#e3e0d8;--bar:#8a7a5c}
:root{--red:#c8463c;--green:#3f8f4f;--blue:#3a68b8}
@media(prefers-color-scheme:dark){:root{--ink:#eceae5;--soft:#a29d93;--paper:#161513;--card:#1f1e1b;--line:#35332e;--bar:#b39f79;
--red:#e2776d;--green:#74bd83;--blue:#7fa4e6}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:84rem;padding:1rem;background:var(--paper);color:var(--ink);
font:16px/1.45 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.5rem 0 1rem}h2{font-size:1rem;margin:0 0 .6rem}
figure{margin:0 0 1rem;text-align:center}img{max-width:100%;height:auto;border-radius:4px}
main{columns:24rem;column-gap:1rem}
section{break-inside:avoid;margin:0 0 1rem;padding:1rem;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%}td{padding:.15rem 0;vertical-align:top}
td:first-child{color:var(--soft);padding-right:1rem;max-width:50%}
ul{margin:0;padding:0;list-style:none}li+li{margin-top:.35rem}p{margin:.4rem 0 0;color:var(--soft)}
.classes li{display:grid;grid-template-columns:minmax(4rem,9rem) 1fr 4.5rem;gap:.6rem;align-items:center}
.classes b{text-align:right;font-weight:500;font-variant-numeric:tabular-nums}
.bar{height:.7rem;background:var(--line);border-radius:3px;overflow:hidden}
.bar i{display:block;height:100%;background:var(--bar)}
.plot{margin:0 0 .8rem;text-align:left}.plot svg{display:block;width:100%;height:4.5rem;border-bottom:1px solid var(--soft)}
.plot figcaption{display:flex;justify-content:space-between;color:var(--soft);font-size:.85rem}
.plot svg{fill:var(--bar)}.red svg{fill:var(--red)}.green svg{fill:var(--green)}.blue svg{fill:var(--blue)}
"""


def _safe(text: str) -> str:
    return escape(plain(text))


def _card(title: str, inside: str) -> str:
    return f"<section><h2>{_safe(title)}</h2>{inside}</section>\n"


def _rows(rows: Iterable[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{_safe(name)}</td><td>{_safe(value)}</td></tr>" for name, value in rows) + "</table>"


def _items(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{_safe(sentence)}</li>" for sentence in sentences) + "</ul>"


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
        f'<figure class="plot {_safe(channel)}">'
        f'<svg viewBox="0 0 {10 * len(counts)} 100" preserveAspectRatio="none" role="img" '
        f'aria-label="How often the values from {ends} occur in the channel {_safe(channel)}">{bars}</svg>'
        f"<figcaption><span>{low:g}</span><span>{_safe(channel)}</span><span>{high:g}</span></figcaption></figure>"
    )
