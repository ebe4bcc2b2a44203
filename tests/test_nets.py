"""Networks: published counts, names, codes and shapes; sizes that do not divide; conditions; and how they begin."""

import re
from pathlib import Path

import pytest
import torch

from sfumato import nets
from sfumato.errors import UserError
from sfumato.nets import blocks


def test_simple_unet_is_the_published_one():
    net = nets.build("simple_unet")
    assert nets.parameters(net) == 62_438_883
    names = {name.rsplit(".", 1)[0] for name in net.state_dict()}
    pieces = ("time_mlp", "conv1", "transform", "conv2", "bnorm1", "bnorm2")
    expected = {"time_mlp.1", "conv0", "output"} | {
        f"{side}.{i}.{p}" for side in ("downs", "ups") for i in range(4) for p in pieces
    }
    assert names == expected


def test_simple_unet_has_the_published_shapes():
    net, seen = nets.build("simple_unet").eval(), []
    for block in (*net.downs, *net.ups):
        block.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[1:])))
    with torch.no_grad():
        net(torch.zeros(1, 3, 64, 64), torch.zeros(1))
    assert seen == [
        (128, 32, 32),
        (256, 16, 16),
        (512, 8, 8),
        (1024, 4, 4),
        (512, 8, 8),
        (256, 16, 16),
        (128, 32, 32),
        (64, 64, 64),
    ]


def test_published_sinusoidal_code():
    code = blocks.sinusoidal(torch.tensor([30.0]), 32)[0]
    sines = [-0.9880, -0.5030, 0.5963, -0.9991, 0.5384, 0.9841, 0.6842, 0.3966]
    cosines = [0.1543, -0.8643, -0.8028, 0.0423, -0.8427]
    torch.testing.assert_close(code[:8], torch.tensor(sines), rtol=0, atol=6e-5)
    torch.testing.assert_close(code[16:21], torch.tensor(cosines), rtol=0, atol=6e-5)


@pytest.mark.parametrize("size", [(28, 28), (33, 17), (5, 64)])
def test_any_size_goes_in_and_comes_out(size):
    net = nets.build("unet", channels=2, width=16, mults=(1, 2, 2), classes=3).eval()
    with torch.no_grad():
        assert net(torch.randn(2, 2, *size), torch.zeros(2)).shape == (2, 2, *size)


def test_padding_is_undone_by_the_crop():
    x = torch.randn(2, 3, 13, 30)
    padded, crop = blocks.pad_to_multiple(x, 8)
    assert padded.shape == (2, 3, 16, 32)
    assert torch.equal(padded[..., *crop], x)
    assert blocks.pad_to_multiple(padded, 8)[0] is padded


def test_unet_begins_by_predicting_nothing():
    net = nets.build("unet", channels=3, width=16, classes=5)
    out = net(torch.randn(2, 3, 16, 16), torch.zeros(2), label=torch.tensor([0, 5]))
    assert torch.equal(out, torch.zeros_like(out))


def test_unet_reads_noise_level_and_label():
    torch.manual_seed(0)
    net = nets.build("unet", channels=1, width=16, classes=3).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, c = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.zeros(4)
    with torch.no_grad():
        by_label = net(x, c, label=torch.arange(4))
        by_level = net(x, torch.tensor([-1.0, 0.0, 0.1, 1.0]), label=torch.zeros(4, dtype=torch.int64))
        untold = net(x, c)
    assert torch.cdist(by_label.flatten(1), by_label.flatten(1)).fill_diagonal_(1).min() > 1e-3
    assert torch.cdist(by_level.flatten(1), by_level.flatten(1)).fill_diagonal_(1).min() > 1e-3
    torch.testing.assert_close(untold[:1], by_label[3:])  # no label is the last row of the table


