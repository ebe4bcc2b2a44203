"""`sfumato inspect`: its numbers are those of the pictures, and its pages hold whatever a file may be called."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from sfumato import defaults, trainer
from sfumato import plan as plans
from sfumato.cli import main
from sfumato.commands import inspect
from sfumato.config import Config
from sfumato.data import survey as surveys
from sfumato.data.codec import AffineCodec
from sfumato.data.images import Images
from sfumato.data.survey import BINS, examples, listed, repeats, survey
from sfumato.errors import UserError
from sfumato.picture import contact_sheet, page
from sfumato.picture.grids import shortened

EVIL = ['<script>alert("1")</script>.png', 'a&b\'s "c".png', "\udcff\x1b[31m[bold]red\n.png"]


def noise(count=40, channels=3, dtype=np.uint8, top=256, seed=0):
    """Pictures of whole numbers below `top`, or of normal values around 3."""
    rng = np.random.default_rng(seed)
    if dtype == np.float32:
        return rng.normal(3, 2, (count, channels, 5, 7)).astype(np.float32)
    return rng.integers(0, top, (count, channels, 5, 7)).astype(dtype)


def typed(capsys, *arguments):
    """What `sfumato inspect ...` prints for a small network, having exited with 0."""
    assert main(["inspect", *map(str, arguments), "--net", "unet:width=8"]) == 0
    return capsys.readouterr().out


def printed(facts, width=80):
    """The lines of the tables."""
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(page.terminal(facts))
    return console.file.getvalue()


def facts_of(images, **more):
    """The facts of images, with a plan made up."""
    plan = {"net": "unet", "parameters": 5, "batch": 2, "images": 10, "epochs": 2.5, "precision": "float32", "machine": "m"}
    plan |= {"images_per_second": None, "seconds": None}
    found = {"kind": "folder", **listed(images, survey(images)), "sigma_data": 0.5, "train": 4, "held_out": 0}
    return found | {"split": ["No pictures are held out."], "plan": plan} | more


# Numbers


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 256), (np.uint8, 13), (np.uint16, 3000), (np.float32, 0)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_the_numbers_are_those_of_the_pictures(dtype, top, channels, monkeypatch):
    monkeypatch.setattr(surveys, "_BLOCK_VALUES", 100)  # several blocks
    array = noise(channels=channels, dtype=dtype, top=top)
    found, codec = survey(Images(array)), AffineCodec.fit(Images(array))
    each = array.astype(np.float64).transpose(1, 0, 2, 3).reshape(channels, -1)
    assert np.allclose(found.mean, each.mean(1), rtol=1e-12)
    assert np.allclose(found.std, each.std(1), rtol=1e-12)
    x0 = codec.encode(torch.from_numpy(array)).double().numpy()
    assert np.allclose(found.mean_x0, x0.mean((0, 2, 3)), atol=1e-6)
    assert np.allclose(found.std_x0, x0.std((0, 2, 3)), atol=1e-6)
    assert (found.low, found.high) == (codec.low, codec.high)
    for c in range(channels):
        end = found.high[c] + (dtype != np.float32)  # of whole numbers the last bin ends before the next one
        assert np.array_equal(found.histogram[c], np.histogram(each[c], BINS, (found.low[c], end))[0])
    assert found.histogram.sum() == array.size
    assert found.sizes == {(5, 7): 40}


def test_values_are_found_in_parts_as_in_one(monkeypatch):
    array = noise(dtype=np.float32)
    whole = survey(Images(array))
    monkeypatch.setattr("sfumato.data.images.CHUNK_BYTES", 3 * array[0].nbytes)
    told = []
    parts = survey(Images(array), lambda done, total: told.append((done, total)))
    assert told == [(done, 40) for done in [*range(3, 40, 3), 40]]
    assert np.allclose(parts.mean, whole.mean, rtol=1e-13)
    assert np.allclose(parts.std, whole.std, rtol=1e-13)
    assert np.array_equal(parts.histogram, whole.histogram)


def test_of_very_many_the_values_are_those_of_some_spread_evenly(monkeypatch):
    monkeypatch.setattr(surveys, "MEASURED", 8)
    monkeypatch.setattr("sfumato.data.images.CHUNK_BYTES", 7 * 105)
    array = noise()
    array[39] = 9
    found = survey(Images(array))
    assert found.measured == 8
    assert np.allclose(found.mean, array[::5].mean((0, 2, 3)), rtol=1e-12)
    assert found.histogram.sum() == array[::5].size
    assert found.constant.tolist() == [39]  # what is wrong is looked for everywhere
    assert "8 pictures, spread evenly" in printed(facts_of(Images(array)))


def test_a_channel_of_one_value():
    array = np.full((4, 2, 5, 7), 2.5, np.float32)
    array[:, 1] = 1e30
    found = survey(Images(array))
    assert found.histogram[:, 0].tolist() == [140, 140]
    assert found.mean.tolist() == [2.5, float(np.float32(1e30))]
    assert found.std.tolist() == [0, 0]


def test_values_beyond_a_codec_count_as_its_last():
    found = survey(Images(noise(channels=1)), codec=AffineCodec((0,), (3,), "uint8"))
    assert found.histogram.sum() == 40 * 35
    assert found.mean[0] > 2.9


def test_plain_pictures_and_repeats_are_found():
    array = noise()
    array[7] = array[30] = array[3]
    array[12] = array[11]
    array[20] = np.array([1, 2, 3])[:, None, None]  # plain, though its channels differ
    array[21, :2] = 5  # one channel is not plain
    images = Images(array, paths=lambda: [f"p{i}" for i in range(40)])
    found = listed(images, survey(images))
    assert found["constant"] == ["p20"]
    assert found["duplicates"] == 3
    assert found["duplicate_pairs"] == [["p3", "p7"], ["p3", "p30"], ["p11", "p12"]]


def test_repeats_agree_with_looking_for_each():
    hashes = np.random.default_rng(0).integers(0, 60, 200).astype(np.uint64)
    firsts = [int(np.flatnonzero(hashes == h)[0]) for h in hashes]
    expected = sorted((first, i) for i, first in enumerate(firsts) if first < i)
    assert repeats(hashes).tolist() == [list(pair) for pair in expected]
    assert repeats(np.arange(5, dtype=np.uint64)).shape == (0, 2)


def test_sizes_in_the_files_and_classes_are_counted():
    sizes = np.array([(9, 30)] * 3 + [(70_000, 2)] * 5 + [(11, 4)] * 2)
    labels = np.array([0] * 6 + [2] * 4, np.uint8)
    images = Images(noise(10), labels, ("cat", "dog", "owl"), sizes=sizes, modes={"RGB": 8, "P": 2})
    found = listed(images, survey(images))
    assert list(found["sizes"].items()) == [("70000x2", 5), ("9x30", 3), ("11x4", 2)]
    assert (found["smallest"], found["largest"], found["different_sizes"]) == ([11, 4], [70_000, 2], 3)
    assert found["labels"] == {"cat": 6, "dog": 0, "owl": 4}
    assert found["modes"] == {"RGB": 8, "P": 2}
    assert listed(Images(noise(10)), survey(Images(noise(10))))["labels"] is None


# Pictures


def test_examples_are_spread_over_each_class():
    labels = np.arange(600) % 12
    labels[labels == 1] = 0
    positions, names = examples(Images(noise(600), labels, tuple("abcdefghijkl")))
    assert names == [name for name in "acdefghijk" for _ in range(8)]  # of the class b there is none, and ten are shown
    assert [tuple("abcdefghijkl")[k] for k in labels[positions]] == names
    assert len(set(positions.tolist())) == 80
    assert positions[8:16].tolist() == [2, 74, 146, 218, 302, 374, 446, 518]
    positions, names = examples(Images(noise(128)))
    assert positions.tolist() == list(range(0, 128, 2))
    assert names is None
    assert examples(Images(noise(5), np.array([1, 1, 1, 0, 1]), ("x", "y")))[1] == ["x", "y", "y", "y", "y"]


def test_a_contact_sheet_shows_small_pictures_exactly():
    small = noise(9, 1).transpose(0, 2, 3, 1) // 4  # (9, 5, 7, 1), dark
    sheet = np.array(contact_sheet(small))
    scale, gap = 9, 8
    assert sheet.shape == (2 * (5 * scale + gap) + gap, 8 * (7 * scale + gap) + gap)
    assert sheet[0, 0] == 255  # on white
    third = sheet[gap : gap + 5 * scale, gap + 2 * (7 * scale + gap) :][:, : 7 * scale]
    assert np.array_equal(third, np.kron(small[2, :, :, 0], np.ones((scale, scale), np.uint8)))
    assert np.array(contact_sheet(255 - small))[0, 0] < 64  # light pictures on dark


def test_a_contact_sheet_begins_a_row_with_each_class():
    small = noise(5, 3).transpose(0, 2, 3, 1)
    long = "a name with one end " * 3
    rows = contact_sheet(small, ["cat", "cat", "dog", long + "1", long + "2"]).height
    assert rows == contact_sheet(small, columns=2).height + contact_sheet(small[:1]).height - 8
    assert contact_sheet(small, list("abacd")).height == contact_sheet(small, columns=1).height  # a second row of that name
    assert contact_sheet(small, EVIL[:2] + EVIL[2:] * 3).size > (0, 0)
    assert shortened([EVIL[2]])[0] == "??[31m[bold]red?.png"


@pytest.mark.parametrize("shape", [(200, 300, 3), (1024, 4, 1), (16, 16, 5), (300, 300, 20), (1, 1, 1)])
def test_a_contact_sheet_of_any_pictures_is_no_giant(shape):
    sheet = contact_sheet(np.full((9, *shape), 100, np.uint8))
    assert max(sheet.size) < 4000
    assert 100 in np.array(sheet)
    with pytest.raises(UserError, match="found none"):
        contact_sheet(np.zeros((0, *shape), np.uint8))


# Pages


def test_a_line_of_blocks_and_a_bar_show_what_is_there():
    assert page.blocks([0, 1, 50, 100, 101]) == " ▁▄██"
    assert page.blocks([0, 0]) == "  "
    assert page.bar(1) == "█" * page.BAR
    assert page.bar(0) == ""
    assert page.bar(1e-9) == "▏"
    assert page.bar(0.5) == "█" * (page.BAR // 2)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (80, "1 min 20 s"), (7200, "2 h"), (7500, "2 h 5 min"), (9e4, "1 days 1 h")],
)
def test_times_are_said_in_two_units(seconds, text):
    assert page.duration(seconds) == text


class Reader(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag not in ("meta", "img", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag != "rect":
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def hostile():
    """Images whose files, classes and set have names that were chosen to break pages."""
    array = noise(6)
    array[1] = array[0]
    array[2] = 7
    labels = np.array([0, 1, 2, 0, 1, 2])
    notes, skipped = [f"A note on {EVIL[0]}."], [(EVIL[2], EVIL[1])]
    return Images(array, labels, EVIL, EVIL[0], notes, skipped, paths=lambda: EVIL + EVIL, modes={EVIL[0]: 6})


def test_a_page_is_whole_and_holds_no_markup_from_names(hostile):
    text = page.html(facts_of(hostile), b"PNG")
    text.encode()
    read = Reader(text)
    assert read.open == []
    assert "script" not in read.tags
    assert EVIL[0] in "".join(read.text)
    assert "\\udcff\\x1b[31m[bold]red\\n.png" in "".join(read.text)
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import", text)  # nothing is fetched
    assert all(counts == 32 for counts in [text.count("<rect") // 3])


def test_tables_hold_any_name_and_fit_80_columns(hostile):
    text = printed(facts_of(hostile))
    text.encode()
    assert "\x1b" not in text
    assert text.count("[bold]red") >= 3  # said, not obeyed: a file twice and a class
    assert max(map(len, text.splitlines())) <= 80


def test_long_lists_are_cut_and_counted():
    skipped = [(f"f{i}.png", "broken") for i in range(1000)]
    names = [f"class {i}" for i in range(300)]
    images = Images(np.zeros((300, 1, 4, 4), np.uint8), np.arange(300), names, skipped=skipped)
    facts = facts_of(images)
    assert facts["duplicates"] == 299
    assert len(facts["duplicate_pairs"]) == 100
    text = printed(facts)
    for said in ("and 990 more", "and 280 more", "and 294 more", "and 290 more"):
        assert said in text
    text = page.html(facts, b"")
    for said in ("and 950 more", "and 200 more", "and 274 more", "and 250 more"):
        assert said in text


# The command

KEYS = {
    "images", "channels", "size", "dtype", "kind", "name", "labels", "sizes", "modes", "broken", "constant", "duplicates",
    "duplicate_pairs", "histogram", "mean", "std", "sigma_data", "train", "held_out", "notes", "plan",
}  # fmt: skip


@pytest.fixture
def few(tmp_path):
    """A file of 30 pictures."""
    np.save(tmp_path / "few.npy", noise(30).transpose(0, 2, 3, 1))
    return tmp_path / "few.npy"


def test_json_is_one_object_with_all_facts(capsys, tmp_path):
    found = json.loads(typed(capsys, "digits", "--json", "--no-time", "--epochs", "2", "--batch", "100"))
    assert found.keys() >= KEYS
    assert (found["images"], found["channels"], found["size"], found["dtype"]) == (1797, 1, [8, 8], "uint8")
    assert sum(found["labels"].values()) == sum(found["sizes"].values()) == 1797
    assert found["train"] + found["held_out"] == 1797
    plan = found["plan"]
    assert plan["images"] == 2 * found["train"] // 100 * 100
    assert plan["epochs"] == plan["images"] / found["train"]
    assert (plan["batch"], plan["images_per_second"], plan["seconds"]) == (100, None, None)
    assert list(tmp_path.iterdir()) == []  # nothing is written unasked


def test_names_that_are_no_text_go_through_json(few, capsys, monkeypatch):
    array = noise(40, channels=1)
    array[1] = array[0]
    images = Images(array, skipped=[(EVIL[2], "broken")], paths=lambda: EVIL * 14)
    monkeypatch.setattr(trainer, "gather", lambda *args, **options: images)
    found = json.loads(typed(capsys, few, "--channels", "1", "--json", "--no-time"))
    assert found["broken"] == [{"path": EVIL[2], "reason": "broken"}]
    assert found["duplicate_pairs"] == [EVIL[:2]]


def test_page_and_sheet_are_written_where_they_are_asked_for(few, capsys, tmp_path):
    said = typed(capsys, few, "--no-time", "--html", "a/page.html", "--sheet", "b/sheet.png")
    assert "a/page.html" in said
    assert "b/sheet.png" in said
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")) == ["a/page.html", "b/sheet.png", "few.npy"]
    with Image.open("b/sheet.png") as sheet:
        assert sheet.width == 8 * (7 * 9 + 8) + 8
    assert "data:image/png;base64,iVBOR" in Path("a/page.html").read_text()


def test_pictures_that_are_given_are_looked_at_through_the_cache_as_well(few, capsys):
    found = json.loads(typed(capsys, few, "--size", "10x14", "--json", "--no-time"))
    assert (found["size"], found["sizes"]) == ([10, 14], {"5x7": 30})


def test_the_speed_is_measured_unless_told_otherwise(few, capsys, monkeypatch):
    monkeypatch.setattr(inspect, "SECONDS", 0.01)
    flags = (few, "--batch", "20", "--device", "cpu", "--precision", "float32")
    plan = json.loads(typed(capsys, *flags, "--images", "1000", "--json"))["plan"]
    assert plan["images_per_second"] > 0
    assert plan["seconds"] == pytest.approx(1000 / plan["images_per_second"] / defaults.STEPS)
    plan = json.loads(typed(capsys, *flags, "--time", "2h", "--json"))["plan"]
    assert plan["seconds"] == pytest.approx(7200, rel=0.1)
    plan = json.loads(typed(capsys, *flags, "--time", "2h", "--json", "--no-time"))["plan"]
    assert (plan["images"], plan["seconds"]) == (None, 7200)


def test_an_estimate_counts_the_pictures_that_were_worked_through(monkeypatch):
    plan = trainer.prepare(
        noise(30).transpose(0, 2, 3, 1), trainer.validated(Config(batch=128, accumulate=4, net="unet:width=8"))
    )
    steps = []
    monkeypatch.setattr(plans, "measured_speed", lambda step, device, images, seconds: steps.append(images) or 100.0)
    made = trainer.estimate(plan, "cpu")
    assert steps == [128]  # in four parts
    assert made.seconds == made.config.images / (100 * defaults.STEPS)
    assert plan.config.images is None  # the plan is as it was


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--recipe cars", "64x64, 3 channels"),
        ("--held-out 0 --recipe=aircraft --cut-bottom 0", "64x64, 3 channels"),
        ("--size 16x12 --fit pad", "16x12, 3 channels"),
        ("--channels 1 --flip", "5x7, 1 channel "),
        ("--steps 9 --batch 7", "63 images"),
    ],
)
def test_flags_of_training_are_those_of_inspecting(flags, said, few, capsys):
    assert said in typed(capsys, few, "--no-time", *flags.split())


def test_what_cannot_be_looked_at_is_refused_by_a_sentence(capsys, tmp_path):
    for words, said in [
        ("nowhere", "There is no file or folder 'nowhere'."),
        ("digits --recipe cras", "Did you mean 'cars'?"),
        ("digits --jsno", "Did you mean --json?"),
        (f"digits --html {tmp_path}", "is a folder."),
        ("digits --device moon", "There is no device 'moon' here"),
    ]:
        assert main(["inspect", *words.split()]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
