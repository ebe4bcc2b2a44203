"""The bytes of one file to pictures, losing nothing in silence."""

import importlib
import io
import logging
import math
import struct
import warnings
from contextlib import suppress
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError
from .source import Picture

SUFFIXES = tuple([".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".jp2", ".avif", ".tga"])
VOLUMES = (".nii", ".nii.gz", ".dcm", ".dicom")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")  # Pillow has more, some of which run programs

MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 2**26)  # 178,956,970: Pillow refuses larger ones itself
MOST_BYTES = 1 << 31  # what one file may unpack to, unless it is itself nearly as long
MOST_RATIO = 4096  # deflate, LZW and JPEG make of a byte at most 1032, 2731 and 1536
LOOSE_RATIO = 1 << 18  # other packings make almost nothing of an empty picture
MOST_CHANNELS = 64
MOST_PAGES = 1 << 14  # Pillow looks for each page among all before it

TRANSPARENT = "had transparent parts, which were laid over white"
FRAMES = "held several frames, of which the first was used"
CONVERTED = "had colours in another space (such as CMYK or LAB), which became RGB"
BESIDE = "came with smaller copies or masks in the same file, which were left out"
ROUNDED = "had 10 or 12 bits in each colour, which became 8"

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
SUBFILE, BITS, COMPRESSION, PHOTOMETRIC, ORIENTATION, SAMPLES, SAMPLE_FORMAT = 254, 258, 259, 262, 274, 277, 339  # tags
WEBP = 50001  # a TIFF compression
BOUNDED = (1, 5, 6, 7, 8, 32773, 32946)  # TIFF compressions to which MOST_RATIO applies: none, LZW, JPEG, deflate, packbits
COLOURS = ("RGB", "RGBA", "LA", "La", "RGBX", "RGBa", "CMYK")

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it logs of damaged files would go to the terminal


def decode(stored: bytes, path: str, window: tuple[float, float] | None = None, enough: int | None = None) -> list[Picture]:
    """The upright pictures of a file: one, or one per page, slice or frame of a TIFF, NIfTI or DICOM file.

    stored    the file, whole; only the suffix of `path` is used, to know medical files and TGA, which has no signature
    window    (level, width) in which NIfTI and DICOM are shown
    enough    a JPEG is decoded at 1/2, 1/4 or 1/8 of its size while its sides keep so many pixels: it takes far less time
    pixels    uint8; uint16 where there are more bits; float32 for floating point, for signed integers of 8 or 16 bits
              and for larger ones that it holds exactly. C is 1 or 3, in TIFF up to 64

    Raises UserError for what is not read, naming what to do, and whatever a reader raises for a broken file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # readers warn of oddities in files that they read all the same
        name = path.lower()
        if name.endswith((".nii", ".nii.gz")):
            from .volumes import nifti

            return nifti(stored, window)
        if name.endswith((".dcm", ".dicom")) or (looks_like_dicom(stored) and stored[:4] not in TIFF):
            from .volumes import dicom

            return dicom(stored, window)
        if not stored:
            raise UserError("The file is empty.")
        if stored[:4] in TIFF:
            return _tiff(stored)
        with Image.open(io.BytesIO(stored), formats=(*FORMATS, *["TGA"] * name.endswith(".tga"))) as image:
            ratio = LOOSE_RATIO if image.format in ("WEBP", "JPEG2000", "AVIF") else MOST_RATIO
            fits(*image.size, _depth(image), len(stored), ratio)
            frames = getattr(image, "is_animated", False) and image.format != "MPO"  # cameras hide a preview in MPO
            size = image.size[::-1]
            if enough and image.format in ("JPEG", "MPO"):
                image.draft(None, (enough, enough))
            remarks = (FRAMES,) * frames + (ROUNDED,) * (image.format == "AVIF" and _many_bits(stored))
            return [_deep(image, stored, remarks) if _is_deep_colour(image, stored) else _picture(image, remarks, size)]


def is_readable(name: str) -> bool:
    """Whether a file of this name is one that `decode` reads, by its suffix."""
    return name.lower().endswith(SUFFIXES + VOLUMES)


def looks_like_dicom(start: bytes) -> bool:
    """Whether a file that starts so is DICOM, which needs no suffix; 132 bytes suffice."""
    return start[128:132] == b"DICM"


def reason(error: Exception) -> str:
    """Why a file was not read, in a few words without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow can read"
    if isinstance(error, FileNotFoundError):
        return "a link to a file that is not there"
    if isinstance(error, MemoryError):
        return "larger than the memory that is free"
    if isinstance(error, EOFError):
        return "the file is cut short"
    first = next(iter(str(error).strip().splitlines()), "").rstrip(".:")
    if isinstance(error, UserError):
        return first or "the file is not read"
    internal = (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RecursionError, struct.error)
    bare = sum(letter.isalpha() for letter in first) < 3 or "\\x" in first or not first.isprintable()
    if bare or isinstance(error, internal):
        return f"the file is damaged: its parts do not fit together ({type(error).__name__})"
    if isinstance(error, OSError | Image.DecompressionBombError):  # these say themselves what is wrong
        return first
    return f"the file is damaged or of a kind that is not read ({first[:120]})"


def fits(width: int, height: int, bytes_each: float, stored: int, ratio: int | None = MOST_RATIO, count: int = 1) -> None:
    """Refuse a header that promises absurd sizes, before anything of that size is allocated.

    bytes_each    of one pixel with all its channels
    stored        bytes of the file, of which each can become `ratio` at most
    count         pictures in the file
    """
    if width < 1 or height < 1 or count < 1:
        raise UserError(f"The file says that its pictures have {width}x{height} pixels: it is damaged.")
    if width * height > MOST_PIXELS:
        raise UserError(f"{width}x{height} pixels are more than the {MOST_PIXELS} that are read; cut it into tiles.")
    promised = width * height * count * bytes_each
    if ratio is not None and promised > ratio * stored:
        pictures = f"{count} pictures of " if count > 1 else ""
        raise UserError(f"The file promises {pictures}{width}x{height} pixels, but is cut short at {stored} bytes.")
    if promised > max(MOST_BYTES, 4 * stored):
        raise UserError(f"The file unpacks to more than {MOST_BYTES >> 30} GiB; split it into several.")


def optional(name: str, extra: str, what: str) -> ModuleType:
    """An optional package. Raises UserError naming what to type if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"To read {what}, type: pip install 'sfumato[{extra}]'.") from error


_MAY_TURN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # where Pillow looks for an orientation


def _picture(image: Image.Image, remarks: tuple[str, ...] = (), size: tuple[int, int] | None = None) -> Picture:
    """The frame that Pillow stands at; `size` is its height and width in the file."""
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    image.load()
    upright: Image.Image = image
    if not image.info.keys().isdisjoint(_MAY_TURN):  # Pillow takes 90 us to find that there is nothing
        with suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # broken EXIF, good pixels
            upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data and upright.mode[0] not in "IF":  # there it is a value to key out, not alpha
        upright, seen = _over_white(upright)
        remarks += (TRANSPARENT,) * seen
    if upright.mode in ("1", "L"):
        pixels = np.asarray(upright if upright.mode == "L" else upright.convert("L"))
    elif upright.mode[0] in "IF":
        pixels = as_stored(np.array(upright))
    else:
        remarks += (CONVERTED,) * (upright.mode not in ("P", "RGB", "RGBX"))
        pixels = np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB"))
    if size is not None and (upright.width > upright.height) != (image.width > image.height):
        size = size[::-1]  # it was turned by a quarter
    return Picture(pixels if pixels.ndim == 3 else pixels[:, :, None], remarks, mode, None, size)


def as_stored(array: np.ndarray) -> np.ndarray:
    """Any numbers as uint8, uint16 or float32. Raises UserError for those that none of these holds."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "b":
        return np.where(array, np.uint8(255), np.uint8(0))
    if kind == "u" and size <= 2:
        return array.astype(array.dtype.newbyteorder("="))
    if kind == "f" or (kind == "i" and size <= 2):
        with np.errstate(over="ignore"):  # what overflows becomes infinite, and infinite values are counted and refused
            return array.astype(np.float32)
    if kind not in "ui":
        raise UserError(f"Numbers of type {array.dtype} are not read; save them as real numbers of 16 or 32 bits.")
    low, high = int(array.min()), int(array.max())
    if low >= 0 and high <= 65535:
        return array.astype(np.uint16)
    single = array.astype(np.float32)
    if max(-low, high) > 2**53 or not (single.astype(np.float64) == array.astype(np.float64)).all():
        raise UserError(f"Whole numbers from {low} to {high} fit neither 16 bits nor 32-bit floats; save them as 16 bits.")
    return single


def _depth(image: Image.Image) -> int:
    """Bytes of a pixel in memory, at most."""
    return 4 if image.mode in ("I", "F") else len(image.getbands()) * (1 + image.mode.startswith("I;16"))


def _over_white(image: Image.Image) -> tuple[Image.Image, bool]:
    """The picture without its alpha, and whether that changed anything."""
    gray = image.mode in ("L", "LA", "La", "1")
    clear = image.convert("RGBA")
    low = clear.getchannel("A").getextrema()[0]
    if low == 255:
        return clear.convert("L" if gray else "RGB"), False
    white = Image.new("RGBA", clear.size, "white")
    return Image.alpha_composite(white, clear).convert("L" if gray else "RGB"), True


# More than 8 bits in each of several channels: Pillow would cut them off


def _is_deep_colour(image: Image.Image, stored: bytes) -> bool:
    """Whether a picture of several channels has more than 8 bits in each; must be asked before the pixels are loaded."""
    if image.mode not in COLOURS:
        return False
    found = [tile[3] for tile in getattr(image, "tile", ())]
    args = [arg for each in found for arg in (each if isinstance(each, tuple | list) else (each,))]
    if image.format == "PNG":
        return any(isinstance(arg, str) and ";16" in arg for arg in args)
    if image.format == "JPEG2000":
        at = stored.find(b"\xff\x4f\xff\x51")  # SOC and SIZ; three bytes a channel begin 42 bytes on, the first is its bits
        return at >= 0 and any(bits & 0x7F > 7 for bits in stored[at + 42 : at + 42 + 3 * len(image.getbands()) : 3])
    return image.format == "PPM" and any(isinstance(arg, int) and arg > 255 for arg in args)  # the largest value


def _deep(image: Image.Image, stored: bytes, remarks: tuple[str, ...]) -> Picture:
    fits(*image.size, 2 * len(image.getbands()), len(stored))
    if image.format == "PPM":
        pixels = _deep_ppm(image, stored)
    else:
        codecs = optional("imagecodecs", "tiff", "16-bit colour")
        pixels = (codecs.png_decode if image.format == "PNG" else codecs.jpeg2k_decode)(stored)  # (H, W, C)
    turn = 1
    with suppress(SyntaxError, ValueError, KeyError, TypeError, struct.error):  # broken EXIF, good pixels
        turn = image.getexif().get(ORIENTATION, 1)
    mode = {2: "LA;16", 4: "RGBA;16"}.get(pixels.shape[2], "RGB;16")
    if pixels.shape[2] in (2, 4):
        pixels, seen = _deep_over_white(pixels)
        remarks += (TRANSPARENT,) * seen
    return Picture(_upright(pixels, turn), remarks, mode)


def _deep_ppm(image: Image.Image, stored: bytes) -> np.ndarray:
    """(H, W, 3) uint16 of a binary PPM, its largest value at 65535, as Pillow has it in gray."""
    codec, _, start, args = image.tile[0]  # type: ignore[attr-defined]
    most = args[-1] if isinstance(args, tuple) else args
    count = 3 * image.width * image.height
    if codec != "ppm" or len(stored) < start + 2 * count:
        raise UserError("A PPM of 16-bit colour is expected to be binary (P6) and whole; this one is not.")
    values = np.frombuffer(stored, ">u2", count, start).reshape(image.height, image.width, 3)
    return np.rint(np.minimum(values, most) * (65535 / most)).astype(np.uint16)


def _deep_over_white(pixels: np.ndarray, multiplied: bool = False) -> tuple[np.ndarray, bool]:
    """(H, W, C + 1) uint16 with alpha last -> (H, W, C), and whether that changed anything."""
    colour, alpha = pixels[:, :, :-1], pixels[:, :, -1:] / 65535
    if (alpha == 1).all():
        return colour, False
    laid = (colour if multiplied else colour * alpha) + 65535 * (1 - alpha)
    return np.rint(np.clip(laid, 0, 65535)).astype(np.uint16), True


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """(H, W, C) turned as EXIF's orientation 1 to 8 says."""
    if turn in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


def _many_bits(stored: bytes) -> bool:
    """Whether an AVIF has more than 8 bits: high_bitdepth in the third byte of its av1C box."""
    at = stored.find(b"av1C")
    return at >= 0 and len(stored) > at + 6 and bool(stored[at + 6] & 0x40)


# TIFF: many pages of many kinds, by Pillow where it keeps everything, else by tifffile


def _tiff(stored: bytes) -> list[Picture]:
    pages: dict[int, list[Picture]] = {}
    smaller = total = 0
    by_tifffile: Any = None  # opened for the first page that needs it
    try:
        image: Any = Image.open(io.BytesIO(stored), formats=("TIFF",))
    except UnidentifiedImageError:
        image = None
    for k in range(MOST_PAGES + 1):
        if k == MOST_PAGES:
            raise UserError(f"The file has more than {MOST_PAGES} pages; split it into several.")
        known = False
        if image is not None:
            try:
                image.seek(k)
                known = _is_kept(image)
            except EOFError:
                break
            except SyntaxError:  # a kind of pixels that Pillow does not have
                pass
        if not known:
            by_tifffile = by_tifffile or optional("tifffile", "tiff", "TIFFs of this kind").TiffFile(io.BytesIO(stored))
            try:
                page = by_tifffile.pages[k]
            except IndexError:
                break
        tag = image.tag_v2.get(SUBFILE, image.tag_v2.get(255) == 2) if known else int(page.subfiletype)
        if k and isinstance(tag, int) and tag & 0b101:  # a smaller copy, or a mask
            smaller += 1
            continue
        if known:
            ratio = MOST_RATIO if image.tag_v2.get(COMPRESSION, 1) in BOUNDED else LOOSE_RATIO
            fits(image.width, image.height, _depth(image), len(stored), ratio)
            pages[k] = [_tiff_picture(image)]
        else:
            pages[k] = _tiff_page(page, len(stored))
        total += sum(picture.pixels.nbytes for picture in pages[k])
        fits(1, 1, total, len(stored), None)
    if not pages:
        raise UserError("The TIFF has no page.")
    beside = (BESIDE,) * (smaller > 0)
    return [Picture(p.pixels, p.remarks + beside, p.mode) for page in pages.values() for p in page]


def _is_kept(image: Any) -> bool:
    """Whether Pillow keeps all of a page: every channel, every bit and every sign."""
    tags = image.tag_v2
    bits, signs = tags.get(BITS, (1,)), tags.get(SAMPLE_FORMAT, (1,))
    if image.mode in COLOURS and max(bits) > 8:
        return False
    if image.mode != "P" and tags.get(SAMPLES, 1) > len(image.getbands()):  # channels that are no alpha would be dropped
        return False
    if tags.get(COMPRESSION) == WEBP:  # which Pillow knows by name and does not unpack
        return False
    return not (image.mode == "L" and 2 in signs)


def _tiff_picture(image: Any) -> Picture:
    """The page that Pillow stands at, with the signs and the polarity that Pillow leaves to its caller."""
    bits, sign = image.tag_v2.get(BITS, (1,)), image.tag_v2.get(SAMPLE_FORMAT, (1,))
    white = image.tag_v2.get(PHOTOMETRIC) == 0
    if image.mode == "I":
        image.load()
        whole = np.array(image)  # (H, W) int32, turned by Pillow
        if bits[0] == 32 and sign[0] == 1:
            whole = whole.view(np.uint32)
        signed = bits[0] == 16
        return Picture(as_stored(whole.astype(np.int16) if signed else whole)[:, :, None], (), "I;16S" if signed else "I")
    picture = _picture(image)
    if picture.mode == "I;16" and white:
        return Picture(65535 - picture.pixels, picture.remarks, picture.mode)
    return picture


def _tiff_page(page: Any, stored: int) -> list[Picture]:
    """The pictures of a page by tifffile: one as a rule; several for a page with depth, or with more than 64 planes."""
    size = dict(zip(page.axes, page.shape, strict=True))
    if not {"Y", "X"} <= size.keys() <= set("ZYXS") or page.dtype is None:
        raise UserError("The TIFF has a page that is no picture of numbers; save it as RGB or gray.")
    depth, channels = size.get("Z", 1), size.get("S", 1)
    planes = page.axes.find("S") < page.axes.find("Y")  # each channel lies by itself
    if channels > MOST_CHANNELS and not planes:
        raise UserError(f"A picture may have up to {MOST_CHANNELS} channels; this TIFF has {channels}.")
    if depth * channels > MOST_PAGES:
        raise UserError(f"The TIFF has {depth * channels} planes, more than the {MOST_PAGES} that are read; split it.")
    each = channels * page.dtype.itemsize
    ratio = MOST_RATIO if page.compression in BOUNDED else LOOSE_RATIO
    fits(size["X"], size["Y"], each, stored, ratio, depth)
    ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False)]
    tile = math.prod(page.chunks) * page.dtype.itemsize  # which may be larger than the picture
    if not ends or max(ends) > stored or 0 in page.databytecounts or tile > ratio * stored:
        raise UserError("The TIFF is cut short, or parts of it were never written.")
    if page.photometric not in (0, 1, 2, 5):
        name = getattr(page.photometric, "name", page.photometric)
        raise UserError(f"A TIFF with colours as {name} of {page.bitspersample} bits is not read; save it as RGB.")
    optional("imagecodecs", "tiff", "TIFFs of this kind")
    array = page.asarray(maxworkers=1)
    array = array.transpose([page.axes.index(axis) for axis in "ZYXS" if axis in size])
    array = array.reshape(depth, size["Y"], size["X"], channels)
    if channels > MOST_CHANNELS:
        array = array.transpose(0, 3, 1, 2).reshape(depth * channels, size["Y"], size["X"], 1)
    turn = page.tags.get(ORIENTATION)
    return [_channels(page, each, turn.value if turn else 1) for each in array]


