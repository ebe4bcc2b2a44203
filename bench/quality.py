"""Quality over time: how far samples are from held-out pictures after so many minutes of training.

python bench/quality.py DATA OUT NAME=FLAGS [NAME=FLAGS ...] [--minutes 1 3 10 30 60]

FLAGS are those of `sfumato train`, in quotes. First all are timed in turns, so that whatever else the machine does meets all of
them; a minute then is as many images as 60 seconds hold at that speed, of which `defaults.STEPS` is spent on steps. So the
comparison is of equal time even where the machine is not quiet afterwards, or trains several beside one another: `--speeds`
ends after the timing, which is kept in OUT, and later calls may have fewer threads (OMP_NUM_THREADS).

A run whose rate falls towards the end of its budget is trained anew for each time; one with --recipe is trained once, at its
own length, and looked at in passing. What is there in OUT is not done again.

Samples are drawn by the averaged weights, without guidance, and compared with all pictures that training held out, in the
features of a network of the project's own that was trained on the training part, once. The distance of as many pictures of it
is what a model that repeats them would have. To choose settings by, name pictures that no result is reported on. Writes
OUT/quality.jsonl and OUT/quality.png, which shows all that is kept there, and prints a table.
"""

import argparse
import json
import signal
import statistics
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import msgspec
from _judge import Judge
from _side_by_side import heading, kept, typed

import sfumato
from sfumato import defaults, trainer
from sfumato.config import BUDGET, Settled, builtins, with_options
from sfumato.plan import Plan
from sfumato.run import Run
from sfumato.training import loop
from sfumato.training.device import best_device


class Passing:
    """Checkpoints at so many images, then an end."""

    def __init__(self, folder: Path, config: Settled, images: list[int]):
        self.folder, self.config, self.left = folder, config, sorted(images)

    def __call__(self, event: loop.Event) -> None:
        if event.kind == "step" and self.left and event.state.images >= self.left[0]:
            loop.save(self.folder, self.config, event.state)
            self.left.pop(0)
            if not self.left:
                signal.raise_signal(signal.SIGTERM)  # as a person would end it


def timed(plans: dict[str, Plan], rounds: int = 5) -> dict[str, float]:
    """Images a second of each: medians of two seconds of training steps each, in turns."""
    alike = {key: repr(msgspec.structs.replace(plan.config, time=None)) for key, plan in plans.items()}
    each = {alike[key]: plan for key, plan in plans.items()}
    found: dict[str, list[float]] = {config: [] for config in each}
    for config, plan in rounds * list(each.items()):
        net = plan.build()
        found[config].append(plan.speed(net, plan.fastest(net, best_device())[0], 2.0))
    return {key: statistics.median(found[config]) for key, config in alike.items()}


