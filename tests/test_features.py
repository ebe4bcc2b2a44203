"""Features: degradations are seen in their order, batches change nothing, training is done once, files are whole."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from sfumato import trainer
from sfumato.cli import main
from sfumato.config import Config
from sfumato.data import AffineCodec
from sfumato.disk import cache_folder
from sfumato.errors import UserError
from sfumato.judge import features as here
from sfumato.judge.features import chosen, extract, features, reference
from sfumato.judge.networks import dinov2, own


def planned(data, **options):
    return trainer.prepare(data, Config(**options))


def noise(*shape, dtype=np.uint8, high=255):
    return (np.random.default_rng(0).random(shape) * high).astype(dtype)


def codec_of(plan):
    return AffineCodec(**plan.facts.codec)


@pytest.fixture(scope="module")
def _shorter():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "SEEN", (6_000, 6_000))
        yield


@pytest.fixture(scope="module")
def digits():
    return planned("digits")


@pytest.fixture(scope="module", params=["labels", "no labels"])
def trained(request, _shorter, tmp_path_factory):
    """A plan for digits, with labels or without, and features trained on it."""
    if request.param == "labels":
        plan = planned("digits")
    else:
        plan = planned(planned("digits").images.array.transpose(0, 2, 3, 1))
        assert plan.train.labels is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield plan, features("own", plan, "cpu")


@pytest.fixture
def brief(monkeypatch, tmp_path):
    """Training that takes no time, and an empty cache."""
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(own, "SEEN", (64, 64))
    monkeypatch.setattr(own, "BATCH", 32)


# ---- the own kind ----------------------------------------------------------------------------------------------------


def test_what_was_learned_holds_for_pictures_that_were_held_out(trained):
    plan, found = trained
    assert found.size == 96
    if plan.train.labels is None:
        assert found.accuracy > 10 / 90  # ten times as often as chance
        assert "which of 90 pictures a window is of" in found.about
    else:
        assert found.accuracy > 0.8
        assert "with 10 labels" in found.about
    assert f"{found.accuracy:.1%} of {len(plan.held_out)} held out" in found.about


def frechet(a, b):
    """|mean - mean'|^2 + tr(cov + cov' - 2 (cov cov')^(1/2)), by eigenvalues."""
    mean, other, cov, covariance = a.mean(0), b.mean(0), np.cov(a.T), np.cov(b.T)
    values, vectors = np.linalg.eigh(cov)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    both = np.sqrt(np.linalg.eigvalsh(root @ covariance @ root).clip(0)).sum()
    return np.sum((mean - other) ** 2) + np.trace(cov) + np.trace(covariance) - 2 * both


def blurred(x, sigma):
    reach = torch.arange(-4, 5)
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum())[None, None]  # (1, 1, 9)
    for axis in (2, 3):
        rows = F.pad(x.transpose(axis, 3), (4, 4, 0, 0), mode="replicate")
        x = F.conv2d(rows, kernel[..., None, :]).transpose(axis, 3)
    return x


def degraded(x, labels):
    """Known degradations of pictures x (B, 1, H, W) in [-1, 1], each in rising strength."""
    generator = torch.Generator().manual_seed(0)
    eps, partner = torch.randn(x.shape, generator=generator), x[torch.randperm(len(x), generator=generator)]
    return {
        "noise": [(x + s * eps).clamp(-1, 1) for s in (0.1, 0.2, 0.4)],
        "blur": [blurred(x, s) for s in (0.4, 0.6, 1.0)],
        "mixing": [(1 - s) * x + s * partner for s in (0.1, 0.25, 0.5)],
        "missing classes": [x[labels >= k] for k in (2, 5, 8)],
    }


def test_distances_grow_with_the_strength_of_known_degradations(trained, digits):
    plan, found = trained
    order = np.random.default_rng(0).permutation(len(digits.images))  # as they lie, one half is by other hands
    images, labels = digits.images.array.transpose(0, 2, 3, 1)[order], digits.images.labels[order]
    codec, half = codec_of(plan), len(images) // 2
    of = lambda x: extract(found, codec.decode(x).permute(0, 2, 3, 1).numpy(), codec, "cpu").astype(np.float64)
    x = codec.encode(torch.from_numpy(images).permute(0, 3, 1, 2))
    real, none = of(x[:half]), frechet(of(x[:half]), of(x[half:]))
    for name, strengths in degraded(x[half:], torch.from_numpy(labels[half:])).items():
        found_distances = [none, *(frechet(real, of(worse)) for worse in strengths)]
        assert found_distances == sorted(found_distances), name
        assert found_distances[-1] > 3 * none, name


