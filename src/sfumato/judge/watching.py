"""Who watches a run that a person has started, besides those who draw and log it: the doctor, the report, and who was asked."""

from collections.abc import Callable, Sequence

from ..config import builtins
from ..plan import Plan
from ..run import Run
from ..training import loggers
from ..training.loop import Watcher
from ..training.watch import careful
from .best import Best
from .doctor.watcher import Watch
from .report import Report


def watchers(run: Run, plan: Plan, say: Callable[[str], None], device: str | None, log_to: Sequence[str]) -> list[Watcher]:
    """They are asked in this order. What fails in one of them is said, and training goes on without it.

    log_to   names of LOGGERS to tell too
    """
    others: dict[str, Watcher] = {"The doctor": Watch(run, plan, say)}
    if plan.config.best == "kernel":
        others["The best by kernel distance"] = Best(run, plan, say, device)
    told = builtins(plan.config)
    others |= {each: loggers.LOGGERS[each](run.logger(each), told, run.grid) for each in log_to}
    others["The report"] = Report(run)  # last: it shows what the others have found
    return [careful(watcher, name, say) for name, watcher in others.items()]
