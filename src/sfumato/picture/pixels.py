"""Arrays into pixels: the one saturating conversion to 8 bits, and files that appear whole or not at all."""

import os
from collections.abc import Mapping

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..disk import whole_file
from ..errors import UserError


def to_uint8(array: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Map low..high to 0..255 with rounding; what lies outside is clipped, never wrapped, and NaN becomes 0.

    Any shape. uint8 passes through untouched, whatever `low` and `high` are. Defaults: 0..65535 for uint16 (give
    `high=4095` for 12 bits in a 16-bit file), -1..1 for float. Raises UserError for other dtypes and unless low < high.
    """
    array = np.asarray(array)
    if array.dtype == np.uint8:
        return array
    if array.dtype != np.uint16 and array.dtype.kind != "f":
        raise UserError(f"Pictures are made of uint8, uint16 or float arrays; found {array.dtype}.")
    ends = (0.0, 65535.0) if array.dtype == np.uint16 else (-1.0, 1.0)
    low, high = (ends[0] if low is None else low), (ends[1] if high is None else high)
    if not low < high:
        raise UserError(f"A range of values needs low < high; found low = {low}, high = {high}.")
    values = array.astype(np.result_type(array.dtype, np.float32))
    # Clipped before it is scaled, so that neither inf nor the largest float can overflow on the way.
    levels = (np.clip(values, low, high) - low) * (255 / (high - low))
    return np.rint(np.where(np.isnan(levels), 0, levels)).astype(np.uint8)


def to_pil(array: np.ndarray) -> Image.Image:
    """The 8-bit picture of one image (H, W, C): what each number of channels looks like is decided here.

    C = 3 is 'RGB'; any other channels stand side by side in gray ('L'), so that the picture is C * W wide. Values as in
    `to_uint8`. Raises UserError for any other shape.
    """
    array = np.asarray(array)
    if array.ndim != 3 or 0 in array.shape:
        raise UserError(f"An image has the shape (height, width, channels), none of them 0; found {array.shape}.")
    height, width, channels = array.shape
    pixels = to_uint8(array)  # (H, W, C)
    if channels == 3:
        return Image.fromarray(np.ascontiguousarray(pixels))
    return Image.fromarray(pixels.transpose(0, 2, 1).reshape(height, channels * width))


def save_png(path: str | os.PathLike[str], image: np.ndarray | Image.Image, text: Mapping[str, str] | None = None) -> None:
    """Write an array (H, W, C) or a picture as a PNG that is whole or not there, with `text` in its text chunks.

    uint16 with one channel keeps its 16 bits ('I;16'); every other array is saved as the 8-bit picture of `to_pil`,
    for Pillow cannot write 16 bits in colour. Text is tEXt, or iTXt where Latin-1 does not suffice.
    """
    if isinstance(image, np.ndarray):
        deep = image.dtype == np.uint16 and image.ndim == 3 and image.shape[2] == 1
        image = Image.fromarray(np.ascontiguousarray(image[:, :, 0])) if deep else to_pil(image)
    with whole_file(path) as file:
        image.save(file, format="PNG", pnginfo=chunks(text))


def chunks(text: Mapping[str, str] | None) -> PngInfo:
    """The text chunks of a PNG."""
    made = PngInfo()
    for key, value in (text or {}).items():
        made.add_text(key, value)
    return made
