"""Distances between sets of features: closed forms, exact expectations, definitions by hand, honest intervals."""

import math
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import scipy.linalg

from sfumato.errors import UserError
from sfumato.judge.metrics import estimate, frechet, kernel, manifold, measures
from sfumato.judge.metrics.estimate import Estimate
from sfumato.judge.metrics.frechet import Moments
from sfumato.judge.metrics.measures import measure


def draws(count, dimensions, seed, spread=1.0):
    return spread * np.random.default_rng(seed).normal(size=(count, dimensions))


def of(mean, covariance):
    """The moments of a Gaussian."""
    return Moments(2, np.asarray(mean, float), np.asarray(covariance, float))


def spd(dimensions, seed):
    rows = draws(3 * dimensions, dimensions, seed)
    return rows.T @ rows / len(rows)


# ---- moments ---------------------------------------------------------------------------------------------------------


def test_moments_of_parts_add_up_in_any_order():
    rows = 1e6 + draws(500, 7, 0)  # far from the origin, where sums of squares have no digits left
    parts = [Moments.of(part) for part in np.split(rows, [1, 1, 40, 333])]  # one of them empty
    for order in ((0, 1, 2, 3, 4), (4, 2, 0, 3, 1)):
        total = sum((parts[k] for k in order[1:]), parts[order[0]])
        assert total.count == 500
        np.testing.assert_allclose(total.mean, rows.mean(axis=0), rtol=1e-14)
        np.testing.assert_allclose(total.covariance, np.cov(rows.T), atol=1e-9)


def test_moments_come_back_from_a_file_as_they_were(tmp_path):
    saved = Moments.of(draws(9, 4, 0))
    saved.save(tmp_path / "m.safetensors")
    read = Moments.load(tmp_path / "m.safetensors")
    assert read.count == 9
    assert (read.mean == saved.mean).all()
    assert (read.scatter == saved.scatter).all()
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("content", [None, b"", b"not tensors at all"])
def test_a_file_without_moments_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "m.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="does not hold the moments"):
        Moments.load(tmp_path / "m.safetensors")


# ---- the Frechet distance --------------------------------------------------------------------------------------------


def test_frechet_of_commuting_gaussians():
    a, b, gap = np.array([1.0, 4.0, 1e-4]), np.array([9.0, 0.25, 1e-6]), np.array([1.0, -2.0, 0.1])
    turn = np.linalg.qr(draws(3, 3, 0))[0]
    found = frechet.frechet(of(gap, turn * a @ turn.T), of(np.zeros(3), turn * b @ turn.T))
    assert found == pytest.approx(gap @ gap + np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-10)


def test_frechet_of_gaussians_in_the_plane_that_do_not_commute():
    a, b = np.array([[2.0, 0.9], [0.9, 1.0]]), np.array([[0.5, -0.3], [-0.3, 3.0]])
    assert not np.allclose(a @ b, b @ a)
    root = math.sqrt(np.trace(a @ b) + 2 * math.sqrt(np.linalg.det(a @ b)))  # tr(M^(1/2)) of a 2 x 2 matrix
    found = frechet.frechet(of([0, 1], a), of([3, 1], b))
    assert found == pytest.approx(9 + np.trace(a) + np.trace(b) - 2 * root, rel=1e-10)


def test_frechet_agrees_with_a_general_matrix_square_root():
    a, b, gap = spd(24, 0), spd(24, 1), draws(24, 1, 2)[:, 0]
    there = gap @ gap + np.trace(a + b - 2 * scipy.linalg.sqrtm(a @ b).real)
    assert frechet.frechet(of(gap, a), of(np.zeros(24), b)) == pytest.approx(there, rel=1e-6)


def test_frechet_of_fewer_rows_than_dimensions_has_no_spurious_roots():
    """tr((C_a C_b)^(1/2)) is the nuclear norm of the product of the centred rows, in which nothing is singular."""
    x, y = draws(9, 30, 0), draws(12, 30, 1)
    a, b = ((rows - rows.mean(axis=0)) / math.sqrt(len(rows) - 1) for rows in (x, y))
    there = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2) + np.sum(a**2) + np.sum(b**2)
    there -= 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum()
    assert frechet.frechet(Moments.of(x), Moments.of(y)) == pytest.approx(there, rel=1e-10)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_frechet_of_a_set_to_itself_is_zero_and_not_less(count):
    moments = Moments.of(1e3 * draws(count, 30, 0))
    assert 0 <= frechet.frechet(moments, moments) <= 1e-12 * np.trace(moments.covariance)


