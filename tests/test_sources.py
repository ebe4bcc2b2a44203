"""What a person can type, and what is said about the rest."""

import gzip
import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import ArraySource, open_source
from sfumato.errors import UserError

IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def save(path, shape=(6, 5), value=7, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full(shape, value, dtype)).save(path)
    return path


def idx_bytes(array):
    kind = array.dtype.str[1:]
    header = bytes([0, 0, IDX_TYPES[kind], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(">" + kind).tobytes()


def pictures(count=5, shape=(6, 7), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(dtype)


def refusal(data):
    with pytest.raises(UserError) as caught:
        open_source(data)
    text = str(caught.value)
    assert text.endswith((".", "?"))
    return text


# Folders


def test_a_folder_is_listed_in_natural_order_without_hidden_files(tmp_path):
    for name in ("10.png", "2.PNG", "sub/1.png", ".hidden.png", "__MACOSX/2.png", ".thumbs/3.png"):
        save(tmp_path / name)
    source = open_source(tmp_path)
    assert [source.item(i).path for i in range(len(source))] == ["2.PNG", "10.png", "sub/1.png"]
    assert (source.kind, source.name, source.label_names) == ("folder", tmp_path.name, None)
    assert source.item(0).label is None
    assert "not taken for classes" in source.notes[0]


def test_subfolders_that_hold_all_images_are_classes(tmp_path):
    for name in ("10/a.png", "2/b.png", "2/deep/c.png"):
        save(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.kind == "class folders"
    assert source.label_names == ("2", "10")
    assert [(source.item(i).path, source.item(i).label) for i in range(3)] == [
        ("2/b.png", 0),
        ("2/deep/c.png", 0),
        ("10/a.png", 1),
    ]


def test_one_subfolder_is_no_class_and_test_folders_are_held_out(tmp_path):
    for name in ("data/train/cat/a.png", "data/train/dog/b.png", "data/test/cat/c.png"):
        save(tmp_path / name)
    source = open_source(tmp_path)
    assert source.label_names == ("cat", "dog")
    assert {source.item(i).path: (source.item(i).label, source.item(i).split) for i in range(len(source))} == {
        "data/train/cat/a.png": (0, "train"),
        "data/train/dog/b.png": (1, "train"),
        "data/test/cat/c.png": (0, "held-out"),
    }


def test_links_that_lead_in_a_circle_end(tmp_path):
    save(tmp_path / "a" / "1.png")
    os.symlink(tmp_path, tmp_path / "a" / "again")
    assert len(open_source(tmp_path)) == 1


def test_a_folder_without_images_says_what_is_read_and_what_is_there(tmp_path):
    assert "is empty" in refusal(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "all.zip").write_bytes(b"PK")
    text = refusal(tmp_path)
    assert "png jpg" in text
    assert "1 .txt" in text
    assert f"name it itself: {tmp_path}/all.zip" in text


def test_what_does_not_exist_is_refused_with_the_nearest_name(tmp_path):
    save(tmp_path / "photos" / "a.png")
    assert f"Did you mean '{tmp_path / 'photos'}'?" in refusal(tmp_path / "phots")
    assert "Did you mean 'digits'?" in refusal("digit")
    assert "Expected a folder" in refusal("/nowhere/at/all")
    assert "found something of type int" in refusal(3)
    assert "as in sfumato train photos/" in refusal("")


def test_a_damaged_zip_one_picture_and_other_files_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\3\4 and so on")
    assert "damaged" in refusal(tmp_path / "a.zip")
    assert "is one picture" in refusal(save(tmp_path / "a.png"))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(b"not an idx file"))
    assert "of no type that is read" in refusal(tmp_path / "a.tar.gz")


# Files in a folder


def pictures_of(source, i=0):
    return source.decode(i, source.load(i))


def read(path):
    return pictures_of(open_source(path.parent))[0].pixels


@pytest.mark.parametrize(
    ("modes", "channels", "dtype"),
    [("1 L LA", 1, "uint8"), ("P RGB RGBA CMYK", 3, "uint8"), ("I;16 I", 1, "uint16"), ("F", 1, "float32")],
)
def test_every_mode_becomes_one_or_three_channels(tmp_path, modes, channels, dtype):
    values = np.arange(30).reshape(5, 6) * 8
    for mode in modes.split():
        if mode == "I;16":
            image = Image.fromarray(values.astype(np.uint16))
        else:
            image = Image.fromarray(values.astype(np.uint8)).convert(mode)
        image.save(tmp_path / "a.tif")
        pixels = read(tmp_path / "a.tif")
        assert (pixels.shape, pixels.dtype) == ((5, 6, channels), np.dtype(dtype))
        if mode not in ("1", "P"):
            assert np.array_equal(pixels, values[..., None].repeat(channels, 2))


def test_16_bit_gray_keeps_its_bits(tmp_path):
    values = (np.arange(30).reshape(5, 6) * 2000).astype(np.uint16)
    for name in ("a.png", "a.tif", "a.pgm"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(read(tmp_path / name)[..., 0], values)
        (tmp_path / name).unlink()


def test_the_camera_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it a quarter turn to the right
    Image.fromarray(np.array([[10, 20, 30], [40, 50, 60]], np.uint8)).save(tmp_path / "a.png", exif=exif)
    assert read(tmp_path / "a.png")[..., 0].tolist() == [[40, 10], [50, 20], [60, 30]]


def test_transparency_is_laid_over_white_and_told(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    [picture] = pictures_of(open_source(tmp_path))
    pixels, remarks = picture.pixels, picture.remarks
    assert (pixels[0] == 0).all()
    assert (pixels[1:] == 255).all()
    assert "laid over white" in remarks[0]
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert pictures_of(open_source(tmp_path))[0].remarks == ()


# idx


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", IDX_TYPES)
def test_idx_files_are_read_in_every_type(tmp_path, kind, packed):
    array = pictures(dtype=np.int64) // (2 if kind == "i1" else 1)
    data = idx_bytes(array.astype(kind))
    path = tmp_path / ("few-images-idx3-ubyte" + (".gz" if packed else ""))
    path.write_bytes(gzip.compress(data) if packed else data)
    source = open_source(path)
    assert (source.name, source.kind, len(source)) == ("few", "idx", 5)
    assert source.load(3).dtype in (np.uint8, np.float32)
    assert np.array_equal(source.load(3)[..., 0], array[3])


def test_negative_idx_values_become_float32(tmp_path):
    array = np.arange(-60, 60, dtype=np.int16).reshape(2, 6, 10)
    (tmp_path / "ct.idx3").write_bytes(idx_bytes(array))
    assert np.array_equal(open_source(tmp_path / "ct.idx3").array[:, 0], array.astype(np.float32))


def test_labels_come_from_the_file_beside_and_must_be_as_many(tmp_path):
    images = tmp_path / "t-images-idx3-ubyte"
    images.write_bytes(idx_bytes(pictures()))
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.array([0, 2, 1, 0, 2], np.uint8))))
    source = open_source(images)
    assert source.label_names == ("0", "1", "2")
    assert [source.item(i).label for i in range(5)] == [0, 2, 1, 0, 2]
    assert open_source(tmp_path).name == tmp_path.name  # the only data set of its folder
    assert "holds labels" in refusal(tmp_path / "t-labels-idx1-ubyte.gz")
    (tmp_path / "t-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(np.array([0, 2], np.uint8))))
    assert "5 images" in refusal(images)


def test_damaged_idx_files_are_refused(tmp_path):
    data = idx_bytes(pictures())
    path = tmp_path / "x-images-idx3-ubyte"
    for damaged in (data[:-1], data + b"\0", data[:7], data[:4]):
        path.write_bytes(damaged)
        assert "cut short or damaged" in refusal(path)
    path.write_bytes(b"<html>")
    assert "does not begin like an idx file" in refusal(path)
    path.write_bytes(gzip.compress(data)[:-20])
    assert "cannot be unpacked" in refusal(path)
    path.write_bytes(b"")
    assert "does not begin like an idx file" in refusal(path)


def test_a_folder_of_several_data_sets_is_refused_by_name(tmp_path):
    for name in ("train", "t10k", "other"):
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(pictures()))
    text = refusal(tmp_path)
    assert "other-images-idx3-ubyte" in text
    assert "Name one" in text
    (tmp_path / "other-images-idx3-ubyte").unlink()
    source = open_source(tmp_path)
    assert source.held_out.tolist() == [False] * 5 + [True] * 5
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pictures())))
    assert len(open_source(tmp_path)) == 5  # a file and its .gz are one data set
    save(tmp_path / "a.png")
    source = open_source(tmp_path)
    assert len(source) == 1
    assert "1 files of arrays beside the images are not read" in " ".join(source.notes)


