"""Every example runs as it stands and leaves its picture."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.run import Run

EXAMPLES = Path(__file__).parents[1] / "examples"
WALK = ["data", "noise", "loss", "samples", "halfway", "denoising", "question"]  # what every account's pictures are
BETAS = ["noise-published", "noise-mended", "schedules"]  # instead of one strip of noise
WALKS = {  # the account's script: where its pictures lie, and what they are
    "05_fashion_mnist.py": ("runs/fashion-mnist-quick/out", [name for name in WALK if name != "noise"] + BETAS),
    "06_cars.py": ("runs/cars-quick/out", WALK),
    "07_aircraft.py": ("runs/aircraft-quick/out", [*WALK, "cut"]),
    "08_cifar10.py": ("runs/cifar10-quick/out", WALK),
    "09_oasis.py": ("runs/oasis-32/out", WALK),
}
ARGUMENTS = {"02_digits.py": ["128", "run"], "05_fashion_mnist.py": ["digits", "quick"], "06_cars.py": ["kinds", "quick"]}
ARGUMENTS |= {"07_aircraft.py": ["fgvc", "quick"], "08_cifar10.py": ["kinds", "quick"], "09_oasis.py": ["slices", "quick"]}
PICTURES = {"02_digits.py": ["run/grid.png", "run/strip.png"]}  # the others leave the one that they are told
PICTURES |= {name: [f"{out}/{each}.png" for each in names] for name, (out, names) in WALKS.items()}


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, tmp_path, monkeypatch):
    assert len((EXAMPLES / name).read_text().splitlines()) < 60
    _make(tmp_path / "fgvc", (64, 60), line=20)
    _make(tmp_path / "slices", (40, 40))
    _make(tmp_path / "kinds/car", (40, 40), tint=(1, 0, 0))
    _make(tmp_path / "kinds/ship", (40, 40), tint=(0, 0, 1))
    arguments = ARGUMENTS.get(name, ["picture.png"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")  # in this process, for torch takes seconds to import
    for picture in PICTURES.get(name, ["picture.png"]):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 20
            assert len(set(image.convert("L").resize((64, 64)).getdata())) > 5  # not one flat colour
            assert name != "09_oasis.py" or image.mode == "L" or picture.endswith("loss.png")  # slices saved as RGB
    if name in WALKS:
        with Image.open(tmp_path / WALKS[name][0] / "denoising.gif") as moving:
            assert moving.n_frames > 1
    if name == "08_cifar10.py":
        assert Run.of("runs/cifar10-one-class-quick").config().only_class == "ship"
    if name == "07_aircraft.py":  # its second row of pictures has lost the white line at the bottom of each file
        with Image.open(tmp_path / "runs/aircraft-quick/out/cut.png") as image:
            levels = np.asarray(image.convert("L"))[:, -60:]
        upper, lower = levels[: len(levels) // 2], levels[len(levels) // 2 :]
        assert (upper == 255).mean() > 0.2
        assert (lower == 255).mean() == 0


def _make(folder: Path, size: tuple[int, int], line: int = 0, tint: tuple[int, int, int] = (1, 1, 1)) -> None:
    """Six dark gradients of that height, width and tint as RGB files, the lowest `line` rows white."""
    folder.mkdir(parents=True)
    height, width = size
    for i in range(6):
        pixels = np.add.outer(np.arange(height), (i + 1) * np.arange(width) // 4).clip(0, 150)  # (H, W)
        pixels = (pixels[..., None] * np.array(tint)).astype(np.uint8)  # (H, W, 3)
        pixels[height - line :] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
