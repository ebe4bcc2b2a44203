"""Nothing that a test writes may lie outside its own folder."""

import os

import pytest
import torch

# One thread, here and in children: tests compute little, and beside other work threads wait for each other most of the time.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SFUMATO_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert "runs" not in os.listdir(tmp_path.parent)
