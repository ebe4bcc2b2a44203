"""Runs that are healthy, and runs broken on purpose as people break them; each is trained in seconds on one thread.

The network is a small perceptron of its owner's: 8x8 pictures need no more.
"""

import math
import shutil
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from sfumato import defaults, trainer
from sfumato.config import Config, build_schedule, with_options
from sfumato.data import AffineCodec
from sfumato.nets import Condition
from sfumato.run import Run
from sfumato.training import loop, watch
from sfumato.training.device import Placement
from sfumato.training.stream import Stream

CPU = Placement(torch.device("cpu"))
SMALL = {"images": 60_000, "batch": 256, "lr": 2e-3, "precision": "float32", "flip": False}
SHORT = {"images": 12_800}  # where what is wrong is not in the weights
DDPM = {"schedule": "linear:steps=200,mended=True", "predict": "noise", "weight": "simple", "times": "steps"}
FLOW = {"schedule": "flow", "times": "logit_normal"}


class Mine(nn.Module):
    """A residual perceptron over all values of a picture, the noise level and the label."""

    c_noise = "log_snr"

    def __init__(self, shape, classes=None, norm=nn.LayerNorm, width=192):
        super().__init__()
        self.conditions = {} if classes is None else {"label": Condition(classes=classes)}
        self.label = nn.Embedding((classes or 0) + 1, 16)
        self.register_buffer("turns", 2 * math.pi * torch.logspace(-3, 1, 8, base=2), persistent=False)
        values = math.prod(shape)
        self.enter = nn.Linear(values + 32, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(norm(width), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)) for _ in range(3)
        )
        self.leave = nn.Sequential(norm(width), nn.Linear(width, values))
        self.keep = nn.Linear(16, 1)  # how much of the noisy picture is handed on

    def forward(self, x, c_noise, label=None):
        if label is None:
            label = torch.full((len(x),), self.label.num_embeddings - 1)
        angles = c_noise[:, None] * self.turns
        code = torch.cat([angles.sin(), angles.cos()], 1)
        h = self.enter(torch.cat([x.flatten(1), code, self.label(label)], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h).reshape(x.shape) + self.keep(code)[:, :, None, None] * x


class AlwaysTraining(Mine):
    """Whatever it is told, it normalises by the batch."""

    def __init__(self, shape, classes=None):
        super().__init__(shape, classes, nn.BatchNorm1d)

    def train(self, mode=True):
        return super().train(True)


class Labelled(torch.utils.data.Dataset):
    """Pictures (N, H, W) and labels (N,) as a torch Dataset."""

    def __init__(self, pictures, labels):
        self.pictures, self.targets, self.classes = pictures, labels, [str(k) for k in range(10)]

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, i):
        return self.pictures[i], int(self.targets[i])


def digits():
    """(1797, 8, 8) uint8 and labels (1797,)."""
    found = load_digits()
    return (15.9375 * found.images).astype(np.uint8), found.target


def textures(count=1500, seed=0):
    """Coloured waves of any direction, red ones broad and bright, blue ones fine and dark, with grain: (N, 8, 8, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8] / 8
    angle, phase = rng.uniform(0, 2 * np.pi, (2, count, 1, 1))
    along = np.cos(angle) * x + np.sin(angle) * y
    wave = lambda turns: np.sin(2 * np.pi * turns * along + phase)
    channels = [0.7 + 0.25 * wave(0.5), 0.5 + 0.3 * wave(1), 0.25 + 0.2 * wave(2)]
    return (255 * np.stack(channels, -1) + rng.normal(0, 20, (count, 8, 8, 3))).clip(0, 255).astype(np.uint8)


def trained(folder, data="digits", network=Mine, ramp=0.05, **options):
    """What `doctor.examine` is given of a run trained as `sfumato.train` does, without pictures on the way."""
    config = with_options(Config(), SMALL | options)
    plan = trainer.prepare(data, config, nn.Identity())
    config = msgspec.structs.replace(defaults.budget(plan.config, lambda: 0.0), c_noise="log_snr")
    run, facts = Run.of(folder), config.facts
    torch.manual_seed(0)
    net = network(facts.shape, len(facts.label_names) if facts.label_names else None)
    state = loop.start(config, net, build_schedule(config), facts.sigma_data, CPU)
    state.ema.ramp = ramp
    run.write_config(config)
    stream = Stream.of(config, plan.train, AffineCodec(**facts.codec), CPU, state.denoiser.conditions)
    loop.train(config, stream, plan.held_out, state, run.checkpoints, [watch.Log(run.log)])
    return {"run": run, "data": data, "net": net}


# ---- healthy ---------------------------------------------------------------------------------------------------------

HEALTHY = {
    "digits": lambda folder: trained(folder),
    "ddpm": lambda folder: trained(folder, **DDPM),
    "textures": lambda folder: trained(folder, textures(), **FLOW),
}


# ---- broken ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Broken:
    """A way to break a run, and the checks that name it, one of which shall come first."""

    make: Any  # (folder, healthy: what `trained` returned of a healthy run, monkeypatch) -> what `doctor.examine` is given
    named: tuple[str, ...]


def shuffled(folder, healthy, monkeypatch):
    pictures, labels = digits()
    return trained(folder, Labelled(pictures, np.random.default_rng(0).permutation(labels)), **SHORT)


def outliers(folder, healthy, monkeypatch):
    """Measured values, a few pixels of which are hot."""
    pictures = digits()[0].astype(np.float32)
    pictures[::90, 3, 3] = 1e5
    return trained(folder, pictures, **SHORT)


def constant(folder, healthy, monkeypatch):
    pictures = digits()[0]
    pictures[::3] = 0
    return trained(folder, pictures, **SHORT)


def overflow(folder, healthy, monkeypatch):
    """Pictures written without a limit, so that 256 becomes 0."""
    wrap = lambda codec, x0: ((x0 + 1) * 127.5).to(torch.int32).to(torch.uint8)
    monkeypatch.setattr(AffineCodec, "decode", wrap)
    return healthy


def sigma_data(folder, healthy, monkeypatch):
    """Changed in config.json after training."""
    shutil.copytree(healthy["run"].path, folder)
    run = Run.of(folder)
    config = run.config()
    run.write_config(msgspec.structs.replace(config, facts=msgspec.structs.replace(config.facts, sigma_data=0.05)))
    return healthy | {"run": run}


BROKEN = {
    "wrong range": Broken(lambda folder, *_: trained(folder, range="0,255", **SHORT), ("values",)),
    "swapped channels": Broken(
        lambda folder, *_: trained(folder, textures()[..., ::-1], **FLOW) | {"data": textures()}, ("channels",)
    ),
    "huge rate": Broken(
        lambda folder, *_: trained(folder, lr=0.3, warmup=0, clip=None, rate="constant", **SHORT), ("eight pictures",)
    ),
    "average too long": Broken(lambda folder, *_: trained(folder, ema="1m", ramp=1e9), ("average",)),
    "T too short": Broken(lambda folder, *_: trained(folder, **DDPM | {"schedule": "linear:steps=50"} | SHORT), ("noise",)),
    "labels shuffled": Broken(shuffled, ("labels",)),
    "training mode": Broken(lambda folder, *_: trained(folder, network=AlwaysTraining, **SHORT), ("mode",)),
    "no normalisation": Broken(outliers, ("values",)),
    "overflow": Broken(overflow, ("writing",)),
    "constant images": Broken(constant, ("contents",)),
    "tiny data": Broken(lambda folder, *_: trained(folder, digits()[0][:40]), ("by heart", "number")),
    "wrong sigma_data": Broken(sigma_data, ("sigma_data",)),
}
