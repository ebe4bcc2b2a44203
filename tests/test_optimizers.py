"""Optimizers: what a step is, and that it goes on as it was."""

import math

import pytest
import torch
from torch import nn

import sfumato
from sfumato.training.optimizers import OPTIMIZERS, Muon, is_matrix, orthogonal


@pytest.mark.parametrize("shape", [(32, 32), (20, 90), (90, 20)])
def test_orthogonal_keeps_directions_and_evens_their_lengths(shape):
    torch.manual_seed(0)
    u, s, v = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, -1.5, len(s), dtype=torch.float64)
    found = orthogonal((u * s @ v).float()).double()
    inner = u.T @ found @ v.T  # diagonal, if u and v are its directions too
    torch.testing.assert_close(inner, inner.diagonal().diag(), rtol=0, atol=1e-4)
    assert inner.diagonal().min() > 0.65
    assert inner.diagonal().max() < 1.25
    torch.testing.assert_close((u @ inner @ v), found, rtol=0, atol=1e-4)


def test_the_length_of_a_gradient_does_not_matter():
    torch.manual_seed(0)
    g = torch.randn(24, 40)
    torch.testing.assert_close(orthogonal(1e-3 * g), orthogonal(g), rtol=1e-4, atol=1e-5)


def test_a_step_has_the_size_of_those_of_adamw():
    """The root mean square of an orthogonal (R, C) is 1 / sqrt(max(R, C)), that of a step 0.2 lr, give or take a fifth."""
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 48, 3, bias=False)
    before, optimizer = conv.weight.detach().clone(), Muon(conv.parameters(), 0.1, weight_decay=0.0)
    conv.weight.grad = torch.randn_like(conv.weight)
    optimizer.step()
    size = (conv.weight - before).square().mean().sqrt() / (0.2 * 0.1)
    assert 0.75 < size < 1.2


def test_a_convolution_is_a_matrix_however_it_lies_in_memory():
    torch.manual_seed(0)
    convs = [nn.Conv2d(16, 32, 3), nn.Conv2d(16, 32, 3).to(memory_format=torch.channels_last)]
    convs[1].load_state_dict(convs[0].state_dict())
    grad = torch.randn(32, 16, 3, 3)
    for conv in convs:
        optimizer = Muon(conv.parameters(), 0.1)
        for _ in range(2):
            conv.weight.grad, conv.bias.grad = torch.empty_like(conv.weight).copy_(grad), torch.ones(32)
            optimizer.step()
    torch.testing.assert_close(convs[0].weight, convs[1].weight)
    assert convs[1].weight.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_matrix_is_stepped_by_adamw():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.GroupNorm(4, 20), nn.Conv2d(20, 20, 3), nn.Conv2d(20, 3, 3))
    assert [name for name, p in net.named_parameters() if is_matrix(p)] == ["0.weight", "2.weight"]
    twin = nn.Sequential(nn.Conv2d(3, 20, 3), nn.GroupNorm(4, 20), nn.Conv2d(20, 20, 3), nn.Conv2d(20, 3, 3))
    twin.load_state_dict(net.state_dict())
    ours, theirs = OPTIMIZERS["muon"](list(net.parameters()), 0.01), OPTIMIZERS["adamw"](list(twin.parameters()), 0.01)
    for step in range(3):
        for p, q in zip(net.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        for optimizer in (ours, theirs):
            optimizer.param_groups[0]["lr"] = 0.01 / (step + 1)
            optimizer.step()
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q) != is_matrix(p), name


def test_weights_decay_apart_from_the_gradient():
    weight = nn.Parameter(torch.full((16, 16), 2.0))
    optimizer = Muon([weight], 0.5, weight_decay=0.1)
    weight.grad = torch.zeros(16, 16)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((16, 16), 2.0 * (1 - 0.5 * 0.1)))


def test_it_learns_a_badly_scaled_problem():
    """Least squares with singular values from 1 to 1/300, where plain descent needs 300 steps and more."""
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(32, 32))[0] for _ in range(2))
    matrix, goal = u * torch.logspace(0, -math.log10(300), 32) @ v, torch.randn(32, 32)
    weight = nn.Parameter(torch.zeros(32, 32))
    optimizer = Muon([weight], 1.0, weight_decay=0.0)
    for step in range(100):
        optimizer.param_groups[0]["lr"] = 1.0 * (1 - step / 100)
        loss = ((weight - goal) @ matrix).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1e-3 * (goal @ matrix).square().sum()


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    settings = dict(
        net="unet:width=16,mults=(1,)", batch=20, precision="float32", sampling_steps=1, quiet=True, optimizer="muon"
    )
    settings |= dict(rate="constant", warmup=0, ema=100)
    whole = sfumato.train("digits", tmp_path / "whole", images=100, **settings)
    sfumato.train("digits", tmp_path / "parts", images=60, **settings)
    parts = sfumato.train("digits", tmp_path / "parts", images=100, **settings)
    for one, other in zip(whole.denoiser.net.parameters(), parts.denoiser.net.parameters(), strict=True):
        assert torch.equal(one, other)
