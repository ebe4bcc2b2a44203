"""What is done to pixels on the way in: another size, fewer channels."""

import numpy as np
from PIL import Image

FITS = ("crop", "pad", "stretch")
# JPEG tints a gray picture by up to 7 levels, and the eye sees none of it; other types hold exact values.
SAME = {np.dtype(np.uint8): 8}
_LANCZOS = Image.Resampling.LANCZOS


def resize(pixels: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Pixels (h, w, C) -> (H, W, C) of the same type, antialiased, within the range that the picture had.

    `crop` fills the target and cuts what hangs over, evenly on both sides; `pad` shows the whole picture between bars
    of the type's zero (float32: of the picture's minimum); `stretch` gives up the aspect ratio.
    """
    (h, w), (H, W) = pixels.shape[:2], size
    if (h, w) == (H, W):
        return pixels
    if fit == "stretch":
        return _scaled(pixels, (0, 0, w, h), (H, W))
    if fit == "crop":
        scale = min(h / H, w / W)  # stored pixels per wanted pixel
        top, left = (h - H * scale) / 2, (w - W * scale) / 2
        return _scaled(pixels, (left, top, min(w, left + W * scale), min(h, top + H * scale)), (H, W))
    scale = max(h / H, w / W)
    inner_h, inner_w = max(1, min(H, round(h / scale))), max(1, min(W, round(w / scale)))
    bar = pixels.min() if pixels.dtype == np.float32 else 0
    out = np.full((H, W, pixels.shape[2]), bar, pixels.dtype)
    top, left = (H - inner_h) // 2, (W - inner_w) // 2
    out[top : top + inner_h, left : left + inner_w] = _scaled(pixels, (0, 0, w, h), (inner_h, inner_w))
    return out


def is_gray(images: np.ndarray) -> np.ndarray:
    """Which of the RGB images (N, 3, H, W) show gray alone, or hardly anything else -> (N,) bool."""
    return spread(images) <= SAME.get(images.dtype, 0)


def spread(images: np.ndarray) -> np.ndarray:
    """How far the channels of images (N, 3, H, W) lie apart at most -> (N,)."""
    # Plane by plane: nine times faster than max(axis=1) of interleaved pixels.
    r, g, b = images[:, 0], images[:, 1], images[:, 2]
    most = np.maximum(np.maximum(r, g), b)  # (N, H, W)
    return (most - np.minimum(np.minimum(r, g), b)).max(axis=(1, 2))  # never negative, so unsigned types do not wrap


def luminance(images: np.ndarray) -> np.ndarray:
    """RGB (N, 3, H, W) -> (N, 1, H, W) of the same type by the weights of ITU-R BT.601; equal channels keep their value."""
    if images.dtype == np.float32:
        r, g, b = images[:, 0], images[:, 1], images[:, 2]
        return (r + 0.587 * (g - r) + 0.114 * (b - r)).astype(np.float32)[:, None]
    weights = np.array([19595, 38470, 7471], np.uint32)  # 0.299, 0.587, 0.114 in 65536ths, as Pillow has them
    total = np.einsum("nchw,c->nhw", images.astype(np.uint32), weights) + np.uint32(0x8000)
    return (total >> np.uint32(16)).astype(images.dtype)[:, None]


def _scaled(pixels: np.ndarray, box: tuple[float, float, float, float], size: tuple[int, int]) -> np.ndarray:
    H, W = size
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.array(Image.fromarray(np.ascontiguousarray(pixels)).resize((W, H), _LANCZOS, box))
    # One channel at a time: Pillow would take two or four channels for transparency and multiply by it.
    out = np.empty((H, W, pixels.shape[2]), pixels.dtype)
    for c in range(pixels.shape[2]):
        plane = np.ascontiguousarray(pixels[:, :, c])
        if plane.dtype == np.uint8:
            out[:, :, c] = np.array(Image.fromarray(plane).resize((W, H), _LANCZOS, box))
            continue
        scaled = np.array(Image.fromarray(plane.astype(np.float32)).resize((W, H), _LANCZOS, box))
        # Lanczos overshoots at edges; past the picture's own range 12 bits would become 13, and 65535 would wrap.
        scaled = scaled.clip(plane.min(), plane.max())
        out[:, :, c] = scaled.round() if plane.dtype == np.uint16 else scaled
    return out
