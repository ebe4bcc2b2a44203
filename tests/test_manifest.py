"""What subfolders mean, and what a table beside the pictures says of them."""

import json
import random

import pytest

from sfumato.data import manifest as manifest_module
from sfumato.data.folders import meaning, natural, nothing_found, sort_out
from sfumato.data.manifest import choose_manifest, grouped, is_manifest, read_dataset_json, read_manifest
from sfumato.data.source import HELD_OUT, TRAIN, Item
from sfumato.errors import UserError

FILES = ["a.png", "b.png", "c.png", "d/1.png"]


def refusal(make, *args):
    with pytest.raises(UserError) as caught:
        make(*args)
    text = str(caught.value)
    assert text.endswith(".")
    assert len(text) < 700
    text.encode()  # can be printed
    return text


def table(text, name="t.csv", files=FILES):
    data = text.encode() if isinstance(text, str) else text if isinstance(text, bytes) else json.dumps(text).encode()
    return read_manifest(name, data, files)


def labels(manifest):
    return [None if item.label is None else manifest.label_names[item.label] for item in manifest.items]


def paths(manifest):
    return [item.path for item in manifest.items]


# Names


def is_png(name):
    return name.lower().endswith(".png")


def test_names_are_sorted_out_by_what_they_are():
    names = "b/10.png 2.PNG b/9.png x.npy y.NPZ t.csv u.jsonl p.parquet train-images-idx3-ubyte.gz train-images-idx3-ubyte "
    names += "train-labels-idx1-ubyte more.tar.gz a.zip notes.txt README"
    found = sort_out(names.split(), is_png)
    assert found.images == ("2.PNG", "b/9.png", "b/10.png")
    assert found.idx == ("train-images-idx3-ubyte",)
    assert (found.npy, found.npz, found.manifests) == (("x.npy",), ("y.NPZ",), ("t.csv", "u.jsonl"))
    assert (found.parquet, found.archives) == (("p.parquet",), ("a.zip", "more.tar.gz"))
    assert found.others == {".txt": 1, "README": 1, "train-labels-idx1-ubyte": 1}


def test_natural_order_goes_by_numbers_folder_by_folder():
    ordered = ["0.png", "1.png", "01b.png", "2.png", "10.png", "a", "a/0.png", "a/b/2.png", "a/b/10.png", "a1/0.png", "a02",
               "a10", "ab/1.png", "B.png", "z" + "9" * 300, "z1" + "0" * 300, "é.png"]  # fmt: skip
    for seed in range(5):
        assert sorted(random.Random(seed).sample(ordered, len(ordered)), key=natural) == ordered
    assert sorted(["1.png", "01.png", "A", "a"], key=natural) == ["01.png", "1.png", "A", "a"]  # a fixed order for equals


def test_subfolders_are_classes_or_nothing():
    found = meaning(["10/a.png", "2/b.png", "2/deep/c.png"])
    assert (found.label_names, found.labels, found.splits) == (("2", "10"), (1, 0, 0), None)
    for images in (["a.png", "b/c.png"], ["a.png"], ["x/a.png", "x/b.png"], []):
        found = meaning(images)
        assert (found.images, found.labels, found.label_names, found.splits) == (tuple(images), None, None, None)
    assert "not taken for classes" in meaning(["a.png", "b/c.png"]).notes[0]
    assert "'x'" in meaning(["x/a.png", "x/b.png"]).notes[0]


@pytest.mark.parametrize("held", ["test", "Testing", "val", "valid", "validation", "dev", "eval"])
def test_of_train_and_another_side_the_other_is_held_out_and_classes_are_merged(held):
    images = [f"data/{held}/cat/1.png", f"data/{held}/owl/2.png", "data/Train/cat/3.png", "data/Train/dog/4.png"]
    found = meaning(images)
    assert sorted(found.images) == sorted(images)
    said = {path: (found.label_names[k], side) for path, k, side in zip(found.images, found.labels, found.splits, strict=True)}
    assert found.label_names == ("cat", "dog", "owl")
    assert said == {
        images[0]: ("cat", HELD_OUT),
        images[1]: ("owl", HELD_OUT),
        images[2]: ("cat", TRAIN),
        images[3]: ("dog", TRAIN),
    }
    assert f"the 2 in '{held}' are held out" in " ".join(found.notes)


