"""Errors by band of noise: baselines in closed form, denoisers that equal them, invariances."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from sfumato import draws, toy
from sfumato.config import Config, Facts
from sfumato.data import Images
from sfumato.errors import UserError
from sfumato.judge import bands
from sfumato.judge.gaussian import Gaussian
from sfumato.model import assemble
from sfumato.schedules import cosine
from sfumato.spec import Spec
from sfumato.training.device import Placement

SHAPE = (2, 4, 6)
MEAN = draws.uniform(draws.keys(0, "mean", 0), SHAPE, torch.float64)[0] - 0.5
STD = 0.1 + 0.5 * draws.uniform(draws.keys(0, "std", 0), SHAPE, torch.float64)[0]


def pictures(count, first=0):
    eps = draws.normal(draws.keys(0, "pictures", range(first, first + count)), SHAPE, torch.float64)
    return (MEAN + STD * eps).float().numpy()


class Net(torch.nn.Module):
    """A network that says what `says(x_t, t)` says on the cosine schedule, where c_in is 1."""

    c_noise, conditions = "log_snr", {}

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, x, c_noise):
        return self.says(x, cosine().time(-8 * c_noise.double())).to(x.dtype)


EXACT = toy.gaussian(cosine(), MEAN, STD)


def model(says=EXACT, **options):
    facts = Facts(
        data="", fingerprint="", train=1, held_out=1, shape=SHAPE, sigma_data=0.5,
        codec={"low": (0.0, 0.0), "high": (1.0, 1.0), "dtype": "float32", "ends": (0.0, 1.0)},  # x0 as it is stored
    )  # fmt: skip
    options = {"schedule": Spec("cosine"), "predict": "image", "weight": Spec("v")} | options
    return assemble(Net(says), Config(facts=facts, **options), Placement(torch.device("cpu")))


TRAIN, HELD_OUT = Images(pictures(2000)), Images(pictures(200, 3000))


# ---- the Gaussian ----------------------------------------------------------------------------------------------------


def left_over(variances, log_snr):
    """Var(x0 | x_t) of independent components, averaged over them."""
    k2 = math.exp(-log_snr)
    return float((variances * k2 / (variances + k2)).mean())


@pytest.mark.parametrize("log_snr", [-8.0, -1.0, 0.0, 3.0, 9.0])
def test_the_whole_covariance_is_found(log_snr):
    """Correlated pictures: a rotation of independent components, whose error is that of the components."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(48, 48)))[0]
    spread = np.geomspace(1e-3, 1.0, 48)
    x0 = (np.random.default_rng(1).normal(size=(20_000, 48)) * spread @ rotation).reshape(-1, *SHAPE) + 0.3
    fitted = Gaussian.fit(x0)
    np.testing.assert_allclose(fitted.mean, 0.3, atol=0.03)
    found = fitted.errors(x0, np.full(len(x0), log_snr)).mean()
    assert found == pytest.approx(left_over(spread**2, log_snr), rel=0.02)
    assert found == pytest.approx(left_over(fitted.values, log_snr), rel=1e-9)  # c_i^2 averages to l_i where it was fitted


def test_the_closed_form_is_the_average_over_noise():
    fitted = Gaussian.fit(pictures(3000))
    x0 = torch.from_numpy(pictures(1, 5000)).double()
    eps = draws.normal(draws.keys(0, "noise", range(20_000)), SHAPE, torch.float64)
    vectors = fitted.components(np.eye(48).reshape(48, *SHAPE))  # (D, D): rows are pixels, columns components
    k2 = math.exp(-1.0)
    shrink = vectors * (fitted.values / (fitted.values + k2)) @ vectors.T
    z = (x0 + math.sqrt(k2) * eps).numpy() - fitted.mean
    guess = z.reshape(-1, 48) @ shrink + fitted.mean.ravel()
    found = ((guess - x0.numpy().reshape(1, 48)) ** 2).mean()
    assert fitted.errors(x0.numpy(), np.array([1.0]))[0] == pytest.approx(found, rel=0.01)


def test_a_texture_needs_few_pictures():
    """Waves of the cosine transform with a spectrum of their own and coupled channels: 200 pictures of 1,536 values."""
    from scipy.fft import idctn

    rng = np.random.default_rng(0)
    amplitude = 1 / (1 + np.hypot(*np.mgrid[:16, :32]))  # (H, W)
    mixing = np.array([[1.0, 0.5, 0.0], [0.0, 0.3, 0.2], [0.0, 0.0, 0.1]])
    draw = lambda count: idctn(
        amplitude * np.einsum("ce,nehw->nchw", mixing, rng.normal(size=(count, 3, 16, 32))), axes=(2, 3), norm="ortho"
    )
    fitted, new = Gaussian.fit(draw(200)), draw(200)
    variances = np.linalg.eigvalsh(mixing @ mixing.T)[:, None, None] * amplitude**2
    for log_snr in (-4.0, 0.0, 4.0):
        found = fitted.errors(new, np.full(200, log_snr)).mean()
        assert found == pytest.approx(left_over(variances, log_snr), rel=0.05)


