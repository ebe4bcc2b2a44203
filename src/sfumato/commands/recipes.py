"""List the recipes, one line each."""

import dataclasses
import inspect

from rich.console import Console

from .. import flags
from ..recipes import RECIPES


@dataclasses.dataclass
class Arguments:
    pass


def main(arguments: list[str]) -> int:
    flags.parse(Arguments(), arguments, "sfumato recipes", __doc__ or "")
    console = Console(highlight=False, soft_wrap=True)
    width = max(map(len, RECIPES))
    for name, make in RECIPES.items():
        console.print(f"[bold]{name:{width}}[/bold]  {(inspect.getdoc(make) or '').splitlines()[0]}")
    console.print("\nUse one with: sfumato train DATA --recipe NAME")
    return 0
