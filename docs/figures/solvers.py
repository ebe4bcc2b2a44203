"""The orders and errors of all solvers on a mixture of Gaussians: the table and the plot of docs/solvers.md.

python docs/figures/solvers.py PICTURE [RUN]

With a run folder, the errors of its model besides, against 200 steps of unipc. The published dpmpp_3m, without the factor
2, is rebuilt here from ours, for comparison: its parabola counts half.
"""

import math
import sys

import torch
from matplotlib.figure import Figure

import sfumato
from sfumato import draws, samplers, schedules, toy

EVALUATIONS = {"heun": 2}
torch.set_num_threads(1)


def published_3m(denoise, x, t, s, state, draw):
    """dpmpp_3m as it was published: the second divided difference stands where half the second derivative belongs."""
    behind = samplers._behind(denoise.schedule, state, t, s, 2)
    if len(behind) < 2:
        return samplers.dpmpp_3m(denoise, x, t, s, state, draw)
    schedule = denoise.schedule
    nodes = [(schedule.log_snr(p) - schedule.log_snr(t)) / 2 for p, _ in behind]
    h = (schedule.log_snr(s) - schedule.log_snr(t)) / 2
    ours, new = samplers._multistep(denoise, x, t, s, state, draw, order=3)
    (a, b), d = nodes, [x0 for _, x0 in (*behind, new[-1])]
    curve = ((d[2] - d[1]) / -b - (d[1] - d[0]) / (b - a)) / -a  # second divided difference at a, b, 0
    square = h**2 - 2 * (h + math.expm1(-h))  # int_0^h e^(u - h) u^2 du
    return ours - schedule(s)[0].item() * square / 2 * curve, new


samplers.SOLVERS["dpmpp_3m as published"] = published_3m
NAMES = ["euler", "ddim", "heun", "dpmpp_2m", "dpmpp_3m as published", "dpmpp_3m"] + [f"unipc:order={n}" for n in (1, 2, 3)]

# the mixture of the tests: widths 0.4 and 0.6, float64, log-SNR -4 to 5 in equal steps
schedule = schedules.flow()
means = torch.tensor([[-0.8, 0.3], [0.9, -0.5]], dtype=torch.float64)
mixture = toy.Mixture(schedule, torch.tensor([0.4, 0.6]), means, torch.tensor([0.4, 0.6]))
times = lambda n: schedule.time(torch.linspace(-4, 5, n + 1, dtype=torch.float64))
start = draws.normal(draws.keys(0, "start", range(64)), (2,), torch.float64) * math.exp(2) * schedule(times(1)[0].item())[0]
truth = samplers.sample(mixture, start, "unipc", times=times(2560))
errors = {}
print("| solver | evaluations a step | order, 20 to 160 steps | error in 20 evaluations | 40 | 80 | 160 |")
print("|---|---|---|---|---|---|---|")
for name in NAMES:
    cost = EVALUATIONS.get(name, 1)
    steps = {n: (samplers.sample(mixture, start, name, times=times(n)) - truth).square().mean().sqrt().item()
             for n in (5, 10, 20, 40, 80, 160)}  # fmt: skip
    errors[name] = [(n * cost, e) for n, e in steps.items()]
    order = math.log(steps[20] / steps[160]) / math.log(8)
    row = [steps[n // cost] for n in (20, 40, 80, 160)]
    print(f"| `{name}` | {cost} | {order:.2f} | " + " | ".join(f"{e:.1e}" for e in row) + " |")

panels = [("A mixture of Gaussians, exact denoiser", errors)]
if len(sys.argv) > 2:
    model, found = sfumato.load(sys.argv[2]), {}
    d, numbers = model.denoiser, torch.arange(16)
    x = model.start(numbers, 0)
    cond = {} if (label := model.label_numbers(None, numbers, 0)) is None else {"label": label}
    draw = lambda name, n: samplers.sample(d, x, name, n, clip=model.codec.clip, **cond)
    truth = draw("unipc", 200)
    for name in ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc:order=2", "unipc:order=3"):
        cost = EVALUATIONS.get(name, 1)
        found[name] = [(n, (draw(name, n // cost) - truth).square().mean().sqrt().item()) for n in (4, 6, 8, 12, 20, 40)]
        print(f"{name:14}", *(f"{n}: {e:.3f}" for n, e in found[name]))
    panels.append((f"{model.config.net} trained on {model.facts.data}".replace("_", " "), found))

figure = Figure(figsize=(6.5 * len(panels), 4.6), layout="constrained")
for panel, (title, found) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
    for name, points in found.items():
        index = NAMES.index(name)
        panel.loglog(*zip(*points, strict=True), marker="o", markersize=4, color=f"C{index}", label=name,
                     linestyle="--" if "published" in name else ":" if name == "ddim" else "-")  # fmt: skip
    panel.set(xlabel="evaluations of the denoiser", ylabel="error (root mean square)", title=title)
    panel.legend(fontsize=8)
figure.savefig(sys.argv[1], dpi=120)
