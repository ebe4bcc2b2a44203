"""The U-Nets of DDPM, ADM and DDPM++: published counts, each block by its formula, how they begin, and what they are told."""

import math

import pytest
import torch
from torch.nn import functional as F

from sfumato import nets
from sfumato.nets import adm, ddpm, init

SMALL = {
    "ddpm_unet": {"width": 16, "mults": (1, 2), "blocks": 1, "attention": (0,)},
    "adm_unet": {"width": 16, "mults": (1, 2), "blocks": 1, "attention": (0,)},
    "ddpmpp_cifar10": {"width": 16, "mults": (1, 2), "blocks": 1, "attention": (1,)},
}
TOLD = [name for name in SMALL if name != "ddpm_unet"]  # of augmentation


def small(name, **options):
    """A small network with weights that are not as it begins, so that everything matters."""
    torch.manual_seed(0)
    net = nets.build(name, 2, **SMALL[name] | options).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return net


# ---- counts ----------------------------------------------------------------------------------------------------------


def block_count(a, b, emb, attends=False, project=False, scales=True):
    """Parameters of a residual block of a to b channels: two norms, two convolutions of 3x3, the embedding, skip, attention."""
    count = 2 * a + 9 * a * b + b + (emb + 1) * b * (2 if scales else 1) + 2 * b + 9 * b * b + b
    count += (a * b + b) * (a != b or project)
    return count + attends * (2 * b + (b + 1) * 3 * b + (b + 1) * b)


def counted(width, mults, blocks, attends, embedding, ends=None, **kind):
    """Parameters of an encoder and decoder of such blocks, from the outermost level; `embedding` in all of its layers."""
    emb, last, current, skips = 4 * width, len(mults) - 1, width, [width]
    count = embedding + 9 * 3 * width + width
    plain = {"scales": kind.get("scales", True)}
    for level, mult in enumerate(mults):
        if level > 0:
            count += block_count(current, current, emb, **kind)
            skips.append(current)
        for _ in range(blocks):
            count += block_count(current, width * mult, emb, attends[level], **plain)
            current = width * mult
            skips.append(current)
    count += block_count(current, current, emb, True, **plain) + block_count(current, current, emb, **plain)
    for level in range(last, -1, -1):
        if level < last:
            count += block_count(current, current, emb, **kind)
        for k in range(blocks + 1):
            attend = attends[level] and (ends is None or k == blocks)
            count += block_count(current + skips.pop(), width * mults[level], emb, attend, **plain)
            current = width * mults[level]
    return count + 2 * current + 9 * current * 3 + 3


def test_published_counts():
    """Ho et al. print 35.7 and 114 million, Dhariwal & Nichol 296 million, which learn a variance too."""
    with torch.device("meta"):
        count = lambda name, **options: nets.parameters(nets.build(name, 3, **options))
        assert count("ddpm_cifar10") == count("ddpm_unet") == 35_746_307
        assert count("ddpm_256") == 113_673_219
        assert count("ddpmpp_cifar10") == 55_732_739
        assert count("ddpmpp_cifar10", augment=9) == 55_732_739 + 9 * 128
        assert count("ddpmpp_cifar10", classes=10) == 55_732_739 + 11 * 128
        assert count("adm_imagenet64", classes=1000) == 295_899_267
        assert count("adm_imagenet64", classes=1000, outputs=2) == 295_904_454


def test_counts_by_their_layers():
    adm_64 = 193 * 768 + 769 * 768 + 1000 * 768
    assert counted(192, (1, 2, 3, 4), 3, (False, True, True, True), adm_64) == 295_899_267
    ddpmpp = 129 * 512 + 513 * 512
    found = counted(128, (2, 2, 2), 4, (False, True, False), ddpmpp, ends=True, project=True, scales=False)
    assert found == 55_732_739


def test_sizes_have_names_and_take_options():
    assert nets.options("ddpm_cifar10") == nets.options("ddpm_unet")
    net = nets.build("ddpmpp_cifar10", 1, width=16, mults=(1, 1), blocks=1, attention=(0,))
    assert net.middle[0].dropout.p == 0.13
    assert isinstance(net.embedding, adm.DDPMppEmbedding)


# ---- blocks by their formulas ----------------------------------------------------------------------------------------


