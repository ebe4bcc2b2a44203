"""What ends a run before its budget: a signal, or a loss that no longer falls."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from .loop import Event


@contextmanager
def stopping(say: Callable[[str], None] = lambda text: None) -> Iterator[threading.Event]:
    """An event that is set by the first Ctrl-C or SIGTERM, which is said; the second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():  # only the main thread may catch signals
        yield stop
        return

    def ask(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not stop.is_set():
            say("Stopping after this step, and saving. (Ctrl-C once more: at once, and nothing is saved.)")
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def flat(records: Sequence[Mapping[str, Any]], share: float = 0.005) -> bool:
    """Whether the held-out loss has fallen by less than a share over the last third of the images in these lines of a log.

    The lowest value of that third is compared with the lowest before; each must have four values. The loss is always of the
    same pictures and noise, so that what it wavers by is the weights' doing.
    """
    found = [(record["images"], record["held_out_loss"]) for record in records if record.get("held_out_loss") is not None]
    before = [loss for images, loss in found if 3 * images <= 2 * found[-1][0]]
    since = [loss for images, loss in found if 3 * images > 2 * found[-1][0]]
    return min(len(before), len(since)) >= 4 and min(since) > (1 - share) * min(before)


class Plateau:
    """Says so once the held-out loss is `flat`."""

    def __init__(self, records: Callable[[], list[dict[str, Any]]]):
        self.records, self.reached = records, False

    def __call__(self, event: Event) -> None:
        if event.kind == "start" or (event.kind == "log" and event.record and "held_out_loss" in event.record):
            self.reached = flat(self.records())
