"""Whole networks: DDPM's U-Net and ADM's against diffusers' UNet2DModel with the same weights; values, gradients, both ways."""

import pytest
import torch

from sfumato import nets
from sfumato.interop import from_diffusers, to_diffusers


def theirs(diffusers, levels, attention, plain=("Down", "Up"), **options):
    """A UNet2DModel with random weights; `attention` counts levels from the innermost, as ours does."""
    attends = [level in attention for level in reversed(range(levels))]
    down = tuple(f"{'AttnDown' if a else plain[0]}Block2D" for a in attends)
    up = tuple(f"{'AttnUp' if a else plain[1]}Block2D" for a in reversed(attends))
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(down_block_types=down, up_block_types=up, **options)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return net


def ddpm(diffusers, width, mults, blocks, attention, **options):
    """As google/ddpm-cifar10-32 is configured, but for its sizes; 4 channels to a group below 128."""
    options = {
        "block_out_channels": tuple(width * mult for mult in mults), "layers_per_block": blocks, "freq_shift": 1,
        "flip_sin_to_cos": False, "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6,
        "norm_num_groups": min(32, width // 4),
    } | options  # fmt: skip
    return theirs(diffusers, len(mults), attention, **options)


def agree(found, expected, share=1e-5):
    """To 1e-5, or to that share of the largest element, where that is more than 1."""
    torch.testing.assert_close(found, expected, rtol=0, atol=share * max(1.0, expected.abs().max().item()))


def through(net, x, *told):
    """What a network answers, and the gradients at its input and its weights (by name) of a sum with fixed signs."""
    leaf = x.clone().requires_grad_()
    y = net(leaf, *told)
    y = y if isinstance(y, torch.Tensor) else y.sample
    torch.manual_seed(2)
    y.backward(torch.randn(y.shape) / 8)
    return y.detach(), leaf.grad, {name: parameter.grad for name, parameter in net.named_parameters()}


SIZES = [
    (32, (1, 2), 1, (0,)),
    (32, (1, 1, 2), 2, (1,)),
    (64, (1, 2), 2, (0, 1)),
    (48, (1,), 1, ()),
    pytest.param(128, (1, 2, 2, 2), 2, (2,), marks=pytest.mark.slow),
    pytest.param(128, (1, 1, 2, 2, 4, 4), 2, (1,), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("width", "mults", "blocks", "attention"), SIZES)
def test_ddpm_unet(diffusers, width, mults, blocks, attention):
    """Elementwise to 1e-5, gradients of every weight among them; weights there and back are the same bits.

    Gradients at the weights of the largest are float32 sums over 8,192 positions, in an order of each side's own: 2e-5 apart.
    """
    share = 5e-5 if len(mults) == 6 else 1e-5
    other = ddpm(diffusers, width, mults, blocks, attention)
    mine = nets.build("ddpm_unet", 3, width=width, mults=mults, blocks=blocks, attention=attention)
    mine.load_state_dict(from_diffusers(other.state_dict()))
    back = to_diffusers(mine.state_dict())
    assert back.keys() == other.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in other.state_dict().items())
    side = 2 ** len(mults)
    x, steps = torch.randn(2, 3, side, 2 * side), torch.tensor([3.0, 700.0])
    (y, at_input, at_weights), (y_other, at_input_other, at_weights_other) = through(mine, x, steps), through(other, x, steps)
    agree(y, y_other)
    agree(at_input, at_input_other)
    for name, gradient in to_diffusers(at_weights).items():
        agree(gradient, at_weights_other[name], share)


def test_labels_are_told_as_theirs(diffusers):
    other = ddpm(diffusers, 32, (1, 2), 1, (0,), num_class_embeds=4)
    mine = nets.build("ddpm_unet", 3, width=32, mults=(1, 2), blocks=1, attention=(0,), classes=3)
    mine.load_state_dict(from_diffusers(other.state_dict()))
    assert to_diffusers(mine.state_dict()).keys() == other.state_dict().keys()
    x, steps, labels = torch.randn(2, 3, 8, 8), torch.tensor([3.0, 700.0]), torch.tensor([1, 3])
    agree(through(mine, x, steps, labels)[0], through(other, x, steps, labels)[0])


def test_older_names_of_attention(diffusers):
    """The files of google/ddpm-* call the layers of attention query, key, value and proj_attn; diffusers 0.17 renamed them."""
    state = ddpm(diffusers, 32, (1, 2), 1, (0,)).state_dict()
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    assert renamed.keys() != state.keys()
    found, expected = from_diffusers(renamed), from_diffusers(state)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_names_that_nobody_knows_stay():
    assert from_diffusers({"time_proj.weight": torch.ones(2)}).keys() == {"time_proj.weight"}


# ---- ADM -------------------------------------------------------------------------------------------------------------

BLOCK = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "affine",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "skip",
}
ONCE = {
    "time_embedding.linear_1": "embedding.mlp.0", "time_embedding.linear_2": "embedding.mlp.2", "conv_in": "enter",
    "conv_norm_out": "norm", "conv_out": "leave",
}  # fmt: skip


