"""A step of training beside the loop that a tutorial writes: python bench/training.py [NAME ...] [--batch account] [--rounds 5]

NAME is fashion-mnist, cars, aircraft, cifar10 or oasis; all of them unless said. Real pictures where ../shared/data has them,
else pictures of noise. Batches are small enough for two slow cores; `--batch account` takes the account's own, for which the
largest networks want 16 GB and minutes a step on such a machine. Everything is written to a temporary folder; only where
SFUMATO_CACHE is set are pictures and placements remembered there.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL
import torch
from _side_by_side import compare, heading
from data import SHARED, pictures
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sfumato import data, nets, recipes, trainer
from sfumato.built import build_net
from sfumato.config import Config, build_schedule
from sfumato.training import loop, watch
from sfumato.training.stream import Stream


@dataclass(frozen=True)
class Account:
    """What one of the recipes trains on, and how much of it takes a second or two here."""

    recipe: Config
    batch: int
    steps: int
    pictures: str  # the file under ../shared/data
    stored: tuple[int, ...]  # of the noise that stands in for them

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.recipe.channels, *self.recipe.size)


def account(name: str, batch: int, *measured: Any) -> Account:
    return Account(recipes.recipe(name), batch, *measured)


ACCOUNTS = {
    "fashion-mnist": account("fashion-mnist", 16, 8, "fashion-mnist-train.zip", (28, 28)),
    "cars": account("cars", 8, 2, "cars.zip", (96, 128, 3)),
    "aircraft": account("aircraft", 8, 2, "aircraft.zip", (96, 128, 3)),
    "cifar10": account("cifar10", 32, 2, "cifar10.zip", (32, 32, 3)),
    "oasis": account("oasis", 2, 2, "brain-mri.zip", (224, 224)),
}
SIDE = 2048  # of the square matrices whose product tells what the machine can do
LOSSES = {"huber": F.smooth_l1_loss, "l1": F.l1_loss, "l2": F.mse_loss}


# ---- the plain loop --------------------------------------------------------------------------------------------------


class Files(torch.utils.data.Dataset):
    """Open the file, resize, maybe mirror, to a tensor in [-1, 1]."""

    def __init__(self, folder: Path, shape: tuple[int, int, int]):
        self.paths, self.shape = sorted(folder.iterdir()), shape

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Tensor:
        channels, height, width = self.shape
        with Image.open(self.paths[i]) as file:
            image = file.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if torch.rand(1).item() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image).reshape(height, width, channels)).permute(2, 0, 1)
        return pixels.float() / 127.5 - 1


def endless(folder: Path, account: Account, workers: int) -> Iterator[Tensor]:
    """Batches for ever. What two workers read ahead while others are measured is to the plain loop's advantage."""
    loader = torch.utils.data.DataLoader(
        Files(folder, account.shape), account.batch, True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    while True:
        yield from loader


class Plain:
    """float32, torch.optim.Adam, linear betas, the loss of the account; no average of the weights, no log."""

    def __init__(self, account: Account):
        torch.manual_seed(0)
        self.account = account
        self.net = nets.build(account.recipe.net.name, account.shape[0]).train()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)
        self.T = account.recipe.schedule.kw["steps"]
        kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, self.T), 0)
        self.signal, self.noise = kept.sqrt(), (1 - kept).sqrt()

    def step(self, x0: Tensor) -> None:
        t = torch.randint(0, self.T, (len(x0),))
        eps = torch.randn_like(x0)
        x_t = self.signal[t][:, None, None, None] * x0 + self.noise[t][:, None, None, None] * eps
        loss = LOSSES[self.account.recipe.distance.name](self.net(x_t, t), eps)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


# ---- ours ------------------------------------------------------------------------------------------------------------


