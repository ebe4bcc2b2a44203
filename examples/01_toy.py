"""A mixture of two Gaussians, sampled without any learning.

The exact denoiser E[x0 | x_t] of a mixture is known, so whatever goes wrong here is the solver's fault. The picture shows
the paths that points take from noise (left) to the mixture, and how the error of each solver falls with its evaluations.
"""

import math
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from sfumato import draws, samplers, schedules, toy

out = Path(sys.argv[1] if len(sys.argv) > 1 else "01_toy.png")
schedule = schedules.flow()
means = torch.tensor([[-1.0, 0.6], [1.0, -0.6]])
mixture = toy.Mixture(schedule, torch.tensor([0.35, 0.65]), means, 0.3)

# 1. paths: the same points of noise, followed down to t = 0
x = draws.normal(draws.keys(0, "start", range(200)), (2,), torch.float64)  # (B, 2)
path = [x]
samplers.sample(mixture, x, "heun", steps=60, callback=lambda i, t, x, x0: path.append(x))
paths = torch.stack(path)  # (steps + 1, B, 2)

# 2. errors: distance from a very fine solution, over the number of evaluations. The median, because the few points that
#    start on the watershed between the two Gaussians may end in the other one, whatever the solver's order.
times = lambda n: schedule.time(torch.linspace(-8, 8, n + 1, dtype=torch.float64))
exact = samplers.sample(mixture, x, "heun", times=times(2000))
errors = {}
for solver, cost in {"ddim": 1, "heun": 2, "dpmpp_2m": 1}.items():
    steps = [n // cost for n in (8, 16, 32, 64, 128)]
    found = [samplers.sample(mixture, x, solver, times=times(n)) for n in steps]
    errors[solver] = [(n * cost, (f - exact).norm(dim=1).median().item()) for n, f in zip(steps, found, strict=True)]
    (n1, e1), (n2, e2) = errors[solver][-2:]
    print(f"{solver:9} error {e2:.1e} in {n2} evaluations, order {math.log(e1 / e2) / math.log(n2 / n1):.2f}")

figure = Figure(figsize=(10, 4.5), layout="constrained")
left, right = figure.subplots(1, 2)
left.plot(paths[:, :60, 0], paths[:, :60, 1], color="#2f6db3", alpha=0.25, linewidth=0.7)
left.scatter(*paths[0].T, s=6, color="#a8a8a8", label="t = 1: noise")
left.scatter(*paths[-1].T, s=6, color="#d9772b", label="t = 0: the mixture")
left.set(aspect="equal", title="From noise to two Gaussians")
left.legend(loc="upper right")
for solver, points in errors.items():
    right.loglog(*zip(*points, strict=True), marker="o", label=solver)
right.set(xlabel="evaluations of the denoiser", ylabel="median distance from the exact path", title="Error of the solvers")
right.legend()
figure.savefig(out, dpi=120)
print(out)
