"""Is it worth its evaluations to guide? python bench/guided.py OUT RUN [RUN ...]

Each run draws the same seeds with the guidance that `sfumato train` gives a run by default and with none, in as many steps and
in as many evaluations: of 20 steps that are guided at a few noise levels, so many as cost 20 steps that are not are fewer. The
distance of samples to the pictures that training held out is taken in the features of a network of the project's own, recall is
how much of their variety is there. What was drawn before is not drawn again. Writes OUT/guided.jsonl, and prints a table.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from _judge import Judge
from _side_by_side import heading, once

import sfumato
from sfumato.config import Config
from sfumato.judge.opened import opened
from sfumato.model import Model
from sfumato.training.device import best_device

OWN: dict[str, Any] = {"guidance": Config().guidance, "interval": Config().interval}
WAYS = [
    (1.0, 20),
    (OWN["guidance"], 20),
    (OWN["guidance"], 15),
    (1.0, 10),
    (OWN["guidance"], 8),
    (1.0, 7),
    (OWN["guidance"], 6),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("--samples", type=int, default=2000)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))

    def measure(judge: Judge, model: Model, guidance: float, steps: int) -> dict[str, Any]:
        options = OWN if guidance != 1 else {"guidance": 1.0}
        found = judge.drawn(model, args.samples, steps=steps, **options).features
        model.sample(1, steps=steps, **options)  # counts, also where all were drawn before
        shares = judge.shares(found)
        return {
            "evaluations": model.evaluations,
            **judge.distance(found),
            "precision": shares["precision"],
            "recall": shares["recall"],
        }

    rows = []
    for run in args.runs:
        model = sfumato.load(run)
        judge = Judge(opened(model))
        print(run, judge.about, flush=True)
        for guidance, steps in WAYS:
            asked = {"run": run, "guidance": guidance, "steps": steps, "samples": args.samples}
            rows.append(once(args.out / "guided.jsonl", asked, partial(measure, judge, model, guidance, steps)))
    names = ("run", "guidance", "steps", "evaluations", "precision", "recall", "distance", "error")
    print("| " + " | ".join(names) + " |\n|" + "---|" * len(names))
    for row in rows:
        print(
            "| " + " | ".join(f"{row[name]:.3g}" if isinstance(row[name], float) else str(row[name]) for name in names) + " |"
        )


if __name__ == "__main__":
    main()
