"""torch.compile where it pays: the code that it makes of a network is faster, and takes a minute to make."""

import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..disk import cache_folder
from ..errors import UserError
from .device import recalled, remember

HOPED = 0.07  # of the time of steps, saved, where it has not been measured: the median of docs/benchmarks.md
COST = 60.0  # seconds to make code, where that has not been measured
AGAIN = 1 / 8  # of the cost, once the code is in the cache folder
BACKEND = "inductor"
WRONG = "it makes code of this network that has other gradients"


class WrongGradients(Exception):
    """Compiled code does not do what plain code does."""


def compiled(net: nn.Module) -> nn.Module:
    """Have a network compiled for one batch size when it is next called, in place; copies of it are not."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "compiled"))
    net.compile(dynamic=False, backend=BACKEND)
    return net


def worthwhile(speed: Callable[[bool], float], asked: str, seconds: float, key: str, say: Callable[[str], None]) -> bool:
    """Whether a training of so many seconds, were it not compiled, is shorter if it is.

    That is so where gain x seconds > cost, the gain being the share of the time that is saved. Both are measured with the first
    training that is long enough for it to be likely, and kept for this key: machine, network and batch.

    speed    images a second of training steps of a copy of the network, compiled or not; what is made of it serves the network.
             Raises WrongGradients where it must not
    asked    auto, on or off
    Raises UserError where compiling is asked for and fails.
    """
    if asked == "off":
        return False

    def refused(reason: str) -> bool:
        if asked == "on":
            raise UserError(f"torch.compile does not work here ({reason}). Train without it: --compile off.") from None
        say(f"torch.compile does not work here ({reason}). The network is trained as it is.")
        return False

    known = recalled("compiled.json", key)
    if known is False:
        return refused(WRONG)
    gain, cost = known or (HOPED, COST)
    if known or (asked == "auto" and gain * seconds <= cost):
        return asked == "on" or bool(known and gain * seconds > cost)
    say("Compiling the network, and measuring what it gains: about a minute, once.")
    plain, begun = speed(False), time.perf_counter()
    try:
        gain = round(1 - plain / speed(True), 3)
    except WrongGradients:
        remember("compiled.json", key, False)  # where other failures may be mended, of a compiler that is missing
        return refused(WRONG)
    except Exception as error:  # of what is behind torch.compile anything may be missing or fail
        return refused((str(error).strip() or type(error).__name__).splitlines()[0])
    remember("compiled.json", key, (gain, round(AGAIN * (time.perf_counter() - begun), 1)))
    return asked == "on" or gain > 0  # the cost is spent


def plainly(watcher: Callable[[Any], None]) -> Callable[[Any], None]:
    """The same watcher, for whom nothing is compiled: what it draws comes in batches of other sizes."""

    def watch(event: Any) -> None:
        with torch.compiler.set_stance("force_eager"):
            watcher(event)

    return watch
