"""The networks of published tutorials, layer by layer, with their published names, so that their weights load here."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from .blocks import pad_to_multiple, sinusoidal
from .conditions import Condition


class SimpleBlock(nn.Module):
    """conv, ReLU, BatchNorm; + ReLU(Linear(time)) per channel; conv, ReLU, BatchNorm; then half or double the size."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int, up: bool):
        super().__init__()
        self.time_mlp = nn.Linear(time_width, out_channels)
        # On the way up the input comes with the matching state of the way down beside it.
        self.conv1 = nn.Conv2d(in_channels * 2 if up else in_channels, out_channels, 3, padding=1)
        resize = nn.ConvTranspose2d if up else nn.Conv2d
        self.transform = resize(out_channels, out_channels, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bnorm1 = nn.BatchNorm2d(out_channels)
        self.bnorm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.bnorm1(self.conv1(x).relu())  # (B, out, H, W)
        h = h + self.time_mlp(time).relu()[:, :, None, None]  # (B, out, 1, 1), broadcast over the picture
        h = self.bnorm2(self.conv2(h).relu())
        return self.transform(h)  # (B, out, H / 2, W / 2), or twice the size


class SimpleUNet(nn.Module):
    """The U-Net of the `aircraft` and `cars` accounts: 64 128 256 512 1024 channels, 62,438,883 parameters for RGB.

    Heights and widths that 16 does not divide are padded inside and cropped back.
    """

    c_noise = "steps"  # its code is made for step numbers 0 .. T - 1

    def __init__(self, channels: int = 3):
        super().__init__()
        self.conditions: dict[str, Condition] = {}
        widths, time_width = (64, 128, 256, 512, 1024), 32
        # Index 0 is the sinusoidal code, which has no weights; the published names begin at 1.
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(time_width, time_width), nn.ReLU())
        self.time_width = time_width
        self.conv0 = nn.Conv2d(channels, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.downs = nn.ModuleList(SimpleBlock(a, b, time_width, up=False) for a, b in pairs)
        self.ups = nn.ModuleList(SimpleBlock(b, a, time_width, up=True) for a, b in reversed(pairs))
        self.output = nn.Conv2d(widths[0], channels, 1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        x, crop = pad_to_multiple(x, 16)
        with torch.autocast(x.device.type, enabled=False):  # step numbers need more digits than bfloat16 has
            time = self.time_mlp(sinusoidal(c_noise, self.time_width))  # (B, 32)
        h = self.conv0(x)  # (B, 64, H, W)
        states = []
        for down in self.downs:
            h = down(h, time)  # (B, 128, H / 2, W / 2) .. (B, 1024, H / 16, W / 16)
            states.append(h)
        for up in self.ups:  # the innermost pair is the bottleneck with itself
            h = up(torch.cat((h, states.pop()), 1), time)
        return self.output(h)[..., *crop]  # (B, C, H, W)