def test_both_fits_see_whole_pictures():
    """An orthonormal change of basis keeps the sum of squares."""
    x0 = pictures(10)
    for count in (3000, 20):  # the covariance; the texture
        fitted = Gaussian.fit(pictures(count))
        found = fitted.components(x0 - fitted.mean)
        np.testing.assert_allclose((found**2).sum(1), ((x0 - fitted.mean) ** 2).sum((1, 2, 3)), rtol=1e-6)


# ---- bands -----------------------------------------------------------------------------------------------------------


def test_the_exact_denoiser_is_as_good_as_the_gaussian():
    found = bands.measure({"averaged": model()}, TRAIN, HELD_OUT, n=200)
    assert found.edges.tolist() == list(range(-10, 11, 2))
    ratio, error = found.ratio("averaged", bands.GAUSSIAN)
    assert (np.abs(ratio - 1) < 4 * error + 0.03).all()  # the fit to 2,000 pictures is a little off
    assert (error < 0.05).all()
    over = lambda low, high: np.mean([left_over(STD.numpy() ** 2, log_snr) for log_snr in np.linspace(low, high, 101)])
    expected = [over(low, high) for low, high in pairwise(found.edges)]
    np.testing.assert_allclose(found.error("averaged"), expected, rtol=0.06)


def test_the_mean_is_as_good_as_the_constant():
    mean = torch.from_numpy(TRAIN.array.mean(0, dtype=np.float64))
    found = bands.measure({"averaged": model(lambda x, t: mean.expand_as(x))}, TRAIN, HELD_OUT, n=50)
    np.testing.assert_allclose(found.squared["averaged"], found.squared[bands.CONSTANT], rtol=1e-4)
    np.testing.assert_allclose(found.error(bands.CONSTANT), float((STD**2).mean()), rtol=0.1)


def test_a_perfect_guess_has_no_error_and_psnr_is_that_of_the_range():
    off = bands.measure({"off": model(lambda x, t: torch.full_like(x, 0.1))}, Images(np.zeros((9, *SHAPE), np.float32)),
                        Images(np.zeros((5, *SHAPE), np.float32)))  # fmt: skip
    np.testing.assert_allclose(off.psnr("off"), 20, rtol=1e-5)  # 0.1 of a range of 1
    np.testing.assert_array_equal(off.error(bands.CONSTANT), 0)


def test_the_batch_changes_nothing_and_all_models_see_the_same():
    whole = bands.measure({"averaged": model(), "raw": model()}, TRAIN, HELD_OUT, n=30, batch=30)
    parts = bands.measure({"averaged": model()}, TRAIN, HELD_OUT, n=30, batch=16)
    np.testing.assert_array_equal(whole.squared["averaged"], whole.squared["raw"])
    for name in ("averaged", bands.CONSTANT, bands.GAUSSIAN):
        np.testing.assert_allclose(whole.squared[name], parts.squared[name], rtol=1e-5)
    np.testing.assert_allclose(whole.losses["averaged"], parts.losses["averaged"], rtol=1e-5)


def test_each_picture_meets_noise_of_its_own_in_each_band(monkeypatch):
    level = lambda numbers, edges, seed: torch.zeros(len(edges) - 1, len(numbers), dtype=torch.float64)
    monkeypatch.setattr(bands, "levels", level)
    same = Images(np.full((12, *SHAPE), 0.2, np.float32))
    found = bands.measure({"": model(lambda x, t: x)}, TRAIN, same).squared[""]  # (10, 12)
    assert len(np.unique(found)) == found.size


@pytest.mark.parametrize("schedule", ["cosine", "flow", "edm"])
def test_the_loss_is_that_of_training(schedule):
    """By its weight where errors are squared, by the loss itself else; huber beyond all errors is half of l2."""
    of = lambda **options: bands.measure({"": model(schedule=Spec(schedule), **options)}, TRAIN, HELD_OUT, n=20).losses[""]
    l2 = of()
    np.testing.assert_allclose(of(distance=Spec("huber", beta=1e3)), l2 / 2e3, rtol=2e-3)
    shared = bands.measure({"": model(schedule=Spec(schedule), weight=Spec("image"))}, TRAIN, HELD_OUT, n=20)
    np.testing.assert_allclose(shared.losses[""], shared.squared[""], rtol=1e-5)


def test_bands_end_where_the_schedule_does():
    edges = bands.edges_of(model(schedule=Spec("edm"), predict="edm").denoiser)
    assert edges[0] == pytest.approx(-2 * math.log(80))
    assert edges[1:] == [-6, -4, -2, 0, 2, 4, 6, 8, 10]


def test_rows_are_plain_numbers():
    found = bands.measure({"averaged": model()}, TRAIN, HELD_OUT, n=5)
    rows = found.rows()
    assert [row["from"] for row in rows] == [-10, -8, -6, -4, -2, 0, 2, 4, 6, 8]
    assert rows[3]["averaged"] == {
        "error": found.error("averaged")[3], "psnr": found.psnr("averaged")[3], "loss": found.loss("averaged")[3],
    }  # fmt: skip
    assert rows[3][bands.CONSTANT].keys() == {"error", "psnr"}


def test_without_held_out_pictures_nothing_is_judged():
    with pytest.raises(UserError, match="held none out"):
        bands.measure({"averaged": model()}, TRAIN, HELD_OUT.subset([]))
