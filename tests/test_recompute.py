"""Gradient checkpointing: the same gradients, masks, statistics and names as without, and less that is kept."""

import copy

import pytest
import torch
from torch import nn

from sfumato import nets, trainer
from sfumato import plan as plans
from sfumato.config import checked
from sfumato.errors import UserError
from sfumato.run import Run
from sfumato.training import checkpoint
from sfumato.training.device import Placement
from sfumato.training.recompute import recompute

SMALL = {
    "unet": {"width": 16, "dropout": 0.2, "classes": 3},
    "ddpm_unet": {"width": 16, "mults": (1, 2), "attention": (0,), "dropout": 0.2, "classes": 3},
    "adm_unet": {"width": 16, "mults": (1, 2), "classes": 3},  # drops a tenth by itself
    "convnext_unet": {"dim": 8},
    "double_conv_unet": {"steps": 20},
    "maxpool_unet": {},
    "simple_unet": {},
}
NETWORKS = [name for name, made in nets.NETS.items() if isinstance(made, type)]  # sizes of these need no test of their own


def both(net):
    """A network with weights that are not as it begins, and its recomputing copy."""
    torch.manual_seed(0)
    for parameter in net.parameters():
        if (parameter.ndim > 1 or parameter.numel() == 1) and not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    return net, recompute(copy.deepcopy(net))


def kept(net, *given, blocks):
    """Loss and gradients of a pass, and how many bytes of activations it keeps: saved for backward, or given to a block."""
    sizes = {}

    def keep(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    inputs = lambda module, args: [keep(arg) for arg in args] and None
    handles = [module.register_forward_pre_hook(inputs) for module in net.modules() if isinstance(module, blocks)]
    weights = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        y = net(*given)
    for handle in handles:
        handle.remove()
    bytes_kept = sum(size for place, size in sizes.items() if place not in weights)
    y.float().square().sum().backward()
    return y.detach(), [parameter.grad for parameter in net.parameters()], bytes_kept


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("double_conv_unet", "maxpool_unet", "simple_unet")))
        for name in NETWORKS
    ],
)
def test_every_network_recomputes(name):
    """Bit for bit, with dropout and batch norms at work, and less than half is kept."""
    plain, other = both(nets.build(name, 1, **SMALL.get(name, {})))
    assert list(plain.state_dict()) == list(other.state_dict())
    assert [type(m).__name__ for m in plain.modules()] == [type(m).__name__ for m in other.modules()]
    before = [buffer.clone() for buffer in plain.buffers()]
    given = (torch.randn(2, 1, 16, 16), torch.tensor([3.0, 11.0]))
    (y, gradients, whole), (z, others, less) = (kept(net.train(), *given, blocks=net.blocks_of) for net in (plain, other))
    assert torch.equal(y, z)
    assert y.std() > 0
    for one, same in zip(gradients, others, strict=True):
        assert (one is None and same is None) or torch.equal(one, same)
    for one, same, old in zip(plain.buffers(), other.buffers(), before, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, old) or not name.startswith(("simple", "maxpool", "double"))  # batch norms have counted
    assert less < whole / 2


class Own(nn.Module):
    """A network of blocks that keep a batch norm's mean over all time, which `momentum=None` asks for."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2, momentum=None)
            self.passes = 0

        def forward(self, x):
            self.passes += 1
            return self.norm(self.conv(x)).relu()

    blocks_of = (Block,)

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(self.Block(), self.Block())

    def forward(self, x, c_noise):
        return self.blocks(x)


def test_batch_norms_count_what_they_see_once():
    plain, other = both(Own())
    for k in range(3):
        x = torch.randn(4, 2, 5, 5) + k
        for net in (plain, other):
            net(x, None).square().sum().backward()
    assert [block.passes for block in plain.blocks] == [3, 3]
    assert [block.passes for block in other.blocks] == [6, 6]
    for (name, one), same in zip(plain.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, same), name
    assert other.blocks[0].norm.num_batches_tracked == 3
    assert other.blocks[0].norm.momentum is None


def test_nothing_is_recomputed_without_gradients():
    _, other = both(Own())
    with torch.no_grad():
        other(torch.zeros(4, 2, 5, 5), None)
    assert [block.passes for block in other.blocks] == [1, 1]


def test_twice_is_once_and_copies_are_their_own():
    _, other = both(Own())
    kinds = [type(block) for block in other.blocks]
    copied = copy.deepcopy(recompute(other))
    assert [type(block) for block in copied.blocks] == kinds
    nn.init.zeros_(copied.blocks[0].conv.weight)
    assert other.blocks[0].conv.weight.abs().max() > 0


def test_under_bfloat16():
    """The masks and the precision of the second pass are those of the first."""
    plain, other = both(nets.build("ddpm_unet", 1, **SMALL["ddpm_unet"]))
    given = (torch.randn(2, 1, 8, 8), torch.tensor([3.0, 11.0]))
    found = []
    for net in (plain, other):
        with torch.autocast("cpu", torch.bfloat16):
            found.append(kept(net.train(), *given, blocks=net.blocks_of)[:2])
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][0].dtype is torch.bfloat16
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@pytest.mark.slow  # torch.compile alone takes seconds to be imported
def test_a_compiled_graph_stays_whole():
    plain, other = both(nets.build("ddpm_unet", 1, **SMALL["ddpm_unet"]))
    given = (torch.randn(2, 1, 8, 8), torch.tensor([3.0, 11.0]))
    compiled = torch.compile(other.eval(), backend="aot_eager", fullgraph=True)
    found, expected = compiled(*given), plain.eval()(*given)
    torch.testing.assert_close(found, expected)
    for net, y in ((other, found), (plain, expected)):
        y.square().sum().backward()
        assert net.enter.weight.grad.abs().max() > 0
    torch.testing.assert_close(other.enter.weight.grad, plain.enter.weight.grad)


def test_a_network_that_names_no_blocks_is_refused():
    with pytest.raises(UserError, match=r"blocks_of = \(Block,\), or train without --checkpointing"):
        recompute(nn.Sequential(nn.Conv2d(1, 1, 1)))
    empty = Own()
    empty.blocks = nn.Identity()  # the blocks that it names are not there
    with pytest.raises(UserError):
        recompute(empty)


def test_training_is_the_same_and_goes_on_without(tmp_path, monkeypatch):
    """Two steps, then two more without: the weights are those of a run that never recomputed, bit for bit."""
    monkeypatch.setattr(plans, "choose", lambda *_: (Placement(torch.device("cpu")), 0.0))  # which is measured for each
    raw = {"net": "unet:width=8,mults=(1,),dropout=0.2", "batch": 20, "precision": "float32", "sampling_steps": 1}
    raw |= {"lr": 1e-2, "rate": "constant", "warmup": 0, "ema": 40, "log_every": 1000}
    plain, other = (Run.of(tmp_path / name) for name in ("plain", "other"))
    for run, more in ((plain, {"images": 80}), (other, {"images": 40, "checkpointing": True}), (other, {"images": 80})):
        trainer.train("digits", checked(raw | more), run)
        assert run.config().checkpointing == more.get("checkpointing", False)
    one, same = (checkpoint.newest(run.checkpoints).tensors["model"] for run in (plain, other))
    for name, tensor in one.items():
        assert torch.equal(tensor, same[name]), name
    with pytest.raises(UserError, match="blocks_of"):
        trainer.train("digits", checked(raw | {"images": 20, "checkpointing": True}), Run.of("mine"), nn.Conv2d(1, 1, 1))