def test_frechet_ignores_rotations_and_shifts_and_grows_with_the_square_of_scale():
    x, y, turn = draws(40, 5, 0), draws(50, 5, 1, 2.0), np.linalg.qr(draws(5, 5, 2))[0]
    here = frechet.frechet(Moments.of(x), Moments.of(y))
    assert frechet.frechet(Moments.of(3 * x @ turn + 7), Moments.of(3 * y @ turn + 7)) == pytest.approx(9 * here, rel=1e-10)
    assert frechet.frechet(Moments.of(y), Moments.of(x)) == pytest.approx(here, rel=1e-12)


def test_bias_and_variance_are_the_derivatives_of_the_distance_in_each_row():
    x, y, h = draws(60, 3, 0), 0.5 + draws(40, 3, 1) @ np.array([[1, 0.5, 0], [0, 2, 0.2], [0, 0, 0.7]]), 1e-4
    a, b = Moments.of(x), Moments.of(y)
    bias = variance = 0.0
    for rows, mine, other in ((x, a, b), (y, b, a)):
        mean, cov = mine.mean, rows.T @ rows / len(rows) - np.outer(mine.mean, mine.mean)
        at = lambda e, r, mine=mine, other=other, mean=mean, cov=cov: frechet.frechet(
            of(mean + e * (r - mean), mine.covariance + e * (np.outer(r - mean, r - mean) - cov)), other
        )
        up, down = (np.array([at(e, r) for r in rows]) for e in (h, -h))
        variance += np.var((up - down) / (2 * h), ddof=1) / len(rows)
        bias += np.mean((up + down - 2 * frechet.frechet(a, b)) / h**2) / (2 * len(rows))
    found = frechet._expansion(x, y, b)
    assert found[0] == pytest.approx(frechet.frechet(a, b), rel=1e-12)
    assert found[1] == pytest.approx(bias, rel=0.02)  # of order 1/N relative: E[z z^T] = 1 holds for C with N, not N - 1
    assert found[2] == pytest.approx(variance, rel=1e-5)


def test_the_limit_is_free_of_the_bias_that_the_usual_number_has():
    """Equal Gaussians: (D + (D^2 + D) / 4) (1 / N + 1 / M). At D / N = 1 / 4 its own estimate falls short by a seventh."""
    found = [frechet.estimates(draws(64, 16, 2 * k), draws(80, 16, 2 * k + 1)) for k in range(50)]
    usual, limit = (np.array([pair[k].value for pair in found]) for k in (0, 1))
    first = (16 + 68) * (1 / 64 + 1 / 80)
    noise = limit.std() / math.sqrt(50)
    assert usual.mean() == pytest.approx(first, rel=0.05)
    assert abs(limit.mean()) < 3 * noise < 0.1 * first


def test_a_reference_known_by_its_moments_is_taken_as_exact():
    x, true = draws(300, 4, 0), Moments(10**6, np.zeros(4), np.eye(4) * (10**6 - 1))
    usual, limit = frechet.estimates(x, draws(5, 4, 1), true)
    assert (usual.samples, usual.reference) == (300, 10**6)
    assert usual.value == pytest.approx(frechet.frechet(Moments.of(x), true), rel=1e-12)
    assert limit.value == pytest.approx(usual.value - (4 + 5) / 300, abs=0.01)


def test_too_few_pictures_for_an_interval_get_none():
    usual, limit = frechet.estimates(draws(31, 8, 0), draws(400, 8, 1))
    assert usual.value > 0
    assert usual.low is usual.high is limit.value is None
    assert "32 pictures" in limit.note
    assert frechet.estimates(draws(32, 8, 0), draws(400, 8, 1))[1].value is not None


def test_features_that_never_vary_change_nothing():
    x, y = draws(100, 4, 0), draws(90, 4, 1)
    wide = [np.hstack([part, np.full((len(part), 1), 3.0)]) for part in (x, y)]
    for a, b in zip(frechet.estimates(x, y), frechet.estimates(*wide), strict=True):
        np.testing.assert_allclose([a.value, a.low, a.high], [b.value, b.low, b.high], rtol=1e-9, atol=1e-12)


