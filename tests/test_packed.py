"""The packed cache: a content is decoded once, whatever happens to its file, to the process, or beside it."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import ArraySource, Images, files, gather, open_source, packed, views, work
from sfumato.data.images import release
from sfumato.disk import cache_folder
from sfumato.errors import UserError


def folder(root, count=20, shape=(12, 10, 3), seed=0):
    root.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    for k in range(count):
        Image.fromarray(noise.integers(0, 256, shape).astype(np.uint8)).save(root / f"{k}.png")
    return root


def pixels(root):
    paths = sorted(root.glob("*.png"), key=lambda path: int(path.stem))
    return np.array([np.array(Image.open(path)).transpose(2, 0, 1) for path in paths])


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))


def broken_off(root, error):
    """A packing of a folder that ends with an error after twelve of its files."""

    def progress(done, total):
        if done == 12:
            raise error

    with pytest.raises(error):
        gather(open_source(root), 8, progress=progress)


@pytest.fixture
def decoded(monkeypatch):
    """The names of the files that are decoded; in threads, for what a process does is not seen here."""
    seen, decode = [], files.decode
    monkeypatch.setattr(files, "decode", lambda stored, path, *more: seen.append(path) or decode(stored, path, *more))
    monkeypatch.setattr(work, "ALONE", 10**9)
    return seen


def test_the_second_time_nothing_is_decoded(tmp_path, decoded):
    root = folder(tmp_path / "set")
    first = gather(open_source(root), 8)
    assert len(decoded) == 20
    decoded.clear()
    second = gather(open_source(root), 8)
    assert decoded == []
    assert np.array_equal(first.array, second.array)
    assert (first.fingerprint, first.notes, first.paths) == (second.fingerprint, second.notes, second.paths)
    assert isinstance(second.array, np.memmap)


def test_adding_a_file_decodes_that_file(tmp_path, decoded):
    root = folder(tmp_path / "set")
    gather(open_source(root), 8)
    decoded.clear()
    Image.fromarray(np.full((12, 10, 3), 9, np.uint8)).save(root / "20.png")
    images = gather(open_source(root), 8)
    assert decoded == ["20.png"]
    assert (images.array[-1] == 9).all()


def test_a_name_or_a_time_is_no_content(tmp_path, decoded):
    root = folder(tmp_path / "set")
    gather(open_source(root), 8)
    decoded.clear()
    (root / "3.png").rename(root / "99.png")
    os.utime(root / "4.png", (1, 1))
    shutil.copytree(root, tmp_path / "elsewhere" / "set")
    images, copied = gather(open_source(root), 8), gather(open_source(tmp_path / "elsewhere" / "set"), 8)
    assert decoded == []
    assert images.paths[-1] == "99.png"
    assert np.array_equal(images.array, copied.array)


def test_another_content_under_the_same_name_is_decoded(tmp_path, decoded):
    root = folder(tmp_path / "set")
    gather(open_source(root), 8)
    decoded.clear()
    Image.fromarray(np.full((12, 10, 3), 9, np.uint8)).save(root / "3.png")
    images = gather(open_source(root), 8)
    assert decoded == ["3.png"]
    assert (images.array[3] == 9).all()


def test_another_policy_is_another_pack(tmp_path, decoded):
    root = folder(tmp_path / "set")
    for size, fit in ((8, "crop"), ((8, 12), "crop"), (8, "pad"), (8, "stretch")):
        decoded.clear()
        gather(open_source(root), size, fit=fit)
        assert len(decoded) == 20, (size, fit)
    assert len(views.packs(cache_folder())) == 4


def test_pictures_keep_their_pixels(tmp_path):
    root = folder(tmp_path / "set", 150)  # many enough for several processes
    images = gather(open_source(root))
    assert np.array_equal(images.array, pixels(root))
    assert images.sizes.tolist() == [[12, 10]] * 150
    assert images.modes == {"RGB": 150}


def test_a_size_that_appears_late_changes_the_rule(tmp_path):
    root = folder(tmp_path / "set", 40)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(root / "17.png")  # not among those that are looked at
    images = gather(open_source(root))
    assert images.shape == (3, 64, 64)
    assert "have 2 sizes" in " ".join(images.notes)
    assert len(views.packs(cache_folder())) == 1  # what was begun with the wrong guess is gone


def test_what_was_interrupted_goes_on(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(packed, "COMMIT_SECONDS", -1)
    root = folder(tmp_path / "set")
    broken_off(root, KeyboardInterrupt)
    decoded.clear()
    images = gather(open_source(root), 8)
    assert len(decoded) == 8
    shutil.rmtree(cache_folder())
    assert np.array_equal(images.array, gather(open_source(root), 8).array)


def test_rows_that_the_index_does_not_know_are_written_over(tmp_path, decoded, monkeypatch):
    monkeypatch.setattr(packed, "COMMIT_SECONDS", 10**9)
    root = folder(tmp_path / "set")
    broken_off(root, RuntimeError)
    [pack] = views.packs(cache_folder())
    packed.pixels_file(pack.folder, "3-uint8").write_bytes(b"\x77" * 500)  # half of a row more than was known
    decoded.clear()
    images = gather(open_source(root), 8)
    assert len(decoded) == 20
    shutil.rmtree(cache_folder())
    assert np.array_equal(images.array, gather(open_source(root), 8).array)


KILLED = """
import signal, sys
from sfumato.data import gather, open_source, packed
packed.COMMIT_SECONDS = -1.0
def progress(done, total):
    if done == 100:
        import multiprocessing
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
        signal.pause()  # until it is killed
