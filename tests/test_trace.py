"""Shapes through a network: what is listed, what is counted, what is left as it was, and the command that prints it."""

import io
import os
from itertools import pairwise

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from sfumato import nets
from sfumato.cli import main
from sfumato.nets.trace import PAGE, blocks

SMALL = {
    "adm_unet": {"width": 8, "mults": (1, 2), "classes": 4, "augment": 6},
    "convnext_unet": {"dim": 8},
    "ddpm_unet": {"width": 8, "mults": (1, 2), "attention": (0,), "classes": 4},
    "dit": {"width": 8, "depth": 2, "heads": 2},
    "double_conv_unet": {"steps": 20},
    "edm2_unet": {"width": 8, "mults": (1, 2), "blocks": 1},
    "unet": {"width": 8, "classes": 4, "augment": 6},
}


class Own(nn.Module):
    """A network of one's own: one layer called twice, in a block and outside, and a buffer that counts calls."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Conv2d(2, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.block = nn.Sequential(self.twice, nn.BatchNorm2d(4), nn.ReLU())
        self.leave = nn.Conv2d(8, 2, 1)
        self.gain = nn.Parameter(torch.ones(3))
        self.calls: torch.Tensor
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x, c_noise):
        self.calls += 1
        self.block[1].running_mean = self.block[1].running_mean + 1
        h = self.twice(self.enter(x))
        return self.leave(torch.cat((h, self.block(h)), 1)) * self.gain[0]


def written(rows, whole=False, width=100):
    """The lines of the table, as words."""
    text = io.StringIO()
    Console(file=text, width=width).print(nets.table(rows, whole))
    return [line.split() for line in text.getvalue().splitlines()]


@pytest.fixture(scope="module")
def simple():
    return nets.build("simple_unet")


def test_the_published_shapes_of_simple_unet(simple):
    rows = nets.trace(simple, (3, 64, 64))
    found = {row.name: row.outputs[0][1:] for row in rows if row.depth == 1 and row.kind == "SimpleBlock"}
    down = {"downs.0": (128, 32, 32), "downs.1": (256, 16, 16), "downs.2": (512, 8, 8), "downs.3": (1024, 4, 4)}
    up = {"ups.0": (512, 8, 8), "ups.1": (256, 16, 16), "ups.2": (128, 32, 32), "ups.3": (64, 64, 64)}
    assert list(found.items()) == list((down | up).items())
    given = {row.name: row.inputs for row in rows}
    assert given[""] == ((1, 3, 64, 64), (1,))
    assert given["ups.0"] == ((1, 2048, 4, 4), (1, 32))  # two states of 1024 channels, one beside the other


@pytest.mark.parametrize("name", [name for name, made in nets.NETS.items() if isinstance(made, type)])
def test_every_network_is_listed_whole(name):
    torch.manual_seed(0)
    net = nets.build(name, 2, **SMALL.get(name, {}))
    rows = nets.trace(net, (2, 16, 24), batch=3)
    assert rows[0].inputs[:2] == ((3, 2, 16, 24), (3,))
    assert rows[0].outputs == ((3, 2, 16, 24),)
    assert rows[0].parameters == nets.parameters(net)
    table = 20 * 100 if name == "double_conv_unet" else 0  # read as a parameter, never called
    assert sum(row.parameters for row in rows if row.depth == 1) == nets.parameters(net) - table
    layers = {n: nets.parameters(m) for n, m in net.named_modules() if len(m._parameters) and any(True for _ in m.parameters())}
    silent = {"time_embed", "embedding.augment"}  # the table, and what nobody tells
    assert {row.name: row.parameters for row in rows if not row.parts and row.block} == {
        name: count for name, count in layers.items() if name not in silent
    }
    assert all(b.depth <= a.depth + 1 for a, b in pairwise(rows))
    lines = written(rows)
    given = ["2x16x24,", "1,", "1"] if "classes" in SMALL.get(name, {}) else ["2x16x24,", "1"]  # this one has labels
    assert lines[-1] == ["the", "network", type(net).__name__, *given, "2x16x24", f"{nets.parameters(net):,}"]
    assert len(lines) <= PAGE
    counts = [int(line[-1].replace(",", "")) for line, row in zip(lines[1:], blocks(rows), strict=False) if row.depth == 1]
    assert sum(counts) == nets.parameters(net) - table
    assert (["outside", "of", "these", f"{table:,}"] in lines) == bool(table)


def test_a_shared_layer_is_shown_twice_and_counted_once():
    rows = nets.trace(Own(), (2, 6, 5), batch=2)
    assert [(row.name, row.kind, row.depth) for row in rows] == [
        ("", "Own", 0),
        ("enter", "Conv2d", 1),
        ("twice", "Conv2d", 1),
        ("block", "Sequential", 1),
        ("twice", "Conv2d", 2),
        ("block.1", "BatchNorm2d", 2),
        ("block.2", "ReLU", 2),
        ("leave", "Conv2d", 1),
    ]
    assert [(row.parameters, row.again) for row in rows[1:]] == [(76, 0), (20, 0), (8, 20), (0, 20), (8, 0), (0, 0), (18, 0)]
    assert rows[0].parameters == 76 + 20 + 8 + 18 + 3
    assert rows[-1].inputs == ((2, 8, 6, 5),)


def test_the_table_of_a_network_of_ones_own():
    rows = nets.trace(Own(), (2, 6, 5), batch=2)
    expected = [
        ["block", "type", "input", "output", "parameters"],
        ["enter", "Conv2d", "2x6x5", "4x6x5", "76"],
        ["twice", "Conv2d", "4x6x5", "4x6x5", "20"],
        ["block", "Sequential", "4x6x5", "4x6x5", "8"],
        ["leave", "Conv2d", "8x6x5", "2x6x5", "18"],
        ["outside", "of", "these", "3"],
        ["the", "network", "Own", "2x6x5,", "1", "2x6x5", "125"],
    ]
    assert written(rows) == expected
    inside = [
        ["twice", "Conv2d", "4x6x5", "4x6x5", "counted", "above"],
        ["1", "BatchNorm2d", "4x6x5", "4x6x5", "8"],
        ["2", "ReLU", "4x6x5", "4x6x5"],
    ]
    assert written(rows, whole=True) == expected[:4] + inside + expected[4:]


def state(net):
    """Everything of a network that a pass could change."""
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), m.training) for m in net.modules()]
    return hooks, {name: (id(b), b.clone()) for name, b in net.named_buffers()}, [p.grad for p in net.parameters()]


@pytest.mark.parametrize("wrong", [False, True])
def test_the_network_is_left_as_it_was(wrong):
    net, seen = Own(), []
    net.block.eval()
    net.leave.register_forward_hook(lambda *call: seen.append(net.training or torch.is_grad_enabled()))
    before = state(net)
    if wrong:
        net.gain.data = net.gain.data[:0]  # the pass fails at its very end
        with pytest.raises(IndexError):
            nets.trace(net, (2, 6, 5))
    else:
        nets.trace(net, (2, 6, 5))
    after = state(net)
    assert seen == [False]
    assert (before[0], before[2]) == (after[0], after[2])
    assert before[1].keys() == after[1].keys()
    for name, (place, value) in before[1].items():
        assert after[1][name][0] == place
        assert torch.equal(after[1][name][1], value), name


def test_conditions_are_told_nothing():
    class Told(nn.Module):
        conditions = {"label": nets.Condition(classes=7), "augment": nets.Condition((6,), torch.float32)}

        def forward(self, x, c_noise, label, augment=None):
            said.append((label.tolist(), augment))
            return x

    said = []
    assert nets.trace(Told(), (1, 4, 4), batch=2)[0].inputs == ((2, 1, 4, 4), (2,), (2,))
    rows = nets.trace(Told(), (1, 4, 4), label=torch.tensor([3]), augment=(1.0, [torch.zeros(1, 6)]))
    assert rows[0].inputs == ((1, 1, 4, 4), (1,), (1,), (1, 6))
    assert said[0] == ([7, 7], None)
    assert said[1][0] == [3]


def test_weights_of_another_type_get_pictures_of_it():
    net, seen = nn.Conv2d(1, 1, 1).double(), []
    net.forward = lambda x, c_noise: seen.append((x.dtype, c_noise.dtype)) or x
    nets.trace(net, (1, 8, 8))
    assert seen == [(torch.float64, torch.float32)]


def test_what_does_not_begin_with_the_batch_is_in_brackets():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 2)

        def forward(self, x, c_noise):
            return self.layer(x.flatten(0, 2)).view(*x.shape[:3], 2)

    assert written(nets.trace(Flat(), (2, 3, 5), batch=4))[1] == ["layer", "Linear", "(24x5)", "(24x2)", "12"]


def test_blocks_within_blocks_only_where_they_fit_on_a_page():
    class Deep(nn.Module):
        def __init__(self, count):
            super().__init__()
            make = lambda: nn.Sequential(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), nn.Conv2d(1, 1, 1))
            self.parts = nn.ModuleList(make() for _ in range(count))

        def forward(self, x, c_noise):
            for part in self.parts:
                x = part(x)
            return x

    fits, does_not = (blocks(nets.trace(Deep(count), (1, 4, 4))) for count in (PAGE // 2, PAGE // 2 + 1))
    assert [(row.name, row.depth) for row in fits[:4]] == [("parts.0", 1), ("parts.0.0", 2), ("parts.1", 1), ("parts.1.0", 2)]
    assert len(fits) == PAGE
    assert {row.depth for row in does_not} == {1}
    assert len(does_not) == PAGE // 2 + 1


def test_the_command_prints_shapes_and_trains_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    data = tmp_path / "pictures.npy"
    np.save(data, np.random.default_rng(0).integers(0, 256, (80, 8, 8), dtype=np.uint8))
    words = ["train", str(data), "--net", "unet:width=8", "--batch", "40", "--images", "40"]
    assert main([*words, "--trace-shapes"]) == 0
    shapes = capsys.readouterr().out
    assert main([*words, "--trace-layers"]) == 0
    layers = capsys.readouterr().out
    assert os.listdir(tmp_path) == ["pictures.npy"]
    assert shapes.split()[:5] == ["block", "type", "input", "output", "parameters"]
    net = nets.build("unet", 1, width=8, patch=1)  # as training would build it
    assert shapes.split()[-2:] == layers.split()[-2:] == ["1x8x8", f"{nets.parameters(net):,}"]
    assert "Conv2d" in shapes
    assert "SiLU" not in shapes
    assert "SiLU" in layers
    assert all(line[-1].isdigit() for line in shapes.splitlines()[1:])  # counts end at the right edge
