"""People's images: a source lists what lies there, `gather` brings it to one shape, a codec to [-1, 1].

open_source(data) -> Source -> gather(source) -> Images -> split(images), AffineCodec.fit(images)
"""

from .codec import AffineCodec
from .gather import gather
from .images import Images
from .source import ArraySource, Item, Picture, Source
from .sources import open_source
from .splits import held_out, split

__all__ = ["AffineCodec", "ArraySource", "Images", "Item", "Picture", "Source", "gather", "held_out", "open_source", "split"]
