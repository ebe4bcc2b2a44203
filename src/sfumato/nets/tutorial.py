"""The networks of published tutorials, layer by layer, with their published names, so that their weights load here."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    With `outputs` = k it returns k times the channels of its pictures, the second of which are a learned variance; so do
    all networks. Heights and widths that 16 does not divide are padded inside and cropped back.
    """

    c_noise = "steps"  # its code is made for step numbers 0 .. T - 1
    blocks_of = (SimpleBlock,)

    def __init__(self, channels: int = 3, *, outputs: int = 1):
        super().__init__()
        if outputs < 1:
            raise ValueError("outputs is at least 1")
        self.conditions: dict[str, Condition] = {}
        widths, time_width = (64, 128, 256, 512, 1024), 32
        # Index 0 is the sinusoidal code, which has no weights; the published names begin at 1.
        self.time_mlp = nn.Sequential(nn.Identity(), nn.Linear(time_width, time_width), nn.ReLU())
        self.time_width = time_width
        self.conv0 = nn.Conv2d(channels, widths[0], 3, padding=1)
        pairs = list(pairwise(widths))
        self.downs = nn.ModuleList(SimpleBlock(a, b, time_width, up=False) for a, b in pairs)
        self.ups = nn.ModuleList(SimpleBlock(b, a, time_width, up=True) for a, b in reversed(pairs))
        self.output = nn.Conv2d(widths[0], outputs * channels, 1)

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
        return self.output(h)[..., *crop]  # (B, kC, H, W)


class MaxPoolLevel(nn.Module):
    """conv, BatchNorm, ReLU; + Linear(time) per channel; conv, BatchNorm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, time_width: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.bnorm1 = nn.BatchNorm2d(out_channels)
        self.time_mlp = nn.Linear(time_width, out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.bnorm2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.bnorm1(self.conv1(x)).relu()  # (B, out, H, W)
        h = h + self.time_mlp(time)[:, :, None, None]  # (B, out, 1, 1), broadcast over the picture
        return self.bnorm2(self.conv2(h)).relu()


class MaxPoolUNet(nn.Module):
    """The U-Net of the `oasis` account: 64 128 256 512 1024 channels, max-pooling down, 31,141,859 parameters for RGB.

    The account prints its forward pass, the names of its parts and its count; what is inside a level is our reading.
    """

    c_noise = "steps"
    blocks_of = (MaxPoolLevel,)

    def __init__(self, channels: int = 3, *, outputs: int = 1):
        super().__init__()
        if outputs < 1:
            raise ValueError("outputs is at least 1")
        self.conditions: dict[str, Condition] = {}
        self.time_width = 32
        self.time_embedding = nn.Sequential(nn.Identity(), nn.Linear(32, 32), nn.ReLU())
        self.first_level = MaxPoolLevel(channels, 64, 32)
        self.second_level = MaxPoolLevel(64, 128, 32)
        self.third_level = MaxPoolLevel(128, 256, 32)
        self.fourth_level = MaxPoolLevel(256, 512, 32)
        self.bottle_neck = MaxPoolLevel(512, 1024, 32)
        self.fifth_level_up = nn.ConvTranspose2d(1024, 512, 2, stride=2)
        self.fifth_level = MaxPoolLevel(1024, 512, 32)
        self.sixth_level_up = nn.ConvTranspose2d(512, 256, 2, stride=2)
        self.sixth_level = MaxPoolLevel(512, 256, 32)
        self.seventh_level_up = nn.ConvTranspose2d(256, 128, 2, stride=2)
        self.seventh_level = MaxPoolLevel(256, 128, 32)
        self.eigth_level_up = nn.ConvTranspose2d(128, 64, 2, stride=2)  # spelled as published
        self.eigth_level = MaxPoolLevel(128, 64, 32)
        self.last_conv = nn.Conv2d(64, outputs * channels, 1)

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        x, crop = pad_to_multiple(x, 16)
        with torch.autocast(x.device.type, enabled=False):  # step numbers need more digits than bfloat16 has
            time = self.time_embedding(sinusoidal(c_noise, self.time_width))  # (B, 32)
        h1 = self.first_level(x, time)  # (B, 64, H, W)
        h2 = self.second_level(F.max_pool2d(h1, 2), time)  # (B, 128, H / 2, W / 2)
        h3 = self.third_level(F.max_pool2d(h2, 2), time)  # (B, 256, H / 4, W / 4)
        h4 = self.fourth_level(F.max_pool2d(h3, 2), time)  # (B, 512, H / 8, W / 8)
        h = self.bottle_neck(F.max_pool2d(h4, 2), time)  # (B, 1024, H / 16, W / 16)
        h = self.fifth_level(torch.cat((h4, self.fifth_level_up(h)), 1), time)  # (B, 512, H / 8, W / 8)
        h = self.sixth_level(torch.cat((h3, self.sixth_level_up(h)), 1), time)  # (B, 256, H / 4, W / 4)
        h = self.seventh_level(torch.cat((h2, self.seventh_level_up(h)), 1), time)  # (B, 128, H / 2, W / 2)
        h = self.eigth_level(torch.cat((h1, self.eigth_level_up(h)), 1), time)  # (B, 64, H, W)
        return self.last_conv(h)[..., *crop]  # (B, kC, H, W)


class DoubleConv(nn.Module):
    """conv, BatchNorm, ReLU, twice."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class DoubleConvDown(nn.Module):
    """Max-pooling, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.max_pool2d(x, 2))  # (B, out, H / 2, W / 2)


class DoubleConvUp(nn.Module):
    """Transposed convolution to half the channels and twice the size, the skip before it, then a double convolution."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.up = nn.ModuleDict({"up_scale": nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)})
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv(torch.cat((self.up["up_scale"](x), skip), 1))  # (B, out, 2 H, 2 W)


