"""Likelihoods of distributions that are known: Gaussians, mixtures, integers; orders of convergence and invariances."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal

from sfumato import draws, toy
from sfumato.config import Config, Facts
from sfumato.data import AffineCodec, Images
from sfumato.errors import UserError
from sfumato.judge import likelihood
from sfumato.model import assemble
from sfumato.schedules import cosine
from sfumato.spec import Spec
from sfumato.training.device import Placement

from .conftest import ALL

PLAIN = AffineCodec((0.0, 0.0), (1.0, 1.0), "float32", (0.0, 1.0))  # stored as it is
SHAPE = (2, 3, 6)
NUMBERS = torch.arange(64)


def gaussian(schedule):
    """Pixels of other means and deviations than sigma_data = 0.5 says."""
    keys = draws.keys(0, "a picture", range(2))
    mean, std = draws.uniform(keys, SHAPE, torch.float64)
    return toy.gaussian(schedule, mean - 0.5, 0.1 + 0.6 * std)


@pytest.mark.parametrize("name", ["linear", "edm", "flow"])
def test_the_ode_finds_the_density_of_a_gaussian(name):
    exact = gaussian(ALL[name])
    x0 = exact.draw(64)
    true = -exact.log_prob(x0)
    found = likelihood.by_ode(exact, x0, NUMBERS, PLAIN, 0.5, 64, seed=0)
    torch.testing.assert_close(
        found.mean(), true.mean(), rtol=1e-2, atol=0
    )  # 1e-3, but where the schedule stops short of noise
    torch.testing.assert_close(found / 36, true / 36, rtol=0, atol=0.03)  # each picture's, in nats a dimension


def test_the_density_at_least_noise_is_exact():
    """p_k is N(m, s^2 + k^2); all that is lost is m / k at the far end, k = 403, where the prior says 0."""
    exact = gaussian(ALL["flow"])
    z = exact.draw(64)
    found = likelihood.flow(exact, z, (-12.0, 6.0), 0.5, 40, lambda i: torch.ones_like(z))
    frame = likelihood.frame_of(exact, (-12.0, 6.0))
    torch.testing.assert_close(found, -frame.log_prob(z, frame.schedule.time(6.0)), rtol=0, atol=0.02)


def two_hills(schedule):
    means = torch.tensor([[-0.8], [0.7]], dtype=torch.float64)
    return toy.Mixture(schedule, torch.tensor([0.4, 0.6]), means, torch.tensor([0.3, 0.2]))


def test_the_ode_converges_with_the_fourth_order():
    exact = two_hills(ALL["edm"])
    x0 = exact.draw(16)
    solve = lambda steps: likelihood.flow(exact, x0, (-3.0, 4.0), 0.8, steps, lambda i: torch.ones_like(x0))
    truth, steps = solve(120), [20, 30, 40]
    errors = [(solve(count) - truth).square().mean().sqrt().item() for count in steps]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert -4.5 < slope < -3.7, errors


def test_the_estimated_trace_is_right_on_average():
    """Two components in the plane, whose slope is no diagonal: the signs (1, 1) and (1, -1) together give its trace."""
    means = torch.tensor([[-0.8, 0.3], [0.9, -0.5]], dtype=torch.float64)
    exact = toy.Mixture(ALL["cosine"], torch.tensor([0.4, 0.6]), means, 0.4)
    x0 = exact.draw(32)
    both = [
        likelihood.flow(exact, x0, (-12.0, 10.0), 0.7, 32, lambda i, s=sign: torch.tensor([1.0, s]).expand_as(x0))
        for sign in (1.0, -1.0)
    ]
    assert (both[0] - both[1]).abs().max() > 0.05
    torch.testing.assert_close((both[0] + both[1]) / 2, -exact.log_prob(x0), rtol=0, atol=2e-3)


def test_signs_are_drawn_anew_and_as_often_plus_as_minus(monkeypatch):
    seen = []
    monkeypatch.setattr(likelihood, "flow", lambda *args, **cond: seen.extend(args[5](i) for i in range(50)) or torch.zeros(64))
    x0 = torch.zeros(64, *SHAPE)
    likelihood.by_ode(gaussian(ALL["edm"]), x0, NUMBERS, PLAIN, 0.5, 128, seed=0)
    signs = torch.stack(seen).double()  # (50, 64, 1, 6, 6)
    assert (signs.abs() == 1).all()
    assert signs.mean().abs() < 4 / math.sqrt(signs.numel())
    assert (signs[0] * signs[1]).mean().abs() < 4 / math.sqrt(signs[0].numel())


def test_each_evaluation_has_its_own_signs():
    exact, asked = two_hills(ALL["edm"]), []
    x0 = exact.draw(2)
    likelihood.flow(exact, x0, (-3.0, 4.0), 0.8, 3, lambda i: asked.append(i) or torch.ones_like(x0))
    assert asked == list(range(12))


def within(found, true, errors=4.0):
    """Whether the mean of found - true (N,) is 0 as far as its standard error tells, which must tell enough."""
    gap = (found - true).double()
    error = gap.std() / math.sqrt(len(gap))
    return gap.mean().abs() < errors * error and error < 0.01 * true.abs().mean()


@pytest.mark.parametrize("name", ["linear-1000", "edm", "flow"])
def test_the_bound_closes_on_a_gaussian(name):
    """In continuous time an exact denoiser leaves no gap but at the ends, each of order k^2 (or 1 / k^2 at the far end)."""
    exact = toy.gaussian(ALL[name], torch.zeros(2, 32, 36), 0.5)
    x0 = exact.draw(64)
    found = likelihood.by_bound(exact, x0, NUMBERS, PLAIN, 0.5, 32, seed=0)
    assert within(found, -exact.log_prob(x0))


def test_a_wrong_denoiser_is_bounded_further_away():
    exact, other = (toy.gaussian(ALL["flow"], torch.zeros(SHAPE), std) for std in (0.5, 0.7))
    x0 = exact.draw(64)
    bound = lambda denoise: likelihood.by_bound(denoise, x0, NUMBERS, PLAIN, 0.5, 64, seed=0).mean() / 36
    # 1/2 int e^l E (x0_hat' - x0_hat)^2 dl is the divergence of N(0, 0.5^2) from N(0, 0.7^2)
    divergence = math.log(0.7 / 0.5) + (0.5**2 / 0.7**2 - 1) / 2
    torch.testing.assert_close(bound(other) - bound(exact), torch.tensor(divergence).double(), rtol=0.1, atol=0)


# ---- integers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bits", "std"), [("uint8", 8, 2.0), ("uint16", 12, 80.0)])
def test_integers_are_counted_in_bits(dtype, bits, std):
    """Rounded draws of a Gaussian a few stored values wide: P(v) is a difference of two Phi."""
    top = 2.0**bits - 1
    codec = AffineCodec((0.0,), (top,), dtype)
    eps = draws.normal(draws.keys(0, "integers", NUMBERS), (1, 12, 12), torch.float64)
    stored = (top / 2 + std * eps).round()
    law = Normal(torch.tensor(top / 2, dtype=torch.float64), std)
    true = -(law.cdf(stored + 0.5) - law.cdf(stored - 0.5)).log().flatten(1).sum(1)
    exact = toy.gaussian(ALL["edm"], torch.zeros(1, 12, 12), 2 * std / top)
    x0 = codec.encode(stored.float()).double()
    found = likelihood.by_ode(exact, x0, NUMBERS, codec, 2 * std / top, 64, seed=0)
    torch.testing.assert_close(found.mean(), true.mean(), rtol=1e-2, atol=0)


def lattice(schedule):
    """Pictures of four stored values of unequal shares, each pixel by itself; and the codec of two bits."""
    shares = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64)
    values = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    return toy.Mixture(schedule, shares, values, 0.0), AffineCodec((0.0,), (3.0,), "uint8"), -(shares * shares.log()).sum()


class OfPixels:
    """A denoiser of single numbers (B, 1), for pictures (B, 1, H, W) of independent pixels."""

    def __init__(self, exact):
        self.exact, self.schedule = exact, exact.schedule

    def on(self, schedule):
        return OfPixels(self.exact.on(schedule))

    def __call__(self, x_t, t, **cond):
        t = t if not isinstance(t, torch.Tensor) or not t.ndim else t.repeat_interleave(x_t[0].numel())
        return self.exact(x_t.reshape(-1, 1), t).reshape(x_t.shape)


@pytest.mark.parametrize("name", ["edm", "linear"])
def test_the_bound_of_integers_is_their_entropy(name):
    """1/2 int E |x0 - x0_hat|^2 d snr of the exact denoiser is the entropy (Guo, Shamai and Verdu 2005, corollary 1)."""
    exact, codec, entropy = lattice(ALL[name])
    x0 = exact.draw(64 * 64).reshape(64, 1, 8, 8)
    found = likelihood.by_bound(OfPixels(exact), x0, NUMBERS, codec, x0.std().item(), 64, seed=0) / 64
    error = found.std() / 8
    assert abs(found.mean() - entropy) < 4 * error < 0.1 * entropy


def test_integers_with_noise_cost_more_than_their_entropy():
    exact, codec, entropy = lattice(ALL["edm"])
    x0 = exact.draw(64 * 64).reshape(64, 1, 8, 8)
    found = likelihood.by_ode(OfPixels(exact), x0, NUMBERS, codec, x0.std().item(), 64, seed=0) / 64
    assert entropy < found.mean() < entropy + math.log(2) / 3


@pytest.mark.parametrize("width", [0.2, 1.0, 9.0])
def test_the_share_of_a_value_is_a_softmax_over_all(width):
    guess = torch.tensor([-3.0, 0.2, 7.5, 8.49, 15.0, 40.0], dtype=torch.float64)
    top = torch.tensor(15.0, dtype=torch.float64)
    everyone = -((torch.arange(16) - guess[:, None]) ** 2) / (2 * width**2)  # (6, 16)
    for value in (0, 7, 8, 15):
        found = likelihood.log_share(torch.full((6,), float(value)), guess, torch.tensor(width, dtype=torch.float64), top)
        torch.testing.assert_close(found, everyone.log_softmax(1)[:, value], rtol=1e-9, atol=1e-9)


# ---- models ----------------------------------------------------------------------------------------------------------


class Known(torch.nn.Module):
    """The exact denoiser of a Gaussian as a network; told a label, it is brighter by so much."""

    c_noise = "log_snr"

    def __init__(self, labelled=False):
        super().__init__()
        self.exact = toy.gaussian(cosine(), torch.zeros(SHAPE), 0.3)
        self.conditions = {"label": None} if labelled else {}

    def forward(self, x, c_noise, label=None):  # on a variance-preserving schedule c_in is 1
        t, shift = cosine().time(-8 * c_noise.double()), 0.0
        if label is not None:
            shift = 0.2 * label.float()[:, None, None, None]
        alpha = cosine()(t)[0].float()[:, None, None, None]
        return self.exact(x - alpha * shift, t) + shift


def model(codec, schedule="cosine", predict="image", labelled=False):
    facts = Facts(
        data="", fingerprint="", train=1, held_out=1, shape=SHAPE, sigma_data=0.3,
        codec={"low": codec.low, "high": codec.high, "dtype": codec.dtype, "ends": codec.ends},
    )  # fmt: skip
    config = Config(facts=facts, schedule=Spec(schedule), predict=predict)
    return assemble(Known(labelled), config, Placement(torch.device("cpu")))


def floats(count=40, shift=0.0):
    x = 0.3 * draws.normal(draws.keys(0, "floats", range(count)), SHAPE) + shift
    return x.numpy()


@pytest.mark.parametrize("way", list(likelihood.WAYS))
def test_a_model_is_measured_in_bits_whatever_the_batch(way):
    images, told = Images(floats()), []
    found = likelihood.measure(model(PLAIN), images, way, 32, 16, batch=32, progress=lambda *done: told.append(done))
    parts = likelihood.measure(model(PLAIN), images, way, 32, 16, batch=15)
    np.testing.assert_allclose(found.bits, parts.bits, rtol=1e-4, atol=1e-4)
    assert told[-1] == (16, 16) == (len(told), found.evaluations)
    entropy = math.log2(2 * math.pi * math.e * 0.3**2) / 2
    assert not found.integers
    assert found.error == pytest.approx(found.bits.std(ddof=1) / math.sqrt(32))
    assert abs(found.mean - entropy) < 4 * found.error < 0.8
    assert f"{found.mean:.3f}" in found.sentence()


@pytest.mark.parametrize("way", list(likelihood.WAYS))
def test_units_are_those_that_are_stored(way):
    """Ten times the numbers in one channel of two, log2(10) / 2 more bits a dimension."""
    tenfold, pictures = AffineCodec((0.0, 0.0), (10.0, 1.0), "float32", (0.0, 1.0)), floats()
    one = likelihood.measure(model(PLAIN), Images(pictures), way, 16, 16)
    pictures[:, 0] *= 10
    ten = likelihood.measure(model(tenfold), Images(pictures), way, 16, 16)
    np.testing.assert_allclose(ten.bits - one.bits, math.log2(10) / 2, rtol=1e-4)


@pytest.mark.parametrize("way", list(likelihood.WAYS))
def test_schedule_and_network_are_read_as_they_are(way):
    """The same distribution by another parameterization on another schedule."""
    other = model(PLAIN, "flow")
    np.testing.assert_allclose(
        likelihood.measure(other, Images(floats()), way, 16, 32).bits,
        likelihood.measure(model(PLAIN), Images(floats()), way, 16, 32).bits,
        rtol=0, atol=5e-3,
    )  # fmt: skip


@pytest.mark.parametrize("way", list(likelihood.WAYS))
def test_pictures_are_told_their_own_labels(way):
    pictures, labels = floats(), np.arange(40) % 2
    pictures[labels == 1] += 0.2
    right = likelihood.measure(model(PLAIN, labelled=True), Images(pictures, labels, ("a", "b")), way, 40, 16)
    wrong = likelihood.measure(model(PLAIN, labelled=True), Images(pictures, 1 - labels, ("a", "b")), way, 40, 16)
    # what a mean that is off by 0.2 costs: 0.2^2 / (2 0.3^2) nats
    assert wrong.mean - right.mean == pytest.approx(0.2**2 / (2 * 0.3**2) / math.log(2), rel=0.3)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UserError, match="found none"):
        likelihood.measure(model(PLAIN), Images(floats()).subset([]))
    with pytest.raises(UserError, match="there is bound, ode"):
        likelihood.measure(model(PLAIN), Images(floats()), "sde")
    with pytest.raises(UserError, match="at least 4"):
        likelihood.measure(model(PLAIN), Images(floats()), evaluations=3)
