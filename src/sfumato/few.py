"""Few steps: the times at which a model is best asked, when it may be asked only a few times.

A grid made by rule wastes evaluations where nothing is decided: at much noise every picture still looks like the average,
and the last steps change what nobody sees. With 2 to 5 evaluations each counts. So the times, the first one included, are
moved until the pictures come nearest to those of many steps from the same noise. Nothing is trained, the network is only
asked; the times found hold for all seeds, and for all samples of the model.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize
from torch import Tensor

from . import samplers
from .denoisers import Denoises
from .disk import replace_text
from .errors import UserError
from .model import Model, spread
from .run import Run
from .schedules import HIGHEST, LOWEST
from .spec import Spec


@dataclass(frozen=True)
class Tuned:
    """Times for a sampler; how far pictures are from the fine solution with the schedule's own grid, and with them (RMS)."""

    times: tuple[float, ...]
    before: float
    after: float


def tune(
    denoise: Denoises,
    start: Callable[[float], Tensor],
    steps: int,
    solver: str | Spec = "dpmpp_2m",
    fine: int = 40,
    evaluations: int = 40,
    clip: tuple[float, float] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    **cond: Any,
) -> Tuned:
    """The falling times of `steps` steps, from noise to 0, that bring a solver nearest to `fine` steps of unipc.

    start         t -> x_t (B, ...), the noise that sampling begins from at t; the same eps whatever t
    evaluations   trials for each time that is moved; each costs as many evaluations of the network as the solver takes

    The distance is taken picture by picture, so that a solver that adds noise is refused (UserError). The search is the
    simplex of Nelder & Mead 1965, in log-SNR.
    """
    if noisy(Spec.of(solver)):
        raise UserError(f"Times are tuned to a solver without noise of its own, such as dpmpp_2m; found {solver}.")
    schedule, t_max = denoise.schedule, getattr(denoise, "t_max", 1.0)
    own = schedule.grid(steps, start=t_max)
    truth = samplers.sample(denoise, start(t_max), "unipc", times=spread(schedule, fine, t_max), clip=clip, **cond)
    total, tried = evaluations * steps, iter(range(1, 1_000_000))

    def distance(times: Tensor) -> float:
        x0 = samplers.sample(denoise, start(times[0].item()), solver, times=times, clip=clip, **cond)
        progress(min(next(tried), total), total)
        return (x0 - truth).square().mean().sqrt().item()

    def times(levels: Any) -> Tensor:  # the log-SNR of each step's beginning, in rising order and within reach
        rising = torch.as_tensor(sorted(levels), dtype=torch.float64).clamp(max(LOWEST, schedule.log_snr(t_max)), HIGHEST)
        return torch.cat((schedule.time(rising), torch.zeros(1, dtype=torch.float64)))

    def cost(levels: Any) -> float:
        spread = times(levels)
        return distance(spread) if (spread.diff() < 0).all() else math.inf

    first = torch.linspace(max(-5.5, schedule.log_snr(t_max)), 2.5, steps + 1, dtype=torch.float64)[:-1]
    simplex = torch.cat((first[None], first + torch.eye(steps))).numpy()
    options = {"maxfev": total, "xatol": 0.02, "fatol": 1e-5, "initial_simplex": simplex}
    found = minimize(cost, first.numpy(), method="Nelder-Mead", options=options)
    before = distance(own)
    if before <= found.fun:
        return Tuned(tuple(own.tolist()), before, before)
    return Tuned(tuple(times(found.x).tolist()), before, float(found.fun))


def noisy(solver: Spec) -> bool:
    """Whether a solver adds noise of its own on its way."""
    return bool(solver.name == "ddpm" or solver.kw.get("eta", solver.name == "dpmpp_2m_sde") or solver.kw.get("churn"))


def tunable(solver: Spec) -> Spec:
    """The solver, or dpmpp_2m for one that adds noise."""
    return Spec("dpmpp_2m") if noisy(solver) else solver


def times(
    model: Model,
    run: Run,
    steps: int | None = None,
    solver: str | Spec | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[float, ...]:
    """The times of so many steps tuned to a model, from its run folder or found now and kept there."""
    steps, chosen = steps or model.config.sampling_steps, Spec.of(solver or tunable(model.config.solver))
    known = json.loads(run.times.read_text()) if run.times.is_file() else {}
    name = f"{chosen}, {steps} steps, {model.images} images" + f", {model.weights}" * (model.weights != "ema")
    if name not in known:
        found = tuned(model, steps, chosen, progress)
        known[name] = {"times": found.times, "before": round(found.before, 5), "after": round(found.after, 5)}
        replace_text(run.times, json.dumps(known, indent=2) + "\n")
    return tuple(known[name]["times"])


def tuned(
    model: Model,
    steps: int,
    solver: str | Spec,
    progress: Callable[[int, int], None] = lambda done, total: None,
    samples: int = 16,
) -> Tuned:
    """`tune` on samples of a model, of a seed that nobody draws."""
    numbers, seed = torch.arange(samples), 2**32 - 1
    label = model.label_numbers(None, numbers, seed)
    cond: dict[str, Any] = {} if label is None else {"label": label.to(model.device)}
    start = lambda t: model.start(numbers, seed, t)
    return tune(model.denoiser, start, steps, solver, clip=model.codec.clip, progress=progress, **cond)