# Arrays


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((5, 8, 9), (1, 8, 9)), ((5, 8, 9, 3), (3, 8, 9)), ((5, 3, 8, 9), (3, 8, 9)), ((5, 8, 9, 4), (4, 8, 9))],
)
def test_the_small_axis_of_an_array_is_its_channels(tmp_path, shape, expected):
    array = pictures(shape[0], shape[1:])
    np.save(tmp_path / "set.npy", array)
    source = open_source(tmp_path / "set.npy")
    assert (source.name, source.kind, source.array.shape[1:]) == ("set", "npy", expected)
    assert isinstance(source.array, np.memmap)
    want = array[2][..., None] if array.ndim == 3 else array[2] if shape[3] < 5 else array[2].transpose(1, 2, 0)
    assert np.array_equal(source.load(2), want)
    assert np.array_equal(open_source(array).load(2), want)
    assert np.array_equal(open_source(torch.from_numpy(array)).load(2), want)


def test_an_ambiguous_shape_is_told():
    assert open_source(np.zeros((5, 3, 8, 3), np.uint8)).array.shape == (5, 3, 3, 8)
    source = open_source(torch.zeros(5, 3, 8, 3))
    assert source.array.shape == (5, 3, 8, 3)
    assert "two ways" in source.notes[0]


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ("bool", "uint8"),
        ("uint8", "uint8"),
        (">u2", "uint16"),
        ("int64", "uint8"),
        ("float16", "float32"),
        ("float64", "float32"),
    ],
)
def test_types_are_stored_as_one_of_three(given, stored):
    array = np.arange(120).reshape(2, 6, 10).astype(given)
    source = open_source(array)
    assert source.array.dtype == stored
    assert np.array_equal(source.array[:, 0], array * (255 if given == "bool" else 1))
    assert open_source(torch.zeros(2, 6, 6, dtype=torch.bfloat16)).array.dtype == np.float32


