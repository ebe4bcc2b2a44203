"""How the learning rate goes on after its warm-up: rules that give the factor of `--lr` at a point of the training.

`rule(images, budget, epoch, **options)`, where `images` were seen of `budget`, and `epoch` is the count of pictures trained on.
"""

import math
from collections.abc import Callable


def constant(images: int, budget: int, epoch: int) -> float:
    """1."""
    return 1.0


def cosine(images: int, budget: int, epoch: int) -> float:
    """1/2 + 1/2 cos(pi images / budget): 0 at the end of the budget, which must be known (Loshchilov & Hutter 2017, eq. 5)."""
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, images / budget))


def staircase(images: int, budget: int, epoch: int) -> float:
    """The cosine as it was when the epoch began."""
    return cosine(images // epoch * epoch, budget, epoch)


def inverse_sqrt(images: int, budget: int, epoch: int, *, after: int = 0) -> float:
    """1 / sqrt(max(1, images / after)), as EDM2 trains with (Karras et al. 2024): it need not know the end.

    after   images; unless said a fifteenth of the budget, as for EDM2 XS (70,000 of 2^20 steps)
    """
    if after < 0:
        raise ValueError(f"A rate falls after so many images, 0 or more; found {after}.")
    return 1 / math.sqrt(max(1.0, images / (after or max(1, budget // 15))))


RATES: dict[str, Callable[..., float]] = {
    "constant": constant, "cosine": cosine, "inverse_sqrt": inverse_sqrt, "staircase": staircase,
}  # fmt: skip