class DoubleConvUNet(nn.Module):
    """The U-Net of the `cifar10` account: double convolutions and a table of time codes; 33,178,526 parameters for RGB.

    steps      rows of the table, T
    The table is a parameter that does not learn (33,078,526 do). Times between two step numbers get the mean of their
    rows, weighted by nearness. Weights loaded into it bring their own table.
    """

    c_noise = "steps"
    blocks_of = (DoubleConv,)

    def __init__(self, channels: int = 3, *, steps: int = 1000, outputs: int = 1):
        super().__init__()
        if min(steps, outputs) < 1:
            raise ValueError("steps and outputs are at least 1")
        self.conditions: dict[str, Condition] = {}
        self.time_embed = nn.Embedding.from_pretrained(_table(steps, 100), freeze=True)
        self.conv1 = DoubleConv(channels, 64)
        self.down1, self.down2 = DoubleConvDown(64, 128), DoubleConvDown(128, 256)
        self.down3, self.down4 = DoubleConvDown(256, 512), DoubleConvDown(512, 1024)
        self.up1, self.up2 = DoubleConvUp(1024, 512), DoubleConvUp(512, 256)
        self.up3, self.up4 = DoubleConvUp(256, 128), DoubleConvUp(128, 64)
        self.last_conv = nn.Conv2d(64, outputs * channels, 1)
        self.te1, self.te2, self.te3, self.te4, self.te5 = (_code(100, w) for w in (channels, 64, 128, 256, 512))
        self.te1_up, self.te2_up, self.te3_up, self.te4_up = (_code(100, w) for w in (1024, 512, 256, 128))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        x, crop = pad_to_multiple(x, 16)
        with torch.autocast(x.device.type, enabled=False):
            time = self.time(c_noise)  # (B, 100)
            ways = (self.te1, self.te2, self.te3, self.te4, self.te5, self.te1_up, self.te2_up, self.te3_up, self.te4_up)
            t1, t2, t3, t4, t5, u1, u2, u3, u4 = (way(time)[:, :, None, None] for way in ways)  # (B, width, 1, 1) each
        h1 = self.conv1(x + t1)  # (B, 64, H, W)
        h2 = self.down1(h1 + t2)  # (B, 128, H / 2, W / 2)
        h3 = self.down2(h2 + t3)  # (B, 256, H / 4, W / 4)
        h4 = self.down3(h3 + t4)  # (B, 512, H / 8, W / 8)
        h = self.down4(h4 + t5)  # (B, 1024, H / 16, W / 16)
        h = self.up1(h + u1, h4)
        h = self.up2(h + u2, h3)
        h = self.up3(h + u3, h2)
        h = self.up4(h + u4, h1)  # (B, 64, H, W)
        return self.last_conv(h)[..., *crop]  # (B, kC, H, W)

    def time(self, c_noise: Tensor) -> Tensor:
        """The rows of the table at step numbers (B,), between two of them the line that joins the two: (B, 100)."""
        table = self.time_embed.weight
        step = c_noise.float().clamp(0, len(table) - 1)
        below = step.floor()
        above = (below + 1).clamp_max(len(table) - 1)
        return torch.lerp(table[below.long()], table[above.long()], (step - below)[:, None])


def _table(steps: int, width: int) -> Tensor:
    """Row i, column 2k: sin(i / 10000^(2k / width)); column 2k + 1: the cosine of the same. (steps, width)"""
    frequencies = 10000 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.arange(steps, dtype=torch.float64)[:, None] * frequencies  # (steps, width / 2)
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(1).float()


def _code(time_width: int, width: int) -> nn.Sequential:
    """What a stage adds to each of its input's channels, from the time."""
    return nn.Sequential(nn.Linear(time_width, width), nn.SiLU(), nn.Linear(width, width))
