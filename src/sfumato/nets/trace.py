"""What goes into each block of a network and what comes out: the shapes of one forward pass, on a page."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from rich.table import Table

PAGE = 50  # rows that can be taken in at once

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One call of one module."""

    name: str  # in the network; '' is the network itself
    kind: str
    depth: int  # of the calls: 0 the network, 1 what it calls, 2 what that calls
    inputs: tuple[Shape, ...]  # of all tensors it is given, by position and by name, the batch first
    outputs: tuple[Shape, ...]
    parameters: int  # none of them counted in a call that ended before
    again: int  # its parameters that were counted before, for the module was called before or shares them
    parts: int  # modules inside

    @property
    def block(self) -> bool:
        """Whether it has parameters or modules of its own."""
        return self.parameters + self.again + self.parts > 0


def trace(net: nn.Module, shape: tuple[int, int, int], batch: int = 1, **cond: Any) -> list[Row]:
    """Every call of a module while `net` looks at `batch` pictures of zeros, (C, H, W) each, in the order of execution.

    The first row is the network itself, and a module stands before those that it calls; one that is called twice has two
    rows. What is no module (torch.cat, max-pooling by a function) has no row: it shows where an input is not the output
    above it, as twice the channels or half the size. Labels that the network declares are 'not told', its other conditions
    left out, unless they are in `cond`. The pass runs in evaluation mode, without gradients, on the network's own device;
    mode, hooks and buffers are afterwards what they were.
    """
    x, c_noise = _zeros(net, batch, shape), _zeros(net, batch, ()).float()
    told: dict[str, Any] = {}
    for name, condition in getattr(net, "conditions", {}).items():
        if condition.classes is not None:
            told[name] = torch.full((batch,), condition.classes, device=x.device)
    rows: list[Row | None] = []
    with _as_it_was(net), _recorded(net, rows), torch.no_grad():
        net.eval()
        net(x, c_noise, **told | cond)
    return [row for row in rows if row is not None]


def blocks(rows: list[Row]) -> list[Row]:
    """The rows of blocks that the network calls, and of blocks of parts that those call, if all fit on a page."""
    both = [row for row in rows if (row.depth == 1 and row.block) or (row.depth == 2 and row.parts)]
    return both if len(both) <= PAGE else [row for row in both if row.depth == 1]


def table(rows: list[Row], whole: bool = False) -> "Table":
    """What `trace` found as a table for the terminal: its `blocks`, or with `whole` every call of every module.

    Shapes are of one picture: the batch before them is left out.
    """
    from rich.table import Table
    from rich.text import Text

    net, batch = rows[0], rows[0].inputs[0][0]
    shown, out = rows[1:] if whole else blocks(rows), Table(box=None, pad_edge=False, header_style="bold")
    for title in ("block", "type", "input", "output"):
        out.add_column(title, no_wrap=title in ("block", "type"))
    out.add_column("parameters", justify="right", no_wrap=True)

    def line(name: str, row: Row, count: str) -> None:
        out.add_row(*map(Text, (name, row.kind, _written(row.inputs, batch), _written(row.outputs, batch), count)))

    above = [""]  # the names of the calls that the row lies in, by depth
    for row in shown:
        above[row.depth :] = [row.name]
        inside = f"{above[-2]}." if above[-2] and row.name.startswith(f"{above[-2]}.") else ""
        count = "counted above" if row.again and not row.parameters else f"{row.parameters:,}" if row.block else ""
        line("  " * (row.depth - 1) + row.name.removeprefix(inside), row, count)
    outside = net.parameters - sum(row.parameters for row in rows if row.depth == 1)
    if outside:
        out.add_row(*map(Text, ("outside of these", "", "", "", f"{outside:,}")))
    out.add_section()
    line("the network", net, f"{net.parameters:,}")
    return out


def _zeros(net: nn.Module, batch: int, shape: tuple[int, ...]) -> Tensor:
    """Zeros (batch, *shape) where the network is, in the type of its weights."""
    first = next((p for p in net.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(batch, *shape, device=first.device, dtype=first.dtype)


@contextmanager
def _recorded(net: nn.Module, rows: list[Row | None]) -> Iterator[None]:
    """Hooks on every module that add to `rows` while this lasts; a row is None while its call is under way."""
    names = {module: name for name, module in net.named_modules()}
    under_way: list[int] = []  # where the rows of these calls will stand
    begun: dict[int, tuple[tuple[Shape, ...], int]] = {}  # by that place: what it was given, parameters counted before
    counted: set[Tensor] = set()

    def begin(module: nn.Module, args: Any, kwargs: Any) -> None:
        under_way.append(len(rows))
        begun[len(rows)] = _shapes((args, kwargs)), sum(p.numel() for p in module.parameters() if p in counted)
        rows.append(None)

    def end(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        place = under_way.pop()
        inputs, again = begun.pop(place)
        fresh, parts = sum(p.numel() for p in module.parameters()) - again, sum(1 for _ in module.modules()) - 1
        kind = type(module).__name__
        rows[place] = Row(names[module], kind, len(under_way), inputs, _shapes(out), fresh, again, parts)
        counted.update(module.parameters())

    handles = [module.register_forward_pre_hook(begin, with_kwargs=True) for module in names]
    handles += [module.register_forward_hook(end, with_kwargs=True) for module in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_it_was(net: nn.Module) -> Iterator[None]:
    """Each module's mode and buffers are put back at the end, also of a pass that failed."""
    modes = [(module, module.training) for module in net.modules()]
    buffers = [(m, name, b, b.clone()) for m in net.modules() for name, b in m._buffers.items() if b is not None]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer.copy_(value)


def _shapes(value: Any) -> tuple[Shape, ...]:
    """The shapes of all tensors in a value, whatever holds them."""
    if isinstance(value, Tensor):
        return (tuple(value.shape),)
    if isinstance(value, dict):
        value = tuple(value.values())
    return tuple(shape for part in value for shape in _shapes(part)) if isinstance(value, tuple | list) else ()


def _written(shapes: tuple[Shape, ...], batch: int) -> str:
    """3x64x64, or 32 for a vector, each without its batch; a shape that does not begin with the batch is in brackets."""
    told = lambda shape: "x".join(map(str, shape[1:])) or "1"
    return ", ".join(told(shape) if shape[:1] == (batch,) else f"({'x'.join(map(str, shape))})" for shape in shapes)