@pytest.mark.parametrize("classes", [None, 3])
def test_a_unet_told_zeros_of_augmentation_is_the_plain_one(classes):
    torch.manual_seed(0)
    told = nets.build("unet", channels=1, width=16, classes=classes, augment=6).eval()
    for parameter in told.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    plain = nets.build("unet", channels=1, width=16, classes=classes).eval()
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if k != "embedding.augment.weight"})
    x, c, vector = torch.randn(3, 1, 8, 8), torch.rand(3), torch.randn(3, 6)
    with torch.no_grad():
        expected, found = plain(x, c), told(x, c, augment=vector)
        assert torch.equal(told(x, c), expected)
        assert torch.equal(told(x, c, augment=torch.zeros(3, 6)), expected)
        given = told(x, c, augment=vector, augment_given=torch.tensor([True, False, True]))
    torch.testing.assert_close(given, torch.where(torch.tensor([1, 0, 1])[:, None, None, None] > 0, found, expected))
    assert (found - expected).abs().flatten(1).max(1).values.min() > 1e-3
    assert "augment" not in plain.conditions
    with pytest.raises(ValueError, match="length of a vector"):
        nets.build("unet", augment=-1)


def test_every_parameter_of_the_unet_learns():
    """After one step away from the zeroed outputs, every parameter receives a gradient."""
    torch.manual_seed(0)
    net = nets.build("unet", channels=1, width=16, classes=3, augment=6)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    told = {"label": torch.arange(3), "augment": torch.randn(3, 6)}
    net(torch.randn(3, 1, 8, 8), torch.rand(3), **told).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    scale, shift = net.middle[0].block.affine.bias.grad.chunk(2)
    assert scale.abs().min() > 0
    assert shift.abs().min() > 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_upsampling_is_that_of_nearest_neighbours(layout):
    """Values, gradients and layout."""
    x, weights = torch.randn(2, 3, 4, 5).to(memory_format=layout).requires_grad_(), torch.randn(2, 3, 8, 10)
    found = blocks.Upsample()(x)
    expected = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    assert torch.equal(found, expected)
    assert found.is_contiguous(memory_format=layout)
    grads = [torch.autograd.grad((y * weights).sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*grads)


def test_group_norm_is_float32_under_autocast_and_the_formula():
    norm, x = blocks.GroupNorm(2, 8), torch.randn(3, 8, 4, 4) * 50 + 200
    groups = x.reshape(3, 2, -1)
    expected = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(norm(x), expected.reshape(x.shape), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(norm(x.bfloat16()).float(), norm(x.bfloat16().float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("groups", [1, 8])
def test_group_norm_in_channels_last(groups):
    norm = blocks.GroupNorm(groups, 64)
    torch.nn.init.normal_(norm.weight), torch.nn.init.normal_(norm.bias)
    x, g = torch.randn(8, 64, 14, 14), torch.randn(8, 64, 14, 14)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.clone(memory_format=layout).requires_grad_()
        y = norm(leaf)
        assert y.is_contiguous(memory_format=layout)
        found.append([y, *torch.autograd.grad(y, [leaf, norm.weight, norm.bias], g)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [8, 20, 52, 100])
def test_unet_takes_any_width(width):
    net = nets.build("unet", channels=1, width=width)
    assert net(torch.zeros(1, 1, 8, 8), torch.zeros(1)).shape == (1, 1, 8, 8)


def test_names_and_unknown_ones():
    own = {
        "adm_unet",
        "convnext_unet",
        "ddpm_unet",
        "dit",
        "double_conv_unet",
        "edm2_unet",
        "maxpool_unet",
        "simple_unet",
        "unet",
    }
    assert {name for name, made in nets.NETS.items() if isinstance(made, type)} == own  # the others are sizes of these
    assert nets.names() == sorted(nets.NETS)
    with pytest.raises(UserError, match="Did you mean 'simple_unet'"):
        nets.build("simple_net")


def test_the_page_of_networks_tells_all_of_them_and_how_large_they_are():
    told = {}
    for line in (Path(__file__).parents[1] / "docs" / "networks.md").read_text().splitlines():
        if found := re.match(r"\| (`[^|]*`) \| ([\d,]+) \|", line):
            told |= dict.fromkeys(re.findall(r"`(\w+)`", found[1]), int(found[2].replace(",", "")))
    assert told.keys() == nets.NETS.keys()
    with torch.device("meta"):
        for name, count in told.items():
            assert nets.parameters(nets.build(name)) == count, name
