"""One file to pictures: whatever the format keeps comes out, and whatever is broken ends in a sentence."""

import gzip
import io
import logging
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data.decode import BESIDE, CONVERTED, FRAMES, TRANSPARENT, as_stored, decode, is_readable, looks_like_dicom, reason
from sfumato.data.pixels import resize
from sfumato.data.volumes import ASKED, EMPTY, NAMED, NOT_NUMBERS, OWN, UNPLACED, to_16_bits
from sfumato.errors import UserError

imagecodecs, tifffile = pytest.importorskip("imagecodecs"), pytest.importorskip("tifffile")
nib, pydicom = pytest.importorskip("nibabel"), pytest.importorskip("pydicom")

SOURCE = Path(__file__).parents[1] / "src"
SETS = Path(__file__).parents[2] / "shared" / "data"


def noise(*shape, dtype=np.uint8, seed=0):
    top = np.iinfo(dtype).max
    return np.random.default_rng(seed).integers(np.iinfo(dtype).min, top, shape, dtype=dtype, endpoint=True)


RGB, GRAY, DEEP = noise(9, 11, 3), noise(9, 11), noise(9, 11, 3, dtype=np.uint16)


def by_pillow(image, kind="PNG", **how):
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **how)
    return file.getvalue()


def tiff(*arrays, **how):
    file = io.BytesIO()
    with tifffile.TiffWriter(file, **{k: how.pop(k) for k in ("byteorder", "bigtiff") if k in how}) as writer:
        for array in arrays:
            writer.write(array, metadata=None, **how)
    return file.getvalue()


