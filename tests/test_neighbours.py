"""Nearest images: distances by hand, exact copies found, new images not accused."""

import numpy as np
import pytest

from sfumato.errors import UserError
from sfumato.judge.metrics import neighbours
from sfumato.judge.metrics.neighbours import copies, nearest


def draws(count, seed):
    return np.random.default_rng(seed).normal(size=(count, 4, 4, 1))


def test_the_distance_is_the_root_mean_square_over_pixels():
    queries = np.array([[[3.0, 0.0]], [[0.0, 5.0]]])  # (2, 1, 2)
    references = np.array([[[0.0, 4.0]], [[100.0, 100.0]]])
    distances, indices = nearest(queries, references)
    np.testing.assert_allclose(distances, [np.sqrt((9 + 16) / 2), np.sqrt(1 / 2)], rtol=1e-15)
    assert indices.tolist() == [0, 0]
    assert distances.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_integers_do_not_wrap(dtype):
    top = np.iinfo(dtype).max
    queries = np.zeros((1, 2, 2, 1), dtype)
    references = np.full((2, 2, 2, 1), top, dtype)
    references[1] = 3
    assert nearest(queries, references)[0].tolist() == [3.0]
    assert nearest(queries, references[:1])[0].tolist() == [top]


def test_agrees_with_all_pairs_by_hand_whatever_the_block(monkeypatch):
    queries, references = draws(20, 0), draws(53, 1)
    table = np.sqrt(((queries[:, None] - references[None]) ** 2).mean(axis=(2, 3, 4)))  # (20, 53)
    whole = nearest(queries, references)
    monkeypatch.setattr(neighbours, "_BLOCK", 7 * 16 * 8)  # seven references at a time
    for distances, indices in (whole, nearest(queries, references)):
        np.testing.assert_allclose(distances, table.min(axis=1), rtol=1e-12)
        np.testing.assert_array_equal(indices, table.argmin(axis=1))


def test_the_copy_of_an_image_is_at_exactly_zero_even_far_from_the_origin():
    references = (1e4 + draws(40, 0)).astype(np.float32)
    distances, indices = nearest(references[::3], references)
    assert (distances == 0).all()
    np.testing.assert_array_equal(indices, np.arange(0, 40, 3))


def test_no_queries_have_no_neighbours():
    distances, indices = nearest(draws(0, 0), draws(3, 0))
    assert distances.shape == indices.shape == (0,)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UserError, match="at least one reference"):
        nearest(draws(1, 0), draws(0, 0))
    with pytest.raises(UserError, match="one shape"):
        nearest(np.zeros((1, 4, 4, 1)), np.zeros((1, 2, 8, 1)))
    with pytest.raises(UserError, match="finite"):
        nearest(np.full((1, 4), np.nan), np.zeros((1, 4)))


def test_a_set_of_copies_is_counted_whole():
    train = draws(200, 0)
    found = copies(train[5:69], train, draws(100, 1))
    assert found.count == 64
    np.testing.assert_array_equal(found.indices, np.arange(5, 69))
    assert found.threshold > 0


def test_new_images_from_the_same_distribution_count_what_is_expected():
    counts = []
    for seed in range(6):
        found = copies(draws(200, 3 * seed), draws(100, 3 * seed + 1), draws(200, 3 * seed + 2), quantile=0.1)
        assert found.expected == pytest.approx(20)
        counts.append(found.count)
    # One count has a standard deviation of about sqrt(2 * 200 * 0.1 * 0.9) = 6, six of them 2.5.
    assert np.mean(counts) == pytest.approx(20, abs=7)


def test_the_threshold_is_the_unbiased_quantile():
    train = np.zeros((1, 1))
    held_out = np.arange(1.0, 20.0)[:, None]  # 19 distances: k / (19 + 1) is the quantile of the k-th
    found = copies(np.array([[0.5], [1.0], [1.1], [40.0]]), train, held_out, quantile=0.05)
    assert found.threshold == pytest.approx(1.0)
    assert found.count == 2  # a distance equal to the threshold counts
    assert copies(held_out, train, held_out, quantile=0.5).threshold == pytest.approx(10.0)
    np.testing.assert_allclose(found.held_out_distances, np.arange(1, 20))


def test_exact_copies_count_even_where_held_out_images_are_duplicates():
    train = draws(50, 0)
    held_out = np.concatenate([train[:10], draws(10, 1)])
    found = copies(np.concatenate([train[:3], draws(5, 2)]), train, held_out)
    assert found.threshold == 0
    assert found.count == 3


def test_bytes_give_the_same_finding_as_floats():
    rng = np.random.default_rng(0)
    samples, train, held_out = (rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (30, 40, 50))
    a = copies(samples, train, held_out, 0.2)
    b = copies(*(x.astype(np.float64) for x in (samples, train, held_out)), 0.2)
    assert (a.count, a.threshold) == (b.count, b.threshold)


def test_the_sentence():
    train = draws(64, 0)
    samples = np.concatenate([train[:3], 9 + draws(61, 1)])
    assert copies(samples, train, draws(100, 2)).sentence() == (
        "3 of 64 samples are nearer to a training image than the nearest 5 % of held-out images are "
        "(3.2 expected of new images)."
    )
    assert copies(samples[2:], train, draws(100, 2)).sentence().startswith("1 of 62 samples is nearer")


def test_a_finding_needs_samples_held_out_images_and_a_quantile():
    some, none = draws(4, 0), draws(0, 0)
    with pytest.raises(UserError, match="hold some out"):
        copies(some, some, none)
    with pytest.raises(UserError, match="among samples"):
        copies(none, some, some)
    with pytest.raises(UserError, match="between 0 and 1"):
        copies(some, some, some, quantile=1.0)