def test_arrays_that_hold_no_pictures_are_refused(tmp_path):
    assert "looks like one picture" in refusal(np.zeros((480, 640, 3), np.uint8))
    assert "found shape (5, 6)" in refusal(np.zeros((5, 6)))
    assert "found shape (5, 6, 7, 8)" in refusal(np.zeros((5, 6, 7, 8)))
    assert "pictures are numbers" in refusal(np.zeros((5, 6, 7), complex))
    assert "between -2**24 and 2**24" in refusal(np.full((5, 6, 7), 2**30))
    np.save(tmp_path / "o.npy", np.array([None, 1], object), allow_pickle=True)
    assert "not a whole .npy file" in refusal(tmp_path / "o.npy")
    np.save(tmp_path / "t.npy", pictures())
    (tmp_path / "t.npy").write_bytes((tmp_path / "t.npy").read_bytes()[:-9])
    assert "not a whole .npy file" in refusal(tmp_path / "t.npy")
    assert "several data sets" in refusal(tmp_path)


def test_digits_are_the_embedded_default():
    source = open_source("digits")
    assert (source.name, source.kind, len(source)) == ("digits", "digits", 1797)
    assert source.array.max() == 255
    assert source.load(0).shape == (8, 8, 1)
    assert [source.item(i).label for i in range(10)] == list(range(10))
    assert isinstance(source, ArraySource)
