"""From a picture to its noise and back: the same solver with the times turned round.

Sampling is an ordinary differential equation, and it can be followed both ways. The denoiser here is exact, a mixture
around handwritten digits, so that what is lost on the way is the solver's error alone. The noise of a picture looks like any
other noise, yet it holds the picture; and between the noises of two pictures lies a path of pictures.
"""

import sys
from pathlib import Path

import torch

from sfumato import data, draws, picture, samplers, schedules, toy

out = Path(sys.argv[1] if len(sys.argv) > 1 else "04_inversion.png")
images = data.gather(data.open_source("digits"))
codec = data.AffineCodec.fit(images)
x0 = codec.encode(images.batch(torch.arange(150))["image"]).double()  # (150, 1, 8, 8) in [-1, 1]
schedule = schedules.edm()
exact = toy.Mixture(schedule, torch.ones(150), x0, 0.15)
some = x0[:8] + 0.15 * draws.normal(draws.keys(0, "grain", range(8)), (1, 8, 8), torch.float64)  # as the mixture has them


def there_and_back(solver: str, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    times = schedule.grid(steps)
    noise = samplers.sample(exact, some, solver, times=times.flip(0))
    return noise, samplers.sample(exact, noise, solver, times=times)


for solver in ("ddim", "dpmpp_2m", "unipc"):
    lost = [(there_and_back(solver, steps)[1] - some).abs().max().item() / 2 for steps in (25, 50, 100)]
    print(f"{solver:9} lost of the range in 25, 50, 100 steps: " + ", ".join(f"{e:.1e}" for e in lost))

noise, back = there_and_back("unipc", 100)
first, last = noise[0], noise[1]
angles = torch.linspace(0, 1, 8).double()[:, None, None, None] * torch.pi / 2
between = samplers.sample(exact, angles.cos() * first + angles.sin() * last, "unipc", times=schedule.grid(100))
show = lambda x: picture.to_uint8(x.clamp(-1, 1).permute(0, 2, 3, 1).numpy())
rows = {"pictures": some, "their noise": noise / schedule(1.0)[1] / 2, "and back": back, "0 into 1": between}
picture.save_png(out, picture.sheet({name: show(x) for name, x in rows.items()}, columns=8))
print(out)
