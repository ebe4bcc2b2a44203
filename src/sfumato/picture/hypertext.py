"""Pages for a browser that need no other file: their frame and look, their cards and tables, and text that stays text."""

import base64
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

_LOOK = Path(__file__).with_name("look")
_POINTS = 500  # of a line, at most: more than a screen shows, few enough for a small file


def plain(text: str) -> str:
    """The text in one line that any terminal and any file can take: what cannot be shown is spelt, as in \\udcff."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def safe(text: str) -> str:
    """A text as a page holds it: no character of it is markup."""
    return escape(plain(text))


def document(title: str, body: str, *looks: str) -> str:
    """A whole page; `looks` are the files in look/, styles and scripts, that it needs beside base.css."""
    files = {name: (_LOOK / name).read_text() for name in ("base.css", *looks)}
    style = "".join(text for name, text in files.items() if name.endswith(".css"))
    script = "".join(f"<script>\n{text}</script>\n" for name, text in files.items() if name.endswith(".js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="generator" content="sfumato">'
        f"<title>{safe(title)}</title>\n<style>\n{style}</style></head>\n<body>\n{body}{script}</body></html>\n"
    )


def card(title: str, inside: str, kind: str = "") -> str:
    """A part of a page with a heading; `inside` is markup, `kind` a class of the style."""
    kind = f' class="{kind}"' if kind else ""
    return f"<section{kind}><h2>{safe(title)}</h2>{inside}</section>\n"


def listing(pairs: Iterable[tuple[str, str]]) -> str:
    """A table of names and values."""
    lines = (f'<tr><th scope="row">{safe(name)}</th><td>{safe(value)}</td></tr>' for name, value in pairs)
    return f"<table>{''.join(lines)}</table>"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table with names above its columns, the first of which names the lines; on a narrow screen a list."""
    above = "".join(f'<th scope="col">{safe(head)}</th>' for head in heads)
    cells = lambda rest: "".join(f'<td data-head="{safe(h)}">{safe(v)}</td>' for h, v in zip(heads[1:], rest, strict=True))
    body = "".join(f'<tr><th scope="row">{safe(first)}</th>{cells(rest)}</tr>' for first, *rest in lines)
    return f'<div class="wide" tabindex="0"><table><thead><tr>{above}</tr></thead><tbody>{body}</tbody></table></div>'


def items(sentences: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{safe(sentence)}</li>" for sentence in sentences) + "</ul>"


def image(data: bytes, kind: str, alt: str, attributes: str = "") -> str:
    """A picture, held in the page itself; `kind` as in image/png."""
    return f'<img alt="{safe(alt)}" {attributes} src="data:{kind};base64,{base64.b64encode(data).decode()}">'


def line(name: str, x: np.ndarray, y: np.ndarray, colour: int, kind: str = "line") -> dict[str, Any]:
    """A line of a `chart` through the points (R,), those left out where y is not finite; kind: line, faint, dots or dash."""
    known = np.flatnonzero(np.isfinite(y))
    some = known[np.unique(np.linspace(0, len(known) - 1, min(len(known), _POINTS)).round().astype(int))]
    digits = lambda values: [float(f"{value:.5g}") for value in values]
    return {"name": name, "colour": colour, "kind": kind, "x": x[some].tolist(), "y": digits(y[some])}


def chart(title: str, unit: str, lines: Sequence[Mapping[str, Any]], zero: bool = False) -> str:
    """Lines over each other whose values can be read, drawn by chart.js; `unit` names the x axis.

    y begins at `zero`, or else is logarithmic where the values differ by more than a factor of 10 and all are positive.
    """
    values = [value for line in lines for value in line["y"]]
    steep = not zero and bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    data = {"title": title, "unit": unit, "log": steep, "zero": zero, "lines": [line for line in lines if line["y"]]}
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no name ends the script
    return f'<figure class="chart"><script type="application/json">{text}</script></figure>'


def number(value: Any) -> str:
    """A measured value in four digits; a dash for what is none."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return f"{value:,}" if known and isinstance(value, int) else f"{value:.4g}" if known else "–"
