"""Files of arrays: which axis is which, which array is which, what is held out, and what is said of damaged files."""

import gzip
import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import headers as headers_module
from sfumato.data.arrays import as_pictures, class_indices, may_be_mirrored, open_npy, open_npz
from sfumato.data.cifar import looks_like_cifar, open_cifar, open_cifar_file, refuse_pickled
from sfumato.data.idx import find_pairs, open_idx, open_idx_pair
from sfumato.data.source import HELD_OUT, TRAIN
from sfumato.errors import UserError

SHARED = Path(__file__).parents[2] / "shared" / "data"
IDX_TYPES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def pictures(count=5, shape=(9, 10), dtype=np.uint8, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *shape)).astype(dtype)


def labels_of(source):
    return [source.item(i).label for i in range(len(source))]


def splits_of(source):
    return [source.item(i).split for i in range(len(source))]


def refusal(call, *given):
    with pytest.raises(UserError) as caught:
        call(*given)
    return str(caught.value)


def npy_bytes(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def header_bytes(shape, descr="'|u1'", order="False", version=1):
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text) + 1)
    return b"\x93NUMPY" + bytes([version, 0]) + length + text + b"\n"


def zip_bytes(members, packing=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as archive:
        warnings.simplefilter("ignore")  # of two members with one name, which is what is wanted
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def npz_bytes(packing=zipfile.ZIP_DEFLATED, **arrays):
    return zip_bytes([(key + ".npy", npy_bytes(np.asarray(array))) for key, array in arrays.items()], packing)


def idx_bytes(array, order=">"):
    array = np.asarray(array)
    kind = array.dtype.str[1:]
    header = bytes([0, 0, IDX_TYPES[kind], array.ndim]) + struct.pack(f"{order}{array.ndim}I", *array.shape)
    return header + array.astype(">" + kind).tobytes()


def record(labels, value):
    return bytes(labels) + bytes([value]) * 1024 + bytes([value + 1]) * 1024 + bytes([value + 2]) * 1024


# Layouts


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 9, 10), None),
        ((2, 3, 9, 10), 1),
        ((2, 9, 10, 4), 3),
        ((2, 13, 64, 64), 1),  # the bands of Sentinel-2
        ((2, 64, 64, 13), 3),
        ((2, 64, 65, 66), 1),
        ((2, 66, 65, 64), 3),
        ((2, 9, 64, 12), 1),
        ((2, 7, 8, 8), 1),
    ],
)
def test_the_channels_are_the_small_axis(shape, axis):
    array = pictures(2, shape[1:])
    found, notes = as_pictures(array, "it")
    expected = array[:, None] if axis is None else np.moveaxis(array, axis, 1)
    assert np.array_equal(found, expected)
    assert bool(notes) == (axis is not None and shape[axis] > 4)


@pytest.mark.parametrize("shape", [(5, 6, 7, 8), (2, 65, 70, 70), (2, 9, 9, 9), (2, 20, 12, 20), (2, 0, 9, 9), (2, 9, 0)])
def test_no_channels_are_guessed_where_no_axis_stands_out(shape):
    assert f"found shape {shape}" in refusal(as_pictures, np.zeros(shape, np.uint8), "it")


def test_rows_are_refused_with_the_way_to_make_pictures_of_them():
    assert "array.reshape(-1, 28, 28)" in refusal(as_pictures, np.zeros((2, 784)), "it")
    assert "array.reshape(-1, 3, 32, 32)" in refusal(as_pictures, np.zeros((2, 3072)), "it")
    assert "array.reshape(-1, H, W)" in refusal(as_pictures, np.zeros((2, 785)), "it")


# Labels


@pytest.mark.parametrize(
    ("given", "classes", "names"),
    [
        ([2, 0, 1], [2, 0, 1], "012"),
        ([[2], [0], [1]], [2, 0, 1], "012"),
        ([1.0, 0.0, 1.0], [1, 0, 1], "01"),
        ([[0, 0, 1], [1, 0, 0], [0, 1, 0]], [2, 0, 1], "012"),
        ([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]], [1, 0, 0], "01"),
        (["b", "a", "b"], [1, 0, 1], "ab"),
        ([b"b", b"a", b"b"], [1, 0, 1], "ab"),
    ],
)
def test_labels_of_every_habit_become_class_numbers(given, classes, names):
    found, found_names, notes = class_indices(np.array(given), 3, "it")
    assert found.dtype == np.int64
    assert (found.tolist(), found_names, notes) == (classes, tuple(names), ())