def test_val_is_held_out_before_test_which_is_left_for_testing():
    found = meaning(["test/1.png", "train/2.png", "val/3.png"])
    assert (found.images, found.splits, found.labels) == (("train/2.png", "val/3.png"), (TRAIN, HELD_OUT), None)
    assert "'test' is left for testing" in " ".join(found.notes)


def test_sides_of_another_build_are_left_out():
    found = meaning(["test/1.png", "train/cat/2.png", "train/dog/3.png"])  # pictures to be classified, as in contests
    assert (found.images, found.label_names) == (("train/cat/2.png", "train/dog/3.png"), ("cat", "dog"))
    assert found.splits is None  # nothing is held out, so the usual rule will choose
    assert "'test' is not built like 'train'" in " ".join(found.notes)
    found = meaning(["test/unknown/1.png", "train/cat/2.png", "train/dog/3.png"])
    assert found.splits is None
    found = meaning(["test/test/1.png", "train/train/2.png", "val/3.png", "val/4.png"])
    assert found.images == ("train/train/2.png", "val/3.png", "val/4.png")
    assert found.splits == (TRAIN, HELD_OUT, HELD_OUT)


def test_a_lone_side_is_no_side_and_other_folders_are_classes():
    assert meaning(["train/a.png", "train/b.png"]).splits is None
    assert meaning(["train/cat/a.png", "train/dog/b.png"]).label_names == ("cat", "dog")
    assert meaning(["test/a.png", "val/b.png"]).label_names == ("test", "val")
    assert meaning(["train/a.png", "test/b.png", "extra/c.png"]).label_names == ("extra", "test", "train")


def test_class_names_can_be_printed():
    assert meaning(["caf\udce9/a.png", "x/b.png"]).label_names == ("caf\ufffd", "x")


def test_nothing_found_says_what_is_there_and_names_the_archive():
    text = str(nothing_found("here", sort_out([], is_png), [".png", ".jpg"]))
    assert text == "'here' is empty. Put images into it (png jpg), or name the folder that holds them."
    text = str(nothing_found("here", sort_out(["b.zip", "n.txt", "m.txt", "t.csv"], is_png), [".png"]))
    assert "expected files of type png; found 2 .txt, 1 .csv, 1 .zip" in text
    assert text.endswith("name it itself: here/b.zip.")


# Which file is the manifest


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["a.png", "t.csv", "dataset.json", "metadata.csv"], "dataset.json"),
        (["metadata.jsonl", "labels.csv"], "metadata.jsonl"),
        (["Manifest.TSV", "labels.csv", "x.csv"], "Manifest.TSV"),
        (["x/index.csv", "x/a.png", "y.csv"], "x/index.csv"),
        (["odd.csv", "a.png", "b/c.csv"], "odd.csv"),
        (["set/odd.json", "set/img/a.png", "set/img/b.csv"], "set/odd.json"),
        (["odd.csv", "even.csv", "a.png"], None),
        (["img/a.csv", "a.png"], None),
        (["x/metadata.csv", "y/metadata.csv", "z.png"], None),
        (["metadata.csv", "x/metadata.csv"], "metadata.csv"),
        (["a.png", "b.txt"], None),
        ([], None),
    ],
)
def test_the_manifest_is_chosen_by_its_name_or_for_being_alone(names, chosen):
    assert choose_manifest(names) == chosen


def test_manifests_are_tables():
    assert [is_manifest(f"a.{suffix}") for suffix in ("csv", "TSV", "json", "jsonl", "png", "txt")] == [True] * 4 + [False] * 2


# Tables of every form say the same

ROWS = [
    {"File_Name": "a.png", "Class": "cat", "patient": "p1", "split": "train", "caption": "a cat, sitting"},
    {"File_Name": "b.png", "Class": "dog", "patient": "p2", "split": "val", "caption": "naïve \"dog\""},
    {"File_Name": "./d/1.png", "Class": "cat", "patient": "p1", "split": "Train", "caption": ""},
]  # fmt: skip