def _channels(page: Any, array: np.ndarray, turn: int) -> Picture:
    """One picture (H, W, C) of a TIFF page as it is to be seen: over white, as RGB, with white high."""
    pixels, C = as_stored(array), array.shape[2]
    remarks: tuple[str, ...] = ()
    suffix = {"uint8": "", "uint16": ";16", "float32": ";F"}[pixels.dtype.name]
    mode = ("F" if suffix == ";F" else f"I{suffix}" if suffix else "L") if C == 1 else f"RGB{suffix}"
    extra = tuple(int(kind) for kind in page.extrasamples)
    if pixels.dtype == np.uint16 and extra in ((1,), (2,)) and C in (2, 4) and page.bitspersample == 16:
        mode = f"{'LA' if C == 2 else 'RGBA'};16"
        pixels, seen = _deep_over_white(pixels, multiplied=extra == (1,))
        remarks += (TRANSPARENT,) * seen
    elif page.photometric == 5 and C == 4 and pixels.dtype == np.uint16 and page.bitspersample == 16:
        mode, remarks = "CMYK;16", (CONVERTED,)
        ink = 1 - pixels / 65535  # (H, W, 4), how much light each ink lets through
        pixels = np.rint(ink[:, :, :3] * ink[:, :, 3:] * 65535).astype(np.uint16)
    elif C not in (1, 3):
        mode = f"{C} channels{suffix}"
    if page.photometric == 0 and pixels.dtype != np.float32:
        pixels = np.array(2**page.bitspersample - 1, pixels.dtype) - pixels
    return Picture(_upright(pixels, turn), remarks, mode)
