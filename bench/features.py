"""What features cost: training the own kind, and extracting it and the published kinds. python bench/features.py

Pictures are noise, for what they show changes nothing in the time; weights of published networks are 0.
"""

import sys
import time

import numpy as np
import torch
from _side_by_side import compare, heading

from sfumato.data import AffineCodec, Images
from sfumato.judge.features import Features, extract
from sfumato.judge.networks import dinov2, inception, own

SHAPES = (28, 28, 1), (32, 32, 3), (64, 64, 3), (256, 256, 3)
COUNT = 2048  # pictures of 28 x 28, of larger ones fewer


def pictures(shape: tuple[int, int, int], count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def rate(net: torch.nn.Module, shape: tuple[int, int, int], count: int, batch: int) -> float:
    """Pictures a second, from bytes to vectors."""
    net = net.eval().requires_grad_(False)
    found = Features("", len(net(torch.zeros(1, shape[2], *shape[:2]))[0]), net, "", batch=batch)
    codec, shown = AffineCodec((0,) * shape[2], (255,) * shape[2], "uint8"), pictures(shape, count)
    return count / compare({"": lambda: extract(found, shown, codec, "cpu")}, rounds=3)[""]


def training_rate(shape: tuple[int, int, int]) -> float:
    """Pictures a second while the own kind is trained on ten labels."""
    images = Images(pictures(shape, COUNT).transpose(0, 3, 1, 2), np.arange(COUNT) % 10, list("0123456789"))
    own.SEEN = COUNT, COUNT
    codec, start = AffineCodec((0,) * shape[2], (255,) * shape[2], "uint8"), time.perf_counter()
    own.train(images, images.subset(range(0)), codec, None, torch.device("cpu"))
    return COUNT / (time.perf_counter() - start)


def main() -> None:
    print(heading())
    for shape in SHAPES:
        count = max(64, COUNT * 28 * 28 // (shape[0] * shape[1]))
        found = rate(own.Network((shape[2], *shape[:2])), shape, count, 256)
        print(f"own, extracting {'x'.join(map(str, shape)):10} {found:8.0f} pictures/s", flush=True)
    budget, found = own.SEEN[1], training_rate(SHAPES[0])
    print(f"own, training on   28x28x1    {found:8.0f} pictures/s, {budget / found:.0f} s in all", flush=True)
    if "all" in sys.argv:
        for name, net in {"inception": inception.Inception(), "dinov2 S/14": dinov2.DINOv2(384, 12, 37)}.items():
            print(f"{name:11} extracting 28x28x1 {rate(net, SHAPES[0], 16, 16):8.2f} pictures/s", flush=True)


if __name__ == "__main__":
    main()