def as_csv(delimiter, newline="\n"):
    quote = lambda text: '"' + text.replace('"', '""') + '"'
    rows = [list(ROWS[0]), *(list(map(quote, row.values())) for row in ROWS)]
    return newline.join(delimiter.join(row) for row in rows)


FORMS = {
    "comma.csv": as_csv(",").encode(),
    "semicolon.csv": as_csv(";").encode(),
    "tab.tsv": as_csv("\t").encode(),
    "bom.csv": b"\xef\xbb\xbf" + as_csv(",").encode(),
    "utf16.csv": as_csv(",").encode("utf-16"),
    "windows.csv": as_csv(",", "\r\n\r\n").encode(),
    "old mac.csv": as_csv(",", "\r").encode(),
    "latin.csv": as_csv(",").encode("latin-1"),
    "rows.json": json.dumps(ROWS).encode(),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}).encode(),
    "images.json": json.dumps({"images": ROWS, "info": 3}).encode(),
    "lines.jsonl": "\n\n".join(map(json.dumps, ROWS)).encode(),
    "windows.jsonl": "\r\n".join(map(json.dumps, ROWS)).encode(),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(name):
    manifest = read_manifest(name, FORMS[name], FILES)
    assert manifest.label_names == ("cat", "dog")
    assert manifest.items == [
        Item("a.png", 0, "p1", "a cat, sitting", TRAIN),
        Item("b.png", 1, "p2", 'naïve "dog"', HELD_OUT),
        Item("d/1.png", 0, "p1", None, TRAIN),
    ]
    notes = " ".join(manifest.notes)
    assert "label ('Class')" in notes
    assert "1 files are not named" in notes
    assert ("Latin-1" in notes) == (name == "latin.csv")
    assert ("info" in notes) == (name == "images.json")


@pytest.mark.parametrize(
    ("role", "titles"),
    [
        ("label", "label class category target LABEL Class_Name"),
        ("group", "group patient subject case series Patient-ID"),
        ("caption", "caption text description prompt"),
    ],
)
def test_columns_have_their_usual_names(role, titles):
    for title in titles.split():
        manifest = table(f"file,{title}\na.png,x\nb.png,y\n")
        item = manifest.items[0]
        assert {"label": labels(manifest)[0], "group": item.group, "caption": item.caption}[role] == "x"
    for title in ("file", "path", "image", "filename", "file_name", "FilePath", "img"):
        assert paths(table(f"{title};other\na.png;1")) == ["a.png"]


def test_columns_that_are_not_used_are_named():
    assert "not used: age, (no name)" in " ".join(table("file,age,\na.png,3,4").notes)


def test_of_two_columns_of_files_the_one_with_files_that_are_there_counts():
    manifest = table("path,image\n/far/1,a.png\n/far/2,b.png")
    assert paths(manifest) == ["a.png", "b.png"]
    assert "not used: path" in " ".join(manifest.notes)
    assert paths(table("file,file\nx.png,a.png")) == ["a.png"]


def test_paths_count_from_the_manifest_or_from_the_top():
    files = ["set/img/a.png", "set/b.png", "c.png"]
    manifest = table("file\nimg/a.png\nset/b.png\n../c.png\nimg\\a.png\n", "set/t.csv", files)
    assert paths(manifest) == files
    assert paths(table("file\ncafe\u0301.png", files=["caf\u00e9.png"])) == ["caf\u00e9.png"]


def test_files_that_are_not_there_are_counted_and_the_first_named():
    manifest = table("file\na.png\n../../etc/passwd\n/abs.png\nx.png\ny.png\n")
    assert paths(manifest) == ["a.png"]
    assert "4 files that 't.csv' names are not there and are left out: ../../etc/passwd, /abs.png, x.png, ..." in " ".join(
        manifest.notes
    )
    assert "3 files are not named" in " ".join(manifest.notes)
    assert "None of the 2 files" in refusal(table, "file\nx.png\nhttp://y/a.png")


