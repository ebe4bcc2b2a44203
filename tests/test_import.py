"""Weights that others trained: read, made into a run, drawn from; and what is said when that cannot be."""

import argparse
import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import sfumato
from sfumato import interop, nets
from sfumato.cli import main
from sfumato.errors import UserError
from sfumato.interop import weights


@pytest.fixture(scope="module")
def small():
    """A network of few weights, not as small as its names would have it, and with codes of time that matter."""
    torch.manual_seed(0)
    return nets.build("convnext_unet", 1, dim=8).eval()


@pytest.fixture(scope="module")
def normed(tmp_path_factory):
    """A network with BatchNorm, whose statistics are not those of a batch of noise, and its file.

    Its table of 300 times has rows without relation, as published, so that no step can be taken for its neighbour.
    """
    torch.manual_seed(0)
    net = nets.build("double_conv_unet", 3, steps=300).eval()
    torch.nn.init.normal_(net.time_embed.weight, std=3)
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.3, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.1, 0.2)  # about what random convolutions leave, so that the output hangs on input and time
    path = tmp_path_factory.mktemp("published") / "cifar.pt"
    torch.save({"epoch": 15, "model": {f"module.{name}": tensor for name, tensor in net.state_dict().items()}}, path)
    return net, path


def refused(capsys, *words):
    """What is said when these arguments are refused: exit code 2, one or two sentences, and nothing written."""
    before = set(os.listdir())
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert set(os.listdir()) == before
    return said


def test_samples_of_an_imported_run_are_those_of_its_network(normed):
    """Two steps of DDIM by hand, from T = 300 linear betas, for pictures in [0, 1], against `sfumato sample`."""
    net, path = normed
    assert main(["import", str(path), "--size", "16"]) == 0
    assert main(["sample", "runs/cifar", "-n", "2", "--steps", "2", "--solver", "ddim", "--npy", "all.npy"]) == 0
    alpha_bar = (1 - torch.linspace(1e-4, 0.02, 300, dtype=torch.float64)).cumprod(0)
    model = sfumato.load("runs/cifar")
    x = model.start(torch.arange(2), 0)
    with torch.no_grad():
        for step, then in ((299, alpha_bar[149]), (149, torch.ones(()))):
            now = alpha_bar[step]
            eps = net(x, torch.full((2,), float(step)))
            x0 = ((x - (1 - now).sqrt() * eps) / now.sqrt()).clamp(0, 1)
            eps = (x - now.sqrt() * x0) / (1 - now).sqrt()
            x = (then.sqrt() * x0 + (1 - then).sqrt() * eps).float()
    expected = (x * 255).round().permute(0, 2, 3, 1)
    assert expected.std() > 20  # not all black or all white
    assert np.abs(np.load("all.npy") - expected.numpy()).max() <= 1


def test_an_imported_run_samples_as_in_evaluation(normed):
    """BatchNorm reads its stored statistics and leaves them alone."""
    net, path = normed
    interop.import_weights(path, "r", size=(16, 16))
    model = sfumato.load("r")
    alone, together = model.sample(1, steps=2), model.sample(3, steps=2)
    assert np.abs(alone[0].astype(int) - together[0]).max() <= 1
    for name, buffer in model.denoiser.net.net.named_buffers():
        assert torch.equal(buffer, net.get_buffer(name)), name


def test_the_account_decides_what_the_file_does_not(small):
    torch.save(small.state_dict(), "w.pth")
    config = interop.import_weights("w.pth", "r", "convnext_unet:dim=8")
    assert (str(config.schedule), config.size, config.predict) == ("linear:steps=200", (28, 28), "noise")
    assert config.facts.shape == (1, 28, 28)
    assert config.facts.codec["ends"] == [-1.0, 1.0]
    for name in ("ema", "model"):
        model = sfumato.load("r", weights=name)
        assert model.config == config
        assert torch.equal(model.denoiser.net.net.enter.weight, small.enter.weight)
    with pytest.raises(UserError, match=r"set of weights 'modell'.*Did you mean 'model'"):
        sfumato.load("r", weights="modell")


def test_what_is_said_decides(small):
    torch.save(small.state_dict(), "w.pt")
    options = "--net convnext_unet:dim=8 --schedule cosine --size 12x20 --predict v --range 0,2 --run r"
    assert main(["import", "w.pt", *options.split()]) == 0
    config = sfumato.load("r").config
    assert (str(config.schedule), config.size, config.predict) == ("cosine", (12, 20), "v")
    assert config.facts.codec["ends"] == [0.0, 2.0]
    assert sfumato.load("r").sample(1, steps=2).shape == (1, 12, 20, 1)


