"""Sets of the hub, Arrow and parquet folders, named sets and torch Datasets: every pixel and label comes back."""

import json
import os
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sfumato.data.hub import is_arrow, open_arrow, open_hub
from sfumato.data.hub_columns import read_classes
from sfumato.data.names import NAMED, copies, forget, hub_name, remember, resolve, spell
from sfumato.data.source import HELD_OUT, TRAIN
from sfumato.data.torches import open_torch
from sfumato.errors import UserError

needs_library = pytest.mark.skipif(
    find_spec("datasets") is None, reason="the package datasets is not installed: pip install 'sfumato[hub]'"
)
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), np.uint8)  # (N, H, W, C)
CLASSES = [0, 1, 2, 0, 1, 2, 0]
NAMES = ["ant", "bee", "cat"]


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf" / "datasets"))
    import datasets

    datasets.disable_progress_bars()
    return datasets


def rows(library, count=7, **more):
    features = {"image": library.Image(), "label": library.ClassLabel(names=NAMES)}
    content = {"image": [Image.fromarray(one) for one in PIXELS[:count]], "label": CLASSES[:count]}
    for name, (feature, values) in more.items():
        features[name], content[name] = feature, values[:count]
    return library.Dataset.from_dict(content, features=library.Features(features))


def drawn(source, i):
    (picture,) = source.decode(i, source.load(i))
    return picture.pixels


def same(source, start=0, count=7):
    for i in range(count):
        np.testing.assert_array_equal(drawn(source, start + i), PIXELS[i])
        assert source.item(start + i).label == CLASSES[i]


@needs_library
def test_a_saved_set_comes_back(library, tmp_path):
    rows(library, text=(library.Value("string"), list("abcdefg"))).save_to_disk(tmp_path / "bugs")
    before = sorted(str(path) for path in (tmp_path / "bugs").rglob("*"))
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache")
    assert (len(source), source.name, source.kind, source.label_names) == (7, "bugs", "hub", tuple(NAMES))
    same(source)
    assert [source.item(i).caption for i in range(7)] == list("abcdefg")
    assert {source.item(i).split for i in range(7)} == {None}
    assert source.sequential is False
    assert len({source.stamp(i) for i in range(7)}) == 7
    assert source.version
    assert sorted(str(path) for path in (tmp_path / "bugs").rglob("*")) == before
    assert open_arrow(tmp_path / "bugs", tmp_path / "cache").version == source.version


@needs_library
def test_the_version_changes_with_the_files(library, tmp_path):
    rows(library).save_to_disk(tmp_path / "bugs")
    old = open_arrow(tmp_path / "bugs", tmp_path / "cache").version
    os.utime(tmp_path / "bugs" / "data-00000-of-00001.arrow", ns=(1, 1))
    assert open_arrow(tmp_path / "bugs", tmp_path / "cache").version != old


@needs_library
def test_validation_is_held_out_and_test_left(library, tmp_path):
    parts = {"test": rows(library, 1), "train": rows(library), "validation": rows(library, 3)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "bugs")
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache")
    assert [source.item(i).split for i in range(len(source))] == [TRAIN] * 7 + [HELD_OUT] * 3
    same(source)
    same(source, 7, 3)
    assert any("'test' is left" in note for note in source.notes)
    assert len({source.item(i).path for i in range(10)}) == 10