def test_sets_that_vary_in_different_features_have_nothing_in_common():
    """tr((C_a C_b)^(1/2)) is 0, and so is its part of the variance: rows add (x - m_a)^2 + 2 (m_a - m_b) (x - m_a)."""
    x, y = np.zeros((50, 2)), np.zeros((60, 2))
    x[:, 0], y[:, 1] = draws(50, 1, 0)[:, 0], draws(60, 1, 1)[:, 0]
    usual, _ = frechet.estimates(x, y)
    assert usual.value == pytest.approx(x[:, 0].mean() ** 2 + y[:, 1].mean() ** 2 + x[:, 0].var(ddof=1) + y[:, 1].var(ddof=1))
    assert usual.error == pytest.approx(math.sqrt(np.var(x[:, 0] ** 2, ddof=1) / 50 + np.var(y[:, 1] ** 2, ddof=1) / 60))


# ---- the kernel distance ---------------------------------------------------------------------------------------------


def test_the_kernel_distance_by_its_definition_whatever_the_block(monkeypatch):
    x, y = draws(7, 3, 0), draws(5, 3, 1) + 1
    k = lambda a, b: (a @ b / 3 + 1) ** 3
    there = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    there += np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    there -= 2 * np.mean([k(a, b) for a in x for b in y])
    whole = kernel.squared_mmd(x, y)
    assert whole[0] == pytest.approx(there, rel=1e-12)
    monkeypatch.setattr(estimate, "_BLOCK", 14)  # two or three rows at a time
    np.testing.assert_allclose(kernel.squared_mmd(x, y), whole, rtol=1e-10)


@pytest.mark.parametrize("other", [(0.5, 0.3, 0.2), (0.1, 0.2, 0.7)])
def test_the_kernel_distance_and_both_parts_of_its_variance_have_no_bias(other):
    """All draws of 4 and of 5 rows from two distributions on three points: means over them are exact."""
    points = np.array([[0.0, 1.0], [1.0, -1.0], [2.0, 0.5]])
    p, q = np.array([0.5, 0.3, 0.2]), np.array(other)
    table = (points @ points.T / 2 + 1) ** 3
    true = (p - q) @ table @ (p - q)
    witness = table @ (p - q)
    of_x, of_y = ((r * witness**2).sum() - (r @ witness) ** 2 for r in (p, q))
    linear = 4 * of_x / 4 + 4 * of_y / 5

    def sets(count, r):
        for rows in combinations_with_replacement(range(3), count):
            times = np.bincount(rows, minlength=3)
            weight = math.factorial(count) / math.prod(map(math.factorial, times)) * np.prod(r**times)
            yield weight, points[list(rows)]

    weights, found = [], []
    for (a, x), (b, y) in product(sets(4, p), sets(5, q)):
        weights.append(a * b)
        found.append(kernel.squared_mmd(x, y))
    weights, found = np.array(weights), np.array(found)
    assert weights.sum() == pytest.approx(1)
    mean = weights @ found
    assert mean[0] == pytest.approx(true, abs=1e-12)
    assert mean[1] == pytest.approx(linear, abs=1e-11)
    assert mean[1] + mean[2] == pytest.approx(weights @ (found[:, 0] - true) ** 2, rel=1e-10)


def test_the_kernel_distance_of_few_rows_is_not_told():
    assert kernel.estimates(draws(3, 2, 0), draws(9, 2, 0))[0].value is None
    assert kernel.estimates(draws(4, 2, 0), draws(4, 2, 1))[0].error >= 0


# ---- precision, recall, density, coverage ----------------------------------------------------------------------------


def by_definition(x, y):
    def radius(rows, k):
        return [sorted(np.linalg.norm(rows - row, axis=1))[k] for row in rows]  # the 0th is the row itself

    gaps = np.linalg.norm(x[:, None] - y, axis=2)  # (N, M)
    precision = (gaps <= radius(y, 3)).any(axis=1).mean()
    recall = (radius(x, 3) >= gaps.T).any(axis=1).mean()
    wide = gaps <= radius(y, 5)
    return [precision, recall, wide.sum() / (5 * len(x)), wide.any(axis=0).mean()]