def test_rows_that_mark_several_classes_give_no_classes_and_a_note():
    found, names, notes = class_indices(np.array([[1, 1], [0, 1]]), 2, "it")
    assert found is names is None
    assert "several classes" in notes[0]


# .npy


@pytest.mark.parametrize("name", ["a-labels.npy", "a_labels.npy", "labels.npy"])
def test_the_labels_beside_a_npy_file_are_read(tmp_path, name):
    array = pictures(3)
    np.save(tmp_path / "a.npy", array)
    np.save(tmp_path / name, [1, 0, 2])
    source = open_npy(tmp_path / "a.npy")
    assert (source.kind, source.name, source.label_names) == ("npy", "a", ("0", "1", "2"))
    assert labels_of(source) == [1, 0, 2]
    assert isinstance(source.array, np.memmap)
    assert np.array_equal(source.load(1)[..., 0], array[1])
    assert any(name in note for note in source.notes)


def test_labels_npy_counts_only_as_the_only_other_file(tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", pictures(3))
    np.save(tmp_path / "labels.npy", [1, 0, 2])
    assert open_npy(tmp_path / "a.npy").labels is None


def test_arrays_in_fortran_order_and_from_python_2_are_read(tmp_path):
    array = pictures(3)
    np.save(tmp_path / "f.npy", np.asfortranarray(array))
    np.savez_compressed(tmp_path / "f.npz", images=np.asfortranarray(array))
    (tmp_path / "old.npy").write_bytes(header_bytes("(3L, 9L, 10L)") + array.tobytes())
    (tmp_path / "long.npy").write_bytes(header_bytes("(3, 9, 10)", version=3) + array.tobytes())
    for source in (
        open_npy(tmp_path / "f.npy"),
        open_npz(tmp_path / "f.npz"),
        open_npy(tmp_path / "old.npy"),
        open_npy(tmp_path / "long.npy"),
    ):
        assert np.array_equal(source.array[:, 0], array)


# .npz


@pytest.mark.parametrize(
    "keys",
    [("images", "labels"), ("x", "y"), ("X", "y"), ("data", "targets"), ("image", "label"), ("arr_0", "arr_1"), ("cells", "y")],
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_pictures_and_labels_are_found_by_their_names(tmp_path, keys, save):
    array = pictures(3, (9, 10, 3))
    save(tmp_path / "a.npz", **{keys[0]: array, keys[1]: np.array([2, 0, 2])})
    source = open_npz(tmp_path / "a.npz")
    assert (source.kind, source.name, source.label_names) == ("npz", "a", ("0", "1", "2"))
    assert labels_of(source) == [2, 0, 2]
    assert np.array_equal(source.array, array.transpose(0, 3, 1, 2))
    assert source.held_out is None
    assert f"'{keys[0]}', labels from '{keys[1]}'" in source.notes[0]


@pytest.mark.parametrize("style", ["x_train y_train x_test y_test", "train y_train test y_test"])
def test_the_test_part_is_held_out(tmp_path, style):
    keys = style.split()
    train, test = pictures(3), pictures(2, seed=1)
    arrays = (train, np.array([1, 0, 1]), test, np.array([3, 0]))
    np.savez(tmp_path / "mnist.npz", **dict(zip(keys, arrays, strict=True)))
    source = open_npz(tmp_path / "mnist.npz")
    assert np.array_equal(source.array[:, 0], np.concatenate([train, test]))
    assert splits_of(source) == [TRAIN] * 3 + [HELD_OUT] * 2
    assert labels_of(source) == [1, 0, 1, 3, 0]
    assert source.label_names == tuple("0123")
    assert not source.natural


def test_of_val_and_test_val_is_held_out_and_test_is_left(tmp_path):
    parts = {name: pictures(count, (8, 8, 3), seed=count) for name, count in (("train", 4), ("val", 2), ("test", 3))}
    arrays = {f"{name}_images": array for name, array in parts.items()}
    arrays |= {f"{name}_labels": np.arange(len(array))[:, None] for name, array in parts.items()}
    np.savez(tmp_path / "a.npz", **arrays, label_names=np.array(list("wxyz")))
    source = open_npz(tmp_path / "a.npz")
    assert splits_of(source) == [TRAIN] * 4 + [HELD_OUT] * 2
    assert labels_of(source) == [0, 1, 2, 3, 0, 1]
    assert np.array_equal(source.array[4:], parts["val"].transpose(0, 3, 1, 2))
    assert source.label_names == tuple("wxyz")
    assert "'test_images' is left for testing." in source.notes


def test_a_held_out_part_without_labels_is_left_out(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=pictures(3), y_train=np.array([0, 1, 0]), x_test=pictures(2))
    source = open_npz(tmp_path / "a.npz")
    assert (len(source), source.held_out) == (3, None)
    assert any("'x_test' is not read" in note for note in source.notes)


def test_masks_beside_images_are_not_the_pictures(tmp_path):
    array = pictures(3)
    np.savez(tmp_path / "a.npz", masks=array > 9, images=array, note=np.array([None], object))
    source = open_npz(tmp_path / "a.npz")
    assert np.array_equal(source.array[:, 0], array)
    assert source.labels is None


def test_arrays_that_cannot_be_told_apart_are_listed(tmp_path):
    for number, arrays in enumerate(
        (
            {"a": pictures(3), "b": pictures(3)},
            {"images": pictures(3), "x": pictures(3)},
            {"arr_0": pictures(3), "arr_1": np.arange(3), "arr_2": pictures(2), "arr_3": np.arange(2)},
            {"val": pictures(3), "test": pictures(3)},
        )
    ):
        np.savez(tmp_path / f"{number}.npz", **arrays)
        text = refusal(open_npz, tmp_path / f"{number}.npz")
        assert "several arrays" in text
        assert all(f"{key} {array.shape} {array.dtype}" in text for key, array in arrays.items())


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((50, 100, 100)))
    (tmp_path / "a.idx3.gz").write_bytes(gzip.compress(idx_bytes(np.zeros((50, 100, 100), "u1"))))
    assert len(open_npz(tmp_path / "a.npz")) == len(open_idx(tmp_path / "a.idx3.gz")) == 50
    monkeypatch.setattr(headers_module, "memory", lambda: 499_999)
    for call, name in ((open_npz, "a.npz"), (open_idx, "a.idx3.gz")):
        assert "more than the memory" in refusal(call, tmp_path / name)


# idx


@pytest.fixture
def mnist(tmp_path):
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, count in (("train", 3), ("t10k", 2)):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(pictures(count, seed=count)))
        labels = np.arange(count, dtype=np.uint8)
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx_bytes(labels)))
    return folder


