"""How settings are spelt in words, `500k` or `64x128`, and how a command's flags are found.

tyro finds the flags and writes --help. What stands behind a flag stays text until `read`, which reads texts from Python
and from JSON as well; so a mistake is answered by the same sentence wherever it was made.
"""

import contextlib
import dataclasses
import io
import math
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from .errors import UserError
from .spec import Spec

T = TypeVar("T")


# ---- readers: each raises ValueError saying what was expected --------------------------------------------------------


def count(text: str) -> int:
    """`500k` is 500,000, `1.5m` is 1,500,000."""
    digits, unit = (text[:-1], text[-1].lower()) if text[-1:].lower() in "km" and text else (text, "")
    try:
        value = float(digits.replace("_", "").replace(",", "")) * {"": 1, "k": 1_000, "m": 1_000_000}[unit]
        whole = int(value)
    except (ValueError, OverflowError):
        value, whole = math.nan, 0
    if value != whole:
        raise ValueError("a whole number, as in 500 or 500k")
    return whole


def number(text: str) -> float:
    """`0.5`, `1e-4`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number, as in 0.5 or 1e-4")
    return value


def seconds(text: str) -> float:
    """`90s`, `10m`, `2h`, or a number of seconds."""
    unit = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:].lower())
    try:
        return number(text[:-1]) * unit if unit else number(text)
    except ValueError:
        raise ValueError("a time, as in 90s, 10m or 2h") from None


def height_width(text: str) -> tuple[int, int]:
    """`64` is 64x64; `64x128` is height x width."""
    try:
        sides = [int(side) for side in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2):
        raise ValueError("a height and width, as in 64 or 64x128")
    return sides[0], sides[-1]


def low_high(text: str, end: Callable[[str], float] = number) -> tuple[float, float]:
    """`0,1` is a range; with `end` float, so is `1,inf`."""
    try:
        low, high = (end(part) for part in text.split(","))
    except ValueError:
        low, high = 0.0, 0.0
    if not low < high:
        raise ValueError("two numbers that rise, as in 0,1")
    return low, high


def level_width(text: str) -> tuple[float, float]:
    """`40,400` is a window of medical pictures."""
    try:
        level, width = (number(part) for part in text.split(","))
    except ValueError:
        level, width = 0.0, 0.0
    if width <= 0:
        raise ValueError("a level and a width above 0, as in 40,400")
    return level, width


# ---- flags -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Flag(PrimitiveConstructorSpec):
    """The mark of a field whose flag is one word."""

    reader: Callable[[str], Any] = str

    @classmethod
    def of(cls, reader: Callable[[str], Any], metavar: str, show: Callable[[Any], str] = str) -> "Flag":
        return cls(
            nargs=1,
            metavar=metavar,
            instance_from_str=lambda words: words[0],
            is_instance=lambda value: True,
            str_from_instance=lambda value: ["none" if value is None else show(value)],
            reader=reader,
        )

    def value(self, name: str, text: str) -> Any:
        """What a text says for the field `name`."""
        try:
            return self.reader(text)
        except UserError:
            raise
        except ValueError as error:
            raise UserError(f"{name} does not fit: expected {error}, found {text or 'nothing'}.") from None


COUNT = Flag.of(count, "COUNT")
NUMBER = Flag.of(number, "NUMBER")
TIME = Flag.of(seconds, "TIME")
SIZE = Flag.of(height_width, "SIZE", lambda size: f"{size[0]}x{size[1]}")
ENDS = Flag.of(low_high, "LOW,HIGH", lambda ends: f"{ends[0]:g},{ends[1]:g}")
LEVELS = Flag.of(lambda text: low_high(text, float), "LOW,HIGH", lambda ends: f"{ends[0]:g},{ends[1]:g}")
WINDOW = Flag.of(level_width, "LEVEL,WIDTH", lambda window: f"{window[0]:g},{window[1]:g}")
CHOICE = Flag.of(Spec.of, "NAME[:OPTION=VALUE,...]", repr)


def weights(raw: bool, ema: float | None) -> str | float:
    """Which weights --raw and --ema name, as `load` takes them; UserError where both are typed."""
    if raw and ema is not None:
        raise UserError("--raw and --ema name different weights; type one of them.")
    return "model" if raw else "ema" if ema is None else ema


def read(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a class's fields, texts and numbers read as the marks of the fields say; raises UserError.

    'none' is None where a field may be None.
    """
    hints, out = get_type_hints(kind, include_extras=True), dict(values)
    for name, value in values.items():
        for mark in getattr(hints.get(name), "__metadata__", ()):
            if isinstance(mark, Flag) and isinstance(value, str | int | float):
                none = str(value).lower() == "none" and type(None) in get_args(hints[name].__origin__)
                out[name] = None if none else mark.value(name, str(value))
    return out


def parse(default: T, arguments: list[str], command: str, description: str) -> T:
    """The dataclass `default` with what the flags say instead; raises UserError for what cannot be read.

    The texts of a Config in it are left to `config.checked`.
    """
    kind, said = type(default), io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found, rest = tyro.cli(
                kind, default=default, args=arguments, prog=command, description=description, return_unknown_args=True
            )
    except SystemExit as end:
        if not end.code:  # --help
            raise
        known = {each for flag in _flags(kind) for each in (flag, flag.replace("--", "--no-", 1))}
        rest = [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in known]
        if not rest:
            raise UserError(f"{_first_sentence(said.getvalue())} Type {command} --help for what can be typed.") from None
    if rest:
        raise UserError(f"{_unexpected(rest[0], kind)} Type {command} --help for all flags.")
    for name, value in read(kind, vars(found)).items():
        setattr(found, name, value)
    return found


def _unexpected(word: str, kind: type) -> str:
    if not word.startswith("-"):
        return f"Nothing was expected where '{word}' stands: flags begin with --, and some take no value."
    flag = word.partition("=")[0]
    near = get_close_matches(flag, _flags(kind), n=1, cutoff=0.7)
    return f"There is no flag {flag}." + (f" Did you mean {near[0]}?" if near else "")


def _flags(kind: type) -> list[str]:
    """The flags of a command, and of the Config that it takes, if any."""
    fields = [field.name for field in dataclasses.fields(kind)]
    for hint in get_type_hints(kind).values():
        fields += getattr(hint, "__struct_fields__", ())
    return [f"--{name.replace('_', '-')}" for name in (*fields, "help")]


def _first_sentence(box: str) -> str:
    """What tyro says in a box, up to the first full stop."""
    lines = [line.strip("│ ") for line in box.splitlines() if not line.startswith(("╭", "╰"))]
    return " ".join(lines).partition(".")[0] + "."