@pytest.mark.parametrize("wrap", ["bare", "state_dict", "model", "model_state_dict", "ema", "module.", "_orig_mod.", "half"])
def test_every_way_to_keep_weights_in_a_file(small, wrap):
    state = small.state_dict()
    if wrap.endswith("."):
        torch.save({wrap + name: tensor for name, tensor in state.items()}, "w.pt")
    elif wrap == "half":
        save_file({name: tensor.half() for name, tensor in state.items()}, "w.safetensors")
    else:
        torch.save(state if wrap == "bare" else {"epoch": 3, "loss": [0.5], wrap: state}, "w.pt")
    file = "w.safetensors" if wrap == "half" else "w.pt"
    interop.import_weights(file, "r", "convnext_unet:dim=8", size=(8, 8))
    tolerance = {"rtol": 1e-3, "atol": 1e-4} if wrap == "half" else {"rtol": 0, "atol": 0}
    torch.testing.assert_close(dict(sfumato.load("r").denoiser.net.net.state_dict()), dict(state), **tolerance)


@pytest.mark.parametrize("name", interop.PUBLISHED)
def test_networks_are_known_by_their_names(name, tmp_path):
    names = {key: torch.zeros(()) for key in weights.expected(weights.Spec(name), 1) if "num_batches" not in key}
    name = "ddpm_cifar10" if name == "ddpm_unet" else name  # the one size that its names alone would have
    assert str(weights.guess(names, tmp_path)) == name  # files older than BatchNorm's counters are known too
    assert weights.best(dict(list(names.items())[5:])) == name


def test_a_shorter_table_of_times_brings_its_schedule(normed):
    config = interop.import_weights(normed[1], "r")
    said = interop.import_weights(normed[1], "s", "double_conv_unet:steps=300")
    assert (said.net, said.schedule) == (config.net, config.schedule)
    assert str(config.net) == "double_conv_unet:steps=300"
    assert str(config.schedule) == "linear:steps=300"


@pytest.fixture
def theirs(tmp_path):
    """A network of DDPM's kind, and a folder as diffusers writes it: weights under their names, and a config."""
    torch.manual_seed(0)
    net = nets.build("ddpm_unet", 3, width=16, mults=(1, 2), blocks=1, attention=(0,)).eval()
    torch.nn.init.normal_(net.leave.weight, std=0.1)
    folder = tmp_path / "theirs"
    folder.mkdir()
    save_file(interop.to_diffusers(net.state_dict()), folder / "diffusion_pytorch_model.safetensors")
    config = {"flip_sin_to_cos": False, "freq_shift": 1, "downsample_padding": 0, "attention_head_dim": None, "norm_eps": 1e-6}
    (folder / "config.json").write_text(json.dumps(config | {"norm_num_groups": 4, "act_fn": "silu", "sample_size": 32}))
    return net, folder


def test_weights_of_diffusers_are_known_by_their_names(theirs):
    net, folder = theirs
    spec = "ddpm_unet:width=16,mults=(1,2),blocks=1,attention=(0,)"
    config = interop.import_weights(folder / "diffusion_pytorch_model.safetensors", "r", spec)
    assert (str(config.schedule), config.size, config.predict) == ("linear:steps=1000", (32, 32), "noise")
    model = sfumato.load("r")
    x, steps = torch.randn(2, 3, 8, 8), torch.tensor([0.0, 999.0])
    with torch.no_grad():
        assert torch.equal(model.denoiser.net(x, steps), net(x, steps))
    assert model.denoiser.c_noise == "steps"


def test_a_network_that_only_looks_the_same_is_refused(capsys, theirs):
    """The same names and shapes, another code of time: config.json beside the file says so."""
    _, folder = theirs
    file, config = folder / "diffusion_pytorch_model.safetensors", json.loads((folder / "config.json").read_text())
    words = ["import", file, "--net", "ddpm_unet:width=16,mults=(1,2),blocks=1,attention=(0,)", "--run", "r"]
    (folder / "config.json").write_text(json.dumps(config | {"freq_shift": 0, "norm_num_groups": 8}))
    said = refused(capsys, *words)
    assert "freq_shift is 0, not 1, norm_num_groups is 8, not 4" in said
    (folder / "config.json").write_text("{}")  # theirs where nothing is said
    assert "flip_sin_to_cos is True, not False" in refused(capsys, *words)
    (folder / "config.json").unlink()
    assert "cannot be imported" in refused(capsys, *words[:3], "ddpm_cifar10:classes=3")
    assert "Options of ddpm_256 are attention, blocks" in refused(capsys, *words[:3], "ddpm_256:mults=(1,2)")
    assert main([str(word) for word in words]) == 0