@needs_library
def test_parquet_files_are_split_by_name_and_converted_in_the_cache(library, tmp_path):
    folder = tmp_path / "a[1] set*" / "data"
    folder.mkdir(parents=True)
    rows(library, 4).to_parquet(folder / "train-00000-of-00002.parquet")
    rows(library).select([4, 5, 6]).to_parquet(folder / "train-00001-of-00002.parquet")
    rows(library, 2).to_parquet(folder / "test-00000-of-00001.parquet")
    names = [path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*.parquet")]
    assert is_arrow(names)
    source = open_arrow(folder.parent, tmp_path / "cache")
    assert [source.item(i).split for i in range(9)] == [TRAIN] * 7 + [HELD_OUT] * 2
    same(source)
    same(source, 7, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a[1] set*", "cache"]
    assert len(list(folder.parent.rglob("*"))) == 4


@needs_library
def test_parquet_of_other_writers_and_arrow_files(library, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    stored = [row["bytes"] for row in rows(library).cast_column("image", library.Image(decode=False))["image"]]
    table = pa.table({"photo": [{"bytes": one} for one in stored], "kind": [NAMES[k] for k in CLASSES]})
    (tmp_path / "plain").mkdir()
    parquet.write_table(table, tmp_path / "plain" / "all.parquet")
    source = open_arrow(tmp_path / "plain", tmp_path / "cache")
    np.testing.assert_array_equal(drawn(source, 6), PIXELS[6])
    assert source.label_names is None
    assert source.item(0).label is None
    same(open_arrow(tmp_path / "plain", tmp_path / "cache", "label=kind"))
    (tmp_path / "arrow").mkdir()
    with pa.OSFile(str(tmp_path / "arrow" / "all.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    same(open_arrow(tmp_path / "arrow", tmp_path / "cache", "label=kind"))


@needs_library
def test_classes_by_numbers_and_by_words(library, tmp_path):
    more = {
        "size": (library.Value("int32"), [5, 10, 5, -3, 10, 5, 5]),
        "word": (library.Value("string"), ["k10", "k9", None] + ["k9"] * 4),
    }
    rows(library, **more).save_to_disk(tmp_path / "bugs")
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache", "label=size")
    assert source.label_names == ("-3", "5", "10")
    assert [source.item(i).label for i in range(7)] == [1, 2, 1, 0, 2, 1, 1]
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache", "label=word")
    assert source.label_names == ("k9", "k10")
    assert [source.item(i).label for i in range(7)] == [1, 0, None, 0, 0, 0, 0]
    assert any("1 of 7 rows have no class" in note for note in source.notes)


@needs_library
def test_rows_without_class_and_a_test_split_without_any(library, tmp_path):
    train = rows(library).to_dict()
    train["label"][2], train["label"][5] = -1, None
    blind = rows(library, 2).to_dict() | {"label": [-1, -1]}
    features = rows(library).features
    parts = {"train": library.Dataset.from_dict(train, features), "test": library.Dataset.from_dict(blind, features)}
    library.DatasetDict(parts).save_to_disk(tmp_path / "bugs")
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache")
    assert [source.item(i).label for i in range(len(source))] == [0, 1, None, 0, 1, None, 0]
    assert any("2 of 7 rows" in note for note in source.notes)
    assert any("'test' has no classes" in note for note in source.notes)


@needs_library
def test_a_label_beyond_the_names_is_none():
    import pyarrow as pa

    names, (codes,) = read_classes([pa.chunked_array([[0, 2, -1], [None, 1]])], ("a", "b"))
    assert names == ("a", "b")
    assert codes.tolist() == [0, -1, -1, -1, 1]


@needs_library
def test_fine_labels_are_taken_before_coarse_ones(library, tmp_path):
    data = rows(library).rename_column("label", "fine_label").add_column("coarse_label", [0] * 7)
    data.cast_column("coarse_label", library.ClassLabel(names=["all"])).save_to_disk(tmp_path / "bugs")
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache")
    assert source.label_names == tuple(NAMES)
    assert any("'fine_label'" in note and "'coarse_label'" in note for note in source.notes)
    assert open_arrow(tmp_path / "bugs", tmp_path / "cache", "label=coarse_label").label_names == ("all",)


@needs_library
def test_arrays_come_back_with_channels_last(library, tmp_path):
    gray = np.arange(7 * 20, dtype=np.uint16).reshape(7, 4, 5) * 100
    features = library.Features({"a": library.Array3D((3, 5, 6), "uint8"), "b": library.Array2D((4, 5), "uint16")})
    data = library.Dataset.from_dict({"a": PIXELS.transpose(0, 3, 1, 2), "b": gray}, features=features)
    data.save_to_disk(tmp_path / "arrays")
    source = open_arrow(tmp_path / "arrays", tmp_path / "cache", "image=a")
    np.testing.assert_array_equal(drawn(source, 6), PIXELS[6])
    source = open_arrow(tmp_path / "arrays", tmp_path / "cache", "image=b")
    assert source.load(3).dtype == np.uint16
    np.testing.assert_array_equal(drawn(source, 3), gray[3][:, :, None])
    library.Dataset.from_dict({"pixels": PIXELS.tolist()}).save_to_disk(tmp_path / "lists")
    source = open_arrow(tmp_path / "lists", tmp_path / "cache")
    assert source.load(1).dtype == np.uint8
    np.testing.assert_array_equal(drawn(source, 1), PIXELS[1])


@needs_library
def test_linked_files_missing_images_and_broken_bytes(library, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as parquet

    Image.fromarray(PIXELS[0]).save(tmp_path / "there.png")
    paths = [str(tmp_path / "there.png"), "gone.png", None, None, os.devnull]
    images = [{"bytes": b"no image" if i == 3 else None, "path": path} for i, path in enumerate(paths)]
    (tmp_path / "linked").mkdir()
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    parquet.write_table(pa.table({"image": pa.array(images, kind)}), tmp_path / "linked" / "0.parquet")
    source = open_arrow(tmp_path / "linked", tmp_path / "cache")
    np.testing.assert_array_equal(drawn(source, 0), PIXELS[0])
    assert source.item(0).path == "train[0]/there.png"
    assert source.stamp(0) == source.version == ""
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        source.load(1)
    with pytest.raises(ValueError, match="no image"):
        source.load(2)
    assert source.load(3) == b"no image"
    with pytest.raises(OSError, match="cannot identify"):
        source.decode(3, b"no image")
    with pytest.raises(FileNotFoundError):
        source.load(4)


@needs_library
def test_columns_that_cannot_be_settled(library, tmp_path):
    data = rows(library).add_column("n", [0.5] * 7)
    library.concatenate_datasets(
        [data, rows(library).rename_columns({"image": "mask", "label": "other"})], axis=1
    ).save_to_disk(tmp_path / "two")

    def said(options, folder="two"):
        with pytest.raises(UserError) as error:
            open_arrow(tmp_path / folder, tmp_path / "cache", options)
        return str(error.value)

    assert "'image', 'mask'" in said("")
    assert "?image=image" in said("")
    assert "Did you mean 'mask'" in said("image=maske")
    assert "does not hold images" in said("image=label")
    assert "whole numbers or words" in said("image=mask&label=n")
    assert "?streaming is for sets on the hub" in said("streaming")
    assert "no option behind ? called 'picture'" in said("picture=a")
    assert "not understood" in said("image")
    library.Dataset.from_dict({"n": [1, 2]}).save_to_disk(tmp_path / "none")
    assert "no column of images" in said("", "none")
    np.testing.assert_array_equal(drawn(open_arrow(tmp_path / "two", tmp_path / "cache", "image=mask"), 5), PIXELS[5])


@needs_library
def test_damaged_and_empty_folders(library, tmp_path):
    def said(name, content, file="train.parquet"):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(content)
        with pytest.raises(UserError) as error:
            open_arrow(tmp_path / name, tmp_path / "cache")
        return str(error.value)

    rows(library).to_parquet(tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    for name, content in [("short", whole[: len(whole) // 2]), ("none", b""), ("noise", b"PAR1" + b"\xff" * 60 + b"PAR1")]:
        assert f"{name}' could not be opened (" in said(name, content)
    assert "git lfs pull" in said("pointer", b"version https://git-lfs.github.com/spec/v1\n")
    assert "one kind" in said("other", b"x", "notes.txt")
    rows(library).select([]).to_parquet(tmp_path / "empty.parquet")
    assert "could not be opened" in said("rowless", (tmp_path / "empty.parquet").read_bytes())
    rows(library).select([]).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="has no rows"):
        open_arrow(tmp_path / "saved", tmp_path / "cache")
    rows(library).save_to_disk(tmp_path / "cut")
    table = tmp_path / "cut" / "data-00000-of-00001.arrow"
    table.write_bytes(table.read_bytes()[:700])
    with pytest.raises(UserError, match="could not be opened"):
        open_arrow(tmp_path / "cut", tmp_path / "cache")


@needs_library
def test_an_empty_split_is_passed_over(library, tmp_path):
    library.DatasetDict(train=rows(library), validation=rows(library).select([]), test=rows(library, 2)).save_to_disk(
        tmp_path / "bugs"
    )
    source = open_arrow(tmp_path / "bugs", tmp_path / "cache")
    assert [source.item(i).split for i in range(len(source))] == [TRAIN] * 7 + [HELD_OUT] * 2


def test_which_folders_are_arrow():
    assert is_arrow(["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
    assert is_arrow(["dataset_dict.json", "train/state.json"])
    assert is_arrow(["README.md", "data/train-0.parquet", "example.png"])
    assert not is_arrow(["a.png", "b.png", "metadata.parquet"])
    assert not is_arrow(["state.json", "a.png"])
    assert not is_arrow([])


@needs_library
def test_the_hub_is_asked_for_what_was_typed_and_writes_below_the_cache(library, tmp_path, monkeypatch):
    from huggingface_hub import constants

    usual, asked = constants.HF_HUB_CACHE, []

    def load_dataset(repo, config, cache_dir, streaming):
        asked.append((repo, config, Path(cache_dir), streaming, Path(constants.HF_HUB_CACHE), os.environ["HF_XET_CACHE"]))
        return library.DatasetDict(train=rows(library))

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    monkeypatch.delenv("HF_HOME")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HF_XET_CACHE", raising=False)
    cache = tmp_path / "cache"
    source = open_hub("hub:ufldl-stanford/svhn/cropped_digits", cache)
    same(source)
    assert source.name == "cropped_digits"
    assert source.natural is False
    assert open_hub("hub:somebody/bugs?label=label", cache).natural is True
    assert asked[0][:4] == ("ufldl-stanford/svhn", "cropped_digits", cache / "hub" / "arrow", False)
    assert asked[1][:2] == ("somebody/bugs", None)
    assert cache in asked[0][4].parents
    assert asked[0][5].startswith(str(cache))
    assert usual == constants.HF_HUB_CACHE
    assert "HF_XET_CACHE" not in os.environ


@needs_library
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (
            lambda d: ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)"),
            "no connection.*cache add fashion-mnist",
        ),
        (lambda d: d.exceptions.DatasetNotFoundError("Dataset 'a/b' doesn't exist on the Hub"), "no set 'hub:a/b'.*parquet"),
        (
            lambda d: ValueError("Config name is missing.\nPlease pick one among the available configs: ['x', 'y']\nE"),
            "x, y.*hub:a/b/x",
        ),
        (lambda d: RuntimeError("Dataset scripts are no longer supported, but found b.py"), "a script"),
        (lambda d: OSError("disk full.\nand more"), r"\(disk full\)"),
    ],
)
def test_what_the_library_raises_becomes_a_sentence(library, tmp_path, monkeypatch, raised, expected):
    def load_dataset(*args, **kw):
        raise raised(library)

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    with pytest.raises(UserError, match=expected):
        open_hub("hub:a/b", tmp_path / "cache")


def test_names_that_are_not_of_the_hub(tmp_path, monkeypatch):
    for name in ("hub:", "hub:a/b/c/d", "hub:../b", "hub:a b/c", "hub:/etc"):
        with pytest.raises(UserError, match="Expected hub:owner/name"):
            open_hub(name, tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\./a/b"):
        open_hub("hub:a/b", tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"pip install 'sfumato\[hub\]'"):
        open_hub("hub:c/d", tmp_path)


@pytest.fixture
def stream(library, tmp_path, monkeypatch):
    """Local parquet files read as the hub's would be, with the rows that its page announces."""
    (tmp_path / "files").mkdir()
    whole = rows(library, text=(library.Value("string"), list("abcdefg")), n=(library.Value("int64"), [0] * 7))
    files = {"train": str(tmp_path / "files" / "train.parquet"), "test": str(tmp_path / "files" / "test.parquet")}
    whole.to_parquet(files["train"], batch_size=2)
    whole.select(range(3)).to_parquet(files["test"])
    announced, load, starts = {"train": 7, "test": 3}, library.load_dataset, []

    def load_dataset(repo, config, cache_dir, streaming):
        assert streaming
        found = load("parquet", data_files=files, streaming=True, cache_dir=cache_dir)
        for data in found.values():
            data.info.splits = library.SplitDict({k: library.SplitInfo(k, num_examples=n) for k, n in announced.items()})
        return found

    skip = library.IterableDataset.skip
    monkeypatch.setattr(library.IterableDataset, "skip", lambda data, n: starts.append(n) or skip(data, n))
    monkeypatch.setattr(library, "load_dataset", load_dataset)
    return types.SimpleNamespace(
        open=lambda more="": open_hub("hub:some/bugs?streaming" + more, tmp_path / "cache"), announced=announced, starts=starts
    )


@needs_library
def test_a_stream_is_read_once_forward(stream):
    source = stream.open()
    assert (len(source), source.sequential, source.label_names, source.version) == (10, True, tuple(NAMES), "")
    same(source)
    same(source, 7, 3)
    assert stream.starts == [0, 0]  # once for each split
    assert [source.item(i).split for i in (0, 6, 7)] == [TRAIN, TRAIN, HELD_OUT]
    assert source.item(9).caption == "c"


@needs_library
def test_a_stream_skips_forward_and_starts_again_backward(stream):
    source = stream.open()
    for i in (2, 5, 3, 9, 4):
        np.testing.assert_array_equal(drawn(source, i), PIXELS[i if i < 7 else i - 7])
    assert stream.starts == [2, 3, 2, 4]
    with pytest.raises(IndexError):
        source.load(10)


@needs_library
def test_a_stream_that_ends_early_or_is_unknown(stream):
    stream.announced["train"] = 9
    source = stream.open()
    np.testing.assert_array_equal(drawn(source, 0), PIXELS[0])
    with pytest.raises(UserError, match="before row 7, though 9"):
        source.load(7)
    np.testing.assert_array_equal(drawn(source, 1), PIXELS[1])
    with pytest.raises(UserError, match="does not list its classes"):
        stream.open("&label=n")
    del stream.announced["train"]
    with pytest.raises(UserError, match=r"How many rows the split 'train'.*\?streaming"):
        stream.open()


def test_named_sets_are_spelled_freely():
    for typed in ("fashion-mnist", "fashion_mnist", "FashionMNIST", "Fashion MNIST"):
        assert spell(typed) == "fashion-mnist"
    assert (spell("cifar-10"), spell("CIFAR100"), spell("OxfordIIITPet")) == ("cifar10", "cifar100", "oxford-pets")
    assert (spell("cars"), spell(""), spell("my-photos")) == (None, None, None)
    assert all(spell(key) == key for key in NAMED)
    assert not any(NAMED[key].natural for key in ("mnist", "kmnist", "svhn"))


def test_a_local_copy_is_given_once(tmp_path):
    cache, copy = tmp_path / "cache", tmp_path / "copy"
    assert resolve("photos", cache) is None
    assert resolve("svhn", cache) == hub_name("svhn") == "hub:ufldl-stanford/svhn/cropped_digits"
    assert not cache.exists()
    with pytest.raises(UserError, match="nothing at"):
        remember(cache, "mnist", copy)
    copy.mkdir()
    remember(cache, "MNIST", copy)
    remember(cache, "cifar-10", copy)
    assert resolve("mnist", cache) == copy
    assert copies(cache) == {"mnist": str(copy), "cifar10": str(copy)}
    assert os.listdir(cache) == ["names.json"]
    forget(cache, "cifar10")
    assert copies(cache) == {"mnist": str(copy)}
    with pytest.raises(UserError, match="No local copy of cifar10"):
        forget(cache, "cifar10")
    copy.rmdir()
    with pytest.raises(UserError, match=r"`sfumato cache add mnist PATH`"):
        resolve("mnist", cache)
    with pytest.raises(UserError, match="Did you mean 'mnist'"):
        remember(cache, "mnists", tmp_path)


def test_a_damaged_list_of_copies(tmp_path):
    for text in ("{", "[]", json.dumps({"mnist": 3})):
        (tmp_path / "names.json").write_text(text)
        with pytest.raises(UserError, match="cannot be read"):
            resolve("mnist", tmp_path)


class Samples:
    def __init__(self, samples, **more):
        self.samples, self.read = samples, 0
        self.__dict__.update(more)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        self.read += 1
        return self.samples[i]


def test_torch_tensors_keep_their_values():
    floats = torch.linspace(-1, 1, 3 * 5 * 6).reshape(3, 5, 6)
    source = open_torch(Samples([floats, floats[:1], floats.to(torch.bfloat16)]))
    assert source.load(0).dtype == np.float32
    np.testing.assert_array_equal(drawn(source, 0), floats.permute(1, 2, 0).numpy())
    assert drawn(source, 1).shape == (5, 6, 1)
    np.testing.assert_array_equal(drawn(source, 2), floats.to(torch.bfloat16).float().permute(1, 2, 0).numpy())
    assert (source.label_names, source.item(0).label, source.stamp(0), source.version) == (None, None, "", "")
    source = open_torch(Samples([torch.from_numpy(PIXELS[0]).permute(2, 0, 1)]))
    assert source.load(0).dtype == np.uint8
    np.testing.assert_array_equal(drawn(source, 0), PIXELS[0])


def test_torch_pictures_and_arrays():
    pictures = [Image.fromarray(PIXELS[0]), PIXELS[1], PIXELS[2][:, :, 0], Image.fromarray(PIXELS[3]).convert("CMYK")]
    source = open_torch(Samples([{"image": one} for one in pictures]))
    np.testing.assert_array_equal(drawn(source, 0), PIXELS[0])
    np.testing.assert_array_equal(drawn(source, 1), PIXELS[1])
    np.testing.assert_array_equal(drawn(source, 2), PIXELS[2][:, :, :1])
    np.testing.assert_array_equal(drawn(source, 3), np.array(pictures[3].convert("RGB")))


def test_torch_shapes_that_could_be_read_in_two_ways():
    array = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)
    np.testing.assert_array_equal(drawn(open_torch(Samples([array])), 0), array)
    np.testing.assert_array_equal(drawn(open_torch(Samples([torch.from_numpy(array)])), 0), array.transpose(1, 2, 0))


def test_torch_labels_from_targets_without_reading():
    data = Samples([(PIXELS[i], 99) for i in range(7)], targets=torch.tensor(CLASSES), classes=NAMES)
    source = open_torch(data)
    assert data.read == 1
    assert [source.item(i).label for i in range(7)] == CLASSES
    assert source.label_names == tuple(NAMES)
    source = open_torch(torch.utils.data.Subset(data, [5, 1]))
    assert [source.item(i).label for i in range(2)] == [2, 1]
    np.testing.assert_array_equal(drawn(source, 0), PIXELS[5])


def test_torch_labels_by_one_pass():
    data = Samples([{"image": PIXELS[i], "label": torch.tensor(7 * k)} for i, k in enumerate(CLASSES)])
    source = open_torch(data)
    assert [source.item(i).label for i in range(7)] == CLASSES
    assert source.label_names == ("0", "7", "14")
    assert data.read == 8
    changed = Samples([(PIXELS[i], 2 - CLASSES[i]) for i in range(7)], targets=CLASSES, target_transform=lambda k: 2 - k)
    assert [open_torch(changed).item(i).label for i in range(7)] == [2 - k for k in CLASSES]
    odd = open_torch(Samples([(PIXELS[0], 0), (PIXELS[1], 3), (PIXELS[2], None)], classes=NAMES))
    assert [odd.item(i).label for i in range(3)] == [0, None, None]
    assert "2 of 3" in odd.notes[0]
    assert open_torch(Samples([(PIXELS[0], "ant")])).label_names is None


def test_torch_sets_that_cannot_be_read():
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield PIXELS[0]

        def __len__(self):
            return 1

    for data, expected in [
        (Endless(), "only be read in order"),
        (Samples([]), "is empty"),
        (Samples([("a.png", 0)]), "found str"),
        (Samples([{"photo": PIXELS[0]}]), "keys photo"),
    ]:
        with pytest.raises(UserError, match=expected):
            open_torch(data)


def test_torch_digits_are_not_mirrored():
    assert open_torch(type("MNIST", (Samples,), {})([PIXELS[0]])).natural is False
    assert open_torch(type("Holiday", (Samples,), {})([PIXELS[0]])).natural is True
