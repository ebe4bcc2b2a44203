"""What torch.compile gains and takes: python bench/compiled.py DATA "FLAGS" ["FLAGS" ...] [--rounds 5]

FLAGS are those of `sfumato train`, in quotes. Images a second of training steps without and with, in turns (medians of two
seconds each), in the precision and layout that are the fastest without; the seconds that compiling takes with nothing kept, and
again with the code kept, and the time from which the first pays.
"""

import argparse
import os
import statistics
import tempfile
import time

import torch
from _side_by_side import heading, typed

from sfumato import trainer
from sfumato.built import build_net
from sfumato.training.device import best_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("flags", nargs="+", metavar="FLAGS")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    print(f"{heading(best_device())}\n")
    print("| flags | in | images/s | compiled | saved | compiling | again | pays from |\n|---|---|---|---|---|---|---|---|")
    for flags in args.flags:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            plan = trainer.prepare(args.data, typed(args.data, flags)[0].config)
            net = build_net(plan.config, plan.facts)
            placement, _ = plan.fastest(net, best_device())
            costs = []
            for _ in range(2):
                torch._dynamo.reset()  # as in another process; the second time the code is in the folder
                begun = time.perf_counter()
                plan.speed(net, placement, 0.0, True)
                costs.append(time.perf_counter() - begun)
            right = plan.faithful(net, placement)
            turns = [[plan.speed(net, placement, 2.0, faster) for faster in (False, True)] for _ in range(args.rounds)]
        plain, ready = map(statistics.median, zip(*turns, strict=True))
        saved = 1 - plain / ready
        pays = f"{costs[0] / saved / 60:.1f} min" if saved > 0 and right else "never" if right else "never: wrong gradients"
        cells = (
            f"`{flags}`",
            placement,
            f"{plain:.1f}",
            f"{ready:.1f}",
            f"{saved:.0%}",
            *(f"{cost:.0f} s" for cost in costs),
            pays,
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
