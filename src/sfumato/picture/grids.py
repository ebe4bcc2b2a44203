"""Many images in one picture: a grid, a strip of stages, a sheet of labelled rows, pairs, a row to each class."""

import importlib.util
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..errors import UserError
from .pixels import to_pil

Colour = int | tuple[int, int, int]
PAPER = 208  # a light gray: neither white pictures nor black ones melt into it, and an empty place does not glare
STAGE = 128  # pixels of a stage that is shown by itself, to be seen from the last row


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

    Captions wider than an image move the images apart; they may have several lines.
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


def pairs(
    left: np.ndarray,
    right: np.ndarray,
    names: tuple[str, str] = ("half-way", "final"),
    columns: int | None = None,
    titles: Sequence[str] | None = None,
    scale: int | None = None,
    gap: int | None = None,
    background: Colour = PAPER,
) -> Image.Image:
    """Two states (N, H, W, C) of the same images side by side, `columns` pairs in a row, both names above each column.

    `columns`: about as wide as high if None. `titles` as in `grid`, long ones shortened. Raises UserError for states that
    are not of equal shape.
    """
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape:
        raise UserError(f"Pairs are made of two states of equal shape; found {left.shape} and {right.shape}.")
    tiles = [tile for pair in zip(_tiles(left, scale), _tiles(right, scale), strict=True) for tile in pair]
    rows = _rows(tiles, 2 * (_near_square(len(left), 2) if columns is None else columns))
    if titles is not None and len(titles) != len(rows):
        raise UserError(f"Pairs in {len(rows)} rows need as many titles; found {len(titles)}.")
    titles = None if titles is None else shortened(titles)
    return _lay_out(rows, gap, background, titles, heads=list(names) * (len(rows[0]) // 2), together=2)


def class_grid(
    images: np.ndarray,
    names: Sequence[str],
    first: int = 0,
    scale: int | None = None,
    gap: int | None = None,
    background: Colour = PAPER,
) -> Image.Image:
    """A row to each class, its name on the left, and above each column the number of the sample, from `first` on.

    `images` (L * n, H, W, C): n of the first class, n of the second, and so on for L `names`, long ones shortened. Other
    options as in `grid`. Raises UserError if the images are not as many for each name.
    """
    tiles = _tiles(images, scale)
    if not names or len(tiles) % len(names):
        raise UserError(f"A row to each of {len(names)} classes needs as many images for each; found {len(tiles)} in all.")
    rows = _rows(tiles, len(tiles) // len(names))
    heads = [str(first + i) for i in range(len(rows[0]))]
    return _lay_out(rows, gap, background, shortened(names), heads=heads)


def shortened(names: Sequence[str], longest: int = 20) -> list[str]:
    """Names in one line of a few characters, their ends kept as well as their beginnings, and no two of them the same."""
    out: list[str] = []
    for name in names:
        plain = "".join(char if char.isprintable() else "?" for char in name)
        end = longest // 3 + 1
        short = plain if len(plain) <= longest else f"{plain[: longest - end - 1]}…{plain[-end:]}"
        number, title = 1, short
        while title in out:
            number += 1
            title = f"{short[: longest - 4]}~{number}"
        out.append(title)
    return out


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """The picture with each pixel as a square of `scale` pixels; UserError unless that is a whole number, 1 or more."""
    if scale < 1 or scale != int(scale):
        raise UserError(f"A picture is enlarged a whole number of times, 1 or more; found scale = {scale}.")
    return picture.resize((picture.width * int(scale), picture.height * int(scale)), Image.Resampling.NEAREST)


def scale_to(wanted: int, side: int) -> int:
    """The whole enlargement, 1 or more, that brings `side` pixels nearest to `wanted`."""
    return max(1, round(wanted / side))


def _near_square(count: int, wide: int = 1) -> int:
    """The smallest number of columns, each `wide` tiles wide, from a square to twice as wide, that fills every row.

    For 1 that is from r = sqrt(count) to 2 r, else ceil(r).
    """
    least = ceil(sqrt(count / wide))
    return next((c for c in range(least, int(2 * sqrt(count / wide)) + 1) if count % c == 0), least)


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
    heads: Sequence[str] | None = None,
    together: int = 1,
) -> Image.Image:
    """Tiles centred in cells of equal width.

    `titles` stand left of the rows, `heads` above the columns, `captions` under the tiles of each row. Behind every
    `together` columns but the last there is more room.
    """
    tiles = [tile for row in rows for tile in row]
    side = max(min(tile.size) for tile in tiles)
    gap = max(1, round(side / 32)) if gap is None else gap
    size = min(24, max(11, side // 5))
    font = _font(size, [*(titles or ()), *(captions or ()), *(heads or ())])
    line = size + size // 2

    colour = isinstance(background, tuple) or any(tile.mode != "L" for tile in tiles)
    shade = 40 if np.mean(background) > 127 else 215
    ink = (shade, shade, shade) if colour else shade
    if colour and isinstance(background, int):
        background = (background, background, background)

    left = max(_width(title, font) for title in titles) + size if titles else 0
    cell = max(tile.width for tile in tiles)
    if words := [*(captions or ()), *(heads or ())]:
        cell = max(cell, max(_width(word, font) for word in words) + size // 3)
    heights = [max(tile.height for tile in row) for row in rows]
    above = line if heads else 0
    below = line * max(caption.count("\n") + 1 for caption in captions) if captions else 0
    apart = 4 * gap if together > 1 else 0
    columns = max(len(row) for row in rows)
    width = left + gap + columns * (cell + gap) + apart * ((columns - 1) // together)
    height = above + gap + sum(tall + below + gap for tall in heights)

    canvas = Image.new("RGB" if colour else "L", (width, height), background)
    draw = ImageDraw.Draw(canvas)

    def write(text: str, x: int, y: int) -> None:  # lines centred in a cell
        for i, one in enumerate(text.split("\n")):
            draw.text((x + (cell - _width(one, font)) // 2, y + i * line + size // 6), one, fill=ink, font=font)

    places = [left + gap + j * (cell + gap) + apart * (j // together) for j in range(columns)]
    for head, x in zip(heads or (), places, strict=False):
        write(head, x, 0)
    y = above + gap
    for i, (row, tall) in enumerate(zip(rows, heights, strict=True)):
        if titles:
            # A line of text has its middle at about 0.6 of its size below its top.
            draw.text((size // 2, y + tall // 2 - round(0.6 * size)), titles[i], fill=ink, font=font)
        for j, (tile, x) in enumerate(zip(row, places, strict=False)):
            canvas.paste(tile, (x + (cell - tile.width) // 2, y + (tall - tile.height) // 2))
            if captions:
                write(captions[j], x, y + tall)
        y += tall + below + gap
    return canvas


def _font(size: int, texts: Sequence[str]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, or where it lacks a letter, as of all but English, the one that matplotlib brings."""
    if not all(text.replace("…", "").replace("·", "").isascii() for text in texts):
        found = importlib.util.find_spec("matplotlib")  # imports nothing
        if found is not None and found.origin is not None:
            file = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
            if file.is_file():
                return ImageFont.truetype(file, size)
    return ImageFont.load_default(size)


def _width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return max(ceil(font.getbbox(line)[2]) for line in text.split("\n"))
