"""`sfumato cache`, and the names of known sets."""

import numpy as np
import pytest

from sfumato.cli import main
from sfumato.data import gather, open_source
from sfumato.disk import cache_folder


@pytest.fixture(autouse=True)
def _empty_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path_factory.mktemp("cache")))


def typed(capsys, *words):
    code = main(["cache", *words])
    found = capsys.readouterr()
    return code, found.out + found.err


def test_packs_are_listed_and_removed(tmp_path, capsys):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).integers(0, 256, (9, 20, 20)).astype(np.uint8))
    assert "No pictures are kept" in typed(capsys, "list")[1]
    gather(open_source(tmp_path / "few.npy"), 8)
    code, said = typed(capsys, "list")
    assert code == 0
    assert "few-8x8-crop" in said
    assert " 9 " in said
    assert typed(capsys, "clear", "fw")[0] == 2
    assert "1 packs and 0 files of features removed" in typed(capsys, "clear", "few")[1]
    assert "No pictures are kept" in typed(capsys, "list")[1]
    assert not [path for path in (cache_folder() / "packs").iterdir() if path.is_dir()]


def test_features_are_listed_and_removed_with_all_else(capsys):
    kept = cache_folder() / "features" / "own-1.safetensors"
    kept.parent.mkdir()
    kept.write_bytes(bytes(2000))
    assert "1 files of features, 2 kB" in typed(capsys, "list")[1]
    assert typed(capsys, "clear", "own")[0] == 2  # names are those of packs
    assert kept.exists()
    assert "0 packs and 1 files of features removed, 2 kB freed" in typed(capsys, "clear")[1]
    assert not kept.exists()


def test_the_copy_of_a_named_set_is_given_once(tmp_path, capsys):
    np.save(tmp_path / "mine.npy", np.zeros((9, 20, 20), np.uint8))
    assert typed(capsys, "add", "FashionMNIST", str(tmp_path / "mine.npy"))[0] == 0
    assert len(open_source("fashion-mnist")) == len(open_source("fashion_mnist")) == 9
    assert str(tmp_path / "mine.npy") in typed(capsys, "list")[1]
    (tmp_path / "mine.npy").unlink()
    assert main(["inspect", "fashion-mnist"]) == 2
    assert "sfumato cache add" in capsys.readouterr().err
    assert typed(capsys, "forget", "fashion-mnist")[0] == 0
    assert "fashion-mnist" not in typed(capsys, "list")[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "Did you mean 'list'?"),
        (["list", "few"], "takes no words"),
        (["add", "fashion-mnist"], "takes 2 words"),
        (["add", "nothing-known", "."], "no named set"),
        (["add", "fashion-mnist", "/nowhere/at/all"], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_done_is_said(capsys, words, said):
    code, found = typed(capsys, *words)
    assert code == 2
    assert said in found


def test_cache_alone_says_what_it_does(capsys):
    assert typed(capsys) == typed(capsys, "--help")
    assert "sfumato cache clear [NAME]" in typed(capsys)[1]
