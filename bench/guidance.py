"""What guidance gives and takes: python bench/guidance.py RUN OUT [--worse "a smaller network=OTHER" ...]

Samples are told their label; a classifier of the project's own features, logistic regression on pictures that were trained on,
says what it takes them for. Accuracy is the share that it takes for what they were told to be, on average and for the worst
class, and stands beside that of real pictures that were held out. Diversity is recall and coverage, and the Frechet distance
to the held-out pictures weighs both. The same seeds throughout. What was drawn before is not drawn again. Writes
OUT/guidance.jsonl and OUT/guidance.png, and prints a table.
"""

import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from _judge import Judge
from _side_by_side import heading, once

import sfumato
from sfumato.judge.opened import opened
from sfumato.training.device import best_device

Row = dict[str, Any]
SCALES = (1.25, 1.5, 2.0, 3.0, 5.0)
INTERVAL = (0.2, 3.0)  # sigma / alpha


def accuracies(found: np.ndarray, told: np.ndarray) -> dict[str, float]:
    each = [float((found[told == label] == label).mean()) for label in np.unique(told)]
    return {"accuracy": float((found == told).mean()), "worst class": min(each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--solver", default="dpmpp_2m_sde")
    parser.add_argument("--worse", nargs="+", default=[], metavar="NAME=RUN", help="models to guide away from, or checkpoints")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))
    model = sfumato.load(args.run)
    judge = Judge(opened(model))
    print(judge.about)
    ways: dict[str, dict[str, Any]] = {
        "classifier-free": {"interval": (0, math.inf)},
        f"in {INTERVAL[0]:g} to {INTERVAL[1]:g} only": {"interval": INTERVAL},
    }
    for name, _, worse in (each.rpartition("=") for each in args.worse):
        ways[f"away from {name or worse}"] = {"worse": sfumato.load(worse)}
    classify = judge.classifier()

    def measure(scale: float, options: dict[str, Any]) -> Row:
        made = judge.drawn(model, args.samples, guidance=scale, steps=args.steps, solver=args.solver, **options)
        assert made.labels is not None
        return accuracies(classify(made.features), made.labels) | judge.distance(made.features) | judge.shares(made.features)

    def row(way: str, scale: float, options: dict[str, Any]) -> Row:
        asked = {"way": way, "scale": scale, "samples": args.samples, "steps": args.steps, "solver": args.solver}
        return once(args.out / "guidance.jsonl", asked, partial(measure, scale, options))

    real = {"way": "held-out pictures"} | accuracies(classify(judge.there), judge.labels(judge.plan.held_out))
    rows = [row("none", 1.0, {}), *(row(way, scale, options) for way, options in ways.items() for scale in SCALES)]
    names = ("accuracy", "worst class", "precision", "recall", "coverage", "distance", "error")
    print("| guidance | scale | " + " | ".join(names) + " |\n|" + "---|" * (2 + len(names)))
    for each in (real, *rows):
        cells = [f"{each[name]:.3g}" if name in each else "" for name in ("scale", *names)]
        print("| " + " | ".join((each["way"], *cells)) + " |")
    draw(real, rows, list(ways), args.out / "guidance.png")


def draw(real: Row, rows: list[Row], ways: list[str], path: Path) -> None:
    """Accuracy over recall: the trade, a point for each scale."""
    figure, (trade, distance) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=120, layout="constrained")
    for way in ways:
        mine = [row for row in rows if row["way"] in ("none", way)]
        trade.plot([row["recall"] for row in mine], [row["accuracy"] for row in mine], marker="o", label=way)
        for row in (row for row in mine if row["scale"] >= 2):
            trade.annotate(f"{row['scale']:g}", (row["recall"], row["accuracy"]), textcoords="offset points", xytext=(5, 4))
        distance.plot([row["scale"] for row in mine], [row["distance"] for row in mine], marker="o", label=way)
    trade.axhline(real["accuracy"], color="gray", linestyle=":")
    trade.annotate("held-out pictures", (0, real["accuracy"]), textcoords="offset points", xytext=(5, 4), color="gray")
    trade.set(xlabel="recall: how much of the variety is there", ylabel="taken for what they were told to be")
    distance.set(xlabel="guidance", ylabel="Fréchet distance to held-out pictures", yscale="log")
    distance.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
