"""The magnitude-preserving U-Net: its layers by the paper's formulas, what they preserve, what training does to weights."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from sfumato import nets
from sfumato.nets import edm2
from sfumato.training.by_layer import by_layer

TINY = {"width": 8, "mults": (1, 2), "blocks": 2, "attention": 1}


def awake(*args, **options):
    """A network whose gains, which begin at 0, let everything through."""
    torch.manual_seed(0)
    net = nets.build("edm2_unet", *args, **TINY | options).eval()
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            nn.init.constant_(parameter, 0.8)
    return net


def layers(net):
    return [module for module in net.modules() if isinstance(module, edm2.MPConv | edm2.MPLinear)]


def told(net, count=3, size=(8, 8)):
    """Arguments for a network of 2 channels and 3 labels."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 2, *size, generator=generator)
    return x, torch.rand(count, generator=generator), torch.arange(count) % 4


# ---- the formulas of the paper, written once more ------------------------------------------------------------------------


def normalized(x, dims):
    norm = x.square().sum(dims, keepdim=True).sqrt()
    return x / (norm * math.sqrt(norm.numel() / x.numel()) + 1e-4)


def plain(x, weight, gain=1.0):
    """Eq. 47: weights to a root mean square of 1, then over sqrt(fan-in)."""
    w = normalized(weight, tuple(range(1, weight.ndim))) / math.sqrt(weight[0].numel()) * gain
    return F.conv2d(x, w, padding=w.shape[-1] // 2) if w.ndim == 4 else x @ w.T


def mp_silu(x):
    return x / (1 + torch.exp(-x)) / 0.596


def mp_sum(a, b, t):
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def mp_cat(a, b, t=0.5):
    c = math.sqrt((a.shape[1] + b.shape[1]) / ((1 - t) ** 2 + t**2))
    return torch.cat((c / math.sqrt(a.shape[1]) * (1 - t) * a, c / math.sqrt(b.shape[1]) * t * b), 1)


def attention(x, w, name, heads):
    q, k, v = (part.unflatten(1, (heads, -1)) for part in plain(x, w[f"{name}.qkv.weight"]).flatten(2).chunk(3, 1))
    q, k, v = (normalized(part, (2,)) for part in (q, k, v))  # (B, heads, d, HW)
    scores = torch.einsum("nhcq,nhck->nhqk", q, k) / math.sqrt(q.shape[2])
    h = torch.einsum("nhqk,nhck->nhcq", scores.exp() / scores.exp().sum(3, keepdim=True), v)
    return mp_sum(x, plain(h.reshape(x.shape), w[f"{name}.out.weight"]), 0.3)


def block(x, emb, w, name, encoder, resize=None):
    ones = torch.ones(x.shape[1], 1, 2, 2)  # the filter [1, 1]
    if resize == "down":
        x = F.conv2d(x, ones / 4, stride=2, groups=x.shape[1])
    if resize == "up":
        x = F.conv_transpose2d(x, ones, stride=2, groups=x.shape[1])
    skip = lambda x: plain(x, w[f"{name}.skip.weight"]) if f"{name}.skip.weight" in w else x
    if encoder:
        x = normalized(skip(x), (1,))
    h = plain(mp_silu(x), w[f"{name}.conv1.weight"])
    c = plain(emb, w[f"{name}.scale.weight"], w[f"{name}.scale.gain"]) + 1
    h = plain(mp_silu(h * c[:, :, None, None]), w[f"{name}.conv2.weight"])
    x = mp_sum(x if encoder else skip(x), h, 0.3)
    if f"{name}.attention.qkv.weight" in w:
        x = attention(x, w, f"{name}.attention", heads=1)
    return x.clip(-256, 256)


def network(x, c_noise, label, w):
    """Figure 21 for two levels of two blocks."""
    waves = math.sqrt(2) * torch.cos(c_noise[:, None] * w["embedding.frequencies"] + w["embedding.phases"])
    one_hot = torch.eye(4)[label][:, :3]
    emb = mp_sum(plain(waves, w["embedding.noise.weight"]), plain(one_hot * math.sqrt(3), w["embedding.label.weight"]), 0.5)
    emb = mp_silu(emb)
    x = plain(torch.cat((x, torch.ones_like(x[:, :1])), 1), w["enter.weight"])
    skips = [x]
    for i, resize in enumerate((None, None, "down", None, None)):
        x = block(x, emb, w, f"downs.{i}", True, resize)
        skips.append(x)
    for i in range(2):
        x = block(x, emb, w, f"middle.{i}", False)
    for i, resize in enumerate((None, None, None, "up", None, None, None)):
        x = block(x if resize else mp_cat(x, skips.pop()), emb, w, f"ups.{i}", False, resize)
    return plain(x, w["leave.weight"], w["leave.gain"])


def test_the_whole_network_is_the_papers():
    net = awake(2, classes=3, outputs=2)
    x, c_noise, label = told(net, 4, (8, 12))
    with torch.no_grad():
        expected = network(x, c_noise, label, net.state_dict())
        torch.testing.assert_close(net(x, c_noise, label), expected, rtol=1e-4, atol=1e-5)
    assert expected.shape == (4, 4, 8, 12)
    assert expected.std() > 0.1


# ---- magnitudes ----------------------------------------------------------------------------------------------------------


def test_constants():
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    assert torch.trapezoid(F.silu(x) ** 2 * density, x).sqrt().item() == pytest.approx(edm2.SILU, abs=5e-4)
    kept, added = edm2.KEPT, edm2.ADDED
    assert kept**2 + added**2 == pytest.approx(1)
    assert added / (kept + added) == pytest.approx(0.3)


def test_parts_that_stand_beside_each_other_weigh_the_same():
    beside = edm2.balanced(torch.ones(1, 6, 1, 1), torch.ones(1, 2, 1, 1))[0, :, 0, 0].square()
    assert beside.mean().item() == pytest.approx(1)
    assert beside[:6].sum().item() == pytest.approx(beside[6:].sum().item())


def test_pixel_norm_is_float32_also_of_bfloat16():
    x = torch.randn(64, 6, 3, 3) * 30
    torch.testing.assert_close(edm2.unit(x, 1).square().mean(1).sqrt(), torch.ones(64, 3, 3), rtol=1e-4, atol=0)
    x = x.bfloat16()
    exact = x.double() / (1e-4 + x.double().square().mean(1, keepdim=True).sqrt())
    found = edm2.unit(x, 1)
    assert found.dtype == torch.bfloat16
    assert ((found - exact) / exact).abs().max() < 2.02 * 2**-8  # the divisor is rounded once, and the result


def test_every_layer_preserves_what_goes_in():
    """The mean square that leaves a layer is gain^2 that of the patches p that enter, over random directions of its weights.

    E[(w p)^2] = |p|^2 / n for w uniform on the unit sphere of n dimensions; with S = sum p p^T the mean over O outputs has
    a relative variance below 2 tr(S^2) / (tr(S)^2 O), from which the tolerance is taken (five deviations).
    """
    net, seen = awake(2, classes=3, width=48).requires_grad_(False), []
    for layer in layers(net):
        layer.register_forward_hook(lambda layer, args, out: seen.append((layer, args[0], out)))
    with torch.no_grad():
        net(*told(net))
    assert len(seen) == len(layers(net)) > 40
    for layer, x, out in seen:
        if x.ndim == 4:
            x = F.unfold(x, layer.kernel_size, padding=layer.padding).transpose(1, 2).flatten(0, 1)
        p = x.double()  # (P, n)
        gram = p @ p.T
        found = out.double().square().mean() / (float(layer.gain) ** 2 * p.square().sum(1).mean() / p.shape[1])
        sizes = gram.square().sum() / gram.trace() ** 2  # tr(S^2) / tr(S)^2
        assert abs(found - 1) < 5 * math.sqrt(2 * sizes / out.shape[1]), (layer, found)


def test_states_keep_variance_1_through_the_network():
    """Where pictures have no edge, so that no position sees zeros; attention, an average, may take 1 - KEPT^2 = 0.16."""
    net, seen = awake(2, width=64, attention=0), []
    for name, module in net.named_modules():
        if isinstance(module, edm2.MPConv):
            module.padding_mode = "circular"
        if isinstance(module, edm2.Block):
            nn.init.zeros_(module.scale.gain)
            module.register_forward_hook(lambda module, args, out, name=name: seen.append((name, out.square().mean().item())))
    with torch.no_grad():
        net(torch.randn(4, 2, 16, 16), torch.rand(4))
    assert len(seen) == 14
    assert all(0.75 < size < 1.25 for _, size in seen), seen


# ---- weights -------------------------------------------------------------------------------------------------------------


def test_a_training_step_brings_stored_weights_to_norm_1_and_evaluation_leaves_them():
    net = awake(2, classes=3)
    before, gains = copy.deepcopy(net.state_dict()), 0
    with torch.no_grad():
        evaluated = net(*told(net))
        assert all(torch.equal(w, before[name]) for name, w in net.state_dict().items())
        trained = net.train()(*told(net))
    torch.testing.assert_close(trained, evaluated, rtol=0, atol=1e-4 * len(layers(net)) * evaluated.std().item())
    for name, w in net.state_dict().items():
        if not name.endswith("weight"):
            gains += name.endswith("gain")
            assert torch.equal(w, before[name]), name
            continue
        rows, was = w.flatten(1), before[name].flatten(1)
        size = was.square().mean(1).sqrt()
        torch.testing.assert_close(rows.square().mean(1).sqrt(), size / (size + 1e-4))
        torch.testing.assert_close(F.cosine_similarity(rows, was), torch.ones(len(rows)))
    assert gains == 15


def test_multiplying_stored_weights_by_3_changes_nothing():
    """Up to EPS (1 - 1/3) a layer."""
    net = awake(2, classes=3)
    with torch.no_grad():
        before = net(*told(net))
        for layer in layers(net):
            layer.weight *= 3
        after = net(*told(net))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-4 * len(layers(net)) * before.std().item())


