"""Held-out images are chosen by content."""

import numpy as np
import pytest

from sfumato.data import held_out
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
    train, out = held_out(hashes(total))
    assert (len(train), len(out)) == (total - held, held)
    assert train.dtype == out.dtype == np.int64
    assert np.array_equal(np.sort(np.concatenate([train, out])), np.arange(total))
    assert (np.diff(train) > 0).all()
    assert (np.diff(out) > 0).all()


def test_a_fraction_of_zero_holds_out_none():
    assert len(held_out(hashes(1000), 0)[1]) == 0
    assert len(held_out(hashes(1000), 0.1)[1]) == 100
    assert len(held_out(hashes(1000), 0.9)[1]) == 200
    for fraction in (-0.1, 5):
        with pytest.raises(UserError, match="between 0 and 1"):
            held_out(hashes(1000), fraction)


def test_the_order_of_the_files_changes_nothing():
    contents = hashes(2000)
    contents[50:80] = contents[:30]
    order = np.random.default_rng(1).permutation(2000)
    _, out = held_out(contents)
    _, shuffled = held_out(contents[order])
    assert np.array_equal(np.sort(contents[out]), np.sort(contents[order][shuffled]))


def test_equal_images_stand_on_one_side():
    contents = hashes(500).repeat(np.random.default_rng(2).integers(1, 5, 500))
    train, out = held_out(contents)
    assert not set(contents[train]) & set(contents[out])
    assert len(out) == 64
    train, out = held_out(np.concatenate([hashes(100), np.full(100, 7, np.uint64)]))  # more copies than places
    assert len(out) == 40
    assert len(held_out(np.full(100, 7, np.uint64))[1]) == 0


def test_more_images_move_few_of_the_held_out():
    contents = hashes(4000)
    before, after = (set(contents[:n][held_out(contents[:n])[1]]) for n in (3900, 4000))
    assert len(before & after) > 0.9 * len(before)
