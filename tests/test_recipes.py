"""The recipes: the facts of the accounts, what is mended and what `faithful` puts back, and going on from a run."""

import json
import math
import shutil

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

import sfumato
from sfumato import data, defaults, nets, recipes, trainer
from sfumato.built import build_net
from sfumato.cli import main
from sfumato.config import build_schedule, checked
from sfumato.data.cut import Cut
from sfumato.errors import UserError
from sfumato.finetune import Parent
from sfumato.run import Run
from sfumato.spec import Spec
from sfumato.training import checkpoint, loop
from sfumato.training.ema import tensors

SMALL = {"net": "unet:width=8", "batch": 50, "precision": "float32"}
TINY = "--net unet:width=8 --batch 50 --precision float32 --sampling-steps 1"

# name: T, network, parameters for its channels, distance, batch, rate, epochs
TABLE = {
    "oasis": (600, "maxpool_unet", 31_140_577, "l1", 64, 1e-3, 205),  # 31,141,859 for RGB
    "aircraft": (300, "simple_unet", 62_438_883, "l1", 150, 1e-3, 4000),
    "cifar10": (1000, "double_conv_unet", 33_178_526, "l2", 512, 1e-3, 15),
    "cifar10-ship": (1000, "double_conv_unet", 33_178_526, "l2", 512, 1e-3, 10),
    "cars": (300, "simple_unet", 62_438_883, "l1", 128, 1e-3, 2),
    "fashion-mnist": (200, "convnext_unet", 2_992_180, "huber", 16, 1e-4, 10),
}


def refused(capsys, command):
    assert main(command.split()) == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("faithful", [False, True])
@pytest.mark.parametrize("name", TABLE)
def test_the_facts_of_the_accounts(name, faithful):
    config = recipes.recipe(name, faithful)
    steps, net, parameters, distance, batch, lr, epochs = TABLE[name]
    assert build_schedule(config).steps == steps
    assert (config.net.name, config.distance.name) == (net, distance)
    assert (config.batch, config.lr, config.epochs) == (batch, lr, epochs)
    assert (config.predict, config.optimizer) == ("noise", Spec("adam", betas=(0.9, 0.999)))
    with torch.device("meta"):
        assert nets.parameters(nets.build(net, config.channels)) == parameters


def test_what_the_accounts_do_to_pictures():
    """Mirrored but for brains, aircraft without their strip; published: nothing is cut off, and cifar10 stays in [0, 1]."""
    for faithful in (False, True):
        made = {name: recipes.recipe(name, faithful) for name in TABLE}
        assert [name for name, config in made.items() if not config.flip] == ["oasis"]
        assert {name: config.cut_bottom for name, config in made.items() if config.cut_bottom} == (
            {} if faithful else {"aircraft": 20}
        )
        ranges = {name: config.range for name, config in made.items() if config.range}
        assert ranges == ({"cifar10": (0.0, 1.0), "cifar10-ship": (0.0, 1.0)} if faithful else {})


@pytest.mark.parametrize(("name", "alpha"), [("oasis", 0.048), ("aircraft", 0.219), ("cars", 0.219), ("fashion-mnist", 0.364)])
def test_the_recipe_reaches_noise_where_the_account_stops_short(name, alpha):
    published, mended = (build_schedule(recipes.recipe(name, faithful)) for faithful in (True, False))
    assert published(1.0)[0].item() == pytest.approx(alpha, abs=5e-4)  # as the account's betas give it
    assert mended.terminal_snr == pytest.approx(build_schedule(recipes.recipe("cifar10")).terminal_snr, rel=1e-9)


def test_kept_faults_are_those_that_are_really_kept():
    said = recipes.kept_faults("cars", recipes.recipe("cars", faithful=True))
    assert len(said) == 4
    assert "linear:steps=300 (recipe: linear:steps=300,mended=True)" in said[0]
    assert "0.219" in said[0]
    overridden = msgspec.structs.replace(recipes.recipe("cars", True), fit="crop", ema=5000)
    assert len(recipes.kept_faults("cars", overridden)) == 2
    assert recipes.kept_faults("cars", recipes.recipe("cars")) == []
    assert not any("schedule" in each for each in recipes.kept_faults("cifar10", recipes.recipe("cifar10", True)))  # the same


def test_a_recipe_that_nobody_published_has_no_faults(capsys):
    assert "oasis" in refused(capsys, "train digits --faithful")


