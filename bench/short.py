"""What to train with when time is short: python bench/short.py DATA OUT NAME=FLAGS [NAME=FLAGS ...] [--seconds 60]

FLAGS are those of `sfumato train`, in quotes. Candidates are first timed in turns, so that whatever else the machine does meets
all of them; then each is trained, alone, on as many images as it would see in so many seconds, of which `defaults.STEPS` is
spent on steps. So the comparison is of equal time even where the machine is not quiet.

Judged by the held-out loss and by the distance of samples to held-out pictures, in the features of a network trained on the
training part of DATA: name pictures that no result is reported on. What is there in OUT is not done again. Prints a table and
writes OUT/short.jsonl.
"""

import argparse
import json
import shlex
import statistics
from pathlib import Path

import msgspec
from _judge import Judge
from _side_by_side import heading

import sfumato
from sfumato import defaults, trainer
from sfumato.commands.chosen import Choices, read
from sfumato.config import Settled
from sfumato.model import build_net
from sfumato.plan import Plan
from sfumato.run import Run
from sfumato.training.device import best_device


def timed(plans: dict[str, Plan], rounds: int = 5) -> dict[str, float]:
    """Images a second of each: medians of a second of training steps each, in turns."""
    found: dict[str, list[float]] = {name: [] for name in plans}
    for name, plan in rounds * list(plans.items()):
        net = build_net(plan.config, plan.facts)
        found[name].append(plan.speed(net, plan.fastest(net, best_device())[0], 1.0))
    return {name: statistics.median(speeds) for name, speeds in found.items()}


def judged(judge: Judge, run: Run, samples: int, steps: int) -> dict[str, float]:
    found = judge.drawn(sfumato.load(run), samples, steps=steps, solver="dpmpp_2m").features
    return {"held_out_loss": run.records()[-1]["held_out_loss"], **judge.distance(found)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=FLAGS")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    known = args.out / "speeds.json"
    speeds = json.loads(known.read_text()) if known.exists() else {}
    print(heading(best_device()))
    flags = dict(each.split("=", 1) for each in args.runs)
    typed = {name: [args.data, *shlex.split(words)] for name, words in flags.items()}
    configs = {name: read(Choices, words, "sfumato train", "")[0].config for name, words in typed.items()}
    asked = {name: msgspec.structs.replace(config, time=args.seconds) for name, config in configs.items()}
    plans = {name: trainer.prepare(args.data, config, measure=True) for name, config in asked.items()}
    judge = Judge(next(iter(plans.values())))
    print(judge.about, f"As many training pictures: {judge.distance(judge.floor(args.samples))['distance']:.3g}.")
    if not flags.keys() <= speeds.keys():
        speeds |= timed(plans)
        known.write_text(json.dumps(speeds))
    rows = []
    for name, plan in plans.items():
        config: Settled = plan.config
        images = int(defaults.STEPS * args.seconds * speeds[name]) // config.batch * config.batch
        run = Run.of(args.out / f"{name}-{args.seconds:g}")
        chosen = {ruled: getattr(config, ruled) for ruled in defaults.RULED}
        stated = msgspec.structs.replace(configs[name], images=images, log_every=max(config.batch, images // 8), **chosen)
        trainer.train(args.data, stated, run)  # what is finished is found so
        row = {"name": name, "flags": flags[name], "speed": speeds[name], "images": images}
        rows.append(row | judged(judge, run, args.samples, args.steps))
        print(json.dumps(rows[-1]), flush=True)
    with open(args.out / "short.jsonl", "a") as file:
        file.writelines(json.dumps(row | {"seconds": args.seconds, "machine": heading(best_device())}) + "\n" for row in rows)
    print("| flags | images/s | images | held-out loss | distance |\n|---|---|---|---|---|")
    for row in rows:
        cells = (f"`{row['flags']}`", f"{row['speed']:.0f}", f"{row['images']:,}", f"{row['held_out_loss']:.3f}")
        print("| " + " | ".join((*cells, f"{row['distance']:.3g}")) + " |")


if __name__ == "__main__":
    main()
