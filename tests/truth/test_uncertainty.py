"""The loss that is expected at each noise level, learned beside the network."""

import math

import torch

from sfumato.losses import Uncertainty


def test_at_first_the_loss_is_as_it_was():
    loss, log_snr = torch.rand(9), torch.linspace(-12, 12, 9, dtype=torch.float64)
    torch.testing.assert_close(Uncertainty().weighed(loss, log_snr), loss, rtol=0, atol=0)


def test_what_is_learned_is_the_mean_loss_of_each_level():
    """Of losses around exp(f(log_snr)) with an f of the sines and cosines that u is made of: then u = f."""
    torch.manual_seed(0)
    log_snr = torch.linspace(-12, 12, 500, dtype=torch.float64).repeat_interleave(2)
    f = 0.3 - 1.5 * torch.sin(2 * math.pi * log_snr / 64) + 0.4 * torch.cos(2 * math.pi * log_snr / 16)
    loss = f.exp() * torch.tensor([0.5, 1.5]).repeat(500)  # their mean is 1
    uncertainty = Uncertainty().double()
    optimizer = torch.optim.LBFGS(uncertainty.parameters(), max_iter=2000, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        total = uncertainty.weighed(loss, log_snr).mean()
        total.backward()
        return total

    optimizer.step(closure)
    torch.testing.assert_close(uncertainty(log_snr), f, rtol=0, atol=0.01)


def test_all_levels_then_pull_alike():
    """Losses of exp(u) count as 1 each: their gradient is that of their logarithm."""
    log_snr, uncertainty = torch.linspace(-8, 8, 33, dtype=torch.float64), Uncertainty()
    torch.nn.init.normal_(uncertainty.linear.weight)
    loss = uncertainty(log_snr).detach().exp().requires_grad_()
    (pull,) = torch.autograd.grad(uncertainty.weighed(loss, log_snr).sum(), loss)
    torch.testing.assert_close(pull * loss, torch.ones(33))
