"""Published networks whose features distances are measured in; each file stands alone and reads weights by their own names."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from . import dinov2, inception

# weights by name -> a network x (B, C, H, W) in [-1, 1] -> (B, D); raises ValueError, telling what was expected and found
PUBLISHED: dict[str, Callable[[Mapping[str, Tensor]], nn.Module]] = {"inception": inception.read, "dinov2": dinov2.read}