def test_the_same_pictures_give_the_same_weights(digits, brief, tmp_path, monkeypatch):
    first = features("own", digits, "cpu")
    torch.rand(7)  # the state of torch's own generator does not matter
    before = torch.get_rng_state()
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path / "other"))
    again = features("own", digits, "cpu")
    assert again.path != first.path
    assert again.name == first.name
    assert torch.equal(torch.get_rng_state(), before)


def test_training_is_done_once_and_a_damaged_file_is_made_again(digits, brief, monkeypatch):
    seen = []
    first = features("own", digits, "cpu", lambda done, total: seen.append((done, total)))
    assert seen == [(32, 64), (64, 64)]
    assert os.listdir(cache_folder() / "features") == [first.path.name]
    assert features("own", digits, "cpu", lambda *_: pytest.fail("trained")).name == first.name
    whole = first.path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:1000], b"", whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]):
        first.path.write_bytes(damaged)
        assert features("own", digits, "cpu").name == first.name
        assert features("own", digits, "cpu", lambda *_: pytest.fail("trained")).name == first.name
    monkeypatch.setattr(own, "VERSION", own.VERSION + 1)
    assert features("own", digits, "cpu").path != first.path


def test_other_pictures_and_other_preprocessing_have_other_networks(digits, brief):
    plans = [digits, planned("digits", size=(12, 10)), planned("digits", crop=(6, 6)), planned("digits", only_class="1,7")]
    assert len({features("own", plan, "cpu").path for plan in plans}) == 4
    ranged = planned("digits", range=(0.0, 1.0))
    assert features("own", ranged, "cpu").path == features("own", digits, "cpu").path  # the features see [-1, 1] all the same


@pytest.mark.parametrize(
    ("shape", "channels", "dtype", "high"),
    [((8, 8), 1, np.uint8, 255), ((9, 30), 3, np.float32, 7), ((80, 48), 4, np.uint16, 4095)],
)
def test_any_shape_and_depth(shape, channels, dtype, high, brief):
    pictures = noise(40, *shape, channels, dtype=dtype, high=high)
    plan = planned(pictures, size=shape)
    found = features("own", plan, "cpu")
    of_all = extract(found, pictures, codec_of(plan), "cpu")
    assert of_all.shape == (40, 96)
    assert of_all.dtype == np.float32
    np.testing.assert_allclose(extract(found, pictures, codec_of(plan), "cpu", batch=7), of_all, rtol=1e-4, atol=1e-5)
    assert not plan.train.labels
    with pytest.raises(UserError, match=f"of {channels} channels"):
        extract(found, noise(2, *shape, 2), codec_of(plan), "cpu")


def test_few_pictures_of_which_none_are_held_out(brief):
    plan = planned(noise(9, 8, 8))
    found = features("own", plan, "cpu")
    assert found.accuracy is None
    assert "none are held out" in found.about


def test_windows_are_cut_and_nothing_else_is_done():
    x, positions = torch.arange(128.0).view(2, 1, 8, 8), torch.tensor([5, 9])
    windows = own.window(x, positions)
    assert windows.shape == (2, 1, 5, 5)
    for window in windows[:, 0]:
        np.testing.assert_array_equal(np.diff(window, axis=1), 1)
        np.testing.assert_array_equal(np.diff(window, axis=0), 8)
    assert torch.equal(own.window(x[1:], positions[1:]), windows[1:])  # a function of the position alone


# ---- extraction and references ---------------------------------------------------------------------------------------


class Means(nn.Module):
    """The mean of each channel, as a map if asked."""

    def __init__(self, as_map=False):
        super().__init__()
        self.as_map = as_map

    def forward(self, x):
        return x if self.as_map else x.mean((2, 3))


def test_a_module_sees_values_from_minus_one_to_one_and_maps_are_averaged():
    pictures = noise(20, 8, 9, 3, dtype=np.uint16, high=4095)
    pictures[0, 0, 0], pictures[1] = 4095, 0
    plan = planned(pictures, size=(8, 9), range=(0.0, 1.0))
    expected = (pictures / 4095 * 2 - 1).mean((1, 2))
    for module in (Means(), Means(as_map=True)):
        found = features(module, plan)
        assert found.size == 3
        np.testing.assert_allclose(extract(found, pictures, codec_of(plan), "cpu", 6), expected, rtol=1e-5, atol=1e-6)
    assert features(Means(), plan).about.startswith("Means, 3 features")
    told = []
    extract(found, pictures, codec_of(plan), "cpu", 8, lambda *at: told.append(at))
    assert told == [(8, 20), (16, 20), (20, 20)]


def test_a_module_that_makes_no_vectors_is_refused(digits):
    for made in (lambda x: x[:, 0], lambda x: (x,), lambda x: x.mean((0, 2, 3))[None]):
        module = nn.Module()
        module.forward = made
        with pytest.raises(UserError, match=r"\(B, D\) or \(B, D, h, w\)"):
            features(module, digits)


