"""The networks of the published accounts: counts, names, codes of time, attention, sizes, and what each option does."""

import math

import pytest
import torch
from torch.nn import functional as F

from sfumato import nets
from sfumato.nets import convnext

SMALL = {"convnext_unet": {"dim": 8}, "double_conv_unet": {"steps": 20}, "maxpool_unet": {}, "simple_unet": {}}
OPTIONS = {**SMALL, "resnet": {"dim": 8, "block": "resnet"}}


@pytest.fixture(scope="module")
def built():
    """One network of each kind, for two channels, with a learned variance."""
    torch.manual_seed(0)
    names = {name: name.replace("resnet", "convnext_unet") for name in OPTIONS}
    return {name: nets.build(names[name], 2, outputs=2, **kw).eval() for name, kw in OPTIONS.items()}


def modules(net):
    """The names of the layers that hold weights."""
    return {name.rsplit(".", 1)[0] for name in net.state_dict()}


@pytest.mark.parametrize(
    ("name", "channels", "count", "trainable"),
    [
        ("maxpool_unet", 3, 31_141_859, 31_141_859),
        ("double_conv_unet", 3, 33_178_526, 33_078_526),
        ("double_conv_unet", 1, 33_177_032, 33_077_032),
        ("convnext_unet", 1, 2_992_180, 2_992_180),
    ],
)
def test_published_counts(name, channels, count, trainable):
    with torch.device("meta"):  # shapes alone
        net = nets.build(name, channels)
    assert nets.parameters(net) == count
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trainable


def test_maxpool_unet_has_the_published_names(built):
    levels = ("first_level", "second_level", "third_level", "fourth_level", "bottle_neck", "fifth_level", "sixth_level")
    levels += ("seventh_level", "eigth_level")
    ups = {f"{level}_level_up" for level in ("fifth", "sixth", "seventh", "eigth")}
    inside = ("conv1", "bnorm1", "time_mlp", "conv2", "bnorm2")
    expected = {"time_embedding.1", "last_conv"} | ups | {f"{level}.{part}" for level in levels for part in inside}
    assert modules(built["maxpool_unet"]) == expected


def test_double_conv_unet_has_the_published_names(built):
    stages = ["conv1.conv", *(f"{side}{i}.conv.conv" for side in ("down", "up") for i in range(1, 5))]
    codes = [f"te{i}" for i in range(1, 6)] + [f"te{i}_up" for i in range(1, 5)]
    expected = {"time_embed", "last_conv"} | {f"up{i}.up.up_scale" for i in range(1, 5)}
    expected |= {f"{stage}.{i}" for stage in stages for i in (0, 1, 3, 4)} | {f"{code}.{i}" for code in codes for i in (0, 2)}
    assert modules(built["double_conv_unet"]) == expected


def test_convnext_unet_has_biases_only_where_the_account_has(built):
    convolutions = {
        name: m for name, m in built["convnext_unet"].named_modules() if isinstance(m, torch.nn.modules.conv._ConvNd)
    }
    attention = {f"{side}.{i}.attention.out.0" for side, n in (("downs", 3), ("ups", 2)) for i in range(n)}
    assert {n for n, m in convolutions.items() if m.bias is not None} == {"enter", "middle.attention.out"} | attention


