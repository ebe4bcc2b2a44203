"""Where and in which precision a network runs: applied to it from outside, chosen by measurement."""

import contextlib
import copy
import hashlib
import itertools
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Facts
from ..disk import cache_folder, replace_text
from ..errors import UserError
from .by_layer import by_layer


@dataclass(frozen=True)
class Placement:
    """A device, the precision of its matrix products, and the memory layout of pictures."""

    device: torch.device
    precision: str = "float32"  # or bfloat16, by autocast
    channels_last: bool = False
    by_layer: bool = False  # convolutions choose the layout of their maps, whatever that of their weights

    @classmethod
    def of(cls, device: torch.device, facts: Facts) -> "Placement":
        """The one that was chosen when a run began, as far as it is for this device."""
        return cls(device, facts.precision, facts.channels_last, facts.by_layer and device.type == "cpu")

    def kept(self) -> dict[str, Any]:
        """What is kept of it for another time."""
        return {"precision": self.precision, "channels_last": self.channels_last, "by_layer": self.by_layer}

    def __str__(self) -> str:
        return self.precision + ", channels_last" * self.channels_last + ", layout by layer" * self.by_layer

    @property
    def layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def net(self, net: nn.Module) -> nn.Module:
        """Move a network here, in place."""
        if self.by_layer:
            by_layer(net)
        return net.to(self.device).to(memory_format=self.layout)  # type: ignore[call-overload]  # torch's stub lacks it

    def images(self, x: Tensor) -> Tensor:
        """Move pictures (B, C, H, W) here, without waiting for the copy."""
        return x.to(self.device, memory_format=self.layout, non_blocking=True)

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context that a forward pass runs in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")


def best_device() -> torch.device:
    """The accelerator if torch sees one, else the CPU."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator or torch.device("cpu")


def device_named(name: str | None) -> torch.device:
    """The device of that name, the best one for None; raises UserError if this torch or machine has it not."""
    if name is None:
        return best_device()
    there = ["cpu", *([best_device().type] if best_device().type != "cpu" else [])]
    if name.partition(":")[0] not in there:
        raise UserError(f"There is no device '{name}' here; there is {' and '.join(there)}.")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except RuntimeError as error:
        raise UserError(f"The device '{name}' cannot be used: {str(error).splitlines()[0]}") from None
    return device


def machine(device: torch.device) -> str:
    """What a measurement belongs to: processor, threads and torch version."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = _processor() + (f", {torch.get_num_threads()} threads" if device.type == "cpu" else f", {device.type}")
    return f"{name}, torch {torch.__version__}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def choose(
    step: Callable[[nn.Module, Placement], None],
    net: nn.Module,
    device: torch.device,
    asked: str,
    name: str,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[Placement, float]:
    """The fastest placement for a network's training step, measured once per machine and network, and the step's seconds.

    step     runs one forward and backward pass of a network in a placement
    asked    'float32' or 'bfloat16' to decide only the layout, 'auto' to decide both
    name     what tells this network and batch from others
    say      is told when a measurement begins
    """
    precisions = ["float32", "bfloat16"] if asked == "auto" else [asked]
    chooses = (False, True) if device.type == "cpu" else (False,)
    candidates = [Placement(device, *each) for each in itertools.product(precisions, (False, True), chooses)]
    key = address(device, f"{name}|{[*map(str, candidates)]}")
    known = recalled("placements.json", key)
    if not (isinstance(known, dict) and "seconds" in known):
        say("Measuring which precision and memory layout are fastest for this network here: a few dozen steps, once.")
        best, seconds = fastest([partial(_seconds, step, net, p) for p in candidates])
        known = candidates[best].kept() | {"seconds": seconds}
        remember("placements.json", key, known)
    seconds = known.pop("seconds")
    return Placement(device, **known), seconds


def speed(step: Callable[[], object], device: torch.device, images: int, seconds: float) -> float:
    """Images a second of a step of `images` pictures, measured for about so many seconds after two to warm up."""
    for _ in range(2):
        step()
    _wait(device)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        step()
        _wait(device)
        steps += 1
    return steps * images / (time.perf_counter() - start)


def fastest(measures: list[Callable[[], float]], rounds: int = 5, lead: float = 0.95, enough: float = 5.0) -> tuple[int, float]:
    """Which of several measurements of seconds is the smallest, and it; the first unless another is below `lead` times it.

    They are taken in turns, so that whatever else the machine does meets all of them; the best of each counts. Those that
    are far behind after a round are not measured again, nor is one whose first call, which also allocates and compiles,
    takes four times as long as those of all before it. Rounds end, after two of them, when they have taken `enough` seconds.
    """
    best, firsts = [math.inf] * len(measures), list[float]()
    running = list[int]()
    for i, measure in enumerate(measures):
        first = measure()
        if not firsts or first <= 4 * max(firsts):
            firsts.append(first)
            running.append(i)
    spent = 0.0
    for turn in range(rounds):
        for i in running:
            found = measures[i]()
            best[i], spent = min(best[i], found), spent + found
        running = [i for i in running if best[i] <= 1.5 * min(best)]
        if turn and spent >= enough:
            break
    winner = best.index(min(best)) if min(best) < lead * best[0] else 0
    return winner, best[winner]


def _seconds(step: Callable[[nn.Module, Placement], None], net: nn.Module, placement: Placement) -> float:
    net = placement.net(copy.deepcopy(net))  # here, so that one copy at a time takes memory
    _wait(placement.device)
    start = time.perf_counter()
    step(net, placement)
    _wait(placement.device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


# ---- what was measured, kept for another time ------------------------------------------------------------------------


def address(device: torch.device, name: str) -> str:
    """Where a measurement of what `name` says, on this machine, is kept."""
    return hashlib.blake2b(f"{machine(device)}|{name}".encode(), digest_size=12).hexdigest()


def recalled(file: str, key: str) -> Any:
    """What was remembered in a file of the cache folder, or None."""
    return _read(cache_folder() / file).get(key)


def remember(file: str, key: str, value: Any) -> None:
    """Keep what JSON can hold; a cache that cannot be written costs a measurement next time, no more."""
    path = cache_folder() / file
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(_read(path) | {key: value}, indent=1))


def _read(file: Path) -> dict:
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
