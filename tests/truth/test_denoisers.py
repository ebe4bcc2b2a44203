"""The table of parameterizations, the weights, and the change of schedule, with exact denoisers behind the network."""

import math

import pytest
import torch

from sfumato import denoisers, losses, schedules, toy
from sfumato.denoisers import ROWS, Denoiser
from sfumato.schedules import per_sample

from .conftest import ALL, mixture

SD = 0.7


def exact_net(predict, schedule):
    """A network that answers as the exact denoiser of the mixture would if it were read through the row `predict`."""
    exact = mixture(schedules.flow())

    def net(x, c_noise, **cond):
        log_snr = net.log_snr  # the test says which noise level it asks about; c_noise is float32 and too coarse here
        flow = schedules.flow()
        t = flow.time(log_snr)
        alpha, sigma = schedule(schedule.time(log_snr))
        c_in, c_skip, c_out = (per_sample(c, x) for c in ROWS[predict].scales(alpha, sigma, SD))
        x_t = x / c_in
        # the same picture on the flow schedule: x / alpha agrees; written with alpha + sigma, which never vanishes
        x_flow = x_t / per_sample(alpha + sigma, x)
        return (exact(x_flow, t) - c_skip * x_t) / c_out

    return net


def levels(schedule, low=-12.0, high=12.0, count=17):
    """Times spread evenly over the log-SNR that a schedule reaches, from `low` up."""
    bottom = max(low, schedule.log_snr(1.0))
    return schedule.time(torch.linspace(bottom, high, count, dtype=torch.float64)).clamp_max(1)