def test_an_idx_file_is_opened_with_its_labels(mnist):
    source = open_idx(mnist / "train-images-idx3-ubyte")
    assert (source.kind, source.name, source.label_names, source.natural) == ("idx", "train", ("0", "1", "2"), False)
    assert np.array_equal(source.array[:, 0], pictures(3, seed=3))
    assert labels_of(source) == [0, 1, 2]


def test_of_a_pair_the_second_is_held_out(mnist):
    pair = (mnist / "train-images-idx3-ubyte", mnist / "t10k-images-idx3-ubyte")
    source = open_idx_pair(*pair)
    assert np.array_equal(source.array[:, 0], np.concatenate([pictures(3, seed=3), pictures(2, seed=2)]))
    assert splits_of(source) == [TRAIN] * 3 + [HELD_OUT] * 2
    assert labels_of(source) == [0, 1, 2, 0, 1]
    (mnist / "t10k-labels-idx1-ubyte.gz").unlink()
    assert len(open_idx_pair(*pair)) == 3
    (mnist / "train-labels-idx1-ubyte.gz").unlink()
    source = open_idx_pair(*pair)
    assert (len(source), source.labels) == (5, None)
    pair[1].write_bytes(idx_bytes(pictures(2, (9, 11))))
    text = refusal(open_idx_pair, *pair)
    assert "9x10 with 1 channels" in text
    assert "9x11 with 1" in text