def test_a_file_named_again_counts_once_and_must_not_contradict_itself():
    manifest = table("file,label\na.png,x\nb.png,y\na.png,x\na.png,\n")
    assert paths(manifest) == ["a.png", "b.png"]
    assert "2 rows of 't.csv' name a file again" in " ".join(manifest.notes)
    text = refusal(table, "file,label\na.png,x\n./a.png,y\n")
    assert "about 'a.png': x (line 2) and y (line 3)" in text


# Labels


def test_numbers_as_labels_are_names_in_natural_order():
    manifest = table("file,label\na.png,10\nb.png,9\nc.png,-1\n")
    assert manifest.label_names == ("9", "10", "-1")
    assert labels(manifest) == ["10", "9", "-1"]
    assert labels(table("file,label\na.png,1.0\nb.png,1\nc.png,\n")) == ["1", "1", None]  # as tables with gaps are written
    assert labels(table("file,label\na.png,1.0\nb.png,1.5\n")) == ["1.0", "1.5"]
    assert labels(
        table([{"file": "a.png", "label": 3.0}, {"file": "b.png", "label": 3}, {"file": "c.png", "label": True}], "t.json")
    ) == ["3", "3", "true"]


@pytest.mark.parametrize("empty", [None, float("nan"), "", "  ", []])
def test_files_without_a_label_have_none(empty):
    manifest = table([{"file": "a.png", "label": "x"}, {"file": "b.png", "label": empty}, {"file": "c.png"}], "t.json")
    assert labels(manifest) == ["x", None, None]
    assert "2 of 3 files have no label" in " ".join(manifest.notes)
    assert table([{"file": "a.png", "label": empty}], "t.json").label_names is None


@pytest.mark.parametrize(
    "cells", [("q|p", "p|q|q", "r"), ("q;p", "p ; q", "r"), ('"q,p"', '"p,q,"', "r"), ('"[""q"", ""p""]"', "p|q", '"[""r""]"')]
)
def test_combinations_of_labels_are_classes(cells):
    manifest = table("file,labels\n" + "".join(f"{file},{cell}\n" for file, cell in zip(FILES, cells, strict=False)))
    assert manifest.label_names == ("p+q", "r")
    assert labels(manifest) == ["p+q", "p+q", "r"]
    assert "each of the 2 combinations" in " ".join(manifest.notes)


def test_lists_are_several_labels_and_one_label_is_not_cut():
    assert labels(table([{"file": "a.png", "label": [10, "2"]}, {"file": "b.png", "label": "x,y|z"}], "t.json")) == [
        "2+10",
        "x,y|z",
    ]


def test_too_many_combinations_and_classes_are_refused(monkeypatch):
    assert (manifest_module.MOST_COMBINATIONS, manifest_module.MOST_CLASSES) == (4096, 65536)
    monkeypatch.setattr(manifest_module, "MOST_COMBINATIONS", 40)
    monkeypatch.setattr(manifest_module, "MOST_CLASSES", 50)
    files = [f"{k}.png" for k in range(51)]
    rows = [{"file": file, "labels": [k, k + 1]} for k, file in enumerate(files)]
    assert "41 different combinations of labels, more than the 40" in refusal(table, rows[:41], "t.json", files)
    assert len(table(rows[:40], "t.json", files).label_names) == 40
    rows = [{"file": file, "label": k} for k, file in enumerate(files)]
    assert table(rows[:50], "t.json", files).label_names == tuple(map(str, range(50)))
    assert "51 different labels, more than the 50" in refusal(table, rows, "t.json", files)


# Sides of the split


def sides(text):
    return {item.path: item.split for item in table(text).items}


def test_the_split_holds_out_val_or_else_test():
    for title in ("split", "set", "Fold"):
        assert sides(f"file,{title}\na.png,train\nb.png,TEST\nc.png,\n") == {"a.png": TRAIN, "b.png": HELD_OUT, "c.png": TRAIN}
    manifest = table("file,split\na.png,training\nb.png,test\nc.png,validation\n")
    assert {item.path: item.split for item in manifest.items} == {"a.png": TRAIN, "c.png": HELD_OUT}
    assert "1 files are left for testing" in " ".join(manifest.notes)
    assert sides("file,split\na.png,train\nb.png,train\n") == {"a.png": None, "b.png": None}