def norm(x, layer, eps):
    """Group normalisation, spelled out."""
    groups = x.reshape(len(x), layer.num_groups, -1)
    mean, var = groups.mean(2, keepdim=True), groups.var(2, correction=0, keepdim=True)
    y = ((groups - mean) / (var + eps).sqrt()).reshape(x.shape)
    return y * layer.weight[:, None, None] + layer.bias[:, None, None]


def conv(x, layer, padding=None):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2 if padding is None else padding)


def attended(x, layer, heads, eps):
    """Softmax over positions of q k / sqrt(width of a head), head by head, in plain matrix products."""
    h = norm(x, layer.norm, eps)
    q, k, v = (part.flatten(2) for part in conv(h, layer.qkv).chunk(3, 1))  # (B, C, HW)
    out = []
    for q1, k1, v1 in zip(*(part.chunk(heads, 1) for part in (q, k, v)), strict=True):
        weights = (torch.einsum("bci,bcj->bij", q1, k1) / math.sqrt(q1.shape[1])).softmax(2)
        out.append(torch.einsum("bij,bcj->bci", weights, v1))
    return conv(torch.cat(out, 1).reshape(x.shape), layer.out)


def random(module):
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module.double().eval()


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def given():
    torch.manual_seed(0)
    return torch.randn(3, 8, 6, 4, dtype=torch.float64), torch.randn(3, 16, dtype=torch.float64)


@pytest.mark.parametrize("out", [8, 16])
def test_ddpm_block_and_attention(given, out):
    x, emb = given
    block, attention = (random(m) for m in (ddpm.Block(8, out, 16, 2, 0.3), ddpm.Attention(8, 2)))
    h = conv(F.silu(norm(x, block.norm1, 1e-6)), block.conv1) + (emb @ block.shift.weight.T + block.shift.bias)[..., None, None]
    h = conv(F.silu(norm(h, block.norm2, 1e-6)), block.conv2)
    close(block(x, emb), h + (x if out == 8 else conv(x, block.skip)))
    close(attention(x), x + attended(x, attention, 1, 1e-6))


def test_ddpm_changes_of_size(given):
    x, down, up = given[0], random(ddpm.Down(8)), random(ddpm.Up(8))
    beyond = torch.zeros(3, 8, 7, 5, dtype=torch.float64)  # a row below and a column to the right
    beyond[..., :6, :4] = x
    close(down(x), F.conv2d(beyond, down.conv.weight, down.conv.bias)[..., ::2, ::2])
    close(up(x), conv(x.repeat_interleave(2, 2).repeat_interleave(2, 3), up.conv))