def test_the_table_of_times_is_its_closed_form():
    net = nets.build("double_conv_unet", 1)
    table = net.time_embed.weight
    assert not table.requires_grad
    assert table.shape == (1000, 100)
    for i, k in ((0, 0), (1, 0), (7, 3), (500, 20), (999, 49)):
        angle = i / 10000 ** (2 * k / 100)
        assert table[i, 2 * k].item() == pytest.approx(math.sin(angle), abs=1e-6)
        assert table[i, 2 * k + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_times_between_rows_of_the_table_and_beyond_its_ends(built):
    net = built["double_conv_unet"]
    table = net.time_embed.weight
    got = net.time(torch.tensor([0.0, 3.0, 3.25, 18.5, 19.0, 25.0, -1.0]))
    expected = [
        table[0],
        table[3],
        0.75 * table[3] + 0.25 * table[4],
        (table[18] + table[19]) / 2,
        table[19],
        table[19],
        table[0],
    ]
    torch.testing.assert_close(got, torch.stack(expected))


def test_a_loaded_table_is_kept_and_heeded(built):
    net = nets.build("double_conv_unet", 2, steps=20, outputs=2).eval()
    weights = {name: tensor.clone() for name, tensor in built["double_conv_unet"].state_dict().items()}
    weights["time_embed.weight"] = torch.randn(20, 100)
    net.load_state_dict(weights)
    x, c = torch.randn(1, 2, 16, 16), torch.tensor([4.0])
    with torch.no_grad():
        assert torch.equal(net.time(c)[0], weights["time_embed.weight"][4])
        assert (net(x, c) - built["double_conv_unet"](x, c)).abs().max() > 1e-4


def test_skips_come_before_what_is_upsampled_except_where_the_account_has_it_after(built):
    """In each first block of the way up, the state of the way down is where the account puts it."""
    net, seen = built["maxpool_unet"], {}
    net.fourth_level.register_forward_hook(lambda m, args, out: seen.update(skip=out))
    net.fifth_level.register_forward_pre_hook(lambda m, args: seen.update(given=args[0]))
    double = built["double_conv_unet"]
    double.down3.register_forward_hook(lambda m, args, out: seen.update(skip2=out))
    double.up1.conv.register_forward_pre_hook(lambda m, args: seen.update(given2=args[0]))
    conv = built["convnext_unet"]
    conv.downs[2].attention.register_forward_hook(lambda m, args, out: seen.update(skip3=out))
    conv.ups[0].register_forward_pre_hook(lambda m, args: seen.update(given3=args[0]))
    x, c = torch.randn(2, 2, 16, 16), torch.tensor([1.0, 7.0])
    with torch.no_grad():
        for network in (net, double, conv):
            network(x, c)
    assert torch.equal(seen["given"][:, :512], seen["skip"])
    assert torch.equal(seen["given2"][:, 512:], seen["skip2"])
    assert torch.equal(seen["given3"][:, 32:], seen["skip3"])


def test_linear_attention_is_its_formula():
    torch.manual_seed(0)
    attention = convnext.LinearAttention(6)
    x, norm = torch.randn(2, 6, 3, 5), attention.norm
    q, k, v = (part.view(2, 4, 32, 15) for part in F.conv2d(norm(x), attention.qkv.weight).chunk(3, 1))
    weight = torch.einsum("bhdm,bhdn->bhmn", q.softmax(2) * 32**-0.5, k.softmax(3))  # how much m takes from n
    h = torch.einsum("bhmn,bhdn->bhdm", weight, v / 15).reshape(2, 128, 3, 5)
    h = F.conv2d(h, attention.out[0].weight, attention.out[0].bias).movedim(1, -1)
    expected = x + F.layer_norm(h, (6,), eps=1e-5).movedim(-1, 1)
    torch.testing.assert_close(attention(x), expected)


def test_full_attention_is_its_formula():
    torch.manual_seed(0)
    attention = convnext.Attention(6)
    x = torch.randn(2, 6, 3, 5)
    q, k, v = (part.view(2, 4, 32, 15) for part in F.conv2d(attention.norm(x), attention.qkv.weight).chunk(3, 1))
    weight = torch.einsum("bhdm,bhdn->bhmn", q * 32**-0.5, k).softmax(-1)
    h = torch.einsum("bhmn,bhdn->bhdm", weight, v).reshape(2, 128, 3, 5)
    torch.testing.assert_close(attention(x), x + F.conv2d(h, attention.out.weight, attention.out.bias))


def test_the_resnet_block_is_scaled_and_shifted_twice():
    torch.manual_seed(0)
    block = convnext.ResNetBlock(6, 8, 5)
    x, time = torch.randn(2, 6, 3, 5), torch.randn(2, 5)
    codes = F.linear(F.silu(time), block.time_mlp.weight, block.time_mlp.bias).view(2, 4, 8, 1, 1)
    h = F.silu(F.group_norm(F.conv2d(x, block.conv1.weight, padding=1), 8) * (1 + codes[:, 0]) + codes[:, 1])
    h = F.silu(F.group_norm(F.conv2d(h, block.conv2.weight, padding=1), 8) * (1 + codes[:, 2]) + codes[:, 3])
    torch.testing.assert_close(block(x, time), h + F.conv2d(x, block.skip.weight))


@pytest.mark.parametrize("size", [(28, 28), (33, 17), (5, 40)])
@pytest.mark.parametrize("name", OPTIONS)
def test_any_size_goes_in_and_comes_out(built, name, size):
    with torch.no_grad():
        assert built[name](torch.randn(1, 2, *size), torch.zeros(1)).shape == (1, 4, *size)  # two outputs a channel


@pytest.mark.parametrize("name", SMALL)
def test_samples_do_not_see_each_other_and_times_matter(built, name):
    torch.manual_seed(0)
    x, c = torch.randn(3, 2, 16, 16), torch.tensor([0.0, 5.0, 19.0])
    with torch.no_grad():
        together = built[name](x, c)
        alone = torch.cat([built[name](x[i : i + 1], c[i : i + 1]) for i in range(3)])
        other = built[name](x, c.flip(0))
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together - other).abs().amax((1, 2, 3))[[0, 2]].min() > 1e-5