@pytest.mark.parametrize("make", [lambda: edm2.MPConv(5, 4, 3, gain=0.7), lambda: edm2.MPLinear(5, 4, gain=0.7)])
def test_gradients_are_orthogonal_to_the_weights(make, monkeypatch):
    """With w' = 0.7 w / L, L = |w| + e, and g the gradient of w', that of w is 0.7 (g / L - w (w g) / (|w| L^2))."""
    torch.manual_seed(0)
    layer, made, directed = make(), [], edm2.directed

    def kept(*args):
        made.append(directed(*args))
        made[-1].retain_grad()
        return made[-1]

    monkeypatch.setattr(edm2, "directed", kept)
    out = layer(torch.randn(3, 5, 6, 6) if isinstance(layer, nn.Conv2d) else torch.randn(3, 5))
    (out * torch.randn_like(out)).sum().backward()
    w, found = layer.weight.detach().flatten(1).double(), layer.weight.grad.flatten(1).double()
    g, norm = made[0].grad.flatten(1).double(), w.norm(dim=1, keepdim=True)
    length = norm + 1e-4 * math.sqrt(w.shape[1])
    expected = 0.7 * (g / length - w * (w * g).sum(1, keepdim=True) / (norm * length**2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert F.cosine_similarity(found, w).abs().max() < 1e-3
    assert F.cosine_similarity(g, w).abs().max() > 0.03


def test_it_begins_by_predicting_nothing():
    net = nets.build("edm2_unet", 2, classes=3, **TINY)
    out = net(*told(net))
    assert torch.equal(out, torch.zeros_like(out))
    out.sum().backward()
    assert net.leave.gain.grad.abs() > 0


def test_every_parameter_learns():
    net = awake(2, classes=3).train()
    net(*told(net)).square().sum().backward()
    silent = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0}
    assert silent == set()
    assert all(p.ndim for p in net.parameters())  # what has no dimension cannot be sharded


def test_blocks_may_be_recomputed_in_the_backward_pass(monkeypatch):
    """Gradients are equal bit for bit, and stored weights do not change a second time."""
    net, found = awake(2, classes=3).train(), []
    for again in (False, True):
        each = copy.deepcopy(net)
        if again:
            for module in each.modules():
                if isinstance(module, each.blocks_of):
                    monkeypatch.setattr(
                        module, "forward", lambda *args, f=module.forward: checkpoint(f, *args, use_reentrant=False)
                    )
        loss = each(*told(each)).square().sum()
        weights = copy.deepcopy(each.state_dict())
        loss.backward()
        assert all(torch.equal(w, weights[name]) for name, w in each.state_dict().items())
        found.append([p.grad for p in each.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.slow
def test_compiled_gradients_are_the_plain_ones():
    """From the first step on, when forced normalisation changes the weights most."""
    net, found = awake(2, mults=(1,), blocks=1, attention=0).train(), []
    for each in (copy.deepcopy(net), torch.compile(copy.deepcopy(net), backend="aot_eager")):
        each(*told(net)[:2]).square().sum().backward()
        found.append([p.grad for p in each.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-5 * one.abs().max().item())


# ---- the network as it is used -------------------------------------------------------------------------------------------


PUBLISHED = {"xs": (125, 1), "s": (280, 1), "m": (498, 1), "l": (777, 1), "xl": (1100, 100), "xxl": (1500, 100)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_published_sizes(size):
    """Millions of parameters for 4 x 64 x 64 and 1000 labels, to the last digit that is printed (Karras et al. 2024)."""
    published, digit = PUBLISHED[size]
    with torch.device("meta"):
        net = nets.build(f"edm2_{size}", 4, classes=1000)
    assert abs(nets.parameters(net) / 1e6 - published) <= digit / 2


def test_attention_is_where_the_paper_has_it():
    """At 16 x 16 and 8 x 8 of 64 x 64, and in the middle."""
    with torch.device("meta"):
        net = nets.build("edm2_xs", 4)
    wide = [block.conv2.out_channels for block in (*net.downs, *net.ups) if isinstance(block.attention, edm2.Attention)]
    assert wide == [384] * 3 + [512] * 3 + [512] * 4 + [384] * 4
    assert [isinstance(block.attention, edm2.Attention) for block in net.middle] == [True, False]
    assert {m.heads for m in net.modules() if isinstance(m, edm2.Attention)} == {384 // 64, 512 // 64}


def test_labels_and_the_label_that_is_not_told():
    net, (x, c_noise, _) = awake(2, classes=3), told(None, 1)
    emb = net.embedding
    assert emb.label.weight.shape[1] == 3  # none for 'not told'
    with torch.no_grad():
        by_label = net(x.expand(4, -1, -1, -1), c_noise.expand(4), torch.arange(4))
        by_level = net(x.expand(3, -1, -1, -1), torch.tensor([-1.0, 0.0, 0.1]), torch.zeros(3, dtype=torch.int64))
        torch.testing.assert_close(net(x, c_noise), by_label[3:])
        waves = math.sqrt(2) * torch.cos(c_noise * emb.frequencies + emb.phases)
        untold = mp_silu(emb.noise(waves[None]) / math.sqrt(2))
        torch.testing.assert_close(emb(c_noise, torch.tensor([3])), untold, rtol=1e-5, atol=1e-6)
    for each in (by_label, by_level):
        assert torch.cdist(each.flatten(1), each.flatten(1)).fill_diagonal_(1).min() > 1e-3


@pytest.mark.parametrize("size", [(13, 18), (3, 5)])
def test_any_size_precision_and_layout(size):
    net, (x, c_noise, label) = awake(2, classes=3, width=16, outputs=2), told(None, 3, size)
    chosen, last = by_layer(copy.deepcopy(net)), copy.deepcopy(net).to(memory_format=torch.channels_last)
    assert list(chosen.state_dict()) == list(net.state_dict())
    with torch.no_grad():
        out = net(x, c_noise, label)
        assert out.shape == (3, 4, *size)
        torch.testing.assert_close(chosen(x, c_noise, label), out, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(last(x.to(memory_format=torch.channels_last), c_noise, label), out, rtol=1e-4, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(net(x, c_noise, label).float(), out, rtol=0, atol=0.1 * out.std().item())
            emb = net.embedding(c_noise, label)
    assert torch.equal(emb, net.embedding(c_noise, label))  # float32 all the way


def test_states_are_clipped():
    net, found = awake(2), []
    for block in net.ups:
        block.register_forward_hook(lambda block, args, out: found.append(out.abs().max().item()))
        block.conv2.gain = 1e4
    with torch.no_grad():
        net(*told(net)[:2])
    assert set(found) == {256.0}


@pytest.mark.parametrize("wrong", [{"width": 0}, {"mults": (1, 0)}, {"dropout": 1.0}])
def test_what_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        nets.build("edm2_unet", **wrong)