def test_a_budget_takes_the_place_of_the_recipes_own():
    config = recipes.recipe("cars")
    for given in ({"images": "5k"}, {"steps": 7}, {"epochs": 3.0}, {"time": "2h"}):
        chosen = checked(recipes.budgeted(msgspec.structs.replace(config, **given), config))
        assert [name for name in ("images", "epochs", "steps", "time") if getattr(chosen, name) is not None] == [*given]
    assert recipes.budgeted(config, config).epochs == 2


def test_the_staircase_is_the_cosine_at_the_beginning_of_each_epoch():
    plan = trainer.prepare("digits", checked(recipes.recipe("fashion-mnist")))
    config = defaults.budget(plan.config, lambda: 0.0)
    smooth = msgspec.structs.replace(config, rate=Spec("cosine"))
    train, starts = config.facts.train, range(0, config.images, config.facts.train)
    for epoch, start in enumerate(starts):
        rate = loop.learning_rate(config, start)
        assert rate == loop.learning_rate(config, min(start + train, config.images) - 1) == loop.learning_rate(smooth, start)
        assert rate == pytest.approx(1e-4 * (1 + math.cos(math.pi * epoch / 10)) / 2, abs=1e-7)  # 10 epochs, to a batch
    assert loop.learning_rate(config, 9 * train) == pytest.approx(2.5e-6, abs=1e-7)  # the account's last epoch


def test_the_range_that_the_network_sees(tmp_path):
    half = trainer.prepare("digits", checked({"range": "0,1"}))
    whole = trainer.prepare("digits", checked({}))
    assert half.facts.codec["ends"] == [0, 1]
    assert half.facts.sigma_data == pytest.approx(whole.facts.sigma_data / 2, abs=1e-4)
    model = sfumato.train("digits", tmp_path / "r", images=50, range="0,1", quiet=True, **SMALL)
    assert model.codec.clip == (0, 1)
    assert model.sample(2, steps=1).dtype == np.uint8


# ---- rows at the bottom ----------------------------------------------------------------------------------------------


def banners(folder, count=3, mode="RGB", suffix="png", **save):
    """Pictures of 40x30 whose lowest 10 rows are white."""
    folder.mkdir()
    for k in range(count):
        pixels = np.full((30, 40, 3), 20 * k, np.uint8)
        pixels[20:] = 255
        Image.fromarray(pixels).convert(mode).save(folder / f"{k}.{suffix}", **save)
    return folder


def test_rows_at_the_bottom_are_cut_off_before_all_else(tmp_path):
    folder = banners(tmp_path / "f")
    images = data.gather(Cut(data.open_source(folder), 10))
    assert images.shape == (1, 20, 40)
    assert [np.unique(picture).tolist() for picture in images.array] == [[0], [20], [40]]
    assert (images.sizes == (20, 40)).all()
    for rows in (0, 5):  # the cache tells them apart
        assert data.gather(Cut(data.open_source(folder), rows)).shape == (1, 30 - rows, 40)
    assert data.gather(data.open_source(folder)).shape == (1, 30, 40)
    assert data.gather(Cut(data.open_source(folder), 10)).array.max() == 40


def test_rows_are_those_of_the_file_where_it_is_decoded_smaller(tmp_path):
    (tmp_path / "f").mkdir()
    pixels = np.broadcast_to(np.arange(800)[:, None, None] // 4, (800, 800, 3)).astype(np.uint8)  # 0 at the top, 179 at row 719
    pixels[720:] = 255
    for k in range(2):
        Image.fromarray(pixels + np.uint8(k) * (pixels < 200)).save(tmp_path / "f" / f"{k}.jpg", quality=95)
    images = data.gather(Cut(data.open_source(tmp_path / "f"), 80), 40)  # at an eighth: 10 of 100 rows
    lowest = images.array[:, :, -1]  # of 18 rows in the file, the middle of which has 177
    assert 170 < lowest.min() <= lowest.max() < 190


def test_pictures_of_which_nothing_would_be_left_are_named(tmp_path):
    with pytest.raises(UserError, match="30 pixels high has nothing left after 30 are cut off"):
        data.gather(Cut(data.open_source(banners(tmp_path / "f")), 30))


# ---- going on from a run ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "digits"
    assert main(f"train digits --run {folder} --images 400 {TINY} --lr 0.01".split()) == 0
    return folder


def test_a_run_begins_from_the_averaged_weights_of_another(parent, tmp_path):
    frozen = sfumato.train(
        "digits", tmp_path / "r", start=parent, images=50, lr=1e-30, optimizer="adam", only_class="3", quiet=True
    )
    mine, theirs = (tensors(sfumato.load(run).denoiser.net.net) for run in (frozen.path, parent))
    assert mine.keys() == theirs.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], theirs[name], rtol=0, atol=1e-7)
    assert frozen.facts.sigma_data == sfumato.load(parent).facts.sigma_data
    assert frozen.facts.start == str(parent)


