"""Pictures of one shape: which rule decides, what is kept, what is left out."""

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data import Images, gather, open_source
from sfumato.data.pixels import is_gray, luminance, resize
from sfumato.errors import UserError

SHARED = Path(__file__).parents[1] / ".." / "shared" / "data"


def real(name):
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"the real data set {name} is not here")
    return path


def folder(root, count=4, shape=(20, 20), seed=0, suffix=".png"):
    """Noise pictures; returns the folder."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for k in range(count):
        Image.fromarray(rng.integers(0, 256, shape).astype(np.uint8)).save(root / f"{k}{suffix}")
    return root


def told(images):
    return " ".join(images.notes)


# Size


def test_small_pictures_of_one_size_keep_it(tmp_path):
    images = gather(open_source(folder(tmp_path, shape=(20, 30))))
    assert images.shape == (1, 20, 30)
    assert "keep this size" in told(images)
    assert np.array_equal(images.array[2, 0], np.array(Image.open(tmp_path / "2.png")))


@pytest.mark.parametrize("other", [(20, 21), (65, 20), (300, 200)])
def test_pictures_that_differ_or_are_larger_become_64(tmp_path, other):
    folder(tmp_path, 3)
    folder(tmp_path / "b", 1, other)
    images = gather(open_source(tmp_path))
    assert images.shape == (1, 64, 64)
    assert "they become 64x64 (crop)" in told(images)
    assert gather(open_source(np.zeros((3, 65, 65), np.uint8))).shape == (1, 64, 64)


def test_a_size_can_be_asked_for(tmp_path):
    folder(tmp_path, 2, (30, 40))
    assert gather(open_source(tmp_path), size=16).shape == (1, 16, 16)
    assert gather(open_source(tmp_path), size=(8, 24)).shape == (1, 8, 24)
    assert gather(open_source("digits"), size=8).shape == (1, 8, 8)
    for size in (3, 1025, (8, 2000), 0, -4):
        with pytest.raises(UserError, match="impossible size"):
            gather(open_source(tmp_path), size=size)
    with pytest.raises(UserError, match="impossible size"):
        gather(open_source(np.zeros((4, 1, 3, 3), np.uint8)))
    with pytest.raises(UserError, match="'crop'"):
        gather(open_source(tmp_path), fit="crp")


def test_crop_takes_the_middle_pad_shows_all_and_stretch_fills():
    wide = np.zeros((10, 30, 1), np.uint8)
    wide[:, 10:20] = 200
    assert (resize(wide, (10, 10), "crop") == 200).all()
    padded = resize(wide, (30, 30), "pad")
    assert (padded[:10] == 0).all()
    assert (padded[20:] == 0).all()
    assert np.array_equal(padded[10:20], wide)
    stretched = resize(wide, (30, 30), "stretch")
    assert np.array_equal(stretched[0], stretched[29])
    assert (stretched[:, 12:18] == 200).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize(("dtype", "value"), [("uint8", 255), ("uint16", 65535), ("uint16", 4095), ("float32", -3.5)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_constant_picture_stays_constant_in_every_type(fit, dtype, value, channels):
    out = resize(np.full((17, 31, channels), value, dtype), (8, 40), fit)
    assert out.shape == (8, 40, channels)
    assert out.dtype == dtype
    np.testing.assert_allclose(out[:, 15:25], value, rtol=1e-6)  # beside it pad has its bars


def test_resizing_stays_within_the_range_of_the_picture():
    edge = np.zeros((40, 40, 1), np.uint16)
    edge[:, 20:] = 4095  # Lanczos overshoots at such an edge
    out = resize(edge, (13, 13), "crop")
    assert (out.min(), out.max()) == (0, 4095)


# Channels


def test_gray_saved_in_three_channels_is_gray(tmp_path):
    gray = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 1)).astype(np.uint8)
    for k, one in enumerate(gray):
        Image.fromarray(one.repeat(3, 2)).save(tmp_path / f"{k}.jpg", quality=80)
    images = gather(open_source(tmp_path))
    assert images.shape == (1, 20, 20)
    assert "gray, so they have one channel" in told(images)


@pytest.mark.parametrize(("count", "coloured", "channels"), [(20, 0, 1), (20, 1, 1), (20, 2, 3), (20, 20, 3)])
@pytest.mark.parametrize("as_array", [True, False])
def test_95_percent_of_gray_pictures_decide(tmp_path, count, coloured, channels, as_array):
    array = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)
    array[coloured:] = array[coloured:, :, :, :1]
    if as_array:
        source = open_source(array)
    else:
        for k, one in enumerate(array):
            Image.fromarray(one).save(tmp_path / f"{k}.png")
        source = open_source(tmp_path)
    images = gather(source)
    assert images.shape[0] == channels
    if coloured == 1:
        assert f"1 of {count} are in colour and became gray" in told(images)
        assert np.array_equal(images.array[:, 0], np.array([np.array(Image.fromarray(a).convert("L")) for a in array]))
    elif channels == 1:
        assert np.array_equal(images.array[:, 0], array[..., 0])
    else:
        assert np.array_equal(images.array, array.transpose(0, 3, 1, 2))


def test_channels_can_be_asked_for(tmp_path):
    for source in (open_source(folder(tmp_path)), open_source(np.zeros((4, 8, 8), np.uint8))):
        three = gather(source, channels=3)
        assert three.shape[0] == 3
        assert np.array_equal(three.array[:, 0], three.array[:, 2])
        with pytest.raises(UserError, match="1 or 3"):
            gather(source, channels=2)
    colour = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3)).astype(np.uint8)
    assert gather(open_source(colour), channels=1).shape == (1, 8, 8)
    four = np.zeros((4, 8, 8, 4), np.uint8)
    assert gather(open_source(four)).shape == (4, 8, 8)
    assert gather(open_source(four), size=6).shape == (4, 6, 6)
    with pytest.raises(UserError, match="3 channels"):
        gather(open_source(four), channels=3)


def test_luminance_is_that_of_pillow_and_keeps_gray():
    colour = np.random.default_rng(0).integers(0, 256, (3, 9, 9, 3)).astype(np.uint8)
    pillow = np.array([np.array(Image.fromarray(one).convert("L")) for one in colour])
    assert np.array_equal(luminance(colour.transpose(0, 3, 1, 2))[:, 0], pillow)
    for dtype, top in (("uint8", 255), ("uint16", 65535), ("float32", 1e6)):
        gray = np.linspace(0, top, 60).astype(dtype).reshape(1, 1, 6, 10).repeat(3, 1)
        assert np.array_equal(luminance(gray), gray[:, :1])
        assert is_gray(gray).all()


@pytest.mark.parametrize(("dtype", "spread"), [("uint8", 8), ("uint16", 0), ("float32", 0)])
def test_gray_allows_what_jpeg_does_to_bytes_and_no_more(dtype, spread):
    image = np.full((2, 3, 4, 4), 100, dtype)
    image[0, 1, 2, 3] -= spread
    image[1, 1, 2, 3] -= spread + 1
    assert is_gray(image).tolist() == [True, False]


# What cannot be read


def test_broken_files_are_skipped_named_and_counted(tmp_path):
    folder(tmp_path / "a", 3)
    folder(tmp_path / "b", 3, seed=1)
    whole = (tmp_path / "a" / "1.png").read_bytes()
    (tmp_path / "a" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b" / "0.png").write_text("not an image")
    seen = []
    images = gather(open_source(tmp_path), progress=lambda done, total: seen.append((done, total)))
    assert len(images) == 4
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert [path for path, _ in images.skipped] == ["a/1.png", "b/0.png"]
    assert images.skipped[1][1] == "not an image that Pillow can read"
    assert "2 of 6 files could not be read and are left out: a/1.png" in told(images)
    assert seen == [(k, 6) for k in range(1, 7)]


def test_a_set_of_which_nothing_is_left_is_refused(tmp_path):
    for k in range(3):
        (tmp_path / f"{k}.png").write_text("not an image")
    with pytest.raises(UserError, match="None of the 3 files"):
        gather(open_source(tmp_path))
    folder(tmp_path, 1)
    with pytest.raises(UserError, match="only one can be read"):
        gather(open_source(tmp_path))
    with pytest.raises(UserError, match="at least two"):
        gather(open_source(np.zeros((1, 8, 8), np.uint8)))


def test_a_decompression_bomb_counts_as_broken(tmp_path, monkeypatch):
    folder(tmp_path, 3)
    folder(tmp_path / "large", 1, (60, 60))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    images = gather(open_source(tmp_path))
    assert [path for path, _ in images.skipped] == ["large/0.png"]


@pytest.mark.parametrize("size", [None, 6])
def test_values_that_are_not_finite_are_counted(size):
    array = np.zeros((5, 8, 8), np.float32)
    array[1, 0, 0], array[3, :2, 0] = np.nan, np.inf
    with pytest.raises(UserError, match="2 of 5 images hold 3 values that are NaN or infinite, from position 1"):
        gather(open_source(array), size=size)


def test_pictures_of_different_types_do_not_go_together(tmp_path):
    folder(tmp_path, 3)
    Image.fromarray(np.zeros((20, 20), np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"3 of uint8 .* 1 of uint16 \(such as deep.png\)"):
        gather(open_source(tmp_path))


def test_notes_tell_of_transparency(tmp_path):
    folder(tmp_path, 3, (8, 8, 4))
    assert "3 of 3 images had transparent parts, which were laid over white." in told(gather(open_source(tmp_path)))


# Images


def test_a_batch_is_what_is_stored():
    images = gather(open_source("digits"))
    batch = images.batch(torch.tensor([5, 0, 5]))
    assert batch["image"].shape == (3, 1, 8, 8)
    assert batch["image"].dtype == torch.uint8
    assert batch["label"].tolist() == [5, 0, 5]
    assert np.array_equal(batch["image"].numpy(), images.array[[5, 0, 5]])
    before = images.array[0].copy()
    images.batch([0])["image"].zero_()
    assert np.array_equal(images.array[0], before)
    deep = Images(np.full((2, 1, 4, 4), 40_000, np.uint16)).batch([1])
    assert deep["image"].dtype == torch.uint16
    assert "label" not in deep


def test_a_memory_mapped_file_stays_on_disk(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (6, 8, 9, 3)).astype(np.uint8)
    np.save(tmp_path / "a.npy", array)
    images = gather(open_source(tmp_path / "a.npy"))
    assert isinstance(images.array, np.memmap)
    assert np.array_equal(images.batch([4, 1])["image"], array[[4, 1]].transpose(0, 3, 1, 2))
    assert gather(open_source(array)).fingerprint == Images(images.array, name="another name").fingerprint


def test_the_fingerprint_changes_with_everything_that_counts():
    array = np.random.default_rng(0).integers(0, 256, (4, 1, 4, 6)).astype(np.uint8)
    changed = array.copy()
    changed[3, 0, 3, 5] ^= 1
    labels = np.array([0, 1, 0, 1])
    prints = [
        Images(a, y, names).fingerprint
        for a, y, names in [
            (array, None, None),
            (changed, None, None),
            (array[::-1], None, None),
            (array.reshape(4, 1, 6, 4), None, None),
            (array.astype(np.uint16), None, None),
            (array, labels, ("a", "b")),
            (array, labels, ("a", "c")),
            (array, 1 - labels, ("a", "b")),
        ]
    ]
    assert len(set(prints)) == len(prints)
    assert Images(array.copy()).fingerprint == prints[0]


def test_a_subset_keeps_labels_and_hashes():
    images = gather(open_source("digits"))
    part = images.subset([7, 3])
    assert np.array_equal(part.hashes, images.hashes[[7, 3]])
    assert np.array_equal(Images(part.array).hashes, part.hashes)
    assert part.labels.tolist() == [7, 3]
    assert part.label_counts.tolist() == [0, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    assert images.label_counts.sum() == 1797
    assert Images(images.array).label_counts is None


# Real sets


def test_fashion_mnist_is_read_as_it_is():
    path = real("train-images-idx3-ubyte.gz")
    images = gather(open_source(path))
    assert (len(images), images.shape, images.name) == (60_000, (1, 28, 28), "train")
    assert images.label_counts.tolist() == [6000] * 10
    assert len(np.unique(images.hashes)) == 60_000
    assert images.label_names == tuple("0123456789")
    assert images.natural


@pytest.mark.slow
def test_brain_mri_becomes_one_channel(tmp_path):
    zipfile.ZipFile(real("brain-mri.zip")).extractall(tmp_path / "brain")
    images = gather(open_source(tmp_path / "brain"))
    assert (len(images), images.shape, images.skipped) == (1311, (1, 64, 64), ())
    assert images.label_names == ("glioma", "meningioma", "notumor", "pituitary")
    assert images.label_counts.tolist() == [300, 306, 405, 300]
    assert "of 1311 are in colour and became gray" in told(images)
    assert 1281 - 30 <= len(np.unique(images.hashes)) <= 1281  # 30 exact repeats
