"""Precision and layout on this machine: ten convolutions with norms, forward and backward. python bench/placements.py"""

import torch
from _side_by_side import compare, heading
from torch import nn

from sfumato.nets.blocks import GroupNorm
from sfumato.training.device import Placement

B, C, SIDE = 64, 64, 14
FLOP = 10 * 3 * 2 * 9 * C * C * SIDE * SIDE * B  # forward, and twice as much backward


def make(norm, placement):
    layers = [nn.Sequential(norm(), nn.SiLU(), nn.Conv2d(C, C, 3, padding=1)) for _ in range(10)]
    net, x = placement.net(nn.Sequential(*layers)), placement.images(torch.randn(B, C, SIDE, SIDE))

    def run():
        with placement.autocast():
            loss = net(x).float().square().mean()
        loss.backward()

    return run


candidates = {}
for name, norm in {"GroupNorm": lambda: GroupNorm(8, C), "BatchNorm": lambda: nn.BatchNorm2d(C)}.items():
    for precision in ("float32", "bfloat16"):
        for last in (False, True):
            label = f"{name}, {precision}{', channels_last' if last else ''}"
            candidates[label] = make(norm, Placement(torch.device("cpu"), precision, last))
print(heading())
for name, seconds in compare(candidates, rounds=7).items():
    print(f"{name:36} {seconds * 1e3:7.0f} ms  {FLOP / seconds / 1e9:6.0f} GFLOP/s")
