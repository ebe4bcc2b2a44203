"""What is said to a person who typed something that cannot work."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """A mistake that the user can mend.

    Its text is one or two sentences: what was expected, what was found, what to type instead. The command line prints
    it without a traceback and exits with code 2.
    """


def unknown(what: str, name: str, names: Iterable[str]) -> UserError:
    """The error for a name that is in no table, offering the nearest one that is."""
    names = sorted(names)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return UserError(f"There is no {what} '{name}'; there is {shown or 'none'}.{hint}")
