"""Convolutions as U-Nets have them, forward and backward, in three ways of working: python bench/layers.py

Which way is fastest depends on the map and on the batch, see `sfumato.training.by_layer`, whose choice is marked.
"""

import torch
from _side_by_side import compare, heading
from torch import nn

from sfumato.training.by_layer import FEW, LARGE, by_layer

BATCHES = 2, 8, 32, 128
LAYERS = (64, 64), (128, 32), (256, 16), (512, 8), (1024, 4)  # channels, and the side of the map


def step(conv: nn.Module, x: torch.Tensor):
    def run() -> None:
        conv(x).sum().backward()

    return run


def main() -> None:
    print(heading())
    print("milliseconds\n batch  channels  map    contiguous  channels_last  as a product")
    for channels, side in LAYERS:
        for batch in BATCHES:
            x = torch.randn(batch, channels, side, side)
            plain, product = nn.Conv2d(channels, channels, 3, padding=1), by_layer(nn.Conv2d(channels, channels, 3, padding=1))
            ways = {
                "contiguous": step(plain, x.requires_grad_()),
                "channels_last": step(plain, x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()),
            }
            few = side * side <= LARGE and batch * side * side <= FEW
            if few:
                ways["product"] = step(product, x)
            chosen = "product" if few else "contiguous" if side * side <= LARGE else "channels_last"
            found = {way: f"{seconds * 1e3:.1f}" + "*" * (way == chosen) for way, seconds in compare(ways, rounds=7).items()}
            values = [found.get(way, "") for way in ("contiguous", "channels_last", "product")]
            print(f"{batch:6} {channels:9}  {f'{side}x{side}':6} {values[0]:>10}  {values[1]:>13}  {values[2]:>12}", flush=True)


if __name__ == "__main__":
    main()