def test_the_four_shares_by_their_definition_whatever_the_block(monkeypatch):
    x, y = draws(30, 3, 0), 1.5 + draws(40, 3, 1)
    there = by_definition(x, y)
    assert all(0.1 < share < 0.95 for share in there)
    np.testing.assert_allclose(manifold.shares(x, y), there, rtol=1e-12)
    monkeypatch.setattr(estimate, "_BLOCK", 120)  # three or four rows at a time
    np.testing.assert_allclose(manifold.shares(x, y), there, rtol=1e-12)


def test_shares_of_equal_sets_are_whole_even_far_from_the_origin():
    """Each ball holds its own row and k more, the last of them on its surface."""
    rows = 1e6 + draws(60, 5, 0)
    np.testing.assert_allclose(manifold.shares(rows, rows[::-1]), [1, 1, 6 / 5, 1], rtol=1e-12)


def test_shares_of_disjoint_sets_are_nothing():
    x, y = draws(60, 5, 0), 100 + draws(50, 5, 1)
    np.testing.assert_array_equal(manifold.shares(x, y), 0)
    precision, _, density, _ = manifold.estimates(x, y)
    assert (precision.low, density.low, density.high) == (0, None, None)  # no spread was seen, and none is claimed
    assert 0.01 < precision.high < 0.1  # of 60: about 4 in 60 may still be within


def test_shares_ignore_rotation_scale_shift_and_order():
    x, y, turn = draws(60, 5, 0), 0.5 + draws(50, 5, 1), np.linalg.qr(draws(5, 5, 2))[0]
    there = manifold.shares(x, y)
    moved = [1e-3 * part[np.random.default_rng(3).permutation(len(part))] @ turn + 8 for part in (x, y)]
    np.testing.assert_allclose(manifold.shares(*moved), there, rtol=1e-12)


def test_expected_coverage_and_density_of_equal_distributions():
    """Naeem et al. 2020: 1 - (M - 1) ... (M - k) / ((N + M - 1) ... (N + M - k)); density is 1."""
    n, m = 15, 25
    found = np.array([manifold.shares(draws(n, 2, 2 * k), draws(m, 2, 2 * k + 1)) for k in range(400)])
    expected = 1 - math.prod((m - j) / (n + m - j) for j in range(1, 6))
    for column, there in ((3, expected), (2, 1.0)):
        assert found[:, column].mean() == pytest.approx(there, abs=4 * found[:, column].std() / 20)
    assert found[:, 3].std() / 20 < 0.01


def test_the_ball_of_a_row_with_many_duplicates_holds_its_copies_alone(monkeypatch):
    monkeypatch.setattr(estimate, "_BLOCK", 7 * 120)  # the last block has one row, whose products may round differently
    x = draws(20, 37, 0)
    y = np.repeat(x, 6, axis=0)  # the fifth neighbour of each is a copy
    np.testing.assert_allclose(manifold.shares(x, y)[[0, 2, 3]], [1, 6 / 5, 1])
    np.testing.assert_array_equal(manifold.shares(x + 1e-3, y)[[0, 2, 3]], 0)


def test_shares_of_few_rows_have_a_sentence_or_no_interval():
    few, small = manifold.estimates(draws(5, 2, 0), draws(90, 2, 1)), manifold.estimates(draws(6, 2, 0), draws(90, 2, 1))
    assert all(found.value is None and "at least 6" in found.note for found in few)
    assert all(found.value is not None and found.low is None and "at least 40" in found.note for found in small)
    assert all(found.low <= found.value <= found.high for found in manifold.estimates(draws(40, 2, 0), draws(40, 2, 1)))


def test_an_interval_of_a_share_does_not_shrink_at_its_ends():
    none = Estimate.share("s", 0.0, 0.0, 50, (50, 50))
    total = 50 + 1.96**2
    assert none.low == 0
    assert none.high == pytest.approx(
        (1.96**2 / 2 + 1.96 * math.sqrt(1.96**2 / 2 * (1 - 1.96**2 / 2 / total))) / total, rel=1e-4
    )
    usual = Estimate.share("s", 0.4, 0.24 / total, 50, (50, 50))  # Agresti and Coull's own
    centre = (20 + 1.96**2 / 2) / total
    assert usual.high == pytest.approx(centre + 1.96 * math.sqrt(centre * (1 - centre) / total), rel=1e-4)


