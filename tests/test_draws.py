"""The counter-based generator against its published answers, and the independence of a draw from everything around it."""

import pytest
import torch

from sfumato import draws


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [  # the known-answer vectors of Random123 for philox4x32, 10 rounds
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_published_known_answers(counter, key, answer):
    assert draws.philox(torch.tensor(counter), torch.tensor(key)).tolist() == answer


def test_words_are_philox_of_the_address():
    keys = draws.keys(7, "test", [2**33 + 5], call=3)
    seed, purpose, _, _ = keys[0].tolist()
    expected = [draws.philox(torch.tensor([block, 3, 5, 2]), torch.tensor([seed, purpose])) for block in range(3)]
    assert draws.words(keys, 10)[0].tolist() == torch.cat(expected)[:10].tolist()


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_numbers_do_not_depend_on_the_batch(batch):
    whole = draws.normal(draws.keys(3, "noise", range(64)), (3, 5, 5))
    parts = [draws.normal(draws.keys(3, "noise", range(i, min(64, i + batch))), (3, 5, 5)) for i in range(0, 64, batch)]
    assert torch.equal(whole, torch.cat(parts))


def test_addresses_are_independent():
    base = draws.normal(draws.keys(0, "a", range(4)), (1000,))
    for other in (draws.keys(1, "a", range(4)), draws.keys(0, "b", range(4)), draws.keys(0, "a", range(4), call=1)):
        correlation = (base * draws.normal(other, (1000,))).mean(1)
        assert (correlation.abs() < 5 / 1000**0.5).all()
    assert (torch.corrcoef(base) - torch.eye(4)).abs().max() < 5 / 1000**0.5


def test_elements_of_a_sample_are_independent():
    z = draws.normal(draws.keys(0, "elements", range(4000)), (11,), torch.float64)
    assert (torch.corrcoef(z.T) - torch.eye(11)).abs().max() < 5 / 4000**0.5
    assert (torch.corrcoef(z.square().T) - torch.eye(11)).abs().max() < 5 / 4000**0.5


def test_normals_have_normal_moments():
    z = draws.normal(draws.keys(0, "moments", range(1000)), (999,), torch.float64).flatten()
    n = len(z) ** 0.5
    assert z.isfinite().all()
    assert abs(z.mean()) < 5 / n
    assert abs(z.pow(2).mean() - 1) < 5 * 2**0.5 / n
    assert abs(z.pow(3).mean()) < 5 * 15**0.5 / n
    assert abs(z.pow(4).mean() - 3) < 5 * 96**0.5 / n
    share = (z < 1).double().mean()
    assert abs(share - torch.special.ndtr(torch.tensor(1.0, dtype=torch.float64))) < 5 * 0.37 / n


def test_float32_normals_are_the_float64_ones_to_rounding():
    keys = draws.keys(5, "noise", range(8))
    exact = draws.normal(keys, (501,), torch.float64)
    torch.testing.assert_close(draws.normal(keys, (501,)).double(), exact, rtol=1e-4, atol=5e-6)


def test_uniforms_lie_below_one():
    for dtype in (torch.float32, torch.float64):
        u = draws.uniform(draws.keys(0, "u", range(100)), (1000,), dtype)
        assert u.dtype == dtype
        assert u.min() >= 0
        assert u.max() < 1
        grain = 2.0**32 if dtype == torch.float64 else 2.0**24
        assert torch.equal(u * grain, (u * grain).round())  # rounding can then not reach 1
        assert abs(u.double().mean() - 0.5) < 5 * 12**-0.5 / 1e5**0.5


@pytest.mark.parametrize("start", [0, 12345, 2**40])
@pytest.mark.parametrize("n", [10, 100, 1000])
def test_golden_sequence_is_nearly_stratified(start, n):
    """Three-gap theorem: among n neighbouring points no gap of the circle is wider than 2 / n."""
    u = draws.golden(9, "t", torch.arange(start, start + n)).sort().values
    gaps = torch.cat((u.diff(), (u[0] + 1 - u[-1])[None]))
    assert gaps.max() < 2 / n


@pytest.mark.parametrize("n", [1, 2, 3, 10, 257, 1000])
def test_every_epoch_is_another_permutation(n):
    order = draws.shuffle(3, "order", torch.arange(3 * n), n).reshape(3, n)
    assert (order.sort(1).values == torch.arange(n)).all()
    if n >= 10:
        assert not torch.equal(order[0], order[1])
        assert (order[0] == torch.arange(n)).sum() < 10  # 1 fixed point is expected of a random permutation


def test_shuffle_is_uniform_over_epochs():
    """Chi-square of which of 6 orders of 3 images comes out, over 1,200 epochs: 5 degrees of freedom."""
    orders = draws.shuffle(0, "order", torch.arange(3600), 3).reshape(1200, 3)
    counts = (orders @ torch.tensor([9, 3, 1])).unique(return_counts=True)[1].double()
    assert len(counts) == 6
    assert ((counts - 200) ** 2 / 200).sum() < 20.5  # one in a thousand


def test_seeds_outside_are_refused():
    for seed in (-1, 2**32):
        with pytest.raises(ValueError, match="whole number"):
            draws.keys(seed, "x", [0])
