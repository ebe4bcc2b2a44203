"""Convolutions that choose their layout give what plain ones give: results, gradients, names."""

import copy

import pytest
import torch
from torch import nn

from sfumato import nets
from sfumato.training import by_layer
from sfumato.training.by_layer import FEW, LARGE


def both(module, x):
    """Output and gradients of a module as it is, and made to choose."""
    found = []
    for each in (module, by_layer.by_layer(copy.deepcopy(module))):
        leaf = x.clone().requires_grad_()
        y = each(leaf)
        weights = [p for p in each.parameters() if p.requires_grad]
        found.append([y, *torch.autograd.grad(y, [leaf, *weights], torch.cos(torch.arange(y.numel()).reshape(y.shape)))])
    return found


SMALL, MANY, WIDE = (2, 6, 7, 5), (FEW // 35 + 1, 6, 7, 5), (2, 6, 13, 11)
assert 7 * 5 * 4 < LARGE * 4 < 13 * 11 * 4


@pytest.mark.parametrize("shape", [SMALL, MANY, WIDE])
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 4, 3, padding=1),
        nn.Conv2d(6, 4, (3, 4), stride=(2, 1), padding=(0, 2), dilation=(1, 2), bias=False),
        nn.Conv2d(6, 4, 1),
        nn.ConvTranspose2d(6, 4, 4, stride=2, padding=1),
        nn.ConvTranspose2d(6, 4, (2, 3), stride=(2, 1), padding=(0, 2), bias=False),
    ],
    ids=["3x3", "odd", "1x1", "up", "odd up"],
)
def test_results_and_gradients_are_those_of_the_plain_ones(conv, shape):
    plain, chosen = both(conv.double(), torch.randn(shape, dtype=torch.float64))
    for one, other in zip(plain, chosen, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_maps_are_channels_last_and_small_ones_not(layout):
    conv = by_layer.by_layer(nn.Conv2d(6, 4, 3, padding=1))
    for shape, last in ((WIDE, True), (MANY, False)):
        y = conv(torch.randn(shape).contiguous(memory_format=layout))
        assert y.is_contiguous(memory_format=torch.channels_last) == last
        assert y.is_contiguous() != last


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=2),
        nn.Conv2d(6, 4, 3, padding="same"),
        nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(6, 4, 3, stride=2, output_padding=1),
        nn.ConvTranspose2d(6, 4, 3, dilation=2),
    ],
)
def test_others_are_left_alone(conv):
    plain, chosen = both(conv, torch.randn(SMALL))
    assert type(by_layer.by_layer(conv)) in (nn.Conv2d, nn.ConvTranspose2d)
    assert all(torch.equal(one, other) for one, other in zip(plain, chosen, strict=True))


class Halved(nn.Conv2d):
    """A convolution of one's own with other weights than are stored."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / 2, self.bias)


class Own(nn.Conv2d):
    """A convolution of one's own that does another thing."""

    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight, bias) + 1


@pytest.mark.parametrize("shape", [SMALL, MANY, WIDE])
@pytest.mark.parametrize("kind", [Halved, Own])
def test_a_convolution_of_ones_own_with_other_weights_chooses_too(kind, shape):
    conv = kind(6, 4, 3, padding=1).double()
    plain, chosen = both(conv, torch.randn(shape, dtype=torch.float64))
    for one, other in zip(plain, chosen, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)
    last = chosen[0].is_contiguous(memory_format=torch.channels_last)
    assert last == (kind is Halved and shape != MANY)  # as rows of a matrix, the smallest are so too


@pytest.mark.parametrize("name", ["simple_unet", "unet"])
def test_a_network_keeps_its_names_and_its_output(name):
    net = nets.build(name, 1).eval()
    chosen = by_layer.by_layer(copy.deepcopy(net))
    assert list(chosen.state_dict()) == list(net.state_dict())
    x, c_noise = torch.randn(2, 1, 32, 32), torch.tensor([3.0, 5.0])
    with torch.no_grad():
        torch.testing.assert_close(chosen(x, c_noise), net(x, c_noise), rtol=1e-4, atol=1e-4)
    again = copy.deepcopy(chosen)
    next(iter(again.parameters())).data.zero_()
    assert next(iter(chosen.parameters())).abs().max() > 0  # a copy has weights of its own
