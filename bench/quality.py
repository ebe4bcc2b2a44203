"""Quality over time: how far samples are from held-out pictures after so many minutes of training.

python bench/quality.py DATA OUT NAME=FLAGS [NAME=FLAGS ...] [--minutes 1 3 10 30 60] [--samples 2000] [--steps 20]

FLAGS are those of `sfumato train`, in quotes. A run whose rate falls towards the end of its budget is trained anew for each
time (`--time`); one with --recipe is trained once, at its own length, and looked at in passing. What is there in OUT is not
done again. The clock runs from the first step on, and holds all that training does besides (sample grids, checkpoints), but
not what is written for this measurement.

Samples are drawn by the averaged weights in so many steps of dpmpp_2m, one evaluation each, and compared with all pictures
that training held out, in the features of a network of the project's own that was trained on the training part, once. The
distance of as many training pictures is what a model that repeats them would have. Writes OUT/quality.jsonl and
OUT/quality.png, and prints a table.
"""

import argparse
import json
import shlex
import signal
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _judge import Judge
from _side_by_side import heading

import sfumato
from sfumato import trainer
from sfumato.commands.chosen import Choices, read
from sfumato.config import Config, with_options
from sfumato.run import Run
from sfumato.training import loop
from sfumato.training.device import best_device


class Passing:
    """Checkpoints at so many minutes of training, then an end; `images` says which."""

    def __init__(self, run: Run, config: Config, minutes: list[float]):
        self.folder, self.config, self.left, self.images = run.checkpoints, config, sorted(minutes), dict[float, int]()

    def __call__(self, event: loop.Event) -> None:
        now = time.perf_counter()
        if event.kind == "start":
            self.begun = now
        elif event.kind == "step" and self.left and now - self.begun >= 60 * self.left[0]:
            loop.save(self.folder, self.config, event.state)
            self.images[self.left.pop(0)] = event.state.images
            self.begun += time.perf_counter() - now
            if not self.left:
                signal.raise_signal(signal.SIGTERM)  # as a person would end it


def trained(data: str, out: Path, name: str, flags: str, minutes: list[float]) -> dict[float, tuple[Run, int]]:
    """The run and the images seen after each time."""
    args, parent = read(Choices, [data, *shlex.split(flags)], "sfumato train", "")
    found: dict[float, tuple[Run, int]] = {}
    if args.recipe == "default":
        for each in minutes:
            run = Run.of(out / f"{name}-{each:g}")
            if not (run.path / "report.html").exists():
                trainer.train(data, with_options(args.config, {"time": 60 * each}), run, say=print, parent=parent)
            found[each] = run, sfumato.load(run).images
        return found
    run, known = Run.of(out / name), out / f"{name}.json"
    if not known.exists():
        config = with_options(args.config, {"keep": 1000})
        passing = Passing(run, config, minutes)
        trainer.train(data, config, run, None, lambda run, plan: [passing], print, recipe=args.recipe)
        known.write_text(json.dumps(passing.images))
    return {float(each): (run, images) for each, images in json.loads(known.read_text()).items()}


def judged(judge: Judge, run: Run, images: int, samples: int, steps: int) -> dict[str, float]:
    """Distance of the samples of one checkpoint, and the seconds that drawing them took."""
    begun = time.perf_counter()
    made = judge.drawn(sfumato.load(run, at=images), samples, steps=steps, solver="dpmpp_2m")
    return {"seconds": round(time.perf_counter() - begun, 1), **judge.distance(made.features)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="NAME=FLAGS")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1, 3, 10, 30, 60])
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))
    judge = Judge(trainer.prepare(args.data, Config()))
    floor = judge.distance(judge.floor(args.samples))
    print(judge.about)
    rows = []
    for name, flags in (each.split("=", 1) for each in args.runs):
        for minutes, (run, images) in trained(args.data, args.out, name, flags, args.minutes).items():
            found = judged(judge, run, images, args.samples, args.steps)
            rows.append({"name": name, "flags": flags, "minutes": minutes, "images": images, **found})
            print(json.dumps(rows[-1]), flush=True)
    with open(args.out / "quality.jsonl", "w") as file:
        file.writelines(
            json.dumps(row) + "\n" for row in ({"machine": heading(best_device()), "training pictures": floor}, *rows)
        )
    shown(rows, floor, args.out / "quality.png")


def shown(rows: list[dict[str, Any]], floor: dict[str, Any], path: Path) -> None:
    """A table in Markdown, and a figure."""
    names, minutes = list(dict.fromkeys(row["name"] for row in rows)), sorted({row["minutes"] for row in rows})
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    print("| minutes | " + " | ".join(names) + " |\n|" + "---|" * (1 + len(names)))
    at = {(row["name"], row["minutes"]): row for row in rows}
    for each in minutes:
        cells = [f"{at[name, each]['distance']:.3g} ({at[name, each]['images']:,} images)" for name in names]
        print(f"| {each:g} | " + " | ".join(cells) + " |")
    for name in names:
        mine = [row for row in rows if row["name"] == name]
        axes.plot([row["minutes"] for row in mine], [row["distance"] for row in mine], marker="o", label=name)
    axes.axhline(floor["distance"], color="gray", linestyle=":", label="as many training pictures")
    axes.set(xscale="log", yscale="log", xlabel="minutes of training", ylabel="Fréchet distance to held-out pictures")
    axes.set_xticks(minutes, [f"{each:g}" for each in minutes], minor=False)
    axes.legend()
    figure.savefig(path)


if __name__ == "__main__":
    main()
