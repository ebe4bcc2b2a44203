"""Guidance on a toy: classes in the plane, steered towards one of them.

A guided guess goes on from a worse guess through a better one. Here both are exact: the better one knows the class, the
worse one does not (classifier-free guidance). One class is made of two branches, as real classes are of many kinds.
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from sfumato import draws, guides, samplers, schedules, toy

out = Path(sys.argv[1] if len(sys.argv) > 1 else "03_guidance.png")
schedule = schedules.flow()
one = torch.tensor([[-1.4, 0.9], [-0.7, 0.5], [0.0, 0.3], [0.3, 1.0], [0.5, 1.7]])  # (5, 2): a stem and a branch
other = one @ torch.tensor([[0.0, -1.0], [1.0, 0.0]]) - torch.tensor([-0.2, 0.5])
everything = torch.cat((one, other))

told = toy.Mixture(schedule, torch.ones(len(one)), one, 0.22)
untold = toy.Mixture(schedule, torch.ones(len(everything)), everything, 0.22)
blurred = toy.Mixture(schedule, torch.ones(len(one)), one, 0.45)  # the same class, learned badly

ways = {
    "told the class, w = 1": told,
    "w = 3": guides.autoguidance(told, untold, 3.0),
    "w = 3, only where 0.3 < k < 2": guides.interval(guides.autoguidance(told, untold, 3.0), told, 0.3, 2.0),
    "away from a blurred model, w = 2": guides.autoguidance(told, blurred, 2.0),
}
x = draws.normal(draws.keys(0, "start", range(2000)), (2,), torch.float64)  # (B, 2)

figure = Figure(figsize=(13, 3.6), layout="constrained")
for panel, (title, denoise) in zip(figure.subplots(1, 4, sharex=True, sharey=True), ways.items(), strict=True):
    samples = samplers.sample(denoise, x, steps=40)
    typical = told.log_prob(samples).median().item()
    print(f"{title:34} median log-likelihood in the class {typical:6.2f}, spread {samples.std(0).norm():.2f}")
    panel.scatter(*untold.draw(2000, seed=1).T, s=3, color="#dddddd")
    panel.scatter(*samples.T, s=3, color="#2f6db3")
    panel.set(aspect="equal", title=title)
figure.savefig(out, dpi=120)
print(out)
