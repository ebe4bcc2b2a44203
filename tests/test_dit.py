"""The diffusion transformer: published sizes, codes of noise and position by formula, how it begins, labels, any size."""

import math

import pytest
import torch
from torch import nn

from sfumato import nets, schedules
from sfumato.denoisers import Denoiser
from sfumato.nets import dit

TINY = {"width": 24, "depth": 2, "heads": 3}


def awake(*args, **options):
    """A network whose weights are random, as they begin at zero."""
    torch.manual_seed(0)
    net = nets.build("dit", *args, **TINY, **options).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.1)
    return net


@pytest.mark.parametrize(("size", "published"), [("s", 33), ("b", 130), ("l", 458), ("xl", 675)])
def test_published_sizes(size, published):
    """Millions of parameters with learned variance for 4 x 32 x 32 and 1000 labels (Peebles & Xie 2023, table 1)."""
    with torch.device("meta"):
        net = nets.build(f"dit_{size}", 4, classes=1000, outputs=2)
    assert round(nets.parameters(net) / 1e6) == published
    if size == "xl":  # the published file also holds the codes of 16 x 16 positions, which are computed here
        assert nets.parameters(net) + 16 * 16 * 1152 == 675_129_632


@pytest.mark.parametrize("patch", [1, 4])
def test_the_patch_of_a_preset_is_an_option(patch):
    net = nets.build("dit_s", patch=patch, depth=1)
    assert net.enter.weight.shape == (384, 3, patch, patch)
    assert net(torch.zeros(1, 3, 8, 8), torch.zeros(1)).shape == (1, 3, 8, 8)
    assert nets.options("dit_s") == {"width", "depth", "heads", "patch", "classes", "dropout", "outputs"}


def test_the_code_of_the_noise_level_by_formula():
    """cos(c 10000^(-i / 128)), i = 0 .. 127, then the sines; through the perceptron and SiLU, plus the label's code before."""
    net, c_noise = awake(classes=4), torch.tensor([0.0, 1.5, 999.0])
    angles = c_noise.double()[:, None] * 10000 ** (-torch.arange(128, dtype=torch.float64) / 128)
    code = torch.cat((angles.cos(), angles.sin()), 1).float()
    first, _, second = net.embedding.mlp
    h = nn.functional.silu(code @ first.weight.T + first.bias) @ second.weight.T + second.bias
    labels = torch.tensor([3, 0, 4])
    expected = nn.functional.silu(h + net.embedding.label.weight[labels])
    torch.testing.assert_close(net.embedding(c_noise, labels), expected, rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.embedding(c_noise, labels), net.embedding(c_noise, labels).float())
        torch.testing.assert_close(net.embedding(c_noise, labels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 1)])
def test_the_code_of_a_position_by_formula(grid):
    code = dit.position_code(*grid, 24, torch.device("cpu")).view(*grid, 24)
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = [
                wave(place / 10000 ** (i / 6)) for place in (column, row) for wave in (math.sin, math.cos) for i in range(6)
            ]
            torch.testing.assert_close(code[row, column], torch.tensor(expected), rtol=0, atol=1e-6)


def test_it_begins_as_the_identity_and_says_nothing():
    torch.manual_seed(0)
    net = nets.build("dit", classes=3, **TINY)
    tokens, emb = torch.randn(2, 6, 24), torch.randn(2, 24)
    assert all(torch.equal(block(tokens, emb), tokens) for block in net.blocks)
    out = net(torch.randn(2, 3, 8, 8), torch.zeros(2), label=torch.tensor([0, 3]))
    assert torch.equal(out, torch.zeros_like(out))
    nn.init.normal_(net.leave.weight)  # the tokens are there; the last layer alone keeps them back
    assert net(torch.randn(2, 3, 8, 8), torch.zeros(2)).std() > 1


def test_without_positions_patches_that_are_moved_move_the_output(monkeypatch):
    """On a grid of 3 x 5 patches; and with positions they are told apart."""
    net = awake(2, patch=2, outputs=2)
    x, c_noise, order = torch.randn(2, 2, 6, 10), torch.tensor([3.0, 700.0]), torch.randperm(15)

    def moved(x):
        patches = nn.functional.unfold(x, 2, stride=2)[..., order]
        return nn.functional.fold(patches, (6, 10), 2, stride=2)

    with torch.no_grad():
        told = (net(moved(x), c_noise) - moved(net(x, c_noise))).abs().max()
        monkeypatch.setattr(dit, "position_code", lambda rows, columns, width, device: torch.zeros(rows * columns, width))
        out = net(x, c_noise)
        torch.testing.assert_close(net(moved(x), c_noise), moved(out), rtol=1e-4, atol=1e-5)
    assert told > 1e-2
    assert out.std() > 1e-2


def test_numbers_of_a_token_are_its_pixels_row_by_row_each_with_its_channels():
    net = nets.build("dit", 2, patch=2, outputs=2, **TINY)
    net.leave.bias.data = torch.arange(2 * 2 * 4.0)
    out = net(torch.zeros(1, 2, 4, 6), torch.zeros(1))[0]
    for row in range(2):
        for column in range(2):
            expected = (4 * (2 * row + column) + torch.arange(4.0))[:, None, None].expand(-1, 2, 3)
            assert torch.equal(out[:, row::2, column::2], expected)


def test_labels_and_the_label_that_is_not_told():
    net, x, c_noise = awake(classes=3), torch.randn(1, 3, 8, 8).expand(4, -1, -1, -1), torch.zeros(4)
    with torch.no_grad():
        found = net(x, c_noise, label=torch.arange(4))
        torch.testing.assert_close(net(x, c_noise), found[3:].expand(4, -1, -1, -1))
        levels = net(x, torch.tensor([0.0, 1.0, 10.0, 999.0]))
    for each in (found, levels):
        assert torch.cdist(each.flatten(1), each.flatten(1)).fill_diagonal_(1).min() > 1e-3
    assert net.conditions["label"].classes == 3
    assert nets.build("dit", **TINY).conditions == {}


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_any_size_and_any_number_of_channels(patch):
    net, x = awake(5, patch=patch, outputs=2), torch.randn(2, 5, 9, 14)
    with torch.no_grad():
        out = net(x, torch.zeros(2))
        assert out.shape == (2, 10, 9, 14)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(net(x, torch.zeros(2)).float(), out, rtol=0, atol=0.05 * out.std().item())
        last = net.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), torch.zeros(2))
        torch.testing.assert_close(last, out, rtol=1e-4, atol=1e-5)


def test_every_parameter_learns():
    net = awake(1, classes=3)
    net(torch.randn(3, 1, 8, 8), torch.rand(3), torch.arange(3)).square().sum().backward()
    silent = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert silent == set()


def test_it_is_told_steps_where_there_are_some_and_a_thousand_times_the_time_where_there_are_none():
    net = awake()
    seen = []
    net.embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        for schedule in (schedules.SCHEDULES["linear"](steps=1000), schedules.SCHEDULES["edm"]()):
            Denoiser(net, schedule)(torch.randn(2, 3, 8, 8), torch.tensor([0.3, 0.6]))
    torch.testing.assert_close(seen[0], torch.tensor([299.0, 599.0]))
    torch.testing.assert_close(seen[1], torch.tensor([300.0, 600.0]))


@pytest.mark.parametrize("wrong", [{"width": 30}, {"width": 24, "heads": 5}, {"depth": 0}, {"dropout": 1.0}])
def test_what_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match="width"):
        nets.build("dit", **wrong)
