"""Held-out images are chosen by content."""

import numpy as np
import pytest

from sfumato.data import Images, held_out, split
from sfumato.data.images import AllBut
from sfumato.errors import UserError


def hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize(
    ("total", "held"),
    [
        (0, 0),
        (9, 0),
        (10, 2),
        (100, 20),
        (320, 64),
        (1000, 64),
        (1280, 64),
        (2000, 100),
        (60_000, 3000),
        (300_000, 10_000),
    ],
)
def test_how_many_are_held_out(total, held):
    out = held_out(hashes(total))
    assert len(out) == held
    assert out.dtype == np.int64
    assert (np.diff(out) > 0).all()
    assert len(out) == 0 or 0 <= out[0] <= out[-1] < total


def test_a_fraction_of_zero_holds_out_none():
    assert len(held_out(hashes(1000), 0)) == 0
    assert len(held_out(hashes(1000), 0.1)) == 100
    assert len(held_out(hashes(1000), 0.9)) == 200
    for fraction in (-0.1, 5):
        with pytest.raises(UserError, match="between 0 and 1"):
            held_out(hashes(1000), fraction)


def test_the_order_of_the_files_changes_nothing():
    contents = hashes(2000)
    contents[50:80] = contents[:30]
    order = np.random.default_rng(1).permutation(2000)
    out = held_out(contents)
    shuffled = held_out(contents[order])
    assert np.array_equal(np.sort(contents[out]), np.sort(contents[order][shuffled]))


def test_equal_images_stand_on_one_side():
    contents = hashes(500).repeat(np.random.default_rng(2).integers(1, 5, 500))
    out = held_out(contents)
    assert not set(np.delete(contents, out)) & set(contents[out])
    assert len(out) == 64
    out = held_out(np.concatenate([hashes(100), np.full(100, 7, np.uint64)]))  # more copies than places
    assert len(out) == 40
    assert len(held_out(np.full(100, 7, np.uint64))) == 0


def test_more_images_move_few_of_the_held_out():
    contents = hashes(4000)
    before, after = (set(contents[:n][held_out(contents[:n])]) for n in (3900, 4000))
    assert len(before & after) > 0.9 * len(before)


def test_many_images_are_split_in_parts_as_they_would_be_at_once(monkeypatch):
    contents = hashes(3000).repeat(np.random.default_rng(3).integers(1, 4, 3000))
    whole = held_out(contents)
    monkeypatch.setattr("sfumato.data.splits.AT_ONCE", 100)
    assert np.array_equal(held_out(contents), whole)
    contents[:5000] = 7  # most are one picture, so that what was looked at first does not suffice
    monkeypatch.setattr("sfumato.data.splits.AT_ONCE", 10**9)
    whole = held_out(contents)
    monkeypatch.setattr("sfumato.data.splits.AT_ONCE", 100)
    assert np.array_equal(held_out(contents), whole)


def test_groups_and_their_copies_stand_on_one_side():
    contents = hashes(2000)
    groups = np.arange(2000) // 4  # four pictures of each patient
    contents[10], contents[500] = contents[1000], contents[1400]  # a picture that two patients share joins them
    out = held_out(contents, groups=groups)
    rest = np.setdiff1d(np.arange(2000), out)
    assert 92 <= len(out) <= 100
    assert not set(groups[out]) & set(groups[rest])
    assert not set(contents[out]) & set(contents[rest])
    order = np.random.default_rng(1).permutation(2000)
    renamed = held_out(contents[order], groups=(groups * 7919 % 10_007)[order])
    assert np.array_equal(np.sort(contents[order][renamed]), np.sort(contents[out]))


def images(count=200, **more):
    return Images(np.random.default_rng(0).integers(0, 256, (count, 1, 4, 4)).astype(np.uint8), **more)


def test_what_the_data_keeps_for_testing_is_held_out():
    marked = np.arange(200) >= 150
    train, held, said = split(images(marked=marked))
    assert (len(train), len(held)) == (150, 50)
    assert np.array_equal(held.array, images().array[150:])
    assert said == "50 pictures are held out as the data says."
    train, held, said = split(images(marked=marked), 0)
    assert (len(train), len(held)) == (150, 0)
    assert "50 that the data keeps for testing are left out" in said
    with pytest.raises(UserError, match="none are left to train on"):
        split(images(marked=np.ones(200, bool)))


def test_copies_of_training_pictures_are_no_test():
    array = images().array.copy()
    array[160] = array[3]
    groups = np.arange(200)
    groups[170] = 5
    marked = np.arange(200) >= 150
    train, held, said = split(Images(array, marked=marked, groups=groups))
    assert (len(train), len(held)) == (150, 48)
    assert "2 more are left out" in said


@pytest.mark.parametrize("few", [[], [0], [9], [0, 1, 2], [3, 7, 8], list(range(10))])
def test_all_but_a_few_is_what_is_left(few):
    rest = AllBut(np.array(few, np.int64), 10)
    assert len(rest) == 10 - len(few)
    assert np.array_equal(rest[np.arange(len(rest))], np.delete(np.arange(10), few))


def test_a_part_of_a_part_is_that_part():
    whole = images(labels=np.arange(200) % 7, label_names="abcdefg", sizes=np.arange(400).reshape(200, 2))
    part = whole.subset(AllBut(np.array([0, 5, 6]), 200)).subset(np.array([3, 0, 100]))
    at = [4, 1, 103]
    assert np.array_equal(part.array, whole.array[at])
    assert part.labels.tolist() == [k % 7 for k in at]
    assert np.array_equal(part.sizes, whole.sizes[at])
    assert part.paths == [f"array[{k}]" for k in at]
    assert np.array_equal(part.batch([1])["image"][0].numpy(), whole.array[1])
    assert part.fingerprint == Images(whole.array[at], whole.labels[at], whole.label_names).fingerprint