@pytest.mark.parametrize("name", [*SMALL, "resnet"])
def test_every_trainable_parameter_learns(built, name):
    net = built[name].eval()  # BatchNorm in training takes away the mean, and with it the gradient of the bias before it
    torch.manual_seed(0)
    net(torch.randn(2, 2, 16, 16), torch.tensor([3.0, 11.0])).square().sum().backward()
    still = [n for n, p in net.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)]
    net.zero_grad(set_to_none=True)
    assert not still


@pytest.mark.parametrize("name", nets.names())
def test_a_network_has_at_least_one_output(name):
    with torch.device("meta"), pytest.raises(ValueError, match="at least 1"):
        nets.build(name, 3, outputs=0)


def test_the_second_outputs_of_unet_are_the_last_channels():
    """Pixels are folded into channels at its door; the first C channels must still be the prediction."""
    net = nets.build("unet", 3, width=8, outputs=2)
    torch.nn.init.ones_(net.leave.bias[: 3 * 4])
    out = net(torch.randn(1, 3, 8, 8), torch.zeros(1))
    assert torch.equal(out, torch.cat((torch.ones(1, 3, 8, 8), torch.zeros(1, 3, 8, 8)), 1))


@pytest.mark.parametrize("name", SMALL)
def test_codes_of_time_are_float32_under_autocast(built, name):
    """Steps 900 and 901 are one number in bfloat16; the 20 rows of the small table tell 18.0 from 18.05."""
    x = torch.randn(1, 2, 16, 16).expand(2, -1, -1, -1)
    c = torch.tensor([18.0, 18.05]) if name == "double_conv_unet" else torch.tensor([900.0, 901.0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = built[name](x, c).float()
    assert out.isfinite().all()
    assert not torch.equal(out[0], out[1])


def test_options_of_convnext_unet_and_their_mistakes():
    assert nets.options("convnext_unet") == {"dim", "mults", "block", "outputs"}
    net = nets.build("convnext_unet", 3, dim=10, mults=(1, 2), block="resnet").eval()
    assert net(torch.zeros(1, 3, 7, 9), torch.zeros(1)).shape == (1, 3, 7, 9)
    for wrong in ({"dim": 5}, {"dim": 2}, {"mults": (0,)}, {"block": "vgg"}):
        with pytest.raises(ValueError):
            nets.build("convnext_unet", 3, **wrong)
    with pytest.raises(ValueError):
        nets.build("double_conv_unet", 3, steps=0)