def test_features_that_are_not_finite_are_refused():
    plan = planned(noise(20, 8, 8, 1, dtype=np.float32))
    bad = noise(4, 8, 8, 1, dtype=np.float32)
    bad[2, 3, 3] = np.nan
    with pytest.raises(UserError, match="NaN"):
        extract(features(Means(), plan), bad, codec_of(plan), "cpu")


def test_a_reference_is_made_once_of_the_same_pictures_in_the_same_order(digits, brief, monkeypatch):
    found = features("own", digits, "cpu")
    for held_out, images in ((False, digits.train), (True, digits.held_out)):
        whole = reference(found, digits, held_out, device="cpu")
        pictures = images.take(chosen(images).numpy()).transpose(0, 2, 3, 1)
        np.testing.assert_allclose(whole, extract(found, pictures, codec_of(digits), "cpu"), rtol=1e-4, atol=1e-5)
        assert sorted(chosen(images).tolist()) == list(range(len(images)))
        some = reference(found, digits, held_out, 20, "cpu")
        np.testing.assert_allclose(some, whole[:20], rtol=1e-4, atol=1e-5)
    few = reference(found, digits, True, 20, "cpu")
    monkeypatch.setattr(here, "_extract", lambda *_: pytest.fail("made again"))
    np.testing.assert_array_equal(reference(found, digits, True, 20, "cpu"), few)
    assert len([path for path in (cache_folder() / "features").iterdir() if path.name.startswith("reference")]) >= 4


def test_what_a_module_of_ones_own_makes_is_not_kept(digits):
    first, other = Means(), Means()
    other.forward = lambda x: 2 * x.mean((2, 3))  # the same name and weights
    a, b = (reference(features(module, digits), digits, n=9, device="cpu") for module in (first, other))
    np.testing.assert_allclose(b, 2 * a, rtol=1e-6)


def test_references_are_of_windows_where_training_cuts_them():
    plan = planned(noise(30, 20, 20), crop=(8, 8))

    class Sides(nn.Module):
        def forward(self, x):
            assert x.shape[1:] == (1, 8, 8)
            return x.amax((2, 3))

    assert reference(features(Sides(), plan), plan, device="cpu").shape == (len(plan.train), 1)


def test_a_reference_needs_pictures():
    plan = planned(noise(20, 8, 8), held_out=0)
    with pytest.raises(UserError, match="hold some out"):
        reference(features(Means(), plan), plan, held_out=True)


# ---- names -----------------------------------------------------------------------------------------------------------


def test_a_published_network_is_read_from_the_file_that_is_named(digits, tmp_path):
    net = dinov2.DINOv2(384, 1, 2)
    for name, parameter in net.named_parameters():
        nn.init.normal_(parameter, 1.0 if "norm" in name else 0.0, 0.02)
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    torch.save({name: tensor for name, tensor in net.state_dict().items()}, tmp_path / "b.pth")
    found = [features(f"dinov2:{tmp_path / file}", digits) for file in ("a.safetensors", "b.pth")]
    assert found[0].name == found[1].name
    assert found[0].name.startswith("dinov2-1-")
    assert [each.size for each in found] == [384, 384]
    with torch.no_grad():
        net.norm.bias[0] += 1e-3
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    assert features(f"dinov2:{tmp_path / 'a.safetensors'}", digits).name != found[0].name
    assert reference(found[0], digits, True, 2, "cpu").shape == (2, 384)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("owl", "no feature network 'owl'; there is dinov2:FILE, inception:FILE, own. Did you mean 'own'?"),
        ("inception", "inception:FILE"),
        ("inception:gone.pth", "found nothing"),
        ("inception:text.pth", "cannot be read"),
        ("inception:other.safetensors", "pt_inception-2015-12-05; "),
        ("dinov2:other.safetensors", "S/14, B/14 or L/14"),
    ],
)
def test_what_cannot_be_used_is_said(named, said, digits, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    save_file({"mine": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError) as error:
        features(named, digits)
    assert said in str(error.value)


def test_published_networks_are_for_gray_and_colour(tmp_path):
    plan = planned(noise(20, 8, 8, 4))
    with pytest.raises(UserError, match="4 channels; use features that are trained on them: own"):
        features("inception:any.pth", plan)


def test_the_command_says_what_was_learned_and_where_it_lies(brief, capsys):
    assert main(["features", "digits", "--size", "10", "--device", "cpu"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "10 labels" in said
    assert "held out" in said
    assert "96 features, own-" in said
    assert said.endswith(".safetensors")
    assert os.path.exists(said.split()[-1])
    assert main(["features", "nowhere"]) == 2
