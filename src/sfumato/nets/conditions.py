"""What a network can be told besides the noisy picture."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Condition:
    """A condition that a network declares: a tensor (B, *shape) of a dtype.

    With `classes` it is an index 0 .. classes - 1, and the index `classes` itself means 'not told'; without, a second
    tensor NAME_given (B,) of booleans says which samples were told.
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.int64
    classes: int | None = None