def test_pairs_are_files_that_differ_in_train_and_test_alone():
    t, k = "train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz"
    assert find_pairs([k, t]) == [(t, k)]
    assert find_pairs([t]) == [(t, None)]
    assert find_pairs([k]) == [(k, None)]
    assert find_pairs(["a.idx3", t, "test-images-idx3-ubyte"]) == [("a.idx3", None), (t, "test-images-idx3-ubyte")]
    letters = [f"emnist-{name}-{part}-images-idx3-ubyte" for name in ("letters", "mnist") for part in ("test", "train")]
    assert find_pairs(letters) == [(letters[1], letters[0]), (letters[3], letters[2])]
    assert find_pairs(["a/" + t, "b/" + k]) == [("a/" + t, None), ("b/" + k, None)]
    assert find_pairs(["train/images-idx3", "test/images-idx3"]) == [("train/images-idx3", "test/images-idx3")]
    assert find_pairs(["training/" + t, "training/" + k]) == [("training/" + t, "training/" + k)]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/mnist/train-images-idx3-ubyte", False),
        ("/a/MNIST/raw/train-images-idx3-ubyte", False),
        ("/a/FashionMNIST/raw/train-images-idx3-ubyte", True),
        ("/a/digits/train.idx3", False),
        ("/a/emnist-letters-train-images-idx3-ubyte.gz", False),
        ("/a/fashion-mnist.npz", True),
        ("/mnist/a/b/train.idx3", True),
    ],
)
def test_signs_are_not_mirrored(path, expected):
    assert may_be_mirrored(Path(path)) is expected


@pytest.mark.parametrize("packed", [False, True])
def test_the_wrong_byte_order_is_named(tmp_path, packed):
    array = pictures(3)
    lengths, start = idx_bytes(array, "<"), b"\x03\x08\0\0" + idx_bytes(array, "<")[4:]
    for data in (lengths, start):
        (tmp_path / "a.idx3").write_bytes(gzip.compress(data) if packed else data)
        assert "little-endian" in refusal(open_idx, tmp_path / "a.idx3")


def test_a_gzip_is_unpacked_only_as_far_as_its_header_promises(tmp_path, monkeypatch):
    (tmp_path / "a.idx3.gz").write_bytes(gzip.compress(idx_bytes(pictures(3)) + bytes(50_000_000)))
    read, unpack = [], gzip.GzipFile.readinto if "readinto" in vars(gzip.GzipFile) else io.BufferedIOBase.readinto
    monkeypatch.setattr(gzip.GzipFile, "readinto", lambda *given: read.append(unpack(*given)) or read[-1], raising=False)
    assert "found more" in refusal(open_idx, tmp_path / "a.idx3.gz")
    assert read == [270]


def test_fashion_mnist_as_it_is_published():
    if not (SHARED / "t10k-images-idx3-ubyte.gz").is_file():
        pytest.skip("Fashion-MNIST is not in ../shared/data")
    source = open_idx(SHARED / "t10k-images-idx3-ubyte.gz")
    assert source.array.shape == (10_000, 1, 28, 28)
    assert np.bincount(source.labels).tolist() == [1000] * 10
    assert source.label_names == tuple("0123456789")


# CIFAR


