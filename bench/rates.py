"""How a network learns at several rates: python bench/rates.py DATA OUT NET [NET ...] [--rates 5e-4 1e-3 2e-3 4e-3]

Each NET, as `--net` takes it, is trained anew with each rate on the same pictures in the same order, the rest as by rule, and
judged by its held-out loss at the end, which is of the averaged weights and means the same for all networks of one DATA.
Beside each row stands the rate that the rule chooses. What was trained before is not trained again. Writes OUT/rates.jsonl and
OUT/rates.png, which shows all that is kept there, and prints a table.
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from _side_by_side import heading, kept, once

import sfumato
from sfumato import defaults
from sfumato.run import Run
from sfumato.spec import Spec
from sfumato.training.device import best_device

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("nets", nargs="+", metavar="NET")
    parser.add_argument("--rates", nargs="+", type=float, default=[5e-4, 1e-3, 2e-3, 4e-3])
    parser.add_argument("--images", type=int, default=12_000)
    parser.add_argument("--batch", type=int, default=16)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print(heading(best_device()))
    file, rows = args.out / "rates.jsonl", []
    for net in args.nets:
        for rate in args.rates:
            asked = {"net": net, "lr": rate, "images": args.images, "batch": args.batch}
            rows.append(once(file, asked, partial(measured, args, asked)))
    print_table(rows)
    draw(kept(file), args.out / "rates.png")


def measured(args: argparse.Namespace, asked: Row) -> Row:
    """The held-out loss at the end of a training."""
    run = Run.of(args.out / f"{asked['net'].replace(':', '-')}-{asked['lr']:g}-{asked['images']}-{asked['batch']}")
    model = sfumato.train(args.data, run.path, quiet=True, compile="off", sampling_steps=1, keep=1, **asked)
    if model.images < asked["images"]:
        raise SystemExit("Stopped; the same command goes on.")
    return {"held_out_loss": [record["held_out_loss"] for record in run.records() if "held_out_loss" in record][-1]}


def print_table(rows: list[Row]) -> None:
    """A row a network, its best loss in bold."""
    rates = sorted({row["lr"] for row in rows})
    print("| | by rule | " + " | ".join(f"{rate:g}" for rate in rates) + " |\n|" + "---|" * (len(rates) + 2))
    for net, batch in dict.fromkeys((row["net"], row["batch"]) for row in rows):
        losses = {row["lr"]: row["held_out_loss"] for row in rows if (row["net"], row["batch"]) == (net, batch)}
        cells = [f"{losses[rate]:.4f}" if rate in losses else "" for rate in rates]
        cells = [
            f"**{cell}**" if losses.get(rate) == min(losses.values()) else cell for rate, cell in zip(rates, cells, strict=True)
        ]
        print(f"| `{net}` | {defaults.rate(Spec.of(net), batch):g} | " + " | ".join(cells) + " |")


def draw(rows: list[Row], path: Path) -> None:
    """Loss over rate, a line a network; dotted where the rule stands."""
    figure, axes = plt.subplots(figsize=(8, 4.5), dpi=120, layout="constrained")
    for net, images, batch in dict.fromkeys((row["net"], row["images"], row["batch"]) for row in rows):
        mine = sorted(
            (row["lr"], row["held_out_loss"])
            for row in rows
            if (row["net"], row["images"], row["batch"]) == (net, images, batch)
        )
        (line,) = axes.plot(
            *zip(*mine, strict=True), marker="o", markersize=4, label=f"{net}, {images:,} images, batch {batch}"
        )
        axes.axvline(defaults.rate(Spec.of(net), batch), color=line.get_color(), linestyle=":", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="learning rate (dotted: by rule)", ylabel="held-out loss")
    axes.legend(fontsize=7)
    figure.savefig(path)


if __name__ == "__main__":
    main()