def test_a_split_of_other_words_is_not_used():
    for text in ("file,fold\na.png,1\nb.png,train\n", "file,fold\na.png,test\nb.png,val\n"):
        assert set(sides(text).values()) == {None}
        assert "is not used" in " ".join(table(text).notes)


# dataset.json


def dataset(value, files=FILES):
    return read_dataset_json("dataset.json", json.dumps({"labels": value}).encode(), files)


def test_dataset_json_gives_numbers_and_vectors():
    manifest = dataset([["a.png", 6], ["b.png", 10], ["d/1.png", 6.0]])
    assert (manifest.label_names, labels(manifest)) == (("6", "10"), ["6", "10", "6"])
    assert labels(dataset([["a.png", [0, 0, 1]], ["b.png", [1, 0, 1.0]], ["c.png", [0, 0, 0]]])) == ["2", "0+2", None]
    assert dataset([["a.png", None]]).label_names is None
    assert dataset([["a.png", 10**30]]).label_names == (str(10**30),)
    same = read_manifest("dataset.json", json.dumps({"labels": [["a.png", 6], ["b.png", 10]]}).encode(), FILES)
    assert (same.label_names, paths(same)) == (("6", "10"), ["a.png", "b.png"])


def test_dataset_json_without_labels_names_all_files():
    manifest = dataset(None, ["dataset.json", *FILES])
    assert (paths(manifest), manifest.label_names) == (FILES, None)


@pytest.mark.parametrize(
    "value",
    [{}, "x", 3, [3], [["a.png"]], [["a.png", 1, 2]], [[1, "a.png"]], [["a.png", "six"]], [["a.png", 1.5]], [["a.png", {}]],
     [["a.png", [0.5, 0]]], [["a.png", ["1"]]], [["a.png", [[1]]]], [["a.png", [0, 1]], ["b.png", [1]]], [], [["x.png", 1]]],
)  # fmt: skip
def test_a_broken_dataset_json_is_refused(value):
    assert "'dataset.json'" in refusal(dataset, value)


def test_a_dataset_json_of_something_else_is_refused():
    for data in (b"[]", b"{}", b"3", b'{"label": []}', b"{", b""):
        assert "'dataset.json'" in refusal(read_dataset_json, "dataset.json", data, FILES)


# Groups


def test_groups_come_from_a_pattern_on_the_path():
    items = [Item(path, label=1) for path in ("p1_a.png", "p1_b.png", "x/p2_c.png", "odd.png")]
    out, note = grouped(items, r"(p\d)_")
    assert [item.group for item in out] == ["p1", "p1", "p2", "odd.png"]
    assert [(item.path, item.label) for item in out] == [(item.path, 1) for item in items]
    assert "the 4 paths form 2 groups; 1 do not match and stand alone" in note
    assert [item.group for item in grouped(items, r"p\d")[0]] == ["p1", "p1", "p2", "odd.png"]
    assert [item.group for item in grouped(items, r"(x/)?p\d")[0]] == ["p1_a.png", "p1_b.png", "x/", "odd.png"]
    assert grouped([], "x") == ([], "By the pattern 'x' the 0 paths form 0 groups.")


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "a{99999999999999}", "(?P<x>a)(?P<x>b)", "\\"])
def test_a_bad_pattern_is_refused(pattern):
    assert "no regular expression" in refusal(grouped, [Item("a.png")], pattern)


def test_a_pattern_that_matches_nothing_is_refused():
    assert "matches none of the 1 paths, such as 'a.png'" in refusal(grouped, [Item("a.png")], "zzz")
    assert "matches none" in refusal(grouped, [Item("a.png")], "z*")


