"""How far the losses of single batches lie apart, with weights that stand still: what a printed loss of one batch can mean.

python docs/figures/batch_losses.py RUN [BATCHES]
"""

import sys

import numpy as np
import torch

import sfumato
from sfumato import draws, trainer
from sfumato.data import AffineCodec
from sfumato.training import loop
from sfumato.training.device import Placement
from sfumato.training.stream import Stream

path, count = sys.argv[1], int((sys.argv[2:] or ["200"])[0])
model = sfumato.load(path, weights="model")
config, cpu = model.config, Placement(torch.device("cpu"))
plan = trainer.prepare(model.facts.data, config)
stream = Stream.of(config, plan.train, AffineCodec(**model.facts.codec), cpu, model.denoiser.conditions)
losses = []
for positions in torch.arange(count * config.batch).split(config.batch):
    x0, cond = stream.batch(positions)
    t = loop.times(config.times, model.denoiser, torch.rand(len(x0), dtype=torch.float64))  # not stratified, as in the accounts
    eps = draws.normal(draws.keys(config.seed, "batch losses", positions), x0.shape[1:])
    with torch.no_grad():
        losses.append(loop.loss_of(config, model.denoiser, x0, t, eps, cond).mean().item())
mean, spread = np.mean(losses), np.std(losses)
low, high = np.quantile(losses, [0.05, 0.95])
print(f"{path} after {model.images:,} images, {count} batches of {config.batch}: mean {mean:.4f},", end=" ")
print(f"standard deviation {spread:.4f} ({spread / mean:.0%}), nine in ten from {low:.4f} to {high:.4f}")