def nifti(array, affine=None, kind=nib.Nifti1Image, **header):
    image = kind(array, np.eye(4) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def dicom(array, syntax="1.2.840.10008.1.2.1", preamble=True, **more):
    """A DICOM file of (H, W), (N, H, W), or (H, W, 3) with PhotometricInterpretation RGB."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1" if syntax.endswith("1.2.5") else syntax
    data = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = meta.MediaStorageSOPClassUID, "1.2.3", "CT"
    data.PhotometricInterpretation = kind = more.pop("PhotometricInterpretation", "MONOCHROME2")
    colour = array.ndim == 3 and kind == "RGB"
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.Rows, data.Columns = array.shape[:2] if colour else array.shape[-2:]
    if array.ndim == 3 and not colour:
        data.NumberOfFrames = len(array)
    data.BitsAllocated = data.BitsStored = 8 * array.itemsize
    data.HighBit, data.PixelRepresentation = data.BitsStored - 1, int(array.dtype.kind == "i")
    data.PixelData = array.tobytes()
    for name, value in more.items():
        setattr(data, name, value)
    if meta.TransferSyntaxUID != syntax:
        data.compress(syntax)
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    whole = file.getvalue()
    return whole if preamble else whole[144 + int.from_bytes(whole[140:144], "little") :]


def one(stored, name="a", window=None):
    pictures = decode(stored, name, window)
    assert len(pictures) == 1
    return pictures[0]


def same(picture, pixels, mode=None, remarks=()):
    pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
    assert picture.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(picture.pixels, pixels)
    assert mode in (None, picture.mode)
    assert picture.remarks == remarks


# names


def test_names_that_are_read():
    assert all(is_readable(name) for name in ("a.PNG", "b/c.jpeg", "d.nii", "d.nii.gz", "x.DCM", "e.tga", "f.avif"))
    assert not any(is_readable(name) for name in ("a.txt", "png", "a.gz", "a.nii.xz", ""))
    assert looks_like_dicom(dicom(GRAY)[:132])
    assert not looks_like_dicom(by_pillow(RGB))


def test_no_torch_in_the_processes_that_decode():
    code = (
        "import sys, types\n"
        "for name, path in (('sfumato', 'sfumato'), ('sfumato.data', 'sfumato/data')):\n"
        "    sys.modules[name] = types.ModuleType(name); sys.modules[name].__path__ = [sys.argv[1] + '/' + path]\n"
        "import sfumato.data.decode, sfumato.data.volumes\n"
        "assert not {'torch', 'tifffile', 'nibabel', 'pydicom', 'imagecodecs'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code, str(SOURCE)], check=True)


# what Pillow reads


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "TGA", "WEBP", "JPEG2000", "AVIF"])
def test_lossless_colour_is_exact_in_every_format(kind):
    how = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    name = "a.tga" if kind == "TGA" else "no suffix"
    picture = one(by_pillow(RGB, kind, **how), name)
    if kind == "AVIF":  # YCbCr: nearly
        assert np.abs(picture.pixels.astype(int) - RGB).max() <= 4
    else:
        same(picture, RGB, "RGB")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "JPEG2000"])
def test_8_bit_gray_is_exact_in_every_format(kind):
    same(one(by_pillow(GRAY, kind)), GRAY, "L")
    same(one(by_pillow(GRAY, "GIF")), np.dstack([GRAY] * 3), "P")


def test_jpeg_is_what_pillow_makes_of_it_whatever_its_name():
    stored = by_pillow(RGB, "JPEG")
    for name in ("a.jpg", "a.png", "a.tif", "a"):
        same(one(stored, name), np.array(Image.open(io.BytesIO(stored))), "RGB")


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_palettes(kind):
    image = Image.fromarray(noise(9, 11) % 5).convert("P")
    image.putpalette(noise(5, 3, seed=1).tobytes())
    colours = np.array(image.convert("RGB"))
    same(one(by_pillow(image, kind)), colours, "P")
    if kind == "PNG":
        clear = (np.array(image) == 2)[:, :, None]
        same(one(by_pillow(image, transparency=2)), np.where(clear, 255, colours).astype(np.uint8), "P", (TRANSPARENT,))


def test_alpha_is_laid_over_white():
    alpha = GRAY.copy()
    alpha[0, :3] = 0, 255, 128
    gray = GRAY // 2
    laid = lambda colour: np.rint(colour * (alpha / 255) + 255 - alpha)
    for mode, pixels in (("RGBA", np.dstack([RGB, alpha])), ("LA", np.dstack([gray, alpha]))):
        picture = one(by_pillow(Image.fromarray(pixels, mode) if mode == "RGBA" else _la(pixels)))
        assert (picture.mode, picture.remarks) == (mode, (TRANSPARENT,))
        expected = np.stack([laid(pixels[:, :, c]) for c in range(pixels.shape[2] - 1)], axis=-1)
        assert np.abs(picture.pixels - expected).max() <= 1
        full = pixels.copy()
        full[:, :, -1] = 255
        same(one(by_pillow(Image.fromarray(full, mode) if mode == "RGBA" else _la(full))), full[:, :, :-1], mode)


def _la(pixels):
    return Image.merge("LA", [Image.fromarray(np.ascontiguousarray(pixels[:, :, c])) for c in range(2)])


def test_one_bit_and_other_colour_spaces():
    bits = GRAY > 127
    for kind in ("PNG", "TIFF", "BMP"):
        same(one(by_pillow(Image.fromarray(bits), kind)), bits * np.uint8(255), "1")
    cmyk = Image.fromarray(noise(9, 11, 4), "CMYK")
    same(one(by_pillow(cmyk, "TIFF")), np.array(cmyk.convert("RGB")), "CMYK", (CONVERTED,))
    lab = Image.fromarray(RGB, "LAB")
    same(one(by_pillow(lab, "TIFF")), np.array(lab.convert("RGB")), "LAB", (CONVERTED,))


@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation_stands_upright(turn):
    exif = Image.Exif()
    exif[274] = turn
    upright = lambda a: {
        1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.swapaxes(0, 1), 6: a.swapaxes(0, 1)[:, ::-1],
        7: a[::-1, ::-1].swapaxes(0, 1), 8: a.swapaxes(0, 1)[::-1],
    }[turn]  # fmt: skip
    same(one(by_pillow(RGB, exif=exif)), upright(RGB))
    tag = [(274, "H", 1, turn, True)]
    same(one(tiff(RGB, photometric="rgb", extratags=tag)), upright(RGB))
    same(one(tiff(DEEP, photometric="rgb", extratags=tag)), upright(DEEP))
    stored = imagecodecs.png_encode(DEEP)
    at = stored.index(b"IDAT") - 4
    same(one(stored[:at] + chunk(b"eXIf", exif.tobytes()[6:]) + stored[at:]), upright(DEEP))


def test_broken_exif_keeps_good_pixels():
    same(one(by_pillow(RGB, exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), RGB)


def test_of_an_animation_the_first_frame():
    frames = [Image.fromarray(noise(9, 11, seed=s)) for s in range(3)]
    for kind, how in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        picture = one(by_pillow(frames[0], kind, save_all=True, append_images=frames[1:], **how))
        np.testing.assert_array_equal(picture.pixels[:, :, :1], np.array(frames[0])[:, :, None])
        assert picture.remarks == (FRAMES,)


# more than 8 bits


def test_16_bit_gray_is_exact():
    gray = DEEP[:, :, 0]
    same(one(by_pillow(gray)), gray, "I;16")
    same(one(by_pillow(gray, "PPM")), gray)
    for order in "<>":
        same(one(tiff(gray, byteorder=order)), gray, "I;16")
        same(one(tiff(gray, byteorder=order, photometric="miniswhite")), 65535 - gray, "I;16")
    same(one(tiff(GRAY, photometric="miniswhite")), 255 - GRAY, "L")


def test_16_bit_colour_is_exact():
    same(one(imagecodecs.png_encode(DEEP)), DEEP, "RGB;16")
    same(one(imagecodecs.jpeg2k_encode(DEEP, level=0, reversible=True)), DEEP, "RGB;16")
    same(one(b"P6 11 9 65535\n" + DEEP.astype(">u2").tobytes()), DEEP, "RGB;16")
    for how in ({}, {"byteorder": ">"}, {"compression": "lzw"}, {"planarconfig": "separate"}, {"bigtiff": True}):
        data = DEEP.transpose(2, 0, 1) if "planarconfig" in how else DEEP
        same(one(tiff(data, photometric="rgb", **how)), DEEP, "RGB;16")


def test_16_bit_alpha_is_laid_over_white():
    alpha = noise(9, 11, 1, dtype=np.uint16, seed=3)
    share = alpha / 65535
    expected = np.rint(DEEP * share + 65535 * (1 - share)).astype(np.uint16)
    four = np.concatenate([DEEP, alpha], axis=2)
    same(one(imagecodecs.png_encode(four)), expected, "RGBA;16", (TRANSPARENT,))
    same(one(tiff(four, photometric="rgb", extrasamples=["unassalpha"])), expected, "RGBA;16", (TRANSPARENT,))
    multiplied = np.concatenate([np.rint(DEEP * share).astype(np.uint16), alpha], axis=2)
    laid = one(tiff(multiplied, photometric="rgb", extrasamples=["assocalpha"])).pixels
    assert np.abs(laid.astype(int) - expected).max() <= 1
    two = np.ascontiguousarray(four[:, :, 2:])
    same(one(imagecodecs.png_encode(two)), expected[:, :, 2], "LA;16", (TRANSPARENT,))


def test_16_bit_ink_becomes_light():
    ink = noise(9, 11, 4, dtype=np.uint16)
    light = 1 - ink / 65535
    expected = np.rint(light[:, :, :3] * light[:, :, 3:] * 65535).astype(np.uint16)
    same(one(tiff(ink, photometric="separated")), expected, "CMYK;16", (CONVERTED,))


def test_12_bits_stay_12_bits():
    for twelve in (DEEP % 4096, DEEP[:, :, 0] % 4096):
        stored = tiff(twelve, bitspersample=12, photometric="rgb" if twelve.ndim == 3 else "minisblack")
        same(one(stored), twelve)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "int16", "bool"])
def test_other_numbers_of_a_tiff(dtype):
    values = (noise(9, 11, 3).astype(float) - 128) / 4
    values = values > 0 if dtype == "bool" else values.astype(dtype)
    gray = np.ascontiguousarray(values[:, :, 0])
    if dtype == "bool":
        same(one(tiff(gray, photometric="minisblack")), gray * np.uint8(255), "1")
        return
    same(one(tiff(gray)), gray.astype(np.float32))
    same(one(tiff(values, photometric="rgb")), values.astype(np.float32), "RGB;F")


def test_32_bit_integers_are_exact_or_refused():
    assert as_stored(np.array([True, False])).tolist() == [255, 0]
    positive = noise(9, 11, dtype=np.uint16) // 2
    same(one(tiff(positive.astype(np.int16))), positive.astype(np.float32), "I;16S")
    small = noise(9, 11, dtype=np.uint16).astype(np.uint32)
    same(one(tiff(small)), small.astype(np.uint16))
    same(one(tiff(small.astype(np.int32) - 40000)), small.astype(np.float32) - 40000)
    large = small << np.uint32(16)
    same(one(tiff(large)), large.astype(np.float32), "I")
    large[0, 0] = 2**32 - 1
    with pytest.raises(UserError, match="fit neither"):
        decode(tiff(large), "a.tif")


@pytest.mark.parametrize("channels", [2, 4, 5, 64])
def test_a_tiff_of_many_channels_keeps_them(channels):
    for dtype in (np.uint8, np.uint16):
        stack = noise(9, 11, channels, dtype=dtype)
        contiguous = tiff(stack, photometric="minisblack", planarconfig="contig")
        same(one(contiguous), stack)
        planes = tiff(np.ascontiguousarray(stack.transpose(2, 0, 1)), photometric="minisblack", planarconfig="separate")
        same(one(planes), stack)


@pytest.mark.parametrize("compression", ["zstd", "lzma", "webp", "jpegxl", "png"])
def test_rare_packings_of_tiff(compression):
    how = {"compressionargs": {"lossless": True}} if compression in ("webp", "jpegxl") else {}
    same(one(tiff(RGB, photometric="rgb", compression=compression, **how)), RGB, "RGB")


def test_near_infrared_beside_rgb_is_a_channel_and_no_alpha():
    four = noise(9, 11, 4)
    same(one(tiff(four, photometric="rgb", extrasamples=["unspecified"])), four, "4 channels")


def test_what_has_more_planes_than_channels_can_be_is_pages():
    stack = noise(70, 9, 11, dtype=np.uint16)
    pictures = decode(tiff(stack, photometric="minisblack", planarconfig="separate"), "a.tif")
    np.testing.assert_array_equal(np.stack([p.pixels[:, :, 0] for p in pictures]), stack)


def test_each_page_is_a_picture_of_its_own_kind():
    pages = [GRAY, DEEP, RGB, noise(4, 5, dtype=np.uint16), DEEP.astype(np.float32)]
    pictures = decode(tiff(*pages), "a.tif")
    assert [p.mode for p in pictures] == ["L", "RGB;16", "RGB", "I;16", "RGB;F"]
    for picture, page in zip(pictures, pages, strict=True):
        same(picture, page)


def test_smaller_copies_in_a_tiff_are_left_out():
    for full in (RGB, DEEP):
        file = io.BytesIO()
        with tifffile.TiffWriter(file) as writer:
            writer.write(full, photometric="rgb", metadata=None)
            writer.write(full[::2, ::2], photometric="rgb", subfiletype=1, metadata=None)
        same(one(file.getvalue()), full, remarks=(BESIDE,))


def test_a_missing_extra_is_named(monkeypatch):
    stored = {"a.png": imagecodecs.png_encode(DEEP), "a.tif": tiff(DEEP), "a.nii": nifti(VOLUME), "a.dcm": dicom(GRAY)}
    for package in ("imagecodecs", "tifffile", "nibabel", "pydicom"):
        monkeypatch.setitem(sys.modules, package, None)
    for name, extra in (("a.png", "tiff"), ("a.tif", "tiff"), ("a.nii", "medical"), ("a.dcm", "medical")):
        with pytest.raises(UserError, match=rf"pip install 'sfumato\[{extra}\]'"):
            decode(stored[name], name)
    same(one(tiff(GRAY)), GRAY)


# NIfTI


VOLUME = noise(4, 5, 6, dtype=np.int16)  # to the right, to the front, up
FULL = (0.0, 65536.0)  # from -32768, whatever int16 there is


def shown(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 65535).astype(np.uint16)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (1, 1, -1), (-1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_the_same_body_stands_upright_however_it_is_stored(flips, order):
    stored = VOLUME[tuple(slice(None, None, flip) for flip in flips)].transpose(order)
    affine = np.zeros((4, 4))
    for axis, world in enumerate(order):
        affine[world, axis] = 2.0 * flips[world]
    affine[3, 3] = 1
    pictures = decode(nifti(stored, affine), "a.nii", FULL)
    assert len(pictures) == 6
    for k, picture in enumerate(pictures):  # slices from the feet up
        # Row 0 is the front, so y falls; column 0 is the patient's right, so x falls as well.
        expected = [[VOLUME[x, y, k] for x in range(3, -1, -1)] for y in range(4, -1, -1)]
        same(picture, shown(np.array(expected), -32768, 32768), "NIfTI", (ASKED,))


def test_a_mark_in_the_left_front_is_seen_above_on_the_right():
    body = np.ones((8, 8, 3), np.uint8)
    body[0, 7, 1] = 9  # x = 0 is left in RAS, y = 7 the front
    image = np.argwhere(decode(nifti(body), "a.nii")[0].pixels[:, :, 0])
    assert image.tolist() == [[0, 7]]


def test_slices_of_one_value_are_left_out_and_volumes_follow_each_other():
    four = noise(4, 5, 3, 2, dtype=np.int16)
    four[:, :, 1, 0] = 7
    pictures = decode(nifti(four, kind=nib.Nifti2Image), "A.NII", FULL)
    kept = [(0, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    for picture, (k, v) in zip(pictures, kept, strict=True):
        same(picture, shown(four[::-1, ::-1, k, v].T, -32768, 32768), remarks=(ASKED, EMPTY))


def test_windows_of_nifti():
    values = VOLUME.astype(np.float64)
    low, high = np.percentile(values, (0.5, 99.5))
    first = lambda a: a[::-1, ::-1, 0].T
    same(decode(nifti(VOLUME), "a.nii")[0], first(shown(values, low, high)), remarks=(OWN,))
    named = nifti(VOLUME, cal_min=-20000, cal_max=30000)
    same(decode(named, "a.nii")[0], first(shown(values, -20000, 30000)), remarks=(NAMED,))
    same(decode(named, "a.nii", (1000, 40000))[0], first(shown(values, -19000, 21000)), remarks=(ASKED,))
    scaled = gzip.compress(patched(nifti(VOLUME), 112, "<ff", 2, -10))  # slope, intercept
    same(decode(scaled, "a.nii.gz", (0, 100000))[0], first(shown(values * 2 - 10, -50000, 50000)), remarks=(ASKED,))
    assert to_16_bits(np.array([1.0, 2.0, 3.0]), 2, 2).tolist() == [0, 0, 65535]
    with pytest.raises(UserError, match="width above 0"):
        decode(named, "a.nii", (40, 0))


def test_nifti_of_odd_contents():
    holes = VOLUME.astype(np.float32)
    holes[0, 0, 0] = np.nan
    pictures = decode(nifti(holes), "a.nii", FULL)
    assert pictures[0].remarks == (NOT_NUMBERS, ASKED)
    assert pictures[0].pixels[-1, -1, 0] == shown(VOLUME.ravel()[1:], -32768, 32768).min()
    assert UNPLACED in decode(patched(nifti(VOLUME), 252, "<hh", 0, 0), "a.nii")[0].remarks  # qform_code, sform_code
    colours = np.zeros((4, 5, 6), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for c in "RGB":
        colours[c] = noise(4, 5, 6, seed=ord(c))
    same(decode(nifti(colours), "a.nii")[0], np.stack([colours[c][::-1, ::-1, 0].T for c in "RGB"], -1))


# DICOM


CT = (noise(9, 11, dtype=np.uint16) % 4096).astype(np.int16) - 1024


@pytest.mark.parametrize(
    "syntax", ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"]
)
def test_the_window_of_dicom_in_every_packing(syntax):
    c, w = 40, 401
    picture = one(dicom(CT, syntax, WindowCenter=c, WindowWidth=w), "1.2.840")
    x = CT.astype(float)
    y = ((x - (c - 0.5)) / (w - 1) + 0.5) * 65535  # PS3.3 C.11.2.1.2
    y[x <= c - 0.5 - (w - 1) / 2] = 0
    y[x > c - 0.5 + (w - 1) / 2] = 65535
    same(picture, np.rint(y).astype(np.uint16), "CT", (NAMED,))


def test_windows_of_dicom():
    low, high = np.percentile(CT, (0.5, 99.5))
    several = {"WindowCenter": [40, 600], "WindowWidth": [401, 2000]}
    same(one(dicom(CT), "a.dcm"), shown(CT, low, high), "CT", (OWN,))
    same(one(dicom(CT, **several), "a.dcm"), shown(CT, 39.5 - 200, 39.5 + 200), "CT", (NAMED,))
    same(one(dicom(CT, **several), "a.dcm", (40, 400)), shown(CT, -160, 240), "CT", (ASKED,))
    exact = dicom(CT, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    same(one(exact, "a.dcm"), shown(CT, -160, 240), "CT", (NAMED,))
    curve = one(dicom(CT, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID"), "a.dcm").pixels[:, :, 0]
    np.testing.assert_array_equal(curve, np.rint(65535 / (1 + np.exp(-4 * (CT - 40.0) / 400))))
    threshold = dicom(CT, WindowCenter=40, WindowWidth=1)
    same(one(threshold, "a.dcm"), np.where(CT > 39.5, 65535, 0).astype(np.uint16), "CT", (NAMED,))
    same(one(dicom(CT, WindowCenter=40, WindowWidth=0), "a.dcm"), shown(CT, low, high), "CT", (OWN,))


def test_slope_intercept_and_inverted_gray():
    raw = (CT + 1024).astype(np.uint16)
    stored = dicom(raw, RescaleSlope=2, RescaleIntercept=-1024)
    same(one(stored, "a.dcm", (40, 400)), shown(raw * 2.0 - 1024, -160, 240), remarks=(ASKED,))
    white = dicom(CT, PhotometricInterpretation="MONOCHROME1", Modality="CR")
    same(one(white, "a.dcm", (40, 400)), 65535 - shown(CT, -160, 240), "CR", (ASKED,))


def test_frames_colour_palette_and_old_files():
    frames = noise(3, 9, 11, dtype=np.uint16)
    pictures = decode(dicom(frames), "a.dcm", (32768, 65535))
    for picture, frame in zip(pictures, frames, strict=True):
        same(picture, shown(frame, 0.5, 65535.5), remarks=(ASKED,))
    same(one(dicom(RGB, PhotometricInterpretation="RGB", Modality="US"), "a.dicom"), RGB, "US")
    same(one(dicom(CT, "1.2.840.10008.1.2", preamble=False), "a.dcm", (40, 400)), shown(CT, -160, 240), remarks=(ASKED,))


def test_enhanced_files_name_slope_and_window_in_their_groups():
    Dataset = pydicom.dataset.Dataset
    groups, lut, window = Dataset(), Dataset(), Dataset()
    lut.RescaleSlope, lut.RescaleIntercept, window.WindowCenter, window.WindowWidth = 2, -1024, 40, 401
    groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [lut], [window]
    raw = (CT + 1024).astype(np.uint16)
    picture = one(dicom(raw, SharedFunctionalGroupsSequence=[groups]), "a.dcm")
    same(picture, shown(raw * 2.0 - 1024, 39.5 - 200, 39.5 + 200), "CT", (NAMED,))


def test_groups_hide_the_patient_and_tell_patients_apart():
    groups = [one(dicom(CT, PatientID=name), "a.dcm").group for name in ("Anna", "Anna", "Berta")]
    assert groups[0] == groups[1] != groups[2]
    assert "Anna" not in groups[0]
    assert one(dicom(CT, SeriesInstanceUID="1.2.9"), "a.dcm").group not in (None, *groups)
    assert one(dicom(CT), "a.dcm").group is None
    assert decode(nifti(VOLUME), "a.nii")[0].group is None


# broken files


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width, height, bits=8, colour=2):
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def patched(stored, at, form, *values):
    return stored[:at] + struct.pack(form, *values) + stored[at + struct.calcsize(form) :]


def tagged(stored, tag, value, count=None):
    """A little-endian TIFF with another value (and count) in a tag of its first page."""
    (first,) = struct.unpack_from("<I", stored, 4)
    (entries,) = struct.unpack_from("<H", stored, first)
    at = next(first + 2 + 12 * k for k in range(entries) if struct.unpack_from("<H", stored, first + 2 + 12 * k)[0] == tag)
    stored = patched(stored, at + 2, "<HII", 4, count or 1, value)
    return stored


def looped(stored):
    """The same pages, the last of which says that the first comes next."""
    at, (start,) = 4, struct.unpack_from("<I", stored, 4)
    first = start
    while start:
        at = start + 2 + 12 * struct.unpack_from("<H", stored, start)[0]
        (start,) = struct.unpack_from("<I", stored, at)
    return patched(stored, at, "<I", first)


def rows(count):
    return struct.pack("<HH2sHH", 0x28, 0x10, b"US", 2, count)


WHOLE = {
    "a.png": by_pillow(RGB), "deep.png": imagecodecs.png_encode(DEEP), "a.jpg": by_pillow(RGB, "JPEG"),
    "a.bmp": by_pillow(RGB, "BMP"), "a.gif": by_pillow(RGB, "GIF"), "a.webp": by_pillow(RGB, "WEBP"),
    "a.ppm": by_pillow(RGB, "PPM"), "a.jp2": by_pillow(RGB, "JPEG2000"), "a.avif": by_pillow(RGB, "AVIF"),
    "a.tga": by_pillow(RGB, "TGA"), "a.tif": tiff(GRAY), "deep.tif": tiff(DEEP), "lzw.tif": tiff(DEEP, compression="lzw"),
    "float.tif": tiff(DEEP.astype(np.float32), compression="deflate"), "big.tif": tiff(DEEP, bigtiff=True),
    "pages.tif": tiff(GRAY, DEEP, GRAY), "a.nii": nifti(VOLUME), "a.nii.gz": gzip.compress(nifti(VOLUME)),
    "two.nii": nifti(VOLUME, kind=nib.Nifti2Image), "a.dcm": dicom(CT), "rle.dcm": dicom(CT, "1.2.840.10008.1.2.5"),
    "deflated.dcm": dicom(CT, "1.2.840.10008.1.2.1.99"), "frames.dcm": dicom(np.stack([CT, CT])),
}  # fmt: skip

ABSURD = {
    "zero width.png": huge_png(0, 5), "wide.png": huge_png(2**31 - 1, 2**31 - 1), "bomb.png": huge_png(14000, 12000),
    "deep bomb.png": huge_png(12000, 12000, bits=16), "deeper.png": huge_png(2**30, 4, bits=16),
    "large.tif": tagged(tagged(tiff(GRAY), 256, 2**31 - 1), 257, 2**31 - 1), "long.tif": tagged(tiff(GRAY), 257, 10**7),
    "deep large.tif": tagged(tagged(tiff(DEEP), 256, 10**6), 257, 10**6), "deep long.tif": tagged(tiff(DEEP), 257, 10**7),
    "channels.tif": tagged(tiff(DEEP), 277, 60000), "strips.tif": tagged(tiff(DEEP), 273, 8, 2**31 - 1),
    "nowhere.tif": tagged(tiff(DEEP), 273, 2**31), "bytes.tif": tagged(tiff(DEEP), 279, 2**31),
    "no page.tif": b"II*\0\0\0\0\0", "beyond.tif": b"II*\0\xff\xff\xff\x7f", "self.tif": b"II*\0\x08\0\0\0\0\0\x08\0\0\0",
    "large.bmp": patched(WHOLE["a.bmp"], 18, "<ii", 2**31 - 1, 2**31 - 1),
    "long.bmp": patched(WHOLE["a.bmp"], 18, "<ii", 9999, 9999),
    "negative.bmp": patched(WHOLE["a.bmp"], 18, "<ii", -5, 5), "offset.bmp": patched(WHOLE["a.bmp"], 10, "<I", 2**31),
    "large.gif": patched(WHOLE["a.gif"], 6, "<HH", 65535, 65535), "zero.gif": patched(WHOLE["a.gif"], 6, "<HH", 0, 0),
    "long.gif": patched(WHOLE["a.gif"], 6, "<HH", 12000, 12000),
    "large.ppm": b"P6 99999 99999 255\n" + b"\0" * 99, "words.ppm": b"P6 eleven nine 255\n",
    "deep.ppm": b"P6 999 999 65535\n12",
    "large.tga": patched(WHOLE["a.tga"], 12, "<HH", 65535, 65535), "long.tga": patched(WHOLE["a.tga"], 12, "<HH", 9999, 9999),
    "large.nii": patched(WHOLE["a.nii"], 40, "<8h", 3, 32767, 32767, 32767, 1, 1, 1, 1),
    "negative.nii": patched(WHOLE["a.nii"], 40, "<8h", 3, -4, 5, 6, 1, 1, 1, 1),
    "axes.nii": patched(WHOLE["a.nii"], 40, "<h", 99), "type.nii": patched(WHOLE["a.nii"], 70, "<h", 1234),
    "offset.nii": patched(WHOLE["a.nii"], 108, "<f", 1e30), "nan offset.nii": patched(WHOLE["a.nii"], 108, "<f", float("nan")),
    "large two.nii": patched(WHOLE["two.nii"], 16, "<8q", 3, 2**40, 2**40, 2**40, 1, 1, 1, 1),
    "complex.nii": nifti(VOLUME.astype(np.complex64)), "pair.nii": patched(WHOLE["a.nii"], 344, "<4s", b"ni1\0"),
    "nan.nii": nifti(np.full((4, 5, 6), np.nan, np.float32)), "constant.nii": nifti(np.zeros((4, 5, 6), np.uint8)),
    "affine.nii": patched(WHOLE["a.nii"], 280, "<12f", *[float("nan")] * 12),
    "flat.nii": patched(WHOLE["a.nii"], 280, "<12f", *[0.0] * 12),
    "bomb.nii.gz": gzip.compress(patched(WHOLE["a.nii"], 40, "<8h", 3, 9999, 9999, 99, 1, 1, 1, 1) + b"\0" * 10**6),
    "not gzip.nii.gz": b"\x1f\x8b" + b"nonsense" * 99,
    "rows.dcm": dicom(CT, Rows=65535, Columns=65535), "no rows.dcm": dicom(CT, Rows=0),
    "many.dcm": dicom(CT, NumberOfFrames=2**31 - 1), "negative.dcm": dicom(CT, NumberOfFrames=-3),
    "bits.dcm": dicom(CT, BitsAllocated=64), "kind.dcm": dicom(CT, PhotometricInterpretation="SEPIA"),
    "rle rows.dcm": WHOLE["rle.dcm"].replace(rows(9), rows(9999)),
    "text.png": b"Dear Anna,\nthis is no picture.\n" * 9, "text.dcm": b"Dear Anna,\n" * 99, "text.nii": b"Dear Anna,\n" * 99,
    "text.tif": b"Dear Anna,\n" * 99, "text.tga": b"Dear Anna,\n" * 99, "zeros.png": bytes(999), "zeros.tif": bytes(999),
    "zeros.nii": bytes(999), "zeros.dcm": bytes(999), "zeros.tga": bytes(999), "ones.nii.gz": b"\xff" * 999,
    "empty.dcm": b"\0" * 128 + b"DICM",
    "script.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n",
}  # fmt: skip


def outcome(stored, name):
    """What is said of a file, or None where it holds pictures after all."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pictures = decode(stored, name)
        except MemoryError:
            pytest.fail(f"{name} asks for too much memory")
        except Warning as warning:
            pytest.fail(f"{name} warns: {warning}")
        except Exception as error:
            return reason(error)
    assert pictures
    for picture in pictures:
        assert picture.pixels.dtype.name in ("uint8", "uint16", "float32")
        assert picture.pixels.ndim == 3
        assert picture.pixels.size
    return None


def is_a_sentence(text):
    return text.isprintable() and 10 < len(text) < 250 and " " in text and "\\x" not in text


@pytest.mark.parametrize("name", WHOLE)
def test_a_file_cut_anywhere_or_with_wrong_bytes_ends_in_pictures_or_a_sentence(name):
    stored, random = WHOLE[name], np.random.default_rng(len(name))
    assert outcome(stored, name) is None
    cuts = [stored[: int(len(stored) * share)] for share in (0, 0.02, 0.2, 0.5, 0.9)] + [stored[:-1], stored[:2], stored[:8]]
    flips = []
    for _ in range(6):
        broken = np.frombuffer(stored, np.uint8).copy()
        at = random.integers(0, min(len(stored), 400), 3)
        broken[at] = random.integers(0, 256, 3)
        flips.append(broken.tobytes())
    said = [outcome(broken, name) for broken in cuts + flips]
    assert said[0] == "The file is empty" or "not" in said[0] or "no DICOM" in said[0] or "cut short" in said[0]
    assert all(is_a_sentence(text) for text in said if text is not None), said
    assert all(text is not None for text in said[:4]), said  # half a file is no picture


@pytest.mark.parametrize("name", ABSURD)
def test_absurd_headers_and_other_things_end_in_a_sentence(name):
    said = outcome(ABSURD[name], name)
    if name not in ("bits.dcm", "zero.gif"):
        assert said is not None
        assert is_a_sentence(said), said


def test_headers_that_promise_too_much_are_refused_before_anything_is_made(monkeypatch):
    def no_pixels(*_args, **_kw):
        raise AssertionError("pixels were asked for")

    monkeypatch.setattr(Image.Image, "load", no_pixels)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_pixels)
    monkeypatch.setattr(imagecodecs, "png_decode", no_pixels)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", no_pixels)
    monkeypatch.setattr(pydicom.pixels, "iter_pixels", no_pixels)
    for name in (
        "bomb.png",
        "deep bomb.png",
        "long.bmp",
        "deep large.tif",
        "deep long.tif",
        "long.gif",
        "rows.dcm",
        "many.dcm",
    ):
        assert "asked for" not in (outcome(ABSURD[name], name) or "asked for"), name


