"""What guidance gives and takes: python bench/guidance.py RUN OUT [--worse RUN/checkpoints/000020000]

Samples are told their label; a classifier of the project's own features, logistic regression on pictures that were trained on,
says what it takes them for. Accuracy is the share that it takes for what they were told to be, on average and for the worst
class, and stands beside that of real pictures that were held out. Diversity is recall and coverage, and the Frechet distance
to the held-out pictures weighs both. The same seeds throughout. Writes OUT/guidance.json and OUT/guidance.png.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from _judge import Judge
from _side_by_side import heading

import sfumato
from sfumato.judge.opened import opened
from sfumato.training.device import best_device

SCALES = (1.0, 1.25, 1.5, 2.0, 3.0, 5.0)
INTERVAL = (0.2, 3.0)  # sigma / alpha


def accuracies(found: np.ndarray, told: np.ndarray) -> dict[str, float]:
    each = [float((found[told == label] == label).mean()) for label in np.unique(told)]
    return {"accuracy": float((found == told).mean()), "worst class": min(each)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, help="the run's own unless said")
    parser.add_argument("--worse", help="an earlier checkpoint, or another run, to guide away from")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))
    model = sfumato.load(args.run)
    judge = Judge(opened(model))
    print(judge.about)
    steps = {"steps": args.steps} if args.steps else {}
    ways: dict[str, dict[str, Any]] = {
        "classifier-free": {},
        f"in {INTERVAL[0]:g} to {INTERVAL[1]:g} only": {"interval": INTERVAL},
    }
    if args.worse:
        ways["autoguidance"] = {"worse": sfumato.load(args.worse)}
    classify = judge.classifier()
    held = judge.plan.held_out
    rows = [{"way": "held-out pictures", "scale": 1.0, **accuracies(classify(judge.there), judge.labels(held))}]
    for way, options in ways.items():
        for scale in SCALES if way == "classifier-free" else SCALES[1:]:
            made = judge.drawn(model, args.samples, guidance=scale, **(options if scale > 1 else {}), **steps)
            assert made.labels is not None
            row = {"way": way, "scale": scale, **accuracies(classify(made.features), made.labels)}
            rows.append(row | judge.distance(made.features) | judge.shares(made.features))
            print(json.dumps(rows[-1]), flush=True)
    (args.out / "guidance.json").write_text(json.dumps({"machine": heading(best_device()), "rows": rows}, indent=1) + "\n")
    names = ("accuracy", "worst class", "precision", "recall", "coverage", "distance")
    print("| guidance | scale | " + " | ".join(names) + " |\n|" + "---|" * (2 + len(names)))
    for row in rows:
        cells = [f"{row[name]:.3g}" if name in row else "" for name in names]
        print(f"| {row['way']} | {row['scale']:g} | " + " | ".join(cells) + " |")
    draw(rows, list(ways), args.out / "guidance.png")


def draw(rows: list[dict[str, Any]], ways: list[str], path: Path) -> None:
    """Accuracy over recall: the trade, a point for each scale."""
    figure, (trade, distance) = plt.subplots(1, 2, figsize=(10, 4.2), dpi=120, layout="constrained")
    none = next(row for row in rows if row["way"] == ways[0] and row["scale"] == 1)
    for way in ways:
        mine = [none, *(row for row in rows if row["way"] == way and row["scale"] > 1)]
        trade.plot([row["recall"] for row in mine], [row["accuracy"] for row in mine], marker="o", label=way)
        for row in mine:
            trade.annotate(f"{row['scale']:g}", (row["recall"], row["accuracy"]), textcoords="offset points", xytext=(5, 4))
        distance.plot([row["scale"] for row in mine], [row["distance"] for row in mine], marker="o", label=way)
    trade.axhline(rows[0]["accuracy"], color="gray", linestyle=":", label="held-out pictures")
    trade.set(xlabel="recall: how much of the variety is there", ylabel="taken for what they were told to be")
    distance.set(xlabel="guidance", ylabel="Fréchet distance to held-out pictures", yscale="log")
    trade.legend(fontsize=8)
    distance.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
