"""One image file to pixels, losing nothing in silence."""

import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")

TRANSPARENT = "had transparent parts, which were laid over white"
FRAMES = "held several frames or pages, of which the first was used"
CONVERTED = "had colours in another space (such as CMYK or LAB), which became RGB"


def decode(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """The upright pixels (H, W, C) of a file, and what had to be changed, as predicates of a sentence.

    C is 1 or 3; uint8, uint16 for 16-bit gray, float32 for floating point. Raises UserError for 16-bit colour, which
    Pillow would cut to 8 bits, and whatever Pillow raises for a broken file.
    """
    remarks = []
    with Image.open(path) as image:
        if _is_deep_colour(image):
            raise UserError("16-bit colour is not read from image files; save it as 8 bits, or all images as one .npy")
        if getattr(image, "is_animated", False) and image.format != "MPO":  # cameras hide a preview in MPO
            remarks.append(FRAMES)
        image.load()
        upright: Image.Image = image
        with suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # broken EXIF, good pixels
            upright = ImageOps.exif_transpose(image)
        if upright.has_transparency_data and upright.mode[0] not in "IF":  # there it is a value to key out, not alpha
            upright, seen = _over_white(upright)
            if seen:
                remarks.append(TRANSPARENT)
        return _pixels(upright, remarks), tuple(remarks)


def reason(error: Exception) -> str:
    """Why a file was not read, in a few words without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, FileNotFoundError):
        return "a link to a file that is not there"
    lines = str(error).strip().splitlines()
    return (lines[0].rstrip(".") if lines else "") or type(error).__name__


def _is_deep_colour(image: Image.Image) -> bool:
    """Whether a picture of several channels has more than 8 bits in each; must be asked before the pixels are loaded."""
    if image.mode not in ("RGB", "RGBA", "LA", "RGBX", "RGBa", "CMYK"):
        return False
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (8,))) > 8  # type: ignore[attr-defined]  # BitsPerSample
    args = [arg for tile in getattr(image, "tile", ()) for arg in np.atleast_1d(np.array(tile[3], dtype=object))]
    if image.format == "PNG":
        return any(isinstance(arg, str) and ";16" in arg for arg in args)
    return image.format == "PPM" and any(isinstance(arg, int) and arg > 255 for arg in args)  # the largest value


def _over_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture without its alpha, and whether that changed anything."""
    gray = image.mode in ("L", "LA", "La", "1")
    clear = image.convert("RGBA")
    low = clear.getchannel("A").getextrema()[0]
    if low == 255:
        return clear.convert("L" if gray else "RGB"), False
    white = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(white, clear).convert("L" if gray else "RGB"), True


def _pixels(image: Image.Image, remarks: list[str]) -> np.ndarray:
    if image.mode == "F":
        return np.array(image, np.float32)[:, :, None]
    if image.mode.startswith("I;16"):
        return np.array(image).astype(np.uint16)[:, :, None]  # from either byte order
    if image.mode == "I":
        whole = np.array(image)
        if whole.min() < 0 or whole.max() > 65535:
            raise UserError("32-bit integers are read from 0 to 65535; save it as 16 bits, or all images as one .npy")
        return whole.astype(np.uint16)[:, :, None]
    if image.mode in ("1", "L"):
        return np.array(image.convert("L"))[:, :, None]
    if image.mode not in ("P", "RGB", "RGBX"):
        remarks.append(CONVERTED)
    return np.array(image.convert("RGB"))
