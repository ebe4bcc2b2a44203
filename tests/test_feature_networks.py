"""Published feature networks: counts and shapes from their papers, resizing by hand, names, an independent implementation."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sfumato.judge.networks import dinov2, inception
from sfumato.nets import parameters


def shapes(make, *sizes):
    """A network without values."""
    with torch.device("meta"):
        return make(*sizes)


def drawn(make, *sizes):
    """Weights of a network by name, drawn so that signals keep their size."""
    generator, out = torch.Generator().manual_seed(0), {}
    for name, tensor in shapes(make, *sizes).state_dict().items():
        if name.endswith(("running_var", "bn.weight", "norm1.weight", "norm2.weight", "norm.weight", "gamma")):
            out[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        elif tensor.is_floating_point():
            fan = math.prod(tensor.shape[1:]) if tensor.ndim in (2, 4) else 100
            out[name] = torch.randn(tensor.shape, generator=generator) / fan**0.5
    return out


@pytest.fixture(scope="module")
def weights():
    return drawn(inception.Inception)


# ---- inception -------------------------------------------------------------------------------------------------------


def test_inception_has_the_parameters_that_are_published():
    net = shapes(inception.Inception)
    # 21,802,784 of Inception-v3 without its top, of which 34,432 are statistics (Keras' documentation); there the 17,216
    # norms have no scale.
    assert parameters(net) == 21_802_784 - 34_432 + 17_216


def test_inceptions_names_are_those_of_the_file():
    names = shapes(inception.Inception).state_dict()
    expected = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5d.branch_pool.conv.weight": (64, 288, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6c.branch7x7dbl_2.conv.weight": (160, 160, 7, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7c.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.bn.bias": (384,),
    }
    assert {name: tuple(names[name].shape) for name in expected} == expected
    assert len({name.rpartition(".")[0] for name in names}) == 2 * 94  # convolutions, and their norms


def test_inception_takes_gray_and_colour_of_any_size_and_gray_is_colour_repeated(weights):
    net = inception.read(weights).eval()
    x = torch.rand(1, 1, 8, 11, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        gray, colour = net(x), net(x.repeat(1, 3, 1, 1))
    assert gray.shape == (1, 2048)
    torch.testing.assert_close(gray, colour)
    assert gray.std() > 0


def test_the_resizing_is_that_of_tensorflow_1():
    x = torch.arange(12.0).view(1, 1, 3, 4)
    y = inception.resized(x, 6)
    assert y.shape == (1, 1, 6, 6)
    rows, columns = [0, 0.5, 1, 1.5, 2, 2], [0, 2 / 3, 4 / 3, 2, 8 / 3, 3]  # i H / side, at most H - 1: not centred
    expected = torch.tensor([[4 * row + column for column in columns] for row in rows])
    torch.testing.assert_close(y[0, 0], expected)
    torch.testing.assert_close(inception.resized(x.expand(1, 1, 3, 4), 2)[0, 0], torch.tensor([[0.0, 2.0], [6.0, 8.0]]))


def test_pooling_leaves_the_padding_out_but_for_the_last_block():
    x = -torch.ones(1, 1, 4, 4)
    assert (inception._average(x) == -1).all()  # with zeros around it corners would be -4/9
    assert (inception._greatest(x) == -1).all()
    net = shapes(inception.Inception)
    assert net.Mixed_7b.pool is inception._average
    assert net.Mixed_7c.pool is inception._greatest


def test_the_input_is_what_the_graph_expects(weights, monkeypatch):
    class Seen(Exception):
        pass

    def stop(self, x):
        raise Seen(x)

    monkeypatch.setattr(inception._Conv, "forward", stop)
    stored = torch.tensor([0.0, 128.0, 255.0]).view(1, 1, 1, 3).expand(1, 1, 3, 3)
    with pytest.raises(Seen) as caught:
        inception.read(weights)(stored / 127.5 - 1)
    torch.testing.assert_close(caught.value.args[0][0, 0, 0, [0, -1]], torch.tensor([-1.0, 127 / 128]))  # (stored - 128) / 128


def test_a_file_of_another_network_is_refused(weights):
    with pytest.raises(ValueError, match="1008 classes"):
        inception.read(weights | {"fc.weight": torch.zeros(1000, 2048)})
    with pytest.raises(ValueError, match="2 differ"):
        inception.read({"mine": torch.zeros(1)} | {name: t for name, t in weights.items() if name != "Conv2d_1a_3x3.bn.bias"})
    with pytest.raises(ValueError, match=r"Conv2d_1a_3x3\.conv\.weight"):
        inception.read(weights | {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 1, 3, 3)})
    whole = weights | {"fc.weight": torch.zeros(1008, 2048), "AuxLogits.fc.bias": torch.zeros(9)}
    own = inception.read(whole).state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights)


# ---- DINOv2 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "depth", "count"), [(384, 12, 22.06), (768, 12, 86.58), (1024, 24, 304.37)])
def test_dinov2_has_the_parameters_that_are_published(width, depth, count):
    net, more = shapes(dinov2.DINOv2, width, depth, 37), shapes(dinov2.DINOv2, width, depth, 37, 4)
    assert parameters(net) / 1e6 == pytest.approx(count, abs=0.006)  # millions, as timm's tables have them
    block = 12 * width**2 + 13 * width + 2 * width  # qkv, proj, two layers of the perceptron; norms, biases; two scales
    assert parameters(net) == depth * block + (3 * 14**2 + 1) * width + (1 + 37**2 + 1) * width + 2 * width
    assert parameters(more) - parameters(net) == 4 * width


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_reads_its_sizes_off_the_file(registers):
    weights = drawn(dinov2.DINOv2, 384, 2, 5, registers)
    net = dinov2.read(weights | {"mask_token": torch.zeros(1, 384)}).eval()
    assert (len(net.blocks), net.positions, net.registers) == (2, 5, registers)
    x = torch.rand(2, 1, 20, 9) * 2 - 1
    with torch.no_grad():
        gray, colour = net(x), net(x.repeat(1, 3, 1, 1))
    assert gray.shape == (2, 384)
    torch.testing.assert_close(gray, colour)


def test_what_is_no_dinov2_is_refused():
    weights = drawn(dinov2.DINOv2, 384, 1, 5)
    with pytest.raises(ValueError, match="first name is a"):
        dinov2.read({"a": torch.zeros(1)})
    with pytest.raises(ValueError, match="S/14, B/14 or L/14"):
        dinov2.read(weights | {"cls_token": torch.zeros(1, 1, 1536)})
    with pytest.raises(ValueError, match=r"S/14; .*norm\.weight"):
        dinov2.read({name: tensor for name, tensor in weights.items() if name != "norm.weight"})


def test_places_are_resized_about_their_centres_and_kept_at_their_own_size():
    ramp = torch.arange(8.0)[:, None].expand(8, 8).flatten()  # rises down the grid
    for net in (dinov2.read(drawn(dinov2.DINOv2, 384, 1, 8, registers)) for registers in (0, 4)):
        with torch.no_grad():
            net.pos_embed[0, 1:] = ramp[:, None]
            assert torch.equal(net.places(8)[0, :, 0], ramp)
            small = net.places(4)[0, :, 0].view(4, 4)
        assert (small[1:] > small[:-1]).all()
        torch.testing.assert_close(small, small[:, :1].expand(4, 4))
        middle = small[1:3, 0].mean()
        centre = 2 * 8 / (4 if net.registers else 4.1) - 0.5  # where the middle of 4 lies among 8, or with a tenth more
        assert middle == pytest.approx(centre, abs=0.03)  # the cubic does not follow a ramp exactly


THEIRS = {  # the parts of torch's layer: ours, and the scale of what they add
    "norm1.": ("norm1", None),
    "norm2.": ("norm2", None),
    "self_attn.in_proj_": ("attn.qkv", None),
    "self_attn.out_proj.": ("attn.proj", "ls1.gamma"),
    "linear1.": ("mlp.fc1", None),
    "linear2.": ("mlp.fc2", "ls2.gamma"),
}


@pytest.mark.parametrize("registers", [0, 4])
def test_dinov2_is_torchs_own_transformer_with_the_scales_in_its_weights(registers):
    weights = drawn(dinov2.DINOv2, 384, 2, 16, registers)
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(values)[:, None, None] for values in (dinov2.MEAN, dinov2.STD))
    patches = F.unfold(((x + 1) / 2 - mean) / std, 14, stride=14).transpose(1, 2)  # (B, 256, 3 * 14 * 14)
    tokens = F.linear(patches, weights["patch_embed.proj.weight"].flatten(1), weights["patch_embed.proj.bias"])
    tokens = torch.cat((weights["cls_token"].expand(2, -1, -1), tokens), 1) + weights["pos_embed"]
    if registers:
        tokens = torch.cat((tokens, weights["register_tokens"].expand(2, -1, -1)), 1)  # attention knows no order
    for i in range(2):
        layer = nn.TransformerEncoderLayer(384, 6, 1536, 0, "gelu", 1e-6, batch_first=True, norm_first=True)
        of = {name.removeprefix(f"blocks.{i}."): tensor for name, tensor in weights.items()}
        for theirs, (ours, scale) in THEIRS.items():
            for kind in ("weight", "bias"):
                value = of[f"{ours}.{kind}"]
                scaled = (of[scale].unsqueeze(1) if value.ndim == 2 else of[scale]) * value if scale else value
                layer.get_parameter(theirs + kind).data = scaled
        tokens = layer(tokens)
    expected = F.layer_norm(tokens[:, 0], (384,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    found = dinov2.read(weights).eval()(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.std() > 0.1
