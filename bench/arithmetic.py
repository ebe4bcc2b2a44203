"""How much of what a machine can multiply a training step uses: python bench/arithmetic.py [NET ...] [--device cuda]

NET is as behind --net of `sfumato train`; ddpmpp_cifar10 (the DDPM++ of EDM, 55.7 M parameters), dit_s:patch=2 and
dit_b:patch=2 unless said. A whole step of our loop, stream, optimizer and average included, on pictures of 3x32x32 (or --side),
in the precision and layout that are measured to be the fastest, plain and, with --compile, compiled. Its operations are those
of matrix products and convolutions, forward and backward, as torch counts them; the machine's rate is that of a product of two
square matrices, measured in turns with the step.
"""

import argparse
import statistics
import time

import torch
from _side_by_side import heading
from torch.utils.flop_counter import FlopCounterMode

from sfumato import trainer
from sfumato.built import build_net
from sfumato.config import checked
from sfumato.plan import Plan
from sfumato.training.device import device_named

SIDES = {"cpu": 2048}  # of the matrices; elsewhere 8192


def product(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of a matrix product."""
    side = SIDES.get(device.type, 8192)
    matrix = torch.randn(side, side, device=device).to(dtype)

    def wait() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    found = []
    for _ in range(6):
        begun = wait()
        matrix @ matrix
        found.append(wait() - begun)
    return 2 * side**3 / statistics.median(found[1:])


def work(plan: Plan) -> float:
    """Operations of a step, an image; counted without reckoning."""
    with torch.device("meta"):
        net = build_net(plan.config, plan.facts)
        x, c_noise = torch.empty(2, *plan.facts.shape), torch.empty(2)
        with FlopCounterMode(display=False) as counter:
            net(x, c_noise).sum().backward()
    return counter.get_total_flops() / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["ddpmpp_cifar10", "dit_s:patch=2", "dit_b:patch=2"], metavar="NET")
    parser.add_argument("--device")
    parser.add_argument("--batch", type=int, help="4 on a CPU, 256 elsewhere unless said")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    device = device_named(args.device)
    batch = args.batch or (4 if device.type == "cpu" else 256)
    pictures = (torch.rand(max(256, batch), args.side, args.side, 3) * 255).byte().numpy()
    print(f"{heading(device)}; 3x{args.side}x{args.side}, batch {batch}\n")
    print("| network | in | images/s | TFLOP/s | of a bfloat16 product | of a float32 product |\n|---|---|---|---|---|---|")
    for name in args.nets:
        plan = trainer.prepare(pictures, checked({"net": name, "batch": batch, "lr": 1e-4, "held_out": 0.0}))
        torch.manual_seed(0)
        net = build_net(plan.config, plan.facts)
        placement, _ = plan.fastest(net, device)
        for faster in (False, True)[: 1 + args.compile]:
            if faster and not plan.faithful(net, placement):
                print(f"| `{name}` | compiled: wrong gradients |", flush=True)
                continue
            turns = [
                (plan.speed(net, placement, 3.0, faster), product(device, torch.bfloat16), product(device, torch.float32))
                for _ in range(args.rounds)
            ]
            speed, half, full = map(statistics.median, zip(*turns, strict=True))
            done = speed * work(plan)
            cells = (f"`{name}`", f"{placement}{', compiled' * faster}", f"{speed:.2f}", f"{done / 1e12:.3g}")
            print("| " + " | ".join((*cells, f"{done / half:.0%}", f"{done / full:.0%}")) + " |", flush=True)


if __name__ == "__main__":
    main()
