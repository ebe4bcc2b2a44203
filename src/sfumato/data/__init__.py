"""People's images: a source lists what lies there, `gather` brings it to one shape, a codec to [-1, 1].

open_source(data) -> Source -> gather(source) -> Images -> AffineCodec.fit(images), held_out(images.hashes)
"""

from .codec import AffineCodec
from .images import Images, gather
from .sources import Item, Source, open_source
from .splits import held_out

__all__ = ["AffineCodec", "Images", "Item", "Source", "gather", "held_out", "open_source"]