def test_five_rows_of_one_exact_denoiser_agree(schedule):
    exact = mixture(schedule)
    for t in levels(schedule):
        alpha, sigma = schedule(t)
        x0 = exact.draw(16, seed=1)
        x_t = alpha * x0 + sigma * torch.randn(16, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        for predict in ROWS:
            net = exact_net(predict, schedule)
            net.log_snr = schedule.log_snr(t)
            guess = Denoiser(net, schedule, predict=predict, c_noise="log_snr", sigma_data=SD)(x_t, t)
            torch.testing.assert_close(guess, exact(x_t, t), rtol=0, atol=1e-10)


@pytest.mark.parametrize("predict", ROWS)
def test_target_is_the_output_that_returns_x0(schedule, predict):
    x0, eps = torch.randn(2, 9, 3, dtype=torch.float64).unbind()
    t = levels(schedule, count=9)
    alpha, sigma = schedule(t)
    target = ROWS[predict].target(x0, eps, per_sample(alpha, x0), per_sample(sigma, x0), SD)
    d = Denoiser(lambda x, c, **kw: target, schedule, predict=predict, c_noise="log_snr", sigma_data=SD)
    torch.testing.assert_close(d(schedules.diffuse(schedule, x0, t, eps), t), x0, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weight", losses.WEIGHTS)
def test_a_weight_gives_the_same_l2_loss_under_every_row(schedule, weight):
    """Every row is asked for the same wrong x0; the weighted squared error of x0 is what every loss must be."""
    t = levels(schedule, high=11.0, count=13)
    x0, eps, wrong = torch.randn(3, 13, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).unbind()
    alpha, sigma = schedule(t)
    snr = (alpha / sigma) ** 2
    stated = {
        "simple": snr,
        "image": torch.ones_like(snr),
        "v": snr + 1,
        "flow": (1 + snr.sqrt()) ** 2,
        "min_snr": snr.clamp(max=5),
        "soft_min_snr": 5 * snr / (snr + 5),
        "edm": snr + 1 / SD**2,
        "p2": snr / (1 + snr),
    }[weight]
    for predict in ROWS:
        _, c_skip, c_out = (per_sample(c, x0) for c in ROWS[predict].scales(alpha, sigma, SD))
        x_t = schedules.diffuse(schedule, x0, t, eps)
        d = Denoiser(lambda x, c, **kw: (wrong - c_skip * x_t) / c_out, schedule, predict=predict, sigma_data=SD)  # noqa: B023
        loss = losses.denoising_loss(d, x0, t, eps, weight=weight)
        torch.testing.assert_close(loss.double(), stated * (wrong - x0).square().mean(1), rtol=2e-5, atol=0)


@pytest.mark.parametrize("weight", losses.WEIGHTS)
@pytest.mark.parametrize("predict", ROWS)
def test_gain_is_weight_times_c_out_squared_and_finite_at_the_ends(predict, weight):
    d = Denoiser(None, schedules.flow(), predict=predict, sigma_data=SD)
    log_snr = torch.linspace(-11.9, 30, 57, dtype=torch.float64)
    alpha, sigma = d.schedule(d.schedule.time(log_snr))
    c_out = d.row.scales(alpha, sigma, SD)[2]
    log_weight = losses.WEIGHTS[weight](log_snr, SD)
    torch.testing.assert_close(losses.gain(d, weight, log_snr).log(), log_weight + 2 * c_out.abs().log(), rtol=0, atol=1e-6)
    ends = torch.tensor([-math.inf, math.inf], dtype=torch.float64)
    assert losses.gain(d, weight, ends).float().isfinite().all()
    own = {"noise": "simple", "image": "image", "v": "v", "flow": "flow", "edm": "edm"}[predict]
    torch.testing.assert_close(losses.gain(d, own, log_snr), torch.ones_like(log_snr), rtol=1e-12, atol=0)


def test_changing_the_schedule_keeps_x0(schedule):
    """on(other): the same x0 at equal log-SNR, with x rescaled by the ratio of the alphas; c_noise does not move."""
    seen = []

    def net(x, c_noise, **cond):
        seen.append(c_noise)
        return torch.tanh(x + c_noise[:, None])

    for predict in ROWS:
        d = Denoiser(net, schedule, predict=predict, sigma_data=SD)
        for name, other in ALL.items():
            log_snr = torch.linspace(max(-11.0, schedule.log_snr(1.0), other.log_snr(1.0)), 8, 7, dtype=torch.float64)
            t, s = schedule.time(log_snr), other.time(log_snr)
            x_t = torch.randn(7, 3, dtype=torch.float64)
            x_s = x_t * (other(s)[0] / schedule(t)[0])[:, None]
            c_out = d.row.scales(*schedule(t), SD)[2].abs()[:, None]  # what multiplies the rounding of c_noise
            x0, want = d.on(other)(x_s, s), d(x_t, t)
            assert ((x0 - want).abs() <= 1e-6 + 2e-6 * want.abs() + 2e-5 * c_out).all(), f"{predict} on {name}"
            torch.testing.assert_close(seen[-1], seen[-2], rtol=1e-6, atol=2e-5)


def test_c_noise_numbers_the_steps_it_was_trained_on():
    s = schedules.linear(steps=300)
    asked = []
    d = Denoiser(lambda x, c: asked.append(c) or x, s, predict="noise")
    d(torch.zeros(3, 1), torch.tensor([1 / 300, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(asked[-1], torch.tensor([0.0, 149.0, 299.0]), rtol=0, atol=1e-4)
    d.on(schedules.edm())(torch.zeros(1, 1), 1.0)  # sigma = 80 is beyond the last step
    assert asked[-1].item() == 299


def test_noise_prediction_refuses_alpha_zero_and_says_what_to_use():
    d = Denoiser(lambda x, c: x, schedules.cosine(), predict="noise")
    with pytest.raises(ValueError, match=r"v, flow, image or edm"):
        d(torch.zeros(1, 2), 1.0)
    assert d.schedule.log_snr(d.t_max) == pytest.approx(-12)
    assert Denoiser(lambda x, c: x, schedules.cosine(), predict="v").t_max == 1


def test_second_half_of_the_channels_is_not_the_prediction():
    d = Denoiser(lambda x, c: torch.cat((x, x + 9), 1), schedules.flow(), predict="image")
    assert d(torch.ones(2, 3, 4, 4), 0.5).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("distance", ["l1", "huber", {"name": "huber", "beta": 0.1}])
def test_distances_on_the_output(distance):
    d = Denoiser(lambda x, c: torch.full_like(x, 0.25), schedules.flow(), predict="noise")
    x0, eps = torch.zeros(1, 4), torch.zeros(1, 4)
    loss = losses.denoising_loss(d, x0, torch.tensor([0.5]), eps, "simple", distance).item()
    beta = 1 if distance == "huber" else 0.1
    assert loss == pytest.approx(0.25 if distance == "l1" else 0.25**2 / 2 if beta == 1 else 0.25 - 0.05)


def test_softplus_is_exact_on_the_whole_line():
    x = torch.tensor([-700.0, -30, -1, 0, 1, 30, 700], dtype=torch.float64)
    exact = [math.log1p(math.exp(v)) if v < 0 else v + math.log1p(math.exp(-v)) for v in x.tolist()]
    torch.testing.assert_close(denoisers.softplus(x), torch.tensor(exact, dtype=torch.float64), rtol=1e-15, atol=0)


def test_exact_denoisers_of_a_gaussian_and_of_images(schedule):
    t = levels(schedule, count=9)
    alpha, sigma = (c[:, None] for c in schedule(t))
    x = torch.randn(9, 5, dtype=torch.float64)
    gaussian = toy.gaussian(schedule, torch.full((5,), 0.3, dtype=torch.float64), 0.5)
    posterior = 0.3 + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (x - alpha * 0.3)
    torch.testing.assert_close(gaussian(x, t), posterior, rtol=1e-12, atol=1e-12)
    pictures = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    known = toy.images(schedule, pictures)
    torch.testing.assert_close(known(pictures, 0.0), pictures)  # where nothing is noisy, the picture is known
    assert known(torch.randn_like(pictures), 0.0).isfinite().all()
    line = toy.Mixture(schedule, torch.tensor([0.5, 0.5]), torch.tensor([-1.0, 1.0]), 0.3)  # samples may be numbers
    assert line(torch.randn(7), 0.5).shape == (7,)
    if schedule(1.0)[0] == 0:  # where all is noise, the mean is the best guess
        torch.testing.assert_close(known(torch.randn_like(pictures), 1.0), pictures.mean(0).expand_as(pictures))


def test_exact_denoiser_is_the_score_of_its_density(schedule):
    """Tweedie: E[x0 | x_t] = (x_t + sigma^2 grad log p_t(x_t)) / alpha."""
    for t in levels(schedule, low=-4, high=5, count=5).tolist():
        alpha, sigma = schedule(t)
        x = torch.randn(8, 2, dtype=torch.float64, requires_grad=True)
        (score,) = torch.autograd.grad(mixture(schedule).log_prob(x, t).sum(), x)
        torch.testing.assert_close(mixture(schedule)(x, t), (x + sigma**2 * score) / alpha, rtol=1e-9, atol=1e-9)


def test_half_way_between_equal_components_their_weights_decide(schedule):
    """At x_t = 0 components at -1 and 1 are equally far, so that p(k | x_t) is w_k."""
    exact = toy.Mixture(schedule, torch.tensor([0.2, 0.8]), torch.tensor([[-1.0], [1.0]]), 0.5)
    for t in levels(schedule, high=4.0, count=5):
        alpha, sigma = schedule(t)
        pull = 1 - (alpha * 0.5) ** 2 / ((alpha * 0.5) ** 2 + sigma**2)  # how much of the mean is left in each guess
        expected = (0.6 * pull).reshape(1, 1)
        torch.testing.assert_close(exact(torch.zeros(1, 1, dtype=torch.float64), t), expected, rtol=1e-6, atol=1e-9)
