"""What addressed randomness costs beside a training step: python bench/draws.py"""

import torch
from _side_by_side import compare, heading

from sfumato import data, draws, trainer
from sfumato.built import build_net
from sfumato.config import checked
from sfumato.training.device import Placement
from sfumato.training.stream import Stream

said = {"net": "unet", "batch": 128, "lr": 1e-3, "schedule": "edm", "times": "log_normal", "precision": "float32"}
plan = trainer.prepare("digits", checked(said))
net = build_net(plan.config, plan.facts)
step, placement = plan.trial(), Placement(torch.device("cpu"))
batch = torch.arange(128)
block = torch.arange(8192)
noise = draws.keys(0, "noise", batch)
stream = Stream(plan.train, data.AffineCodec(**plan.facts.codec), placement)

print(heading())
found = compare(
    {
        "training step, unet on digits, batch 128": lambda: step(net, placement),
        "noise, 128 x 1 x 8 x 8": lambda: draws.normal(noise, (1, 8, 8)),
        "noise, 128 x 1 x 28 x 28": lambda: draws.normal(noise, (1, 28, 28)),
        "noise, 128 x 3 x 32 x 32": lambda: draws.normal(noise, (3, 32, 32)),
        "torch.randn, 128 x 3 x 32 x 32": lambda: torch.randn(128, 3, 32, 32),
        "training times of 128": lambda: draws.golden(0, "time", batch),
        "order of 128 positions": lambda: draws.shuffle(0, "order", batch, 60_000),
        "order of 8192 positions": lambda: draws.shuffle(0, "order", block, 60_000),
        "a batch of 128 from the stream": lambda: stream.batch(batch),
    }
)
whole = next(iter(found.values()))
for name, seconds in found.items():
    print(f"{name:42} {seconds * 1e3:8.2f} ms  {100 * seconds / whole:6.2f} % of the step")
