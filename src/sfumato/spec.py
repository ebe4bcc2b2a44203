"""`Spec`: something chosen from a table by name, with its options, that JSON can hold and no import path can reach."""

import ast
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .errors import UserError, unknown


class Spec:
    """A name in a table and the keyword options for what stands there: `Spec("linear", steps=300)`.

    As text it is `linear:steps=300`, in JSON `{"name": "linear", "steps": 300}`, or the bare name without options.
    """

    __slots__ = ("kw", "name")

    def __init__(self, name: str, **kw: Any):
        # Tuples, for JSON knows lists alone and both shall be equal.
        self.name, self.kw = name, {key: tuple(value) if isinstance(value, list) else value for key, value in kw.items()}

    def __repr__(self) -> str:
        return self.name + (":" + ",".join(f"{k}={v}" for k, v in self.kw.items()) if self.kw else "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and (self.name, self.kw) == (other.name, other.kw)

    def __hash__(self) -> int:
        return hash(repr(self))

    @classmethod
    def of(cls, value: "str | Spec | Mapping[str, Any]") -> "Spec":
        """Read a Spec from its text, from its JSON form, or from a Spec."""
        if isinstance(value, Spec):
            return value
        if isinstance(value, Mapping):
            if not isinstance(value.get("name"), str):
                raise UserError(f"A choice needs a name, as in {{'name': 'linear', 'steps': 300}}; found {dict(value)}.")
            return cls(**value)
        if not isinstance(value, str):
            raise UserError("A choice is a name, maybe with options, as in linear:steps=300.")
        name, _, options = value.partition(":")
        kw = {}
        for option in _split(options):
            key, equals, text = option.partition("=")
            if not equals or not key.strip().isidentifier():
                raise UserError(f"'{value}' is not of the form name:option=value,option=value.")
            kw[key.strip()] = _literal(text.strip())
        return cls(name.strip(), **kw)

    def builtins(self) -> "str | dict[str, Any]":
        """The JSON form."""
        return {"name": self.name, **self.kw} if self.kw else self.name


def choose(table: Mapping[str, Callable], spec: "str | Spec | Mapping[str, Any]", what: str) -> Callable:
    """`table[spec.name]` with the options of `spec` bound; both are checked against the table and the signature.

    Options are the keyword-only parameters of what the table holds; positional ones belong to its contract. Raises
    UserError for a name that is not in the table or an option that the function does not have.
    """
    spec = Spec.of(spec)
    if spec.name not in table:
        raise unknown(what, spec.name, table)
    target = table[spec.name]
    options = {p.name: p for p in inspect.signature(target).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for key in spec.kw:
        if key not in options:
            if not options:
                raise UserError(f"The {what} '{spec.name}' has no options, but '{key}' was given.")
            raise unknown(f"option of the {what} '{spec.name}' called", key, options)
        if expected := _misfit(spec.kw[key], options[key].default):
            raise UserError(f"The option {key} of the {what} '{spec.name}' is {expected}; found {spec.kw[key]}.")
    return partial(target, **spec.kw) if spec.kw else target


def make(table: Mapping[str, Callable], spec: "str | Spec | Mapping[str, Any]", what: str, *args: Any, **given: Any) -> Any:
    """What `choose` finds, called; an option that it refuses becomes a UserError."""
    found = choose(table, spec, what)
    try:
        return found(*args, **given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"The {what} {Spec.of(spec)} cannot be made: {error}") from error


def _misfit(value: Any, default: Any) -> str:
    """What an option with this default should have been, or nothing if the value is of its kind."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        return "" if isinstance(value, bool) else "true or false"
    if isinstance(default, int):
        return "" if isinstance(value, int) and number else "a whole number"
    if isinstance(default, float):
        return "" if number and math.isfinite(value) else "a number"
    if isinstance(default, tuple):
        kind = type(default[0]) if default else object
        whole = isinstance(value, tuple | list) and len(value) and all(isinstance(v, int | kind) for v in value)
        return "" if whole else f"a row of numbers such as {default}"
    return ""


def _split(options: str) -> list[str]:
    """Split at the commas that stand outside brackets."""
    parts, depth = [""], 0
    for char in options:
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return [part for part in parts if part.strip()]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text, text)