class Ours:
    """The training loop with its stream, averages and log, as `sfumato train` sets it up; each call is some steps of it.

    A log line is written in each call, more often than in a long run. A call would end with a checkpoint: `main` sees to it
    that none is written, and no grids are drawn.
    """

    def __init__(self, account: Account, folder: Path, root: Path, say: trainer.Say, net: nn.Module | None = None):
        batch = account.batch
        config = msgspec.structs.replace(
            account.recipe, batch=batch, images=200_000, epochs=None, rate="constant", fit="stretch", cut_bottom=0, flip=True,
            held_out=0.0, log_every=account.steps * batch, checkpoint_every=10**12,
        )  # fmt: skip
        plan = trainer.prepare(folder, config, net)
        torch.manual_seed(0)
        net = build_net(plan.config, plan.facts, net)
        cpu = torch.device("cpu")
        self.placement, _ = plan.fastest(net, cpu)
        self.config, self.held_out = plan.config, plan.held_out
        schedule, codec = build_schedule(self.config), data.AffineCodec(**plan.facts.codec)
        self.state = loop.start(self.config, net, schedule, plan.facts.sigma_data, self.placement)
        self.stream = Stream.of(self.config, plan.train, codec, self.placement, self.state.denoiser.conditions)
        self.root, self.images = root, account.steps * batch
        self.faithful = lambda: plan.faithful(net, self.placement)
        say(str(self.placement))

    def __call__(self) -> None:
        target = self.state.images + self.images
        log = watch.Log(self.root / "log.jsonl")
        loop.train(self.config, self.stream, self.held_out, self.state, self.root, [log], lambda: self.state.images >= target)


def measure(name: str, account: Account, rounds: int, root: Path) -> None:
    """Print images a second of the plain loop, with and without workers, and of ours, and how much of the machine they use."""
    batch = account.batch
    folder = pictures(root / name, account.pictures, 1000, account.stored)
    kind = "real pictures" if (SHARED / account.pictures).exists() else "noise"
    shape = "x".join(map(str, account.shape))
    print(f"\n{name}: {account.recipe.net}, {shape}, batch {batch}, {account.steps} steps in each of {rounds} turns", end=", ")
    ours = Ours(account, folder, root, lambda text: print(f"{kind}; ours in {text}", flush=True))
    plain = Plain(account)
    alone, helped = (endless(folder, account, workers) for workers in (0, 2))

    def run(batches: Iterator[Tensor]) -> None:
        for _ in range(account.steps):
            plain.step(next(batches))

    with FlopCounterMode(display=False) as counter:
        plain.step(next(alone))
    work = counter.get_total_flops() / batch  # of forward and backward pass, an image
    matrix = torch.randn(SIDE, SIDE)
    found = compare(
        {
            "plain, 0 workers": lambda: run(alone),
            "plain, 2 workers": lambda: run(helped),
            "ours": ours,
            "matrix product": lambda: matrix @ matrix,
        },
        rounds=rounds,
    )
    peak = 2 * SIDE**3 / found.pop("matrix product")
    fastest = min(seconds for name, seconds in found.items() if name != "ours")
    for what, seconds in found.items():
        rate = account.steps * batch / seconds
        share = f"{rate * work / 1e9:4.0f} GFLOP/s, {rate * work / peak:4.0%} of a float32 matrix product"
        print(f"  {what:18} {rate:8.2f} images/s  {fastest / seconds:5.2f} x  {share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(ACCOUNTS))
    parser.add_argument("--batch", default="small", choices=["small", "account"])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    for name in args.names:
        if name not in ACCOUNTS:
            parser.error(f"{name} is none of {', '.join(ACCOUNTS)}")
    loop.save = lambda *anything: None  # a checkpoint is no part of a step
    print(heading())
    print(f"Python {platform.python_version()}, numpy {np.__version__}, Pillow {PIL.__version__}")
    with tempfile.TemporaryDirectory() as root:
        os.environ.setdefault("SFUMATO_CACHE", f"{root}/cache")
        for name in args.names or ACCOUNTS:
            account, whole = ACCOUNTS[name], args.batch == "account"
            if name == "aircraft" and not whole and "aircraft" not in args.names:
                print("\naircraft: the network, size, loss and batch of cars; the same measurement")
                continue
            if whole and account.recipe.batch > account.batch:  # one step is long enough
                account = replace(account, batch=account.recipe.batch, steps=1)
            measure(name, account, args.rounds, Path(root))


if __name__ == "__main__":
    main()