@pytest.fixture
def cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    (folder / "data_batch_1.bin").write_bytes(record([3], 10) + record([9], 20))
    (folder / "data_batch_2.bin").write_bytes(record([0], 30))
    (folder / "test_batch.bin").write_bytes(record([7], 40))
    (folder / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    return folder


def test_cifar_10_is_read_with_its_names_and_its_test_part(cifar):
    source = open_cifar(cifar)
    assert (source.kind, source.label_names, source.name) == ("cifar", tuple("abcdefghij"), "cifar-10-batches-bin")
    assert source.array.shape == (4, 3, 32, 32)
    assert source.array[:, :, 0, 31].tolist() == [[v, v + 1, v + 2] for v in (10, 20, 30, 40)]
    assert labels_of(source) == [3, 9, 0, 7]
    assert splits_of(source) == [TRAIN] * 3 + [HELD_OUT]
    alone = open_cifar_file(cifar / "data_batch_1.bin")
    assert (labels_of(alone), alone.held_out, alone.label_names) == ([3, 9], None, tuple("abcdefghij"))


def test_cifar_100_is_read_with_its_fine_labels(tmp_path):
    (tmp_path / "train.bin").write_bytes(record([19, 99], 10) + record([0, 7], 20))
    (tmp_path / "test.bin").write_bytes(record([1, 5], 30))
    names = [f"n{k}" for k in range(100)]
    (tmp_path / "fine_label_names.txt").write_text("\r\n".join(names))
    source = open_cifar(tmp_path)
    assert labels_of(source) == [99, 7, 5]
    assert source.label_names == tuple(names)
    assert source.array[:, :, 9, 9].tolist() == [[v, v + 1, v + 2] for v in (10, 20, 30)]
    assert splits_of(source) == [TRAIN, TRAIN, HELD_OUT]
    assert labels_of(open_cifar_file(tmp_path / "train.bin")) == [99, 7]


def test_cifar_folders_are_known_by_their_files():
    assert looks_like_cifar(["data_batch_1.bin", "readme.html"])
    assert looks_like_cifar(["train.bin", "test.bin", "fine_label_names.txt"])
    assert not looks_like_cifar(["train.bin", "test.bin"])
    assert "cifar-10-binary.tar.gz" in str(refuse_pickled(["data_batch_1", "test_batch", "batches.meta"]))
    assert "cifar-100-binary.tar.gz" in str(refuse_pickled(["train", "test", "meta", "file.txt~"]))
    for names in (["train", "test"], ["data_batch_1.bin", "data_batch_1"], []):
        assert refuse_pickled(names) is None


# Damaged and strange files: a sentence that names the file, or pictures; never another exception, never much memory

NPY, IDX = npy_bytes(pictures()), idx_bytes(pictures())
NPZ = npz_bytes(images=pictures(), labels=np.arange(5))
STORED = npz_bytes(zipfile.ZIP_STORED, images=pictures(), labels=np.arange(5))
GZ, CIFAR = gzip.compress(IDX), record([3], 10) + record([9], 20)
OBJECTS = np.array([None, "x", 3, 4, 5], object)
HUGE = 10**15


def flipped(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


def labelled(labels):
    return npz_bytes(images=pictures(), labels=labels)


def lying(data, packed=None):
    """An archive of one array whose directory and header promise 10^9 bytes for the few that are there."""
    data = bytearray(zip_bytes([("images.npy", data)], zipfile.ZIP_DEFLATED))
    for signature, offset in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = data.rindex(signature) + offset
        data[place : place + 4] = struct.pack("<I", packed or 10**9 + len(header_bytes("(1000, 1000, 1000)")))
    return bytes(data)


def idx_header(*lengths, kind=0x08):
    return bytes([0, 0, kind, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths)


DAMAGED = {
    "npy": [
        *(NPY[:length] for length in (0, 1, 6, 7, 8, 10, 60, 128, 129, len(NPY) - 1)),
        b"\0" * 500,
        b"<html>not found</html>",
        flipped(NPY, 0),
        flipped(NPY, 6),
        flipped(NPY, 9),
        flipped(NPY, 20),
        header_bytes(f"({HUGE}, 28, 28)"),
        header_bytes(f"(0, {HUGE}, {HUGE})"),
        header_bytes(f"({HUGE}, 0, 9)"),
        header_bytes(f"({HUGE}, 9, 9)", "'<U0'"),
        header_bytes("(-1, 9, 9)"),
        header_bytes("(-1, -9, 9)") + bytes(81),
        header_bytes("5") + bytes(81),
        header_bytes("(5.0, 9, 9)") + bytes(500),
        header_bytes("(1,) * 9") + bytes(81),
        header_bytes("(" + "1, " * 80 + ")") + bytes(81),
        header_bytes("(" * 3000),
        header_bytes("-" * 9000 + "1"),
        header_bytes("(5, 9, 9)", "'|O'") + bytes(5 * 81 * 8),
        header_bytes("(5, 9, 9)", "'<c8'") + bytes(5 * 81 * 8),
        header_bytes("(5, 9, 9)", "'<M8[s]'") + bytes(5 * 81 * 8),
        header_bytes("(5, 9, 9)", "'<f3'") + bytes(5 * 81 * 8),
        header_bytes("(5, 9, 9)", "('|u1', (2,))") + bytes(5 * 81 * 2),
        header_bytes("(5, 9, 9)", "[('r', '|u1'), ('g', '|u1')]") + bytes(5 * 81 * 2),
        b"\x93NUMPY\x02\0" + struct.pack("<I", 2**32 - 1) + b"{'descr'",
        npy_bytes(OBJECTS),
        npy_bytes(np.arange(5)),
        npy_bytes(np.array(7)),
        npy_bytes(np.zeros((5, 784))),
        npy_bytes(np.full((2, 9, 9), 2**63 - 1)),
        npy_bytes(np.array([["text"]])),
        NPZ,  # a zip under the name of an array
        GZ,
    ],
    "npz": [
        *(NPZ[:length] for length in (0, 1, 4, 30, 100, len(NPZ) // 2, len(NPZ) - 60, len(NPZ) - 1)),
        flipped(NPZ, 2),
        flipped(NPZ, 200),
        *(flipped(STORED, place) for place in (100, 200, 400)),
        b"\0" * 500,
        b"PK\5\6" + bytes(18),  # an empty archive
        zip_bytes([("a.png", b"not an array"), ("b/c.txt", b"")]),
        zip_bytes([("images.npy", b"not an array")]),
        zip_bytes([("images.npy", NPY[:-1])]),
        zip_bytes([("images.npy", NPY + b"more")]),
        zip_bytes([("images.npy", NPY), ("images.npy", NPY)]),
        zip_bytes([("images.npy", NPY)], zipfile.ZIP_LZMA),
        zip_bytes([("images.npy", header_bytes(f"({HUGE}, 28, 28)"))]),
        zip_bytes([("images.npy", header_bytes(f"({HUGE}, 0, 28)"))]),
        zip_bytes([(f"{k}.npy", NPY[:128]) for k in range(1001)]),
        lying(header_bytes("(1000, 1000, 1000)")),
        lying(header_bytes("(1000, 1000, 1000)"), 2**32 - 1),
        npz_bytes(images=OBJECTS),
        npz_bytes(other=np.zeros((5, 5)), more=np.array(3)),
        npz_bytes(images=np.zeros((5, 784)), labels=np.arange(5)),
        npz_bytes(image=np.zeros((9, 9, 3))),
        npz_bytes(images=pictures(), label=np.arange(5), y=np.arange(5)),
        npz_bytes(x_train=pictures(), x_test=pictures(2, (9, 11))),
        npz_bytes(x_train=pictures(), y_train=np.arange(5), x_test=pictures(), y_test=np.eye(5)),
        npz_bytes(x_train=pictures(), y_train=np.arange(5), x_test=pictures(), y_test=np.arange(4)),
        npz_bytes(images=pictures(), labels=np.arange(5), label_names=np.array(["a", "b"])),
        labelled(OBJECTS),
        labelled(np.arange(6)),
        labelled(np.arange(4)),
        labelled(np.arange(0)),
        labelled(np.array(3)),
        labelled(np.arange(5) - 1),
        labelled(np.arange(5) + 0.5),
        labelled(np.full(5, np.nan)),
        labelled(np.full(5, np.inf)),
        labelled(np.full(5, 2**63, np.uint64)),
        labelled(np.full(5, 70_000)),
        labelled(np.eye(5) * 2),
        labelled(np.eye(5) - 1),
        labelled(np.zeros((5, 2, 2))),
        labelled(np.arange(5) * 1j),
        labelled(np.array([["a", "b"]] * 5)),
    ],
    "idx3": [
        *(IDX[:length] for length in (0, 1, 3, 4, 5, 15, 16, 17, len(IDX) - 1)),
        IDX + b"\0",
        b"\0" * 500,
        flipped(IDX, 0),
        flipped(IDX, 2),
        flipped(IDX, 3),
        flipped(IDX, 7),
        flipped(IDX, 15),
        idx_bytes(pictures(), "<"),
        b"\x03\x08\0\0" + IDX[4:],
        idx_header(2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(99),
        idx_header(HUGE >> 20, 1 << 10, 1 << 10, 1),
        idx_header(0, 28, 28),
        idx_header(5, 0, 28),
        idx_header(2**32 - 1, 0, 2**32 - 1),
        idx_bytes(np.arange(5, dtype="u1")),
        idx_bytes(np.zeros((5, 784), "u1")),
        idx_bytes(np.zeros((5, 6, 7, 8), "u1")),
        idx_bytes(np.full((5, 9, 9), 2**31 - 1, "i4")),
        idx_bytes(np.zeros((9, 9, 3), "u1")),
    ],
    "idx3.gz": [
        *(GZ[:length] for length in (2, 9, 10, 11, 30, len(GZ) // 2, len(GZ) - 8, len(GZ) - 1)),
        *(flipped(GZ, place) for place in (2, 3, 20, len(GZ) // 2, len(GZ) - 2, len(GZ) - 6)),
        GZ + b"more",
        gzip.compress(b""),
        gzip.compress(b"garbage, as it comes"),
        gzip.compress(GZ),
        gzip.compress(IDX[:-1]),
        gzip.compress(IDX + b"\0"),
        gzip.compress(IDX[:9]),
        gzip.compress(idx_bytes(pictures(), "<")),
        gzip.compress(idx_header(HUGE >> 20, 1 << 10, 1 << 10)),
        gzip.compress(idx_header(0, 28, 28)),
    ],
    "bin": [
        b"",
        CIFAR[:-1],
        CIFAR + b"\0",
        CIFAR[:1],
        record([10], 1),
        record([255], 1),
        record([3, 100], 1),
        record([20, 3], 1),
        b"\xff" * 3073,
        NPY,
    ],
}
OPEN = {"npy": open_npy, "npz": open_npz, "idx3": open_idx, "idx3.gz": open_idx, "bin": open_cifar_file}
WHOLE = {"npy": [NPY], "npz": [NPZ, STORED], "idx3": [IDX], "idx3.gz": [GZ], "bin": [CIFAR]}


def refused_or_opened(call, path):
    """The sentence with which a file is refused, or the source that it is."""
    try:
        source = call(path)
    except UserError as error:
        text = str(error)
    else:
        assert source.array.ndim == 4
        assert source.decode(0, source.load(0))[0].pixels.shape == (*source.array.shape[2:], source.array.shape[1])
        return source
    assert path.name in text
    assert text.endswith((".", "?"))
    assert len(text) < 700
    return text


@pytest.mark.parametrize(
    ("kind", "number"), [(kind, number) for kind, files in DAMAGED.items() for number in range(len(files))]
)
def test_a_damaged_file_is_refused_by_name(tmp_path, kind, number):
    path = tmp_path / f"a.{kind}"
    path.write_bytes(DAMAGED[kind][number])
    assert isinstance(refused_or_opened(OPEN[kind], path), str)


@pytest.mark.parametrize("kind", WHOLE)
def test_any_damage_leads_to_a_sentence_or_to_pictures(tmp_path, kind):
    draw = np.random.default_rng(0)
    path = tmp_path / f"a.{kind}"
    for whole in WHOLE[kind]:
        path.write_bytes(whole)
        assert not isinstance(refused_or_opened(OPEN[kind], path), str)
        early = draw.integers(0, min(250, len(whole)), 60)  # where the headers are
        places = [*early, *draw.integers(0, len(whole), 30), *range(len(whole) - 60, len(whole), 2)]
        damaged = [flipped(whole, place) for place in places]
        damaged += [whole[:place] + draw.bytes(3) + whole[place + 3 :] for place in early]
        for data in damaged:
            path.write_bytes(data)
            refused_or_opened(OPEN[kind], path)


def test_pictures_that_are_nothing_but_nan_are_pictures(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.full((3, 9, 9), np.nan))
    np.save(tmp_path / "a.npy", np.full((3, 9, 9), np.nan))
    for source in (open_npz(tmp_path / "a.npz"), open_npy(tmp_path / "a.npy")):
        assert source.array.dtype == np.float32
        assert np.isnan(source.array).all()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data_batch_2.bin", CIFAR[:-1], "data_batch_2.bin"),
        ("data_batch_2.bin", b"", "data_batch_2.bin"),
        ("test_batch.bin", record([12], 1), "test_batch.bin"),
        ("batches.meta.txt", b"a\nb\n", "name 10 classes"),
        ("batches.meta.txt", b"\xff\n" * 11, "batches.meta.txt"),
    ],
)
def test_a_damaged_cifar_folder_names_the_file(cifar, name, content, said):
    (cifar / name).write_bytes(content)
    assert said in refusal(open_cifar, cifar)


@pytest.mark.parametrize("labels", [np.arange(2), np.arange(4), np.arange(3) - 1, np.arange(3) / 2, OBJECTS[:3]])
def test_labels_beside_that_do_not_fit_name_their_file(tmp_path, labels):
    np.save(tmp_path / "a.npy", pictures(3))
    np.save(tmp_path / "a-labels.npy", labels, allow_pickle=True)
    assert "a-labels.npy" in refusal(open_npy, tmp_path / "a.npy")


def test_files_that_are_not_there_are_refused(tmp_path):
    for kind, call in OPEN.items():
        assert "nowhere" in refusal(call, tmp_path / f"nowhere.{kind}")
        assert tmp_path.name in refusal(call, tmp_path)
    assert "nowhere" in refusal(open_cifar, tmp_path / "nowhere")
    assert tmp_path.name in refusal(open_cifar, tmp_path)
