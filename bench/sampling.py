"""The fewest evaluations of a network that draw as well as many: python bench/sampling.py RUN OUT [--finals 2]

Each candidate, a solver and a number of evaluations, draws the same seeds, without guidance; the distance of its samples to the
pictures that RUN's training held out is taken in the features of a network of the project's own, trained on the training part.
The reference is the best of dpmpp_2m and heun at 64 and 128 evaluations and of ddpm at 250. As good as the reference is what
lies within 5 % of it, or within one standard error of the difference.

The fewest evaluations that are as good, with 2,000 samples, are the finalists: `--finals` of them are measured again with
10,000. What was drawn before is not drawn again. Writes OUT/sampling.jsonl and OUT/sampling.png, prints a
table; seconds are those of drawing 2,000, measured only where all of them were drawn in this call.
"""

import argparse
import time
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _judge import Judge
from _side_by_side import heading, once
from matplotlib.ticker import NullFormatter, ScalarFormatter

import sfumato
from sfumato.judge.opened import opened
from sfumato.model import Model
from sfumato.training.device import best_device

Row = dict[str, Any]
A_STEP = {"heun": 2}  # evaluations
REFERENCE = [("dpmpp_2m", 64), ("dpmpp_2m", 128), ("heun", 64), ("heun", 128), ("ddpm", 250)]
FEW = {
    "dpmpp_2m": [5, 6, 7, 8, 9, 10, 12, 16, 20, 32],
    "unipc:order=2": [5, 6, 8, 10, 12, 16, 20],
    "heun": [6, 8, 10, 16, 20, 32],
    "dpmpp_3m": [8, 10, 12, 16],
    "dpmpp_2m_sde": [6, 8, 10, 12, 14, 16, 20, 32],
    "dpmpp_2m_sde:eta=0.5": [6, 8, 10, 12, 16, 20],
    "ddim": [10, 20],
}


def measure(judge: Judge, model: Model, solver: str, evaluations: int, n: int) -> Row:
    begun = time.perf_counter()
    found = judge.drawn(model, n, solver=solver, steps=evaluations // A_STEP.get(solver, 1), guidance=1.0).features
    seconds = round(time.perf_counter() - begun, 1)
    return {"seconds": seconds, **judge.distance(found)}


def as_good(row: Row, best: Row) -> bool:
    return row["distance"] <= best["distance"] + max(0.05 * best["distance"], best["error"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("out", type=Path)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--finals", type=int, default=0, help="finalists that are measured with 10,000 samples")
    parser.add_argument("--solvers", nargs="+", choices=FEW, default=list(FEW), metavar="SOLVER", help="of those with few")
    parser.add_argument("--only", choices=("few", "reference"), help="the half that is measured in this call")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "sampling.jsonl"
    print(heading(best_device()))
    model = sfumato.load(args.run)
    judge = Judge(opened(model))
    print(judge.about)

    def measured(wanted: list[tuple[str, int]], n: int) -> list[Row]:
        """Rows of all that is wanted; those known before are taken as they are."""
        asked = [{"solver": solver, "evaluations": evaluations, "samples": n} for solver, evaluations in wanted]
        return [once(file, each, partial(measure, judge, model, *each.values())) for each in asked]

    few = [(solver, n) for solver in args.solvers for n in FEW[solver]]
    rows = measured(few, args.samples) if args.only != "reference" else []
    many = measured(REFERENCE, args.samples) if args.only != "few" else []
    floor = judge.distance(judge.floor(args.samples))
    if rows and many:
        best = min(many, key=lambda row: row["distance"])
        good = sorted((row for row in rows if as_good(row, best)), key=lambda row: (row["evaluations"], row["distance"]))
        print(f"As good as {best['solver']} in {best['evaluations']} evaluations ({best['distance']:.3g}):")
        for row in good[:4]:
            print(f"  {row['solver']} in {row['evaluations']}: {row['distance']:.3g}")
        finals = [(row["solver"], row["evaluations"]) for row in good[: args.finals]]
        many += measured(finals, 10_000)
    print_table(rows + many)
    draw(rows, many, floor, args.out / "sampling.png")


def print_table(rows: list[Row]) -> None:
    print("| solver | evaluations | samples | distance | standard error | seconds |\n|---|---|---|---|---|---|")
    for r in rows:
        cells = (f"`{r['solver']}`", r["evaluations"], f"{r['samples']:,}", f"{r['distance']:.3g}", f"{r['error']:.2g}")
        print("| " + " | ".join(map(str, (*cells, f"{r['seconds']:.0f}"))) + " |")


def draw(rows: list[Row], many: list[Row], floor: Row, path: Path) -> None:
    """Distance over evaluations, a line a solver."""
    figure, axes = plt.subplots(figsize=(8, 4.8), dpi=120, layout="constrained")
    same = [row for row in rows + many if row["samples"] < 10_000]
    for name in dict.fromkeys(row["solver"] for row in same):
        mine = sorted((row for row in same if row["solver"] == name), key=lambda row: row["evaluations"])
        x, y, e = zip(*((row["evaluations"], row["distance"], row["error"]) for row in mine), strict=True)
        axes.errorbar(x, y, e, marker="o", markersize=4, capsize=2, label=name)
    axes.axhline(floor["distance"], color="gray", linestyle=":", label="as many training pictures")
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the network", ylabel="Fréchet distance to held-out pictures")
    counts = (5, 6, 8, 10, 12, 16, 20, 32, 64, 128, 250)
    axes.set_xticks(counts, [f"{n}" for n in counts])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(ScalarFormatter())
    axes.legend(fontsize=8)
    figure.savefig(path)


if __name__ == "__main__":
    main()