def pairs(other, mine):
    """Parameters of both that are the same, theirs a list that is stacked, in the order in which the blocks are called."""
    sides = [*other.down_blocks, other.mid_block, *other.up_blocks]
    blocks = [r for s in sides for r in (*s.resnets, *(getattr(s, "downsamplers", 0) or getattr(s, "upsamplers", 0) or ()))]
    attentions = [a for s in sides for a in getattr(s, "attentions", ())]
    ours = [*mine.downs, *mine.middle, *mine.ups]
    assert len(blocks) == len(ours)
    found = [([theirs], our) for theirs, our in ((other.get_submodule(a), mine.get_submodule(b)) for a, b in ONCE.items())]
    for theirs, our in zip(blocks, ours, strict=True):
        found += [([getattr(theirs, a)], getattr(our, b)) for a, b in BLOCK.items() if getattr(theirs, a) is not None]
    attending = [block.attention for block in ours if hasattr(block.attention, "qkv")]
    for theirs, our in zip(attentions, attending, strict=True):
        found += [
            ([theirs.group_norm], our.norm),
            ([theirs.to_q, theirs.to_k, theirs.to_v], our.qkv),
            ([theirs.to_out[0]], our.out),
        ]
    return [([getattr(t, kind) for t in a], getattr(b, kind)) for a, b in found for kind in ("weight", "bias")]


def test_adm_unet(diffusers):
    """Scale and shift after the norm, residual blocks that resize, two heads of 64: all that theirs is in this setting."""
    options = {"resnet_time_scale_shift": "scale_shift", "downsample_type": "resnet", "upsample_type": "resnet"}
    options |= {"attention_head_dim": 64, "attn_norm_num_groups": 32, "layers_per_block": 1, "block_out_channels": (128, 128)}
    other = theirs(diffusers, 2, (0,), ("ResnetDownsample", "ResnetUpsample"), **options)
    mine = nets.build("adm_unet", 3, width=128, mults=(1, 1), blocks=1, attention=(0,), dropout=0.0)
    same = pairs(other, mine)
    assert sum(b.numel() for _, b in same) == nets.parameters(mine) == nets.parameters(other)
    with torch.no_grad():
        for a, b in same:
            b.copy_(torch.cat([p.reshape(len(p), *b.shape[1:]) for p in a]))
    x, c = torch.randn(2, 3, 8, 8), torch.tensor([-0.6, 0.9])
    (y, at_input, _), (y_other, at_input_other, _) = through(mine, x, c), through(other, x, c)
    agree(y, y_other)
    agree(at_input, at_input_other)
    for a, b in same:
        agree(b.grad, torch.cat([p.grad.reshape(len(p), *b.shape[1:]) for p in a]))