gather(open_source(sys.argv[1]), 8, progress=progress)
"""


def test_a_packing_that_was_killed_goes_on_and_leaves_nobody_behind(tmp_path):
    root = folder(tmp_path / "set", 200)
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(root)], stdout=subprocess.PIPE, text=True)
    assert len(child.stdout.readline().split()) > 0
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=100)  # returns when the last who could write to it has gone
    seen = []
    images = gather(open_source(root), 8, progress=lambda done, total: seen.append(total))
    assert 0 < seen[-1] <= 136  # all chunks but those that were committed
    shutil.rmtree(cache_folder())
    assert np.array_equal(images.array, gather(open_source(root), 8).array)


def test_two_who_pack_at_once_share_the_work(tmp_path, decoded):
    root, found = folder(tmp_path / "set"), []
    threads = [threading.Thread(target=lambda: found.append(gather(open_source(root), 8).array)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 20
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_a_broken_file_is_named_every_time_and_tried_once(tmp_path, decoded):
    root = folder(tmp_path / "set")
    (root / "5.png").write_bytes((root / "5.png").read_bytes()[:80])
    for expected in (20, 0):
        decoded.clear()
        images = gather(open_source(root), 8)
        assert len(decoded) == expected
        assert [path for path, _ in images.skipped] == ["5.png"]
        assert "1 of 20 files could not be read" in " ".join(images.notes)
        assert len(images) == 19
    with pytest.raises(UserError, match=r"1 files cannot be read: 5.png: .*leave out --strict"):
        gather(open_source(root), 8, strict=True)


def test_a_file_that_vanishes_is_skipped_and_training_goes_on_without_files(tmp_path, decoded):
    root = folder(tmp_path / "set")
    source = open_source(root)
    (root / "7.png").unlink()
    images = gather(source, 8)
    assert [path for path, _ in images.skipped] == ["7.png"]
    shutil.rmtree(root)
    assert images.batch(range(19))["image"].shape == (19, 3, 8, 8)
    views.clear(cache_folder())  # whoever has a pack open keeps it
    assert images.batch([0, 18])["image"].shape == (2, 3, 8, 8)


def test_gray_ones_among_colour_and_colour_among_gray(tmp_path):
    root = folder(tmp_path / "set", 30)
    Image.fromarray(np.full((12, 10), 77, np.uint8)).save(root / "30.png")
    images = gather(open_source(root))
    assert images.shape[0] == 3
    assert (images.array[30] == 77).all()
    gray = gather(open_source(root), channels=1)
    assert gray.shape[0] == 1
    want = [np.array(Image.open(root / f"{k}.png").convert("L")) for k in range(31)]
    assert np.array_equal(gray.array[:, 0], want)
    assert np.array_equal(gather(open_source(root)).array, images.array)  # what was converted is not in its way


def test_the_cache_is_listed_and_cleared(tmp_path):
    folder(tmp_path / "one"), folder(tmp_path / "two", 5)
    gather(open_source(tmp_path / "one"), 8), gather(open_source(tmp_path / "two"), 8)
    packs = {pack.folder.name.partition("-")[0]: pack for pack in views.packs(cache_folder())}
    assert {name: pack.pictures for name, pack in packs.items()} == {"one": 20, "two": 5}
    assert packs["one"].bytes > 20 * 3 * 64
    assert len(views.clear(cache_folder(), "one")) == 1
    with pytest.raises(UserError, match="no pack in the cache called 'one'"):
        views.clear(cache_folder(), "one")
    assert len(views.packs(cache_folder())) == 1
    assert len(gather(open_source(tmp_path / "one"), 8)) == 20
    views.clear(cache_folder())
    assert views.packs(cache_folder()) == []
    assert len(gather(open_source(tmp_path / "two"), 8)) == 5


def test_a_pack_in_the_making_is_not_cleared(tmp_path):
    root = folder(tmp_path / "set", 5)

    def clear(done, total):
        with pytest.raises(UserError, match="being made by another process"):
            views.clear(cache_folder())

    assert len(gather(open_source(root), 8, progress=clear)) == 5


def test_a_damaged_index_is_named(tmp_path):
    root = folder(tmp_path / "set", 5)
    gather(open_source(root), 8)
    [pack] = views.packs(cache_folder())
    (pack.folder / "index.sqlite").write_bytes(b"nothing of the kind" * 300)
    Image.fromarray(np.zeros((12, 10, 3), np.uint8)).save(root / "new.png")
    with pytest.raises(UserError, match="sfumato cache clear"):
        gather(open_source(root), 8)


def test_a_full_disk_is_named_and_loses_nothing(tmp_path, monkeypatch):
    root = folder(tmp_path / "set", 5)

    def full(self, kind, block):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(packed._Files, "write", full)
        with pytest.raises(UserError, match=r"disk .* is full.*sfumato cache clear"):
            gather(open_source(root), 8)
    assert len(gather(open_source(root), 8)) == 5


def test_arrays_are_packed_when_they_change_size():
    array = np.random.default_rng(0).integers(0, 256, (6, 20, 30, 3)).astype(np.uint8)
    labels = np.arange(6) % 2
    source = ArraySource(array.transpose(0, 3, 1, 2), "mine", "array", labels, ("a", "b"), held_out=np.arange(6) > 3)
    images = gather(source, (10, 15))
    assert images.shape == (3, 10, 15)
    assert images.labels.tolist() == labels.tolist()
    assert np.asarray(images.marked).tolist() == [False] * 4 + [True] * 2
    assert images.sizes.tolist() == [[20, 30]] * 6


def test_nothing_is_written_beside_the_cache(tmp_path):
    root = folder(tmp_path / "set", 5)
    before = {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*")}
    gather(open_source(root), 8)
    assert {path: path.stat().st_mtime_ns for path in Path(tmp_path).rglob("*")} == before


def test_letting_go_of_pages_changes_nothing(tmp_path):
    images = gather(open_source(folder(tmp_path / "set")))
    before = images.array.copy()
    release(images.array)
    assert np.array_equal(images.array, before)
    release(before)  # an array in memory stays as it is
    assert np.array_equal(images.array, before)


# A pack is shared by all sets of its name


def test_two_sets_of_one_name_stay_apart(tmp_path):
    one, other = folder(tmp_path / "a" / "images", 12), folder(tmp_path / "b" / "images", 9, seed=1)
    first = gather(open_source(one), 8).fingerprint
    second = gather(open_source(other), 8)
    assert len(second) == 9
    assert gather(open_source(one), 8).fingerprint == first
    assert len(gather(open_source(one), 8)) == 12


def test_files_that_are_alike_from_outside_are_not_taken_for_each_other(tmp_path):
    for name, value in (("a", 10), ("b", 200)):
        root = tmp_path / name / "images"
        root.mkdir(parents=True)
        for k in range(4):
            Image.fromarray(np.full((8, 8), value + k, np.uint8)).save(root / f"{k}.bmp")
            os.utime(root / f"{k}.bmp", (1, 1))
    assert gather(open_source(tmp_path / "a" / "images")).array.max() == 13
    assert gather(open_source(tmp_path / "b" / "images")).array.min() == 200


def test_a_file_that_goes_away_is_gone(tmp_path):
    root = folder(tmp_path / "set", 20)
    before = gather(open_source(root), 8).array.copy()
    (root / "19.png").rename(tmp_path / "19.png")
    assert np.array_equal(gather(open_source(root), 8).array, before[:19])
    (tmp_path / "19.png").rename(root / "19.png")
    assert np.array_equal(gather(open_source(root), 8).array, before)


def test_what_is_known_does_not_hide_that_sizes_differ(tmp_path):
    root = folder(tmp_path / "set", 30)
    Image.fromarray(np.zeros((30, 30, 3), np.uint8)).save(root / "17.png")
    gather(open_source(root), (12, 10))
    assert gather(open_source(root)).shape == (3, 64, 64)


def test_the_suffix_counts_where_it_decides(tmp_path):
    root = folder(tmp_path / "set", 5)
    Image.fromarray(np.full((12, 10, 3), 9, np.uint8)).save(root / "5.tga")
    (root / "5.tga").rename(root / "5.png")
    assert len(gather(open_source(root)).skipped) == 1
    (root / "5.png").rename(root / "5.tga")
    assert len(gather(open_source(root))) == 6


def test_tinted_pictures_are_gray_but_keep_their_tint(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    pixels = np.random.default_rng(0).integers(0, 200, (8, 8, 1)).astype(np.uint8).repeat(3, 2)
    pixels[..., 1] += 5
    for k in range(4):
        Image.fromarray(np.roll(pixels, k, 0)).save(root / f"{k}.png")
    images = gather(open_source(root))
    assert images.shape == (1, 8, 8)
    assert "became gray" not in " ".join(images.notes)
    assert np.array_equal(gather(open_source(root), channels=3).array[0], pixels.transpose(2, 0, 1))


def test_pictures_without_a_class_are_not_told(tmp_path):
    root = folder(tmp_path / "set", 6)
    rows = "".join(f"{k}.png,{'ab'[k % 2] if k else ''}\n" for k in range(6))
    (root / "labels.csv").write_text(f"file,label\n{rows}")
    images = gather(open_source(root), 8)
    assert images.labels.tolist() == [2, 1, 0, 1, 0, 1]
    assert images.label_counts.tolist() == [2, 3]
    assert "1 of 6 images have no class" in " ".join(images.notes)


def test_groups_are_heeded_in_a_stream_that_is_known(tmp_path):
    root = folder(tmp_path / "set", 30)
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        for k in range(30):
            tar.add(root / f"{k}.png", f"p{k % 5}_{k}.png")
    assert gather(open_source(tmp_path / "set.tar.gz"), 8).groups is None
    images = gather(open_source(tmp_path / "set.tar.gz", group="^p[0-9]"), 8)
    assert len(np.unique(images.groups)) == 5


def test_the_fingerprint_knows_the_sides():
    array = np.zeros((4, 1, 4, 4), np.uint8)
    sides = [None, np.array([True, False, False, False]), np.array([False, True, False, False])]
    assert len({Images(array, marked=marked).fingerprint for marked in sides}) == 3
    assert len({Images(array, groups=groups).fingerprint for groups in (None, np.arange(4), np.arange(4) // 2)}) == 3


# What is damaged


def test_missing_rows_are_said_and_not_made_black(tmp_path):
    root = folder(tmp_path / "set", 5)
    gather(open_source(root), 8)
    [pack] = views.packs(cache_folder())
    packed.pixels_file(pack.folder, "3-uint8").write_bytes(b"few")
    with pytest.raises(UserError, match=r"shorter than the index says.*sfumato cache clear"):
        gather(open_source(root), 8)
    views.clear(cache_folder())
    assert len(gather(open_source(root), 8)) == 5


@pytest.mark.parametrize("file", ["facts.json", "hashes.npy"])
def test_a_damaged_view_is_made_anew(tmp_path, file):
    root = folder(tmp_path / "set", 5)
    before = gather(open_source(root), 8).fingerprint
    [view] = cache_folder().glob("packs/*/views/*")
    (view / file).write_bytes(b"?")
    assert gather(open_source(root), 8).fingerprint == before


def test_names_need_not_be_text(tmp_path):
    root = folder(tmp_path / "set", 5)
    (root / "0.png").rename(os.fsdecode(bytes(root) + b"/\xff.png"))
    for _ in range(2):
        images = gather(open_source(root), 8)
        assert len(images) == 5
        assert "\udcff.png" in images.paths


def test_changes_that_are_only_in_memory_stay(monkeypatch):
    np.save("a.npy", np.zeros((100, 1, 8, 8), np.uint8))
    mine = np.load("a.npy", mmap_mode="c")
    mine += 7
    release(mine)
    assert (mine == 7).all()
