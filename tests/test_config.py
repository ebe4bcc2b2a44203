"""Config, Facts, Spec: what flags spell, what JSON holds, what is refused."""

import json

import msgspec
import pytest

from sfumato import config as c
from sfumato import flags, recipes, samplers
from sfumato.errors import UserError
from sfumato.spec import Spec, choose


@pytest.mark.parametrize(("text", "value"), [("500k", 500_000), ("1.5m", 1_500_000), ("10", 10), ("2M", 2_000_000)])
def test_counts(text, value):
    assert flags.count(text) == value


@pytest.mark.parametrize("text", ["k", "1.5", "x", "", "1e3k3"])
def test_bad_counts(text):
    with pytest.raises(ValueError):
        flags.count(text)


@pytest.mark.parametrize(("text", "value"), [("10m", 600), ("2h", 7200), ("90", 90), ("1.5m", 90), ("30s", 30), ("1d", 86400)])
def test_times(text, value):
    assert flags.seconds(text) == value


def test_sizes():
    assert flags.height_width("64") == (64, 64)
    assert flags.height_width("64x128") == (64, 128)
    for text in ("a", "1x2x3", ""):
        with pytest.raises(ValueError):
            flags.height_width(text)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("linear", Spec("linear")),
        ("linear:steps=300,beta_end=0.02", Spec("linear", steps=300, beta_end=0.02)),
        ("unet:mults=(1,2,4),dropout=0.1", Spec("unet", mults=(1, 2, 4), dropout=0.1)),
        ("linear:mended=true", Spec("linear", mended=True)),
    ],
)
def test_specs_by_text(text, spec):
    assert Spec.of(text) == spec
    assert Spec.of(repr(spec)) == spec
    assert Spec.of(spec.builtins()) == spec


def test_a_spec_reaches_only_what_its_table_holds():
    assert choose(samplers.SOLVERS, "ddim:eta=0.5", "solver").keywords == {"eta": 0.5}
    with pytest.raises(UserError, match="eta"):
        choose(samplers.SOLVERS, "ddim:ate=1", "solver")
    with pytest.raises(UserError, match="no options"):
        choose(samplers.SOLVERS, "euler:x=1", "solver")
    for wrong in ("os.system", "ddim:t=1", "linear:a"):
        with pytest.raises(UserError):
            choose(samplers.SOLVERS, wrong, "solver")


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_recipes_round_trip_through_json(name):
    config = c.checked(recipes.recipe(name))
    assert c.checked(json.loads(c.to_json(config))) == config


@pytest.mark.parametrize(
    ("field", "value"),
    [("batch", 0), ("lr", 0), ("seed", -1), ("size", (2, 64)), ("held_out", 1.5), ("predict", "nois"), ("rate", "linear"),
     ("precision", "float64"), ("schedule", Spec("lin")), ("weight", Spec("min_snr", gamma=5)),
     ("nonsense", 1)],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused(field, value):
    with pytest.raises(UserError):
        c.checked(c.builtins(c.Config()) | {field: value})


def test_construction_alone_does_not_check_but_checked_does():
    config = msgspec.structs.replace(c.Config(), batch=-3)
    with pytest.raises(UserError, match="batch does not fit: expected a whole number >= 1, found -3"):
        c.checked(config)


def test_one_budget_is_enough():
    with pytest.raises(UserError, match="images and epochs"):
        c.checked(c.Config(images=5, epochs=3.0))


@pytest.mark.parametrize(
    ("field", "typed", "value"),
    [("images", "500k", 500_000), ("images", 5e5, 500_000), ("size", 16, (16, 16)), ("size", "64x128", (64, 128)),
     ("time", "10m", 600), ("net", "unet:width=32", Spec("unet", width=32)), ("clip", "none", None), ("lr", "3e-4", 3e-4)],
)  # fmt: skip
def test_values_may_stand_as_they_are_typed(field, typed, value):
    assert getattr(c.checked(c.builtins(c.Config()) | {field: typed}), field) == value


@pytest.mark.parametrize(
    ("field", "typed", "said"),
    [("images", "5x", "images does not fit: expected a whole number, as in 500 or 500k, found 5x."),
     ("steps", True, "steps does not fit: expected a whole number, as in 500 or 500k, found True."),
     ("lr", "nan", "lr does not fit: expected a number, as in 0.5 or 1e-4, found nan."),
     ("flip", "maybe", "flip does not fit: expected true or false, found maybe."),
     ("size", 2, "size does not fit: expected a whole number >= 4, found 2x2.")],
)  # fmt: skip
def test_what_does_not_fit_is_said_of_the_field(field, typed, said):
    with pytest.raises(UserError) as refused:
        c.checked(c.builtins(c.Config()) | {field: typed})
    assert str(refused.value) == said


def test_options_are_the_same_after_json():
    config = c.Settled(net=Spec("unet", mults=(1, 2)))
    assert c.from_json(c.to_json(config)) == config


def test_parts_of_a_batch_are_pictures_at_least():
    with pytest.raises(UserError, match="128 cannot be worked through in 300 parts"):
        c.checked(c.Config(batch=128, accumulate=300))


def test_fields_are_only_ever_added_with_defaults():
    """A config of the first version, with nothing but a few fields, is still read; a newer one says so."""
    assert c.from_json('{"schema": 1, "lr": 0.5}').lr == 0.5
    with pytest.raises(UserError, match="newer version"):
        c.from_json('{"schema": 99}')
    for text in ("[]", "{", '{"lr": "fast"}', '{"net": null}', '{"batch": null}'):
        with pytest.raises(UserError):
            c.from_json(text)
