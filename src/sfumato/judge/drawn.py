"""Many samples, drawn in parts that are kept as they come: whoever gives the same command again, or beside, shares the work.

A part is a file, and a lock says who draws it. So processes need not know of each other: started by torchrun, by Slurm, or by
hand, on one machine or on several that share the run folder; one that dies leaves its part to the others, and what was there
before an interruption is there after it.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..disk import whole_file
from ..model import Model

PART = 250  # samples in a file
KEPT = 1000  # samples whose pictures are kept, besides their features
AT_ONCE = {"cpu": 2**16}  # pixels of a channel that are drawn at once: on a CPU as many as its caches hold the states of
ELSEWHERE = 2**18
LOOK = 2.0  # seconds between looks for parts that others draw

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples 0 .. N - 1 of a seed as features see them; the first of them as pictures too."""

    features: np.ndarray  # (N, D)
    labels: np.ndarray | None  # (N,) that the network was told
    pictures: np.ndarray  # (at most 1,000, H, W, C)
    moments: np.ndarray  # (N, 2, C): the mean of each channel's stored values, and of their squares

    @property
    def mean(self) -> np.ndarray:
        """Of each channel, (C,), in the data's own units."""
        return self.moments[:, 0].mean(0)

    @property
    def deviation(self) -> np.ndarray:
        return np.sqrt(np.maximum(self.moments[:, 1].mean(0) - self.mean**2, 0))


def drawn(
    model: Model,
    extract: Callable[[np.ndarray], np.ndarray],
    features: str,
    n: int,
    seed: int,
    folder: Path,
    progress: Progress = lambda done, total: None,
    **options: Any,
) -> Drawn:
    """Samples 0 .. n - 1 of a seed through `extract`, (B, H, W, C) -> (B, D), which goes by the name `features`.

    What is there in `folder`, from an interrupted call or a smaller n, is not drawn again; options as in `Model.sample`.
    """
    said = {name: value for name, value in options.items() if value is not None}
    how = {"steps": model.config.sampling_steps, "solver": model.config.solver_of(said.get("steps"))} | said
    scale, where = model.steering(*(said.get(name) for name in ("label", "guidance", "interval", "worse")))
    how |= {} if scale == 1 else {"guidance": scale, "interval": where}
    noise = (str(model.config.schedule), model.config.shift)
    told = [4, model.images, model.weights, noise, seed, features, sorted((name, str(value)) for name, value in how.items())]
    place = folder / hashlib.blake2b(repr(told).encode(), digest_size=6).hexdigest()
    place.mkdir(parents=True, exist_ok=True)
    firsts = range(0, n, PART)
    missing = list(firsts)
    while missing:
        for first in list(missing):
            path, count = place / f"{first:07d}.npz", min(PART, n - first)
            if _there(path) < count:
                try:
                    with FileLock(path.with_suffix(".lock"), timeout=0):
                        if _there(path) < count:
                            _write(path, _part(model, extract, first, count, seed, options))
                except Timeout:  # someone else draws it
                    continue
            missing.remove(first)
            progress(min(n, (len(firsts) - len(missing)) * PART), n)
        if missing:
            time.sleep(LOOK)
    parts = [_read(place / f"{first:07d}.npz") for first in firsts]
    whole = lambda name: np.concatenate([part[name] for part in parts if name in part])
    labels = whole("labels")[:n] if "labels" in parts[0] else None
    return Drawn(whole("features")[:n], labels, whole("pictures")[:n], whole("moments")[:n])


def _part(
    model: Model, extract: Callable[[np.ndarray], np.ndarray], first: int, count: int, seed: int, options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Samples number first .. first + count - 1, as they are kept."""
    most = max(1, AT_ONCE.get(model.device.type, ELSEWHERE) // (model.facts.shape[1] * model.facts.shape[2]))
    batch = math.ceil(count / math.ceil(count / most))  # parts of about one size
    pictures = model.sample(count, seed, first=first, batch=batch, **options)  # (B, H, W, C)
    values = pictures.astype(np.float64)
    part = {"features": extract(pictures), "moments": np.stack([values.mean((1, 2)), (values**2).mean((1, 2))], 1)}
    labels = model.label_numbers(options.get("label"), torch.arange(first, first + count), seed)
    if labels is not None:
        part["labels"] = labels.numpy()
    if first < KEPT:
        part["pictures"] = pictures
    return part


def _there(path: Path) -> int:
    """How many samples a part holds; 0 if it is not there."""
    return len(_read(path)["features"]) if path.exists() else 0


def _write(path: Path, part: dict[str, np.ndarray]) -> None:
    with whole_file(path) as file:
        np.savez(file, **part)  # type: ignore[arg-type]  # numpy's stub takes the first for allow_pickle


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)