def test_an_empty_file_is_called_so():
    assert outcome(b"", "a.png") == "The file is empty"


def test_pages_that_lead_in_a_circle_end():
    pictures = decode(looped(tiff(GRAY, DEEP, GRAY)), "a.tif")
    assert [p.mode for p in pictures] == ["L", "RGB;16", "L"]
    assert outcome(looped(tiff(DEEP, DEEP)), "a.tif") is None


def test_many_pages_of_the_same_bytes_do_not_fill_the_memory():
    page = tiff(np.zeros((2000, 2000), np.uint8), compression="deflate")
    (start,) = struct.unpack_from("<I", page, 4)
    size = 2 + 12 * struct.unpack_from("<H", page, start)[0]
    many, at = page + bytes(len(page) % 2), start + size
    for _ in range(5):  # each page points at the next, and all at the same strips
        many, at = patched(many, at, "<I", len(many)) + page[start : start + size] + bytes(4), len(many) + size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sfumato.data.decode.MOST_BYTES", 9_000_000)
        with pytest.raises(UserError, match="split it"):
            decode(many, "a.tif")
    assert len(decode(many, "a.tif")) == 6


def test_gzip_is_unpacked_no_further_than_the_header_says():
    bomb = gzip.compress(nifti(VOLUME) + bytes(10**7))
    assert len(decode(bomb, "a.nii.gz")) == 6