def test_imported_runs_are_not_trained_on(small, capsys):
    torch.save(small.state_dict(), "w.pt")
    interop.import_weights("w.pt", "r", "convnext_unet:dim=8", size=(8, 8))
    assert "r holds imported weights" in refused(capsys, "train", "digits", "--run", "r")
    assert "not known" in refused(capsys, "sample", "r", "-n", "1", "--steps", "1", "--out", "r/out", "--copies")


def test_mistakes_about_files(capsys, small, tmp_path):
    (tmp_path / "text.pt").write_text("hello, this is no file of weights")
    (tmp_path / "text.safetensors").write_text("hello, this is no file of weights")
    (tmp_path / "empty.pt").touch()
    (tmp_path / "folder").mkdir()
    torch.save(small, "whole.pt")
    torch.save({"state_dict": small.state_dict(), "args": argparse.Namespace(lr=1)}, "args.pt")
    torch.save({"epoch": 3, "net": 5}, "other.pt")
    torch.save([1, 2], "list.pt")
    torch.save(small.state_dict(), "cut.pt")
    os.truncate("cut.pt", 3000)
    assert "found nothing" in refused(capsys, "import", "nowhere.pt")
    assert "found a folder" in refused(capsys, "import", "folder")
    for file in ("text.pt", "text.safetensors", "empty.pt", "cut.pt"):
        assert "cannot be read" in refused(capsys, "import", file)
    assert "ConvNextUNet" in (said := refused(capsys, "import", "whole.pt"))
    assert "torch.save(net.state_dict()" in said
    assert "argparse.Namespace" in refused(capsys, "import", "args.pt")
    assert "found epoch, net" in refused(capsys, "import", "other.pt")
    assert "found list" in refused(capsys, "import", "list.pt")


def test_mistakes_about_networks(capsys, small, normed):
    torch.save(small.state_dict(), "w.pt")
    torch.save({"a.weight": torch.zeros(2)}, "a.pt")
    torch.save({k: v for k, v in small.state_dict().items() if k != "enter.bias"} | {"extra": torch.zeros(1)}, "near.pt")
    assert "simple_unet, maxpool_unet, double_conv_unet, convnext_unet" in refused(capsys, "import", "a.pt")
    assert "The nearest is convnext_unet" in refused(capsys, "import", "near.pt")
    said = refused(capsys, "import", "near.pt", "--net", "convnext_unet:dim=8")
    assert "1 are missing (the first is enter.bias) and 1 are not its own (the first is extra)" in said
    torch.save(small.state_dict() | {"extra": torch.zeros(1)}, "more.pt")
    assert "but 1 are not its own" in refused(capsys, "import", "more.pt", "--net", "convnext_unet:dim=8")
    said = refused(capsys, "import", normed[1], "--net", "maxpool_unet")
    assert "--net double_conv_unet" in said
    assert "the first is time_embedding.1.weight" in said
    assert "no network here" in refused(capsys, "import", "a.pt", "--net", "simple_unet")
    assert "block, dim, mults" in refused(capsys, "import", "w.pt", "--net", "convnext_unet:block=resnet,dim=8")
    said = refused(capsys, "import", "w.pt")  # its names are those of dim 28
    assert "time_mlp.0.weight is (32, 8), not (112, 28)" in said
    assert "published network 'unet'" in refused(capsys, "import", "w.pt", "--net", "unet")
    assert "Did you mean 'simple_unet'" in refused(capsys, "import", "w.pt", "--net", "simpl_unet")


def test_mistakes_about_settings(capsys, small, tmp_path):
    torch.save(small.state_dict(), "w.pt")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "kept").touch()
    command = ["import", "w.pt", "--net", "convnext_unet:dim=8"]
    assert "--run NEW" in refused(capsys, *command, "--run", "there")
    assert "cosine" in refused(capsys, *command, "--schedule", "cosin")
    assert "steps" in refused(capsys, *command, "--schedule", "linear:steps=0")
    assert "noise" in refused(capsys, *command, "--predict", "nois")
    assert "size does not fit" in refused(capsys, *command, "--size", "2")
    for wrong in ("1,0", "1", "a,b"):
        assert "two numbers that rise" in refused(capsys, *command, "--range", wrong)
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError, match="its own"):
        interop.import_weights("w.pt", "")
