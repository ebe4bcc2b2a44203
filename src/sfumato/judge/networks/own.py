"""A small network trained on the pictures themselves, in minutes, which needs nothing from outside.

It learns to recognise a picture by a window of it: of B pictures and a window of each, which belong together (InfoNCE; van den
Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding"; as Chen et al. 2020, "A Simple Framework for
Contrastive Learning", take it for pictures)?

    loss = -log softmax_j (z_i . z'_j / tau) at j = i, both ways,    z = head(f) / |head(f)|

Where there are two labels or more it learns to tell them as well. With labels alone, features see half as much of what is lost
within a class: digits of which 20 different ones are left are then 6.6 times as far away as real ones, with both 14 times.

Why windows: they are cut as they are, never resized, blurred, mirrored or recoloured, so that the features stay sensitive to
what generated pictures get wrong (trained on windows of random brightness and contrast, they no longer saw clothes that were
lighter by a tenth of the range); nothing need be known of the pictures (to predict turns, say, one must know that they have an
upper side, and medical slices and textures may have none); and success is a share that can be measured on held-out pictures.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ... import draws
from ...data import AffineCodec, Images
from ...training.augment import cut, offsets
from ...training.device import Placement
from ...training.stream import Stream

VERSION = 1  # counted up whenever the network or its training changes
SIZE = 96  # features
BATCH = 128
RATE = 2e-3
SEEN = 20_000, 100_000  # pictures that training takes in, at least and at most
EPOCHS = 5  # between these
WINDOW = 0.6  # of each side
TAU = 0.2
SETTLED = 50  # batches over which the statistics of the norms are measured in the end
CPU = Placement(torch.device("cpu"))

Progress = Callable[[int, int], None]


class Network(nn.Module):
    """Features of pictures x (B, C, H, W) in [-1, 1], (B, 96), each at least 0: five convolutions, averaged over the map.

    The first leaves about 32 places along the shorter side, so that large pictures take little longer than small ones.
    """

    def __init__(self, shape: tuple[int, int, int]):
        super().__init__()
        channels, height, width = shape
        stride = max(1, round(min(height, width) / 32))
        self.layers = nn.Sequential(
            _layer(channels, 32, stride, 2 * stride + 1),
            _layer(32, 48, 2),
            _layer(48, 48),
            _layer(48, SIZE, 2),
            _layer(SIZE, SIZE),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))


def _layer(channels: int, out: int, stride: int = 1, kernel: int = 3) -> nn.Module:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(inplace=True))


def train(
    images: Images,
    held_out: Images,
    codec: AffineCodec,
    crop: tuple[int, int] | None,
    device: torch.device,
    progress: Progress = lambda done, total: None,
) -> tuple[Network, dict[str, Any]]:
    """A network trained on `images`, and what is known of it: its accuracy on those held out, and what chance would reach.

    crop      as in Config: the pictures are windows of this size, cut anew each time
    progress  (done, total), in pictures
    The same pictures give the same weights on the same machine.
    """
    stream = Stream(images, codec, CPU, ("label",), crop=crop)
    shape = (images.shape[0], *(crop or images.shape[1:]))
    counts = images.label_counts
    labels = 0 if counts is None or np.count_nonzero(counts) < 2 else len(counts)
    batch = min(BATCH, len(images))
    total = min(max(SEEN[0], EPOCHS * len(images)), SEEN[1]) // batch * batch
    with torch.random.fork_rng(devices=[]), torch.backends.cudnn.flags(deterministic=True):
        torch.default_generator.manual_seed(0)  # chance decides the first weights, which are drawn on the CPU, and nothing else
        net = Network(shape)
        heads = nn.ModuleDict({"match": nn.Sequential(nn.Linear(SIZE, SIZE), nn.ReLU(), nn.Linear(SIZE, SIZE))})
        if labels:
            heads["tell"] = nn.Linear(SIZE, labels)
        parts = nn.ModuleList((net, heads)).to(device)
        optimizer = torch.optim.AdamW(parts.parameters(), RATE, weight_decay=0.05)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total // batch, pct_start=0.1)
        for done in range(0, total, batch):
            positions = torch.arange(done, done + batch)
            x, found = stream.batch(positions)
            whole, part = net(x.to(device)), net(window(x, positions).to(device))  # (B, 96) each
            matches, right = _matches(heads, whole, part), torch.arange(batch, device=device)
            loss = (F.cross_entropy(matches, right) + F.cross_entropy(matches.T, right)) / 2
            if labels:  # a picture without one has the number behind the last
                label = found["label"].to(device)
                loss = loss + F.cross_entropy(heads["tell"](whole), label, ignore_index=labels, reduction="sum") / batch
            loss.backward()
            optimizer.step()
            rate.step()
            optimizer.zero_grad(set_to_none=True)
            progress(done + batch, total)
        quality = _quality(net, heads, stream, held_out, device) if len(held_out) else {"accuracy": None}
        starts = range(0, min(total, SETTLED * batch), batch)  # else they would be those of pictures and windows mixed
        settle = (stream.batch(torch.arange(start, start + batch))[0].to(device) for start in starts)
        torch.optim.swa_utils.update_bn(settle, net)
    return net, {"labels": labels, "seen": total} | quality


def window(x: Tensor, positions: Tensor) -> Tensor:
    """A window (B, C, h, w) of each picture x (B, C, H, W) on the CPU; a function of its position in the stream."""
    size = (math.ceil(WINDOW * x.shape[2]), math.ceil(WINDOW * x.shape[3]))
    return cut(x, offsets(0, positions, x.shape, size), size)


def sentence(facts: dict[str, Any]) -> str:
    """What the network has learned, and how well."""
    labels, accuracy = facts["labels"], facts["accuracy"]
    said = f"Own features, after {facts['seen']:,} pictures {f'with {labels} labels' if labels else 'without labels'}"
    if accuracy is None:
        return f"{said}; none are held out to measure them on."
    told = "the label" if labels else f"which of {facts['among']} pictures a window is of"
    return f"{said}: they tell {told} for {accuracy:.1%} of {facts['held_out']:,} held out ({facts['chance']:.1%} by chance)."


def _matches(heads: nn.ModuleDict, whole: Tensor, part: Tensor) -> Tensor:
    """The likeness z_i . z'_j / tau, (B, B), of the features of pictures and of windows, (B, 96) each."""
    return F.normalize(heads["match"](whole)) @ F.normalize(heads["match"](part)).T / TAU