def test_reasons_are_short_and_plain():
    assert reason(FileNotFoundError("x")) == "a link to a file that is not there"
    assert reason(KeyError(258)) == "the file is damaged: its parts do not fit together (KeyError)"
    assert reason(OSError("-2")) == "the file is damaged: its parts do not fit together (OSError)"
    assert reason(OSError("image file is truncated\nmore")) == "image file is truncated"
    assert reason(ValueError("")) == "the file is damaged: its parts do not fit together (ValueError)"
    assert reason(UserError("Say it.")) == "Say it"
    assert reason(MemoryError()) == "larger than the memory that is free"


def test_nothing_is_logged_to_the_terminal():
    assert logging.getLogger("tifffile").handlers


def test_real_pictures_are_what_pillow_reads():
    import zipfile

    path = SETS / "brain-mri.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    with zipfile.ZipFile(path) as files:
        names = [name for name in files.namelist() if is_readable(name)][:5]
        for name in names:
            stored = files.read(name)
            picture = one(stored, name)
            image = Image.open(io.BytesIO(stored))
            assert picture.pixels.shape[:2] in (image.size, image.size[::-1])
    assert names


# Photographs


@pytest.mark.parametrize("turned", [False, True])
def test_a_photograph_is_decoded_no_larger_than_is_enough(turned):
    rows, columns = np.mgrid[:600, :800]
    smooth = np.stack((rows * 255 / 599, columns * 255 / 799, (rows + columns) * 255 / 1398), 2).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95, exif=exif)
    [whole], [small] = decode(file.getvalue(), "a.jpg"), decode(file.getvalue(), "a.jpg", enough=128)
    assert whole.pixels.shape == ((800, 600, 3) if turned else (600, 800, 3))
    assert small.pixels.shape == ((200, 150, 3) if turned else (150, 200, 3))  # a quarter; an eighth would be too small
    assert small.size == whole.pixels.shape[:2]
    for fit in ("crop", "pad", "stretch"):
        shrunk = [resize(picture.pixels, (64, 64), fit).astype(int) for picture in (whole, small)]
        assert np.abs(shrunk[0] - shrunk[1]).max() <= 4
    [same] = decode(file.getvalue(), "a.jpg", enough=301)
    assert np.array_equal(same.pixels, whole.pixels)
