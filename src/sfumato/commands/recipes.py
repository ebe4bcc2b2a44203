"""List the recipes, one line each."""

import inspect

from rich.console import Console

from ..recipes import RECIPES


def main(arguments: list[str]) -> int:
    console = Console(highlight=False, soft_wrap=True)
    width = max(map(len, RECIPES))
    for name, make in RECIPES.items():
        console.print(f"[bold]{name:{width}}[/bold]  {(inspect.getdoc(make) or '').splitlines()[0]}")
    console.print("\nUse one with: sfumato train DATA --recipe NAME")
    return 0
