"""What a solver's step costs outside the network, and noise outside the training step: python bench/solvers.py

The step is timed with a network that returns at once, and compared with one forward pass of the smallest network.
"""

import torch
from _side_by_side import compare, heading

from sfumato import draws, nets, samplers, schedules
from sfumato.denoisers import Denoiser
from sfumato.losses import denoising_loss

BATCH, STEPS = 64, 20
torch.manual_seed(0)
x = torch.randn(BATCH, 1, 28, 28)
small = {name: nets.build(name, channels=1).eval() for name in ("unet", "convnext_unet")}  # of width 64, folded; the recipe's
answer = torch.zeros_like(x)
idle = Denoiser(lambda x, c: answer, schedules.edm(), predict="edm")


@torch.no_grad()
def forward(net: torch.nn.Module) -> torch.Tensor:
    return net(x, torch.zeros(BATCH))


def training_step(net: torch.nn.Module) -> None:
    t = torch.full((BATCH,), 0.5, dtype=torch.float64)
    denoising_loss(Denoiser(net, schedules.flow(), predict="flow"), x, t, answer).mean().backward()
    net.zero_grad(set_to_none=True)


print(heading())
found = compare(
    {f"forward pass of {name}, 64 x 1 x 28 x 28": lambda net=net: forward(net) for name, net in small.items()}
    | {f"{STEPS} steps of {name}": lambda name=name: samplers.sample(idle, x, name, STEPS) for name in samplers.SOLVERS},
    rounds=9,
)
passes = [seconds for name, seconds in found.items() if name.startswith("forward")]
for name, seconds in found.items():
    if name.startswith("forward"):
        print(f"{name:44} {seconds * 1e3:8.2f} ms")
    else:
        print(
            f"one of {name:37} {seconds / STEPS * 1e3:8.2f} ms {100 * seconds / STEPS / min(passes):6.2f} % of the fastest pass"
        )

keys = draws.keys(0, "noise", range(BATCH))
steps = compare(
    {name: lambda net=net: training_step(net) for name, net in small.items()}
    | {"noise": lambda: draws.normal(keys, x.shape[1:])},
    rounds=7,
)
for name in small:
    print(f"noise is {100 * steps['noise'] / steps[name]:.2f} % of a training step of {name} ({steps[name] * 1e3:.0f} ms)")
