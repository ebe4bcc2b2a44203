"""Every example runs as it stands and leaves its picture."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
ARGUMENTS = {"02_digits.py": ["128", "run"]}
PICTURES = {"02_digits.py": ["run/grid.png", "run/strip.png"]}  # the others leave the one that they are told


@pytest.mark.parametrize("name", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(name, tmp_path):
    assert len((EXAMPLES / name).read_text().splitlines()) <= 60
    arguments = ARGUMENTS.get(name, ["picture.png"])
    subprocess.run([sys.executable, EXAMPLES / name, *arguments], check=True, cwd=tmp_path, env=dict(os.environ))
    for picture in PICTURES.get(name, ["picture.png"]):
        with Image.open(tmp_path / picture) as image:
            assert min(image.size) > 20
            assert len(set(image.convert("L").resize((64, 64)).getdata())) > 5  # not one flat colour
