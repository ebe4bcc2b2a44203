"""`report.html`: it shows what lies in the run folder, holds any name, stays small, and never costs a training."""

import base64
import io
import json
import os
import re
import shutil

import msgspec
import numpy as np
import pytest
from PIL import Image

from sfumato import picture
from sfumato.config import Facts, Settled, builtins, checked, spelt
from sfumato.judge import report
from sfumato.picture import hypertext
from sfumato.run import Run
from sfumato.training import watch
from sfumato.training.loop import Event

from .chromium import Browser
from .test_inspect import EVIL, Reader

FACTS = Facts(
    data=EVIL[0], fingerprint="f", train=90, held_out=10, shape=(1, 8, 8), sigma_data=0.5,
    codec={"low": [0], "high": [255], "dtype": "uint8", "ends": [-1, 1]}, label_names=EVIL, label_counts=(30, 30, 30),
)  # fmt: skip


def made(folder, grids=5, budget=100_000, lines=50, **more):
    """A run folder in which the grid after n images is a picture of the gray n / 1000, and its loss 1 / n."""
    run = Run(folder)
    run.write_config(checked(Settled(images=budget, facts=FACTS, lr=0.002, **more)))
    step = budget // 100
    records = [
        {"images": n, "loss": 1 / n, "lr": 0.002, "loss_bands": {"..-4": 1 / n, "4..": 2 / n}, "images_per_second": 10.0}
        | ({"held_out_loss": 3 / n} if n % (10 * step) == 0 else {})
        for n in range(step, step * (lines + 1), step)
    ]
    run.log.write_text("".join(json.dumps(record) + "\n" for record in records))
    (run.path / "samples").mkdir()
    for n in np.linspace(lines * step / grids, lines * step, grids).astype(int).tolist():
        picture.save_png(run.grid(n), np.full((8, 16, 1), n // 1000, np.uint8))
    return run


def charts(page):
    """The data of each chart by its title."""
    found = re.findall(r'<script type="application/json">(.*?)</script>', page)
    return {chart["title"]: chart for chart in map(json.loads, found)}


def told(run):
    """The page that is written for a run."""
    return report.write(run).read_text()


# What a page holds


def test_a_page_is_whole_holds_no_markup_from_names_and_fetches_nothing(tmp_path):
    run = made(tmp_path / EVIL[1], net=checked(Settled()).net, group=EVIL[0])
    told_of = {"name": EVIL[0], "value": 2, "low": 1, "high": 3, "samples": 10, "reference": EVIL[0], "note": EVIL[2]}
    run.evaluation.write_text(json.dumps([told_of]))
    found = {"check": EVIL[0], "verdict": "wrong", "figure": EVIL[1], "cause": EVIL[2], "mend": EVIL[0]}
    run.findings.write_text(json.dumps([found, found | {"verdict": EVIL[0]}]))
    text = told(run)
    read = Reader(re.sub(r"<(input|progress)[^>]*>(</progress>)?", "", text))
    assert read.open == []
    assert text.count("<script") == 3 + 2  # three charts, and ours
    assert EVIL[0] in "".join(read.text)
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?:(?!//www\.w3\.org/2000/svg)", text)


def test_a_name_cannot_end_the_script_that_holds_it():
    lines = [hypertext.line("</script><script>alert(1)</script>", np.arange(3.0), np.ones(3), 0)]
    text = hypertext.chart("<!--<script>", "x", lines)
    assert text.count("<script") == text.count("</script>") == 1
    assert charts(text)["<!--<script>"]["lines"][0]["name"] == lines[0]["name"]


def test_curves_are_those_of_the_log(tmp_path):
    found = charts(told(made(tmp_path / "r")))
    raw, smooth, held_out = found["Loss"]["lines"]
    x = np.arange(1, 51) * 1000
    assert raw["x"] == smooth["x"] == x.tolist()
    np.testing.assert_allclose(raw["y"], 1 / x, rtol=1e-4)
    np.testing.assert_allclose(held_out["x"], x[9::10])
    np.testing.assert_allclose(held_out["y"], 3 / x[9::10], rtol=1e-4)
    assert found["Loss"]["log"]
    low, high = found["Training loss by noise (log-SNR), smoothed"]["lines"]
    assert (low["name"], high["name"]) == ("below -4, most noise", "above 4, least noise")
    np.testing.assert_allclose(high["y"], 2 * np.array(low["y"]), rtol=1e-4)
    assert set(found["Learning rate"]["lines"][0]["y"]) == {0.002}


def test_a_line_is_thinned_keeps_its_ends_and_leaves_out_what_is_no_number():
    x, y = np.arange(10_000.0), np.arange(10_000.0)
    y[[0, 5000]] = np.nan, np.inf
    line = hypertext.line("a", x, y, 0)
    assert (line["x"][0], line["x"][-1], len(line["x"])) == (1.0, 9999.0, 500)
    assert max(np.diff(line["x"])) <= 22
    json.dumps(line, allow_nan=False)
    assert hypertext.line("a", x[:0], y[:0], 0)["x"] == []


def test_the_timeline_is_bounded_even_and_ends_with_the_newest(tmp_path):
    run = made(tmp_path / "r", grids=100, lines=100)
    text = told(run)
    shown = [int(n) for n in re.findall(r'data-images="(\d+)"', text)]
    assert len(shown) == report.GRIDS
    assert (shown[0], shown[-1]) == (1000, 100_000)
    assert {int(n) for n in np.diff(shown)} == {2000, 3000}
    assert re.findall(r'data-images="(\d+)" hidden', text) == [str(n) for n in shown[:-1]]


def test_large_pictures_are_made_small_and_small_ones_are_kept_as_they_are(tmp_path):
    run = made(tmp_path / "r", grids=1)
    assert "data:image/png" in told(run)
    slope = np.random.default_rng(0).normal(np.linspace(0, 255, 2000), 3, (200, 2000)).clip(0, 255).astype(np.uint8)
    picture.save_png(run.grid(50_000), slope[..., None])
    assert run.grid(50_000).stat().st_size > report.LARGE
    data = re.search(r"data:image/webp;base64,([^\"]+)", told(run))[1]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.size == (report.WIDTH, 120)
        levels = np.asarray(image.convert("L"), float)
    np.testing.assert_allclose(levels[10:-10, 10:-10].mean(0), np.linspace(0, 255, 1200)[10:-10], atol=6)


def test_what_is_not_there_is_left_out_and_said(tmp_path):
    run = Run(tmp_path / "r")
    run.write_config(Settled())
    text = told(run)  # a run that has not begun
    assert "Closest" not in text
    assert "timeline all" not in text
    assert "Not here yet: the doctor&#x27;s findings" in text
    run.evaluation.write_text("no JSON")
    run.findings.write_text('{"a": 1}')
    run.out.mkdir()
    run.closest.write_text("no picture")
    assert "Not here yet" in told(run)


def test_what_others_measured_is_shown(tmp_path):
    run = made(tmp_path / "r")
    run.evaluation.write_text(
        '[{"group": "distances", "name": "distance", "value": 1.23456, "low": 1, "high": 2, "samples": 2000,'
        ' "reference": "test"}, {"group": "of real ones", "name": "distance", "value": 0.5}]'
    )
    fine = [{"check": f"check {i}", "verdict": "fine"} for i in range(3)]
    wrong = {"check": "EMA", "verdict": "wrong", "figure": "0.9", "cause": "too long", "mend": "--ema 4k"}
    run.findings.write_text(json.dumps([*fine, wrong]))
    run.out.mkdir()
    picture.save_png(run.closest, np.zeros((4, 4, 1), np.uint8))
    picture.save_png(run.strip(1000), np.zeros((4, 4, 1), np.uint8))
    picture.save_png(run.strip(2000), np.full((4, 4, 1), 9, np.uint8))
    os.utime(run.strip(1000), (1, 1))
    Image.new("L", (4, 4)).save(run.out / "s0-grid.gif")
    text = told(run)
    heads = re.findall(r'<th scope="col">([^<]*)</th><th scope="col">value', text)
    assert heads == ["distances", "of real ones"]
    for said in ("1.235", "1 to 2", "2,000", "too long", "--ema 4k", "3 more checks", "Closest", "image/gif"):
        assert said in text
    assert report.embedded(run.strip(2000), "A sample coming out of noise") in text
    assert report.embedded(run.strip(1000), "A sample coming out of noise") not in text
    assert "Not here yet" not in text


def test_settings_are_spelt_as_they_are_typed():
    config = checked(Settled(size=(28, 32), range=(0.0, 1.0), schedule="linear:steps=20", flip=True, facts=FACTS))
    said = spelt(config)
    assert [said[name] for name in ("size", "range", "schedule", "flip", "keep", "rotate", "clip")] == [
        "28x32", "0,1", "linear:steps=20", "yes", "2", "no", "1.0",
    ]  # fmt: skip
    again = {name: value for name, value in said.items() if value not in ("yes", "no", "none")}
    assert checked(builtins(Settled()) | again | {"flip": True}, Settled) == msgspec.structs.replace(config, facts=None)


# The watcher


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [0.0]
    monkeypatch.setattr(watch.time, "perf_counter", lambda: now[0])
    return now


def test_the_watcher_stays_within_its_share_and_always_writes_the_end(tmp_path, clock, monkeypatch):
    written = []

    def slow(run):
        written.append(clock[0])
        clock[0] += 2

    monkeypatch.setattr(report, "write", slow)
    watcher = report.Report(Run(tmp_path), share=0.01)
    watcher(Event("start", None, 0))
    for _ in range(100):
        clock[0] += 10
        watcher(Event("step", None, 0))
        watcher(Event("log", None, 0, {}))
        assert 2 * len(written) <= max(2, 0.01 * clock[0])
    assert len(written) == 5  # at once, and whenever another two seconds are a hundredth of the time
    watcher(Event("end", None, 0))
    assert len(written) == 6


def test_a_watcher_that_fails_is_named_once_and_training_goes_on():
    said, seen = [], []

    def failing(event):
        seen.append(event.kind)
        raise OSError("the disk is full")

    watcher = watch.careful(failing, "The report", said.append)
    for kind in ("start", "log", "end"):
        watcher(Event(kind, None, 0))
    assert seen == ["start", "log", "end"]
    assert said == ["The report failed, and training goes on without it: OSError: the disk is full"]


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("there is no Chromium on PATH")
    browser = Browser(program, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


GRAY = """(() => {
  const shown = [...document.querySelectorAll(".timeline img")].filter((image) => image.checkVisibility());
  const canvas = document.createElement("canvas");
  canvas.getContext("2d").drawImage(shown[0], 0, 0);
  return [shown.length, canvas.getContext("2d").getImageData(4, 4, 1, 1).data[0]];
})()"""
SAID = 'document.querySelector(".slider output").textContent'
LEGEND = '[...document.querySelector(".legend").children].map((item) => item.textContent)'


def test_the_slider_moves_in_a_browser(tmp_path, browser):
    report.write(run := made(tmp_path / "r"))
    browser.size(1400)
    browser.open(f"file://{run.report.resolve()}")
    assert (browser.run(SAID), browser.run(GRAY)) == ("50,000 images", [1, 50])
    browser.run('document.querySelector(".slider input").focus()')
    browser.press("ArrowLeft")
    assert (browser.run(SAID), browser.run(GRAY)) == ("40,000 images", [1, 40])
    assert browser.run("location.hash") == "#images=40000"
    assert browser.run(LEGEND)[:2] == ["40,000 images seen", "training, raw weights2.5e-5"]  # the curves are read there too
    browser.press("Home")
    assert (browser.run(SAID), browser.run(GRAY)) == ("10,000 images", [1, 10])
    browser.press("End")
    assert browser.run("location.hash") == ""  # the newest, also when there is a newer one
    browser.open(f"file://{run.report.resolve()}#images=21000")
    assert (browser.run(SAID), browser.run(GRAY)) == ("20,000 images", [1, 20])
    browser.run('document.querySelector(".chart svg").focus()')
    browser.press("Home")  # the first line of the log, and the grid nearest to it
    assert (browser.run(LEGEND)[0], browser.run(SAID)) == ("1,000 images seen", "10,000 images")
    assert browser.run(LEGEND)[1:] == ["training, raw weights0.001", "the same, smoothed0.001", "held-out, averaged weights–"]
    assert browser.errors == []
    assert all(address.startswith(("file:", "data:")) for address in browser.asked)


@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_fits_the_screen_light_and_dark(tmp_path, browser, width):
    run = made(tmp_path / EVIL[1], group="a" * 100)
    run.evaluation.write_text(
        json.dumps([{"name": "n", "value": 1, "samples": 2, "reference": "r" * 99, "note": "long " * 30}])
    )
    report.write(run)
    browser.size(width)
    browser.open(f"file://{run.report.resolve()}")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run('document.querySelectorAll(".chart path").length') == 6
    papers = []
    for dark in (False, True):
        browser.dark(dark)
        shot = tmp_path / "shot.png"
        shot.write_bytes(browser.screenshot())
        with Image.open(shot) as image:
            papers.append(int(np.median(np.asarray(image.convert("L")))))
    assert papers[0] > 230
    assert papers[1] < 60
    assert browser.errors == []
