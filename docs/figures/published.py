"""The losses that an account printed beside those of a run, by step of the optimizer: a table in Markdown.

python docs/figures/published.py NAME RUN [RUN ...] [--window 100]      (NAME: oasis, aircraft, cars, fashion-mnist)

What an account printed is the loss of one batch; ours is the mean over the 100 steps around it, or so many, fewer on either
side where the log begins or ends.
"""

import argparse

from sfumato.run import Run

EPOCH = {"oasis": 177, "aircraft": 66}  # steps; their losses were printed by epoch
PUBLISHED = {
    "oasis": {0: 0.857, 5: 0.111, 10: 0.110, 15: 0.097, 20: 0.071, 30: 0.075, 40: 0.069, 50: 0.068, 60: 0.051, 70: 0.045},
    "aircraft": {0: 0.809, 5: 0.165, 10: 0.145, 3065: 0.073, 3990: 0.070},
    "cars": {0: 0.715, 25: 0.316, 50: 0.240, 62: 0.384, 100: 0.229, 125: 0.229, 176: 0.207, 226: 0.183, 251: 0.201},
    "fashion-mnist": {0: 0.434, 500: 0.114, 1000: 0.086, 2000: 0.072, 3500: 0.050},
}


def around(records: list[dict], batch: int, step: int, window: float) -> float | None:
    """The mean loss over the steps within half a window of `step`; None beyond the log.

    A record holds the mean since the one before it; one that lies only partly within counts by its part. What is nearer to
    the beginning or the end than half a window has a window of twice its distance from it, or of one step.
    """
    last = records[-1]["images"] / batch - 1
    half = min(window / 2, max(step, 0.5), max(last - step, 0.5))
    low, high = step + 0.5 - half, step + 0.5 + half
    total = weight = begin = 0.0
    for record in records:
        end = record["images"] / batch
        part = max(min(end, high) - max(begin, low), 0.0)
        total, weight, begin = total + part * record["loss"], weight + part, end
    return total / weight if step <= last and begin >= high - 1e-9 else None


parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("name", choices=PUBLISHED)
parser.add_argument("runs", nargs="+")
parser.add_argument("--window", type=float, default=100)
args = parser.parse_args()
published = {step * EPOCH.get(args.name, 1): loss for step, loss in PUBLISHED[args.name].items()}
columns = {}
for path in args.runs:
    run = Run.existing(path)
    records = [record for record in run.records() if "loss" in record]
    columns[run.path.name] = {step: around(records, run.config().batch, step, args.window) for step in published}
print("| step | published | " + " | ".join(columns) + " |\n|" + "---|" * (2 + len(columns)))
for step, loss in published.items():
    found = [column[step] for column in columns.values()]
    if any(each is not None for each in found):
        words = ["" if each is None else f"{each:.3f} ({each / loss - 1:+.0%})" for each in found]
        print(f"| {step:,} | {loss:.3f} | " + " | ".join(words) + " |")
