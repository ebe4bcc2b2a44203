"""Stages of an image, or of a grid of images, as an animation: GIF, or PNG in true colour."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ..disk import whole_file
from ..errors import UserError
from .grids import enlarged, scale_to
from .pixels import chunks, to_pil

_TICKS = 100  # a GIF counts time in hundredths of a second
_LEAST = 2  # and browsers slow down a frame that is shown for less than two of them


def gif(
    frames: np.ndarray | Sequence[np.ndarray | Image.Image],
    path: str | os.PathLike[str],
    seconds: float = 4.0,
    pause: float = 1.0,
    scale: int | None = None,
) -> None:
    """Write frames (S, H, W, C), or pictures of one size, as a GIF that loops forever and is whole or not there.

    The frames share `seconds` equally; the first then stays for half of `pause` more and the last for all of it. More
    than 50 frames per second are thinned evenly, both ends kept; a frame equal to the one before only prolongs it.
    `scale`: integer nearest enlargement; if None, about 256 pixels on the longer side. Gray frames keep all 256 grays;
    each colour frame has 255 colours of its own. Raises UserError for no frames, or frames that differ in size.
    """
    pictures = _pictures(frames, seconds, pause)
    most = max(2, int(seconds * _TICKS / _LEAST))
    if len(pictures) > most:
        pictures = [pictures[i] for i in np.linspace(0, len(pictures) - 1, most).round().astype(int)]
    ticks = _ticks(len(pictures), seconds, pause)
    gray = all(picture.mode == "L" for picture in pictures)
    scale = scale_to(256, max(pictures[0].size)) if scale is None else scale
    # Enlarged last: dithering then works on the image's own pixels and each stays one square of one colour.
    pictures = [enlarged(picture if gray else _palette(picture), scale) for picture in pictures]
    with whole_file(path) as file:
        pictures[0].save(
            file,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[int(t) * 1000 // _TICKS for t in ticks],
            loop=0,
            optimize=False,
        )


def apng(
    frames: np.ndarray | Sequence[np.ndarray | Image.Image],
    path: str | os.PathLike[str],
    seconds: float = 4.0,
    pause: float = 1.0,
    scale: int | None = None,
    text: Mapping[str, str] | None = None,
) -> None:
    """Write frames as an animated PNG, every one of them in all its colours, with `text` in its text chunks.

    As `gif`, but nothing is thinned: more than 50 frames per second take longer than `seconds`. What shows no animations
    shows the last frame, the picture itself, which is also the still that some previews take.
    """
    pictures = _pictures(frames, seconds, pause)
    ticks = _ticks(len(pictures), seconds, pause)
    gray = all(picture.mode == "L" for picture in pictures)
    scale = scale_to(256, max(pictures[0].size)) if scale is None else scale
    pictures = [enlarged(picture if gray else picture.convert("RGB"), scale) for picture in pictures]
    with whole_file(path) as file:
        pictures[-1].save(
            file,
            format="PNG",
            save_all=True,
            default_image=True,  # the first one given is shown where nothing moves, and is no frame
            append_images=pictures,
            duration=[int(t) * 1000 // _TICKS for t in ticks],
            loop=0,
            pnginfo=chunks(text),
        )


def _pictures(frames: np.ndarray | Sequence[np.ndarray | Image.Image], seconds: float, pause: float) -> list[Image.Image]:
    pictures = [frame if isinstance(frame, Image.Image) else to_pil(frame) for frame in frames]
    if not pictures:
        raise UserError("An animation needs at least one frame; found none.")
    if len({picture.size for picture in pictures}) > 1:
        raise UserError(f"The frames of an animation have one size; found {sorted({p.size for p in pictures})}.")
    if not (seconds > 0 and pause >= 0):
        raise UserError(f"An animation needs seconds > 0 and pause >= 0; found {seconds} and {pause}.")
    return pictures


def _ticks(count: int, seconds: float, pause: float) -> np.ndarray:
    """How long each frame is shown (S,), with a pause at both ends."""
    # Differences of rounded moments, so that the rounding of single frames does not add up.
    moments = np.rint(np.linspace(0, seconds * _TICKS, count + 1))
    ticks = np.maximum(np.diff(moments), _LEAST)
    ticks[0] += round(pause * _TICKS / 2)
    ticks[-1] += round(pause * _TICKS)
    return ticks


def _palette(picture: Image.Image) -> Image.Image:
    """The picture in 255 colours of its own, exactly if it has no more; the one left lets a frame skip what stays."""
    picture = picture.convert("RGB")
    sample = picture
    if picture.getcolors(255) is None:
        # Noise has as many colours as pixels: the palette of 4,000 of them is as good and found 10 times sooner.
        pixels = np.asarray(picture).reshape(1, -1, 3)  # (1, HW, 3)
        sample = Image.fromarray(np.ascontiguousarray(pixels[:, :: max(1, pixels.shape[1] // 4096)]))
    # Maximum coverage, not median cut: on smooth colours it errs 20 % less, and it keeps the white of a grid white.
    palette = sample.quantize(255, method=Image.Quantize.MAXCOVERAGE)
    return picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