@pytest.mark.parametrize("resize", ["", "down", "up"])
@pytest.mark.parametrize("out", [8, 128])
@pytest.mark.parametrize("form", adm.FORMS)
def test_adm_block(given, form, out, resize):
    """Karras et al. 2022's block with [1, 1] filters: adaptive norm, or a sum times sqrt(1/2); heads of 64, or one."""
    x, emb = given
    module = {"": None, "down": torch.nn.AvgPool2d(2), "up": torch.nn.Upsample(scale_factor=2.0)}[resize]
    block = random(adm.Block(8, out, adm.FORMS[form], 16, 0.3, True, module))
    eps, gain, heads = (1e-5, 1, max(1, out // 64)) if form == "adm" else (1e-6, math.sqrt(0.5), 1)

    def resized(y):
        if resize == "down":
            return (y[..., ::2, ::2] + y[..., 1::2, ::2] + y[..., ::2, 1::2] + y[..., 1::2, 1::2]) / 4
        return y.repeat_interleave(2, 2).repeat_interleave(2, 3) if resize else y

    told = (emb @ block.affine.weight.T + block.affine.bias)[..., None, None]
    h = conv(resized(F.silu(norm(x, block.norm1, eps))), block.conv1)
    h = norm(h, block.norm2, eps) * (1 + told[:, :out]) + told[:, out:] if form == "adm" else norm(h + told, block.norm2, eps)
    skip = resized(x)
    if out != 8 or (resize and form == "ddpmpp"):
        skip = conv(skip, block.skip)
    else:
        assert isinstance(block.skip, torch.nn.Identity)
    y = (skip + conv(F.silu(h), block.conv2)) * gain
    close(block(x, emb), (y + attended(y, block.attention, heads, eps)) * gain)


def test_embeddings_by_their_formulas():
    """ADM: cosines, then sines, of c / 10000^(k / half), the label last; DDPM++: sines first, half - 1, the label before."""
    torch.manual_seed(0)
    c, label, vector = torch.tensor([-0.7, 0.4]), torch.tensor([2, 4]), torch.randn(2, 6)
    mlp = lambda e, x: F.silu(x @ e.mlp[0].weight.T + e.mlp[0].bias) @ e.mlp[2].weight.T + e.mlp[2].bias
    hot = torch.tensor([[0.0, 0, 1, 0], [0, 0, 0, 0]])  # the last label is 'not told'
    angles = lambda last: c[:, None] * 10000 ** (-torch.arange(4) / last)
    e = random(adm.ADMEmbedding(8, 4, 6)).float()
    code = torch.cat((angles(4).cos(), angles(4).sin()), 1) + vector @ e.augment.weight.T
    close(e(c, label, vector), F.silu(mlp(e, code) + hot @ e.label.weight.T))
    e = random(adm.DDPMppEmbedding(8, 4, 6)).float()
    code = torch.cat((angles(3).sin(), angles(3).cos()), 1) + vector @ e.augment.weight.T
    close(e(c, label, vector), F.silu(mlp(e, code + 2 * hot @ e.label.weight.T + e.label.bias)))


def test_where_attention_stands():
    """Levels count from the innermost; on the way up DDPM++ attends only after the last block of a level."""
    places = lambda net: {name.removesuffix(".attention.qkv") for name, _ in net.named_modules() if name.endswith(".qkv")}
    options = {"width": 16, "mults": (1, 1, 1), "blocks": 2, "attention": (1,)}
    every = {"downs.3", "downs.4", "ups.4", "ups.5", "ups.6", "middle.0"}
    for name in ("ddpm_unet", "adm_unet"):
        assert places(nets.build(name, **options)) == every
    assert places(nets.build("adm_unet", form="ddpmpp", **options)) == every - {"ups.4", "ups.5"}


# ---- how they begin --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_they_begin_by_predicting_nothing(name):
    """Each residual branch begins as nothing: a block hands on its input, but for skips, sizes and DDPM++'s gain."""
    torch.manual_seed(0)
    net = nets.build(name, 2, classes=3, **SMALL[name])
    x, c = torch.randn(2, 2, 16, 12), torch.tensor([0.3, -0.2])
    assert torch.equal(net(x, c, label=torch.tensor([0, 3])), torch.zeros_like(x))
    h, emb = torch.randn(2, 32, 4, 4), torch.randn(2, 64)
    gain = 0.5 if name == "ddpmpp_cifar10" else 1  # sqrt(1/2) twice, for the middle attends
    torch.testing.assert_close(net.middle[0](h, emb), h * gain)


def test_xavier_by_its_moments():
    """U(-b, b) has the variance b^2 / 3 = 2 gain^2 / (fan_in + fan_out); of 18,432 draws it is known to 2 %."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(32, 64, 3)
    init.xavier(layer, 0.5)
    bound = 0.5 * math.sqrt(6 / (9 * 96))
    assert layer.weight.abs().max() <= bound
    assert layer.weight.var().item() == pytest.approx(bound**2 / 3, rel=0.03)
    assert torch.equal(layer.bias, torch.zeros(64))


@pytest.mark.parametrize(("name", "gain"), [("ddpm_unet", 1.0), ("ddpmpp_cifar10", math.sqrt(0.1))])
def test_one_layer_of_q_k_and_v_begins_as_three(name, gain):
    """Bounds of layers of C to C channels: gain sqrt(6 / 2C)."""
    net = nets.build(name, 2, **SMALL[name] | {"width": 64})
    found = next(m for n, m in net.named_modules() if n.startswith("middle") and n.endswith("qkv")).weight
    assert found.abs().max().item() == pytest.approx(gain * math.sqrt(3 / 128), rel=1e-2)


# ---- what they are told ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
def test_noise_level_and_label_matter(name):
    net = small(name, classes=3)
    x = torch.randn(1, 2, 8, 8).expand(4, -1, -1, -1)
    with torch.no_grad():
        by_label = net(x, torch.zeros(4), label=torch.arange(4))
        by_level = net(x, torch.tensor([0.0, 0.5, 1.0, 2.0]), label=torch.zeros(4, dtype=torch.int64))
        untold = net(x, torch.zeros(4))
    for found in (by_label, by_level):
        assert torch.cdist(found.flatten(1), found.flatten(1)).fill_diagonal_(1).min() > 1e-3
    torch.testing.assert_close(untold[:1], by_label[3:])


@pytest.mark.parametrize("name", SMALL)
def test_without_labels_nothing_of_them_is_there(name):
    """A network that was not told its labels is the one that knows none, with what its bias adds taken away."""
    told = small(name, classes=3)
    plain = small(name)
    weights = {k: v for k, v in told.state_dict().items() if "label" not in k}
    assert weights.keys() == plain.state_dict().keys()
    assert plain.conditions == {}
    assert told.conditions == {"label": nets.Condition(classes=3)}
    plain.load_state_dict(weights)
    with torch.no_grad():
        if name == "ddpm_unet":
            told.label.weight[3] = 0
        elif name == "ddpmpp_cifar10":
            torch.nn.init.zeros_(told.embedding.label.bias)
        x, c = torch.randn(2, 2, 8, 8), torch.rand(2)
        torch.testing.assert_close(told(x, c), plain(x, c))


@pytest.mark.parametrize("name", TOLD)
def test_told_zeros_of_augmentation_it_is_the_plain_one(name):
    told, plain = small(name, augment=6), small(name)
    plain.load_state_dict({k: v for k, v in told.state_dict().items() if k != "embedding.augment.weight"})
    x, c, vector = torch.randn(3, 2, 8, 8), torch.rand(3), torch.randn(3, 6)
    with torch.no_grad():
        expected, found = plain(x, c), told(x, c, augment=vector)
        for nothing in ({}, {"augment": torch.zeros(3, 6)}):
            assert torch.equal(told(x, c, **nothing), expected)
        given = told(x, c, augment=vector, augment_given=torch.tensor([True, False, True]))
    torch.testing.assert_close(given, torch.where(torch.tensor([1, 0, 1])[:, None, None, None] > 0, found, expected))
    assert (found - expected).abs().flatten(1).max(1).values.min() > 1e-3
    with pytest.raises(ValueError, match="length of a vector"):
        nets.build("adm_unet", augment=-1)


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    more = {"augment": 6} if name in TOLD else {}
    net = small(name, classes=3, **more)
    told = {"label": torch.arange(4)} | {key: torch.randn(4, n) for key, n in more.items()}
    net(torch.randn(4, 2, 8, 8), torch.rand(4), **told).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0] == []


@pytest.mark.parametrize("name", SMALL)
def test_any_size_goes_in_and_comes_out(name):
    with torch.no_grad():
        assert small(name, outputs=2)(torch.randn(2, 2, 13, 6), torch.zeros(2)).shape == (2, 4, 13, 6)


@pytest.mark.parametrize("name", SMALL)
def test_bfloat16_keeps_the_noise_level_in_float32(name):
    net, seen = small(name), []
    code = net.embedding if name in TOLD else net.time
    code.register_forward_hook(lambda module, args, out: seen.append(out))
    x, c = torch.randn(2, 2, 8, 8), torch.tensor([900.0, 901.0])  # one number in bfloat16
    with torch.no_grad():
        expected = net(x, c)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x, c)
    assert torch.equal(*seen)
    assert out.dtype is torch.bfloat16
    torch.testing.assert_close(out.float(), expected, rtol=0.05, atol=0.05 * expected.abs().max().item())


@pytest.mark.parametrize("name", ["ddpm_unet", "adm_unet"])
@pytest.mark.parametrize(
    "wrong",
    [{"width": 7}, {"width": 2}, {"mults": (0,)}, {"blocks": 0}, {"outputs": 0}, {"dropout": 1.0}, {"attention": (4,)}],
    ids=str,
)
def test_mistakes(name, wrong):
    with torch.device("meta"), pytest.raises(ValueError):
        nets.build(name, 3, **wrong)


def test_forms_are_two():
    with pytest.raises(ValueError, match="adm or ddpmpp"):
        nets.build("adm_unet", form="ncsnpp")