def test_what_the_weights_were_made_for_stays(parent):
    made_for = {"range": (0.0, 1.0), "predict": "flow", "c_noise": "log", "variance_weight": 0.5, "shift": 2.0}
    made_for |= {"schedule": Spec("cosine"), "net": Spec("unet", width=8)}
    own = {"warmup": 7, "ema": 9, "log_every": 11, "channels": 3, "time": 60.0}  # of that training alone
    odd = Parent(Run(parent), msgspec.structs.replace(Run(parent).config(), **made_for, **own))
    for recipe in (None, recipes.recipe("cars"), recipes.recipe("cifar10-ship", faithful=True)):
        settings = odd.default(recipe)
        assert {name: getattr(settings, name) for name in made_for} == made_for
    assert odd.default(recipes.recipe("cars")).lr == recipes.recipe("cars").lr
    assert [getattr(odd.default(None), name) for name in own] == [None] * len(own)


def test_pictures_are_read_as_the_network_was_taught(parent):
    config = Run(parent).config()
    taught = {"low": [0.0], "high": [4095.0], "dtype": "uint16", "ends": [-1.0, 1.0]}
    odd = Parent(Run(parent), msgspec.structs.replace(config, facts=msgspec.structs.replace(config.facts, codec=taught)))
    for high, dtype, codec in ((65535.0, "uint16", taught), (1.0, "float32", taught | {"high": [1.0], "dtype": "float32"})):
        found = msgspec.structs.replace(config.facts, codec=taught | {"high": [high], "dtype": dtype}, sigma_data=0.1)
        facts = odd.facts_of(found, dtype)
        assert (facts.codec, facts.sigma_data) == (codec, config.facts.sigma_data)


def test_one_class_is_trained_on_and_the_split_stays(parent, tmp_path, capsys):
    command = f"train digits --from {parent} --only-class 3 --images 100 --batch 50 --run r"
    assert main(command.split()) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "are of class 3, which alone is used" in said
    assert "The weights are those of" in said
    config = Run.of("r").config()
    assert config.facts.label_names == tuple("0123456789")  # as the network knows them
    assert np.flatnonzero(config.facts.label_counts).tolist() == [3]
    held, before = (set((folder / "held_out.txt").read_text().split()) for folder in (tmp_path / "r", parent))
    assert held < before
    shutil.rmtree("r/samples")
    assert main(command.split()) == 0  # the same command again
    assert "finished" in capsys.readouterr().out
    assert main(["sample", "r", "-n", "2"]) == 0


def test_the_default_folder_says_what_was_gone_on_from(parent, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(f"train digits --from {parent} --only-class 3,8 --dry-run".split()) == 0
    settings = json.loads(capsys.readouterr().out)
    assert settings["net"] == {"name": "unet", "classes": 10, "patch": 1, "width": 8}
    assert settings["epochs"] == 10
    assert sum(settings["facts"]["label_counts"]) == settings["facts"]["train"]
    assert np.flatnonzero(settings["facts"]["label_counts"]).tolist() == [3, 8]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("--net unet:width=16", "net is unet:"),
        ("--schedule cosine", "schedule is edm"),
        ("--only-class nine", "class 'nine'"),
        ("--channels 3", "1 channel; these have 3. Give --channels 1"),
    ],
)
def test_what_does_not_fit_the_weights_is_refused(parent, capsys, more, words):
    assert words in refused(capsys, f"train digits --from {parent} {more}")


