"""Many images in one picture: a grid, a strip of stages, a sheet of labelled rows."""

from collections.abc import Mapping, Sequence
from math import ceil, sqrt

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from .pixels import to_pil

Colour = int | tuple[int, int, int]
PAPER = 208  # a light gray: neither white pictures nor black ones melt into it, and an empty place does not glare


def grid(
    images: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    gap: int | None = None,
    background: Colour = PAPER,
    titles: Sequence[str] | None = None,
) -> Image.Image:
    """Images (N, H, W, C) in rows, read like a page.

    `columns`: near-square if None (64 -> 8), full rows preferred (32 -> 8). `scale`: integer nearest enlargement; if
    None, about 64 pixels on the longer side of an image. `gap`: pixels of `background` (0..255 or RGB) between and
    around the tiles; if None, 1/32 of a tile's shorter side. `titles`: one per row, written on the left. Values as in
    `to_uint8`. Raises UserError for no images, or titles that are not one per row.
    """
    tiles = _tiles(images, scale)
    rows = _rows(tiles, _near_square(len(tiles)) if columns is None else columns)
    if titles is not None and len(titles) != len(rows):
        raise UserError(f"A grid of {len(rows)} rows needs as many titles; found {len(titles)}.")
    return _lay_out(rows, gap, background, titles=titles)


def strip(
    states: np.ndarray,
    captions: Sequence[str] | None = None,
    scale: int | None = None,
    gap: int | None = None,
    background: Colour = PAPER,
) -> Image.Image:
    """The stages (S, H, W, C) of one image in a row, a caption such as 't = 0.75' under each; options as in `grid`.

    Captions wider than an image move the images apart.
    """
    tiles = _tiles(states, scale)
    if captions is not None and len(captions) != len(tiles):
        raise UserError(f"A strip of {len(tiles)} stages needs as many captions; found {len(captions)}.")
    return _lay_out([tiles], gap, background, captions=captions)


def sheet(
    rows: Mapping[str, np.ndarray],
    columns: int | None = None,
    scale: int | None = None,
    gap: int | None = None,
    background: Colour = PAPER,
) -> Image.Image:
    """Labelled rows of images (N, H, W, C) one above another: real against generated, raw against averaged weights.

    Rows may differ in their number, size and kind of images. `columns`: a longer row goes on in the next line; never
    if None. Other options as in `grid`; `scale`, if None, is found for each row.
    """
    if not rows:
        raise UserError("A sheet needs at least one row of images; found none.")
    lines: list[list[Image.Image]] = []
    titles: list[str] = []
    for title, images in rows.items():
        broken = _rows(_tiles(images, scale), len(images) if columns is None else columns)
        lines += broken
        titles += [title] + [""] * (len(broken) - 1)
    return _lay_out(lines, gap, background, titles=titles)


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """The picture with each pixel as a square of `scale` pixels; UserError unless that is a whole number, 1 or more."""
    if scale < 1 or scale != int(scale):
        raise UserError(f"A picture is enlarged a whole number of times, 1 or more; found scale = {scale}.")
    return picture.resize((picture.width * int(scale), picture.height * int(scale)), Image.Resampling.NEAREST)


def scale_to(wanted: int, side: int) -> int:
    """The whole enlargement, 1 or more, that brings `side` pixels nearest to `wanted`."""
    return max(1, round(wanted / side))


def _near_square(count: int) -> int:
    """The smallest number of columns from sqrt(count) to twice that which fills every row, else ceil(sqrt(count))."""
    least = ceil(sqrt(count))
    return next((c for c in range(least, int(2 * sqrt(count)) + 1) if count % c == 0), least)


def _tiles(images: np.ndarray, scale: int | None) -> list[Image.Image]:
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"Images have the shape (number, height, width, channels), all above 0; found {images.shape}.")
    # The longer side of the image: channels side by side make a wide picture, not a large image.
    scale = scale_to(64, max(images.shape[1:3])) if scale is None else scale
    return [enlarged(to_pil(image), scale) for image in images]


def _rows(tiles: list[Image.Image], columns: int) -> list[list[Image.Image]]:
    if columns < 1:
        raise UserError(f"Images stand in 1 or more columns; found columns = {columns}.")
    return [tiles[i : i + columns] for i in range(0, len(tiles), columns)]


def _lay_out(
    rows: list[list[Image.Image]],
    gap: int | None,
    background: Colour,
    titles: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Tiles centred in cells of equal width; `titles` left of the rows, `captions` under the tiles of each row."""
    tiles = [tile for row in rows for tile in row]
    side = max(min(tile.size) for tile in tiles)
    gap = max(1, round(side / 32)) if gap is None else gap
    size = min(24, max(11, side // 5))
    font = ImageFont.load_default(size)
    line = size + size // 2

    colour = isinstance(background, tuple) or any(tile.mode != "L" for tile in tiles)
    shade = 40 if np.mean(background) > 127 else 215
    ink = (shade, shade, shade) if colour else shade
    if colour and isinstance(background, int):
        background = (background, background, background)

    left = max(_width(title, font) for title in titles) + size if titles else 0
    cell = max(tile.width for tile in tiles)
    if captions:
        cell = max(cell, max(_width(caption, font) for caption in captions) + size // 3)
    heights = [max(tile.height for tile in row) for row in rows]
    below = line if captions else 0
    width = left + gap + max(len(row) for row in rows) * (cell + gap)
    height = gap + sum(tall + below + gap for tall in heights)

    canvas = Image.new("RGB" if colour else "L", (width, height), background)
    draw = ImageDraw.Draw(canvas)
    y = gap
    for i, (row, tall) in enumerate(zip(rows, heights, strict=True)):
        if titles:
            # A line of text has its middle at about 0.6 of its size below its top.
            draw.text((size // 2, y + tall // 2 - round(0.6 * size)), titles[i], fill=ink, font=font)
        for j, tile in enumerate(row):
            x = left + gap + j * (cell + gap)
            canvas.paste(tile, (x + (cell - tile.width) // 2, y + (tall - tile.height) // 2))
            if captions:
                caption = captions[j]
                draw.text((x + (cell - _width(caption, font)) // 2, y + tall + size // 6), caption, fill=ink, font=font)
        y += tall + below + gap
    return canvas


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return ceil(font.getbbox(text)[2])
