"""Optimizers by name, each `(parameters, lr, options) -> torch.optim.Optimizer`."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 16  # rows and columns from which a matrix has directions worth telling apart
QUINTIC = (3.4445, -4.7750, 2.0315)  # a, b, c of Jordan et al. 2024, steep at 0


def adam(parameters: Any, lr: float, *, betas: tuple[float, float] = (0.9, 0.99)) -> torch.optim.Optimizer:
    """Kingma & Ba 2015."""
    return torch.optim.Adam(parameters, lr, betas, fused=True)


def adamw(
    parameters: Any, lr: float, *, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """Adam with decay apart from the gradient (Loshchilov & Hutter 2019)."""
    return torch.optim.AdamW(parameters, lr, betas, weight_decay=weight_decay, fused=True)


class Muon(torch.optim.Optimizer):
    """Steps of matrices are made orthogonal (Jordan et al. 2024); all else is stepped by AdamW.

    m <- momentum m + g,    W <- W - lr 0.2 sqrt(max(rows, columns)) orthogonal(g + momentum m)

    A convolution is a matrix of (out, in * height * width). The factor gives steps of the size that AdamW's have, so that a
    rate good for one is good for the other (Liu et al. 2025). Matrices with fewer than 16 rows or columns, as of the last
    layer, and whatever is no matrix go AdamW's way.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
    ):
        if not 0 <= momentum < 1:
            raise ValueError(f"Momentum lies from 0 to below 1; found {momentum}.")
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        rest = [p for group in self.param_groups for p in group["params"] if not is_matrix(p)]
        self.rest = adamw(rest, lr, betas=betas, weight_decay=weight_decay) if rest else None
        if self.rest is not None:
            self.rest.state = self.state  # one record of all moments

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in filter(is_matrix, group["params"]):
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                m = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                direction = orthogonal(p.grad.add(m, alpha=group["momentum"]).flatten(1)).reshape(p.shape)
                size = 0.2 * math.sqrt(max(p.shape[0], p[0].numel()))
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(direction.to(p.dtype), alpha=-group["lr"] * size)
        if self.rest is not None:
            for group in self.rest.param_groups:
                group["lr"] = self.param_groups[0]["lr"]
            self.rest.step()


def is_matrix(p: Tensor) -> bool:
    """Whether a parameter has enough rows and columns for its steps to be made orthogonal."""
    return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= SMALLEST


def orthogonal(g: Tensor, steps: int = 5) -> Tensor:
    """The orthogonal matrix nearest to g (R, C), roughly: of g = U S V^T it has U S' V^T with S' from 0.7 to 1.2.

    x <- a x + (b x x^T + c (x x^T)^2) x, Newton's iteration after Schulz with an odd polynomial that is steep at 0, five
    times, from g / |g|. In bfloat16 on accelerators, in float32 on CPUs.
    """
    a, b, c = QUINTIC
    wide = g.shape[0] <= g.shape[1]
    x = (g if wide else g.T).to(torch.float32 if g.device.type == "cpu" else torch.bfloat16)
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": adam, "adamw": adamw, "muon": Muon}
