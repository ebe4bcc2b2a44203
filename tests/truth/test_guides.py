"""Guides are denoisers around denoisers."""

import pytest
import torch

from sfumato import guides, nets, samplers, schedules
from sfumato.denoisers import Denoiser


class Labelled(torch.nn.Module):
    """Answers with the label: 0, 1, 2, or -1 where none was given."""

    conditions = {"label": nets.Condition(classes=3)}

    def forward(self, x, c_noise, label):
        return torch.where(label == 3, -1, label).to(x.dtype)[:, None].expand_as(x)


LABEL = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_cfg_is_the_line_through_both_guesses(w):
    d = Denoiser(Labelled(), schedules.flow(), predict="image")
    x = torch.randn(4, 5)
    expected = (-1 + w * (LABEL + 1.0))[:, None].expand(4, 5)
    for t in (0.5, torch.full((4,), 0.5)):
        torch.testing.assert_close(guides.cfg(d, w)(x, t, label=LABEL), expected)
    assert torch.equal(guides.cfg(d, 1.0)(x, 0.5, label=LABEL), d(x, 0.5, label=LABEL))


def test_interval_guides_only_inside():
    s = schedules.cosine()
    d = Denoiser(Labelled(), s, predict="image")
    guided = guides.interval(guides.cfg(d, 3.0), d, low=0.3, high=5.0)
    x = torch.zeros(4, 1)
    for t in torch.linspace(0, 1, 21).tolist():
        alpha, sigma = s(t)
        w = 3.0 if 0.3 * alpha <= sigma <= 5 * alpha else 1.0
        torch.testing.assert_close(guided(x, t, label=LABEL)[:, 0], -1 + w * (LABEL + 1.0))


def test_interval_without_an_upper_end_holds_where_all_is_noise():
    d = Denoiser(Labelled(), schedules.flow(), predict="image")
    guided = guides.interval(guides.cfg(d, 3.0), d, low=0.3, high=float("inf"))
    torch.testing.assert_close(guided(torch.zeros(4, 1), 1.0, label=LABEL)[:, 0], -1 + 3 * (LABEL + 1.0))


def test_guides_sample_and_know_where_to_start():
    d = Denoiser(Labelled(), schedules.cosine(), predict="image")
    out = samplers.sample(guides.cfg(d, 2.0), torch.randn(4, 3), steps=3, label=LABEL)
    torch.testing.assert_close(out, (-1 + 2 * (LABEL + 1.0))[:, None].expand(4, 3))
    assert guides.cfg(Denoiser(Labelled(), schedules.cosine(), "noise")).t_max < 1


def test_a_condition_the_network_does_not_know_is_refused():
    d = Denoiser(Labelled(), schedules.flow(), predict="image")
    with pytest.raises(ValueError, match="label"):
        guides.cfg(d, 2.0)(torch.zeros(4, 1), 0.5, lable=LABEL)
    with pytest.raises(ValueError, match="condition"):
        guides.cfg(d, 2.0)(torch.zeros(4, 1), 0.5)


class Guess:
    """A denoiser that always means the same x0, (B, ...)."""

    def __init__(self, x0, schedule):
        self.x0, self.schedule = x0, schedule

    def on(self, schedule):
        return Guess(self.x0, schedule)

    def __call__(self, x_t, t, **cond):
        return self.x0


@pytest.mark.parametrize("w", [0.0, 1.0, 2.5])
def test_autoguidance_goes_on_from_the_worse_through_the_better(w):
    better, worse = torch.randn(2, 4, 5)
    s = schedules.flow()
    guided = guides.autoguidance(Guess(better, s), Guess(worse, schedules.edm()), w)
    torch.testing.assert_close(guided(better, 0.5), worse + w * (better - worse))
    assert guided.others[0].schedule is s
    assert torch.equal(samplers.sample(guided, better, steps=1), guided(better, 0.5))


def test_rescaling_restores_the_contrast():
    better, worse = torch.randn(2, 4, 3, 8, 8)
    x0 = worse + 4 * (better - worse)
    for share in (0.0, 0.7, 1.0):
        found = guides.beyond(better, worse, 4.0, share)
        std = (1 - share) * x0.flatten(1).std(1) + share * better.flatten(1).std(1)
        torch.testing.assert_close(found.flatten(1).std(1), std, rtol=1e-5, atol=0)
        direction = torch.nn.functional.cosine_similarity(found.flatten(1), x0.flatten(1))
        torch.testing.assert_close(direction, torch.ones(4))


def test_guides_nest():
    d = Denoiser(Labelled(), schedules.flow(), predict="image")
    worse = Guess(torch.full((4, 5), -2.0), d.schedule)
    guided = guides.autoguidance(guides.cfg(d, 2.0), worse, 1.5)
    expected = -2 + 1.5 * ((-1 + 2 * (LABEL + 1.0)) + 2)
    torch.testing.assert_close(guided(torch.zeros(4, 5), 0.5, label=LABEL), expected[:, None].expand(4, 5))


def test_guides_start_where_all_that_they_ask_are_defined():
    s = schedules.cosine()
    v, noise = (Denoiser(lambda x, c: x, s, predict=predict) for predict in ("v", "noise"))
    for guided in (guides.autoguidance(v, noise, 2.0), guides.interval(v, noise, 0.1, 1.0)):
        assert guided.t_max == noise.t_max < v.t_max
        assert samplers.sample(guided, torch.randn(2, 3), steps=3).isfinite().all()


def test_guides_change_their_schedule():
    better, worse = torch.randn(2, 4, 5)
    s, other = schedules.flow(), schedules.edm()
    moved = guides.autoguidance(Guess(better, s), guides.autoguidance(Guess(worse, s), Guess(better, s), 1.0), 2.0).on(other)
    assert moved.schedule is other
    assert moved.others[0].schedule is moved.others[0].others[0].schedule is other
    torch.testing.assert_close(moved(better, 0.5), 2 * better - worse)


def test_guidance_without_declared_conditions_is_refused():
    d = Denoiser(lambda x, c, label: x, schedules.flow(), predict="image")
    with pytest.raises(ValueError, match="declares its conditions"):
        guides.cfg(d, 3.0)(torch.zeros(4, 1), 0.5, label=LABEL)


def test_rescaling_one_number_changes_nothing():
    x = torch.randn(2, 4, 1)
    torch.testing.assert_close(guides.beyond(x[0], x[1], 3.0, 1.0), guides.beyond(x[0], x[1], 3.0))


def test_the_learned_variance_under_guidance_is_that_of_the_better_guess():
    class Wide(Labelled):
        def forward(self, x, c_noise, label):
            return torch.cat((x, super().forward(x, c_noise, label)), 1)

    d = Denoiser(Wide(), schedules.flow(), predict="image")
    x = torch.randn(4, 5)
    _, fraction = guides.cfg(d, 3.0).guess(x, 0.5, label=LABEL)
    torch.testing.assert_close(fraction, ((LABEL + 1.0) / 2)[:, None].expand(4, 5))