# Malformed tables


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", b"", "is empty"),
        ("t.csv", b" \n\r\n ", "is empty"),
        ("t.csv", b"\xef\xbb\xbf", "is empty"),
        ("t.csv", b"file,label\na.png\0,x", "NUL bytes"),
        ("t.csv", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "NUL bytes"),
        ("t.csv", "file\na.png".encode("utf-16-le"), "NUL bytes"),
        ("t.csv", b"name,label\na.png,x", "no column that names the files"),
        ("t.csv", b"a.png,x\nb.png,y", "found a.png, x. Name the columns"),
        ("t.csv", b"file,label\n", "names no files"),
        ("t.csv", b"file,label\n,x\n", "names no files"),
        ("t.csv", b"file,caption\na.png,a cat, asleep\n", "line 2: expected 2 cells, as in the first row; found 3"),
        ("t.csv", b'file,caption\na.png,"open\nb.png,x', "no table of text"),
        ("t.csv", b"file,caption\na.png," + b"x" * 200_000, "no table of text"),
        ("t.csv", b"file\nx.png", "None of the 1 files"),
        ("t.csv", b"file\n" + b"x" * 9000 + b".png", "None of the 1 files"),
        ("t.csv", b'file,labels\na.png,"[1, "\n', "line 2 is not whole JSON"),
        ("t.csv", b'file,labels\na.png,"[{}]"\n', "found an object"),
        ("t.json", b"{", "not whole JSON"),
        ("t.json", b"[" * 100_000, "nested too deeply"),
        ("t.json", b'[{"file": "a.png", "label": ' + b"9" * 5000 + b"}]", "not whole JSON"),
        ("t.json", b"3", "found a number"),
        ("t.json", b'"a.png"', "found a text"),
        ("t.json", b"null", "found nothing"),
        ("t.json", b"{}", "found an object"),
        ("t.json", b"[]", "no column that names"),
        ("t.json", b'["a.png"]', "row 1: expected an object"),
        ("t.json", b'[{"file": "a.png"}, [1]]', "row 2: expected an object"),
        ("t.json", b'{"a.png": "cat"}', "found an object"),
        ("t.json", b'{"file": ["a.png"], "label": [1, 2]}', "columns of one length"),
        ("t.json", b'{"images": {"file": "a.png"}}', "found an object"),
        ("t.json", b'[{"file": {"path": "a.png"}}]', "found an object"),
        ("t.json", b'[{"file": ["a.png"]}]', "found a list"),
        ("t.json", b'[{"file": "a.png", "label": {"x": 1}}]', "found an object"),
        ("t.json", b'[{"file": "a.png", "label": [[1]]}]', "found a list"),
        ("t.json", b'[{"file": "a.png", "caption": ["x"]}]', "found a list"),
        ("t.json", b'[{"file": 3}]', "None of the 1 files"),
        ("t.json", b'[{"file": null}]', "names no files"),
        ("t.jsonl", b'{"file": "a.png"}\n{"file": \n', "line 2 is not whole JSON"),
        ("t.jsonl", b'{"file": "a.png"}\n\n[1]\n', "line 3: expected an object"),
        ("t.jsonl", b'{"file": "a.png"} {"file": "b.png"}', "line 1 is not whole JSON"),
    ],
)  # fmt: skip
def test_malformed_tables_are_refused(name, text, said):
    assert said in refusal(read_manifest, name, text, FILES)


def test_odd_tables_that_can_be_read_are_read():
    assert paths(table(b"file\na.png\nb.png")) == ["a.png", "b.png"]
    assert labels(table("file,label\na.png\nb.png,x,,\n")) == [None, "x"]  # rows that end early, and empty cells after the end
    assert paths(table("\n\n file , label \n a.png , x \n")) == ["a.png"]
    assert paths(table({"images": ["a.png", "b.png"]}, "t.json")) == ["a.png", "b.png"]
    odd = table('[{"file": "a.png", "label": "\\ud800", "group": "\\udce9", "caption": "x\\ny"}]', "t.json")
    assert (odd.label_names, odd.items[0].group, odd.items[0].caption) == (("\ufffd",), "\ufffd", "x\ny")
    assert paths(table('[{"file": "caf\\udce9.png"}]', "t.json", ["caf\udce9.png"])) == ["caf\udce9.png"]
    assert table('[{"file": "a.png", "label": 1e999}]', "t.json").label_names == ("inf",)