def test_an_interval_of_a_skewed_number_is_a_factor():
    found = Estimate.factor("d", 0.5, 0.04, (9, 9))
    assert (found.low * found.high, found.high) == pytest.approx((0.25, 0.5 * math.exp(1.96 * 0.4)), rel=1e-4)


# ---- all together ----------------------------------------------------------------------------------------------------


def test_all_measures_with_their_counts():
    found = measure(draws(200, 4, 0).astype(np.float32), draws(150, 4, 1).astype(np.float32))
    assert [e.name for e in found] == ["kernel", "frechet", "frechet_limit", "precision", "recall", "density", "coverage"]
    assert all((e.samples, e.reference) == (200, 150) for e in found)
    assert all(e.low <= e.value <= e.high for e in found)
    assert found == measure(draws(200, 4, 0).astype(np.float32), draws(150, 4, 1).astype(np.float32))


def test_many_samples_put_the_frechet_distance_first(monkeypatch):
    monkeypatch.setattr(measures, "MANY", 50)
    names = lambda n: [e.name for e in measure(draws(n, 2, 0), draws(50, 2, 1))[:3]]
    assert names(50) == ["frechet", "frechet_limit", "kernel"]
    assert names(49) == ["kernel", "frechet", "frechet_limit"]


def test_sets_of_any_size_are_measured_as_far_as_they_go():
    for n, m in product((0, 1, 2, 7, 45), repeat=2):
        found = measure(draws(n, 3, 0), draws(m, 3, 1))
        assert len(found) == 7
        assert all((e.value is None) <= bool(e.note) for e in found)
    assert all(e.value is not None for e in found)


def test_a_set_of_one_repeated_picture_is_measured():
    found = measure(np.ones((60, 3)), draws(60, 3, 0))
    assert all(e.value is not None for e in found)
    assert all(np.isfinite([e.value, e.low, e.high]).all() for e in found)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match=r"\(N, 3\)"):
        measure(draws(9, 3, 0), draws(9, 4, 0))
    with pytest.raises(UserError, match="finite"):
        measure(np.full((9, 3), np.nan), draws(9, 3, 0))
    with pytest.raises(UserError, match="one length"):
        measure(draws(9, 3, 0), draws(9, 3, 0), Moments.of(draws(9, 4, 0)))


# ---- intervals hold what they promise --------------------------------------------------------------------------------


def coverage(found, true):
    """The share of intervals that hold the true value."""
    return np.mean([e.low <= true <= e.high for e in found])


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])
@pytest.mark.parametrize(("dimensions", "n", "m"), [(8, 60, 200), (32, 400, 400), (64, 256, 256)])
def test_intervals_of_distances_between_gaussians_hold_the_true_value(dimensions, n, m, shift):
    """95 % of 200, less three deviations of a binomial; near zero variances are too large on purpose, and it is more.

    The kernel is a cubic, whose long tails cost its interval a little more.
    """
    scale = (1 + shift) / np.arange(1, dimensions + 1) ** 0.5
    frechets, kernels = [], []
    for k in range(200):
        x, y = draws(n, dimensions, 2 * k) * scale + shift, draws(m, dimensions, 2 * k + 1) * scale / (1 + shift)
        frechets.append(frechet.estimates(x, y))
        kernels += kernel.estimates(x, y)
    true = dimensions * shift**2 + np.sum((scale - scale / (1 + shift)) ** 2)
    assert coverage([limit for _, limit in frechets], true) > 0.9
    usual = [usual for usual, _ in frechets]
    assert coverage(usual, np.mean([e.value for e in usual])) > 0.9
    assert coverage(kernels, np.mean([e.value for e in kernels])) > 0.87
    assert 0.85 < np.mean([e.error for e in kernels]) / np.std([e.value for e in kernels]) < 1.4


@pytest.mark.slow
@pytest.mark.parametrize(("dimensions", "n", "m", "shift"), [(2, 300, 300, 1.0), (16, 300, 300, 0.3), (8, 100, 400, 0.3)])
def test_intervals_of_shares_hold_their_mean(dimensions, n, m, shift):
    found = [manifold.estimates(draws(n, dimensions, 2 * k) + shift, draws(m, dimensions, 2 * k + 1)) for k in range(150)]
    for column in zip(*found, strict=True):
        assert coverage(column, np.mean([e.value for e in column])) > 0.88