def test_other_pictures_of_another_channel_count_are_refused_and_converted_when_asked(parent, capsys, tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    np.save(tmp_path / "c.npy", colours)
    assert "Give --channels 1 to convert them" in refused(capsys, f"train c.npy --from {parent} --images 50")
    assert main(f"train c.npy --from {parent} --images 50 --channels 1 --run r".split()) == 0
    assert "Labels" not in capsys.readouterr().out
    assert main(["sample", "r", "-n", "3", "--steps", "2", "--seed", "1"]) == 0  # of no label, for none was seen
    assert sfumato.load("r").label_numbers(None, torch.arange(3), 1) is None


def test_labels_are_told_as_the_network_knows_them(parent, tmp_path):
    """Class folders named 7 and 2 are labels 7 and 2 of the network, not 1 and 0."""
    for name, count in (("7", 80), ("2", 30)):
        (tmp_path / "f" / name).mkdir(parents=True)
        for k in range(count):
            noise = np.random.default_rng(int(name) * 100 + k).integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "f" / name / f"{k}.png")
    plan = trainer.prepare("f", sfumato.finetune.Parent.of(parent).default(None), parent=sfumato.finetune.Parent.of(parent))
    assert plan.facts.label_names == tuple("0123456789")
    twos, sevens = plan.facts.label_counts[2], plan.facts.label_counts[7]
    assert sum(plan.facts.label_counts) == twos + sevens
    assert 0 < twos <= 30 < sevens
    (tmp_path / "f" / "7").rename(tmp_path / "f" / "seven")
    plan = trainer.prepare("f", sfumato.finetune.Parent.of(parent).default(None), parent=sfumato.finetune.Parent.of(parent))
    assert plan.train.labels is None
    assert any("Labels are not told the network, for it knows 0, 1" in reason for reason in plan.reasons)
    assert nets.parameters(build_net(plan.config, plan.facts)) == nets.parameters(sfumato.load(parent).denoiser.net)


def test_one_class_alone_is_no_label(capsys):
    plan = trainer.prepare("digits", checked({"only_class": "4"}))
    assert plan.facts.label_names is None
    assert plan.facts.train + plan.facts.held_out == 181  # fours among the digits
    assert "needs pictures with classes" in refused_python({"only_class": "4"}, np.zeros((20, 8, 8), np.uint8))


def refused_python(raw, pictures):
    pictures[::2] = 9
    with pytest.raises(UserError) as caught:
        trainer.prepare(pictures, checked(raw))
    return str(caught.value)


def test_the_recipe_for_one_class_asks_for_a_run(capsys, parent):
    assert "--from runs/cifar10" in refused(capsys, "train digits --recipe cifar10-ship")
    assert "Expected a run folder" in refused(capsys, "train digits --recipe cifar10-ship --from nowhere")
    assert "class 'ship'" in refused(capsys, f"train digits --recipe cifar10-ship --from {parent}")


# ---- which checkpoints are kept --------------------------------------------------------------------------------------


def write(folder, images, held_out=None):
    checkpoint.save(folder, images, {name: {"w": torch.ones(1)} for name in ("model", "ema", "optimizer")}, {})
    checkpoint.compare(folder, images, held_out)


def there(folder):
    return [int(path.name) for path in checkpoint.listed(folder)]


def test_an_older_checkpoint_is_kept_besides_the_newest(tmp_path):
    for images in range(10, 1000, 10):
        write(tmp_path, images)
        checkpoint.prune(tmp_path, 2, older=100)
        kept = there(tmp_path)
        assert {images, max(10, images - 10)} <= set(kept)
        assert len(kept) <= 4
        if images >= 200:
            assert any(100 <= images - other <= 200 for other in kept), (images, kept)


def test_the_best_is_kept_and_found(tmp_path):
    for images, loss in ((10, 0.5), (20, 0.3), (30, 0.4), (40, 0.35), (50, None)):
        write(tmp_path, images, loss)
        checkpoint.prune(tmp_path, 1)
    assert there(tmp_path) == [20, 50]
    assert checkpoint.best(tmp_path) == 20
    assert checkpoint.at(tmp_path, "best").state["images"] == 20
    assert checkpoint.at(tmp_path, 50).state["images"] == checkpoint.at(tmp_path, "50").state["images"] == 50
    with pytest.raises(UserError, match=r"no checkpoint '30' .* there is 20, 50"):
        checkpoint.at(tmp_path, 30)
    shutil.rmtree(tmp_path / "000000020")
    assert checkpoint.best(tmp_path) is None
    write(tmp_path, 60, 0.9)
    assert checkpoint.best(tmp_path) == 60


def test_samples_can_be_drawn_from_the_best(parent, capsys):
    assert main(f"sample {parent} -n 1 --checkpoint best --out o".split()) == 0
    assert "no checkpoint '7'" in refused(capsys, f"sample {parent} -n 1 --checkpoint 7 --out o")


def test_strips_are_drawn_while_training(tmp_path):
    sfumato.train(
        "digits", tmp_path / "r", images=200, batch=50, net="unet:width=8", strip_every=100, sampling_steps=4, quiet=True
    )
    names = sorted(path.name for path in (tmp_path / "r" / "samples").glob("*-strip.png"))
    assert names == ["000000100-strip.png", "000000200-strip.png"]