@torch.no_grad()
def _quality(net: Network, heads: nn.ModuleDict, stream: Stream, held_out: Images, device: torch.device) -> dict[str, Any]:
    """Of what share of the held-out pictures the label is told, or which of 128 of them a window is of.

    The norms take their statistics from each batch, as in training: those of windows are others than those of pictures.
    """
    among, right, targets = min(BATCH, len(held_out)), [torch.zeros(0, dtype=torch.double)], [torch.zeros(0, dtype=torch.int64)]
    order = draws.shuffle(0, "held-out", torch.arange(len(held_out)), len(held_out))  # folders list class after class
    for positions in order[: len(order) // among * among].split(among):  # in an incomplete batch they would have it easier
        x, found = stream.read(held_out.batch(positions))
        whole = net(x.to(device))
        if "tell" in heads:
            guessed, target = heads["tell"](whole), found["label"]
        else:
            part = net(window(x, positions).to(device))
            guessed, target = _matches(heads, whole, part).T, torch.arange(among)
        known = target < guessed.shape[1]  # else it has no label
        right.append((guessed.argmax(1).cpu() == target)[known])
        targets.append(target[known])
    hits, target = torch.cat(right), torch.cat(targets)
    if not len(hits):
        return {"accuracy": None}
    chance = target.bincount().max().item() / len(hits)  # of the most frequent
    return {"accuracy": hits.mean().item(), "chance": chance, "held_out": len(hits), "among": among}