def planned(data: str, runs: dict[str, str], minutes: list[float], known: Path) -> dict[str, dict[str, Any]]:
    """What each run is trained with for each time: images, their speed, and what the rules choose."""
    found = json.loads(known.read_text()) if known.exists() else {}
    plans = {}
    for name, flags in runs.items():
        for each in minutes:
            if f"{name}-{each:g}" not in found:
                config = with_options(typed(data, flags)[0].config, dict.fromkeys(BUDGET) | {"time": 60 * each})
                plans[f"{name}-{each:g}"] = trainer.prepare(data, config, measure=True)
    for key, speed in timed(plans).items():
        config, seconds = plans[key].config, 60 * float(key.rpartition("-")[2])
        images = max(1, int(defaults.STEPS * seconds * speed) // config.batch) * config.batch
        chosen = {name: value for name, value in builtins(config).items() if name in defaults.RULES}
        found[key] = {"images": images, "speed": round(speed, 1), **chosen}
    known.write_text(json.dumps(found, indent=1) + "\n")
    return found


def trained(data: str, out: Path, name: str, flags: str, plans: dict[float, dict[str, Any]]) -> dict[float, Run]:
    """The run for each time; what is finished is found so."""
    args, parent = typed(data, flags)
    if args.recipe == "default":
        found = {}
        for minutes, chosen in plans.items():
            stated = {key: chosen[key] for key in ("images", *defaults.RULES) if key in chosen}
            found[minutes] = Run.of(out / f"{name}-{minutes:g}")
            trainer.train(data, with_options(args.config, stated), found[minutes], say=print, parent=parent)
        return found
    run, counts = Run.of(out / name), sorted(plan["images"] for plan in plans.values())
    if not (run.checkpoints / f"{counts[-1]:09d}").exists():
        config = with_options(args.config, {"keep": 1000})
        watchers = lambda run, plan: [Passing(run.checkpoints, plan.config, counts)]
        trainer.train(data, config, run, None, watchers, print, recipe=args.recipe)
    return dict.fromkeys(plans, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=FLAGS")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 3, 10, 30, 60])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--solver", default="dpmpp_2m_sde")
    parser.add_argument("--speeds", action="store_true", help="measure how fast each is, and end")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))
    runs = dict(each.split("=", 1) for each in args.runs)
    plans = planned(args.data, runs, args.minutes, args.out / "plans.json")
    for name in plans:
        print(name, plans[name], flush=True)
    if args.speeds:
        return
    judge = Judge(trainer.prepare(args.data, typed(args.data, runs[next(iter(runs))])[0].config))
    floor = judge.distance(judge.floor(args.samples))
    print(judge.about)
    rows = []
    for name, flags in runs.items():
        mine = {each: plans[f"{name}-{each:g}"] for each in args.minutes}
        for minutes, run in trained(args.data, args.out, name, flags, mine).items():
            begun, chosen = time.perf_counter(), mine[minutes]
            model = sfumato.load(run, at=chosen["images"])
            drawn = judge.drawn(model, args.samples, steps=args.steps, solver=args.solver, guidance=1.0)
            found = judge.distance(drawn.features)
            losses = [r["held_out_loss"] for r in run.records() if "held_out_loss" in r and r["images"] <= chosen["images"]]
            how = {"solver": args.solver, "seconds": round(time.perf_counter() - begun, 1)}
            rows.append({"name": name, "flags": flags, "minutes": minutes, **chosen, **how, **found})
            rows[-1]["held_out_loss"] = losses[-1] if losses else None
            print(json.dumps(rows[-1]), flush=True)
    with open(args.out / "quality.jsonl", "a") as file:
        file.writelines(
            json.dumps(row) + "\n" for row in ({"machine": heading(best_device()), "training pictures": floor}, *rows)
        )
    table(rows, floor)
    known = kept(args.out / "quality.jsonl")
    latest = {(row["name"], row["minutes"], row["solver"]): row for row in known if "name" in row}
    draw([row for row in latest.values() if row["solver"] == args.solver], floor, args.out / "quality.png")


def table(rows: list[dict[str, Any]], floor: dict[str, Any]) -> None:
    """What was measured in this call, in Markdown."""
    heads = ("minutes", "", "images/s", "images", "held-out loss", "distance", "standard error")
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        loss = row["held_out_loss"]
        cells = (f"{row['minutes']:g}", f"`{row['flags'] or row['name']}`", f"{row['speed']:.0f}", f"{row['images']:,}")
        numbers = ("" if loss is None else f"{loss:.4f}", f"{row['distance']:.3g}", f"{row['error']:.2g}")
        print("| " + " | ".join((*cells, *numbers)) + " |")
    print(f"As many training pictures: {floor['distance']:.3g}.")


def draw(rows: list[dict[str, Any]], floor: dict[str, Any], path: Path) -> None:
    """Distance over minutes, a line a name."""
    names, minutes = list(dict.fromkeys(row["name"] for row in rows)), sorted({row["minutes"] for row in rows})
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    for name in names:
        mine = sorted((row for row in rows if row["name"] == name), key=lambda row: row["minutes"])
        x, y, e = zip(*((row["minutes"], row["distance"], row["error"]) for row in mine), strict=True)
        axes.errorbar(x, y, e, marker="o", capsize=2, label=name)
    axes.axhline(floor["distance"], color="gray", linestyle=":", label="as many training pictures")
    axes.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel="Fréchet distance to held-out pictures")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes], minor=False)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
