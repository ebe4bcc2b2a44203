"""The lecture: what it quotes is our code, what it computes comes out, its tables and figures are there and true."""

import ast
import doctest
import importlib.util
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from sfumato import nets, schedules

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "theory.md").read_text()
EXCERPTS = re.findall(r"^```python\n# (src/\S+\.py), (\S+)\n(.*?)^```$", TEXT, re.M | re.S)


def source_of(path: str, name: str) -> str:
    """The text of a function, a method (Class.method) or a table of a file."""
    text = (ROOT / path).read_text()
    body, found = ast.parse(text).body, None
    for part in name.split("."):
        named = lambda node: getattr(node, "name", None) or getattr(getattr(node, "target", None), "id", None)
        found = next(node for node in body if named(node) == part)
        body = getattr(found, "body", [])
    return "\n".join(text.splitlines()[found.lineno - 1 : found.end_lineno])  # whole lines, with their comments


def rows(first: str) -> list[list[str]]:
    """The cells of the lines of the table whose heading begins so."""
    lines = TEXT[TEXT.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in lines]


def test_every_excerpt_names_its_source():
    assert len(EXCERPTS) == TEXT.count("```python") > 15


@pytest.mark.parametrize(("path", "name", "excerpt"), EXCERPTS, ids=[f"{i}-{e[1]}" for i, e in enumerate(EXCERPTS)])
def test_excerpts_are_our_code(path, name, excerpt):
    bare = lambda text: "\n".join(line.strip() for line in text.strip().splitlines())
    assert bare(excerpt) in bare(source_of(path, name))
    assert 1 <= len(excerpt.splitlines()) <= 12


def test_what_can_be_typed_gives_what_is_printed():
    blocks = "\n".join(re.findall(r"^```pycon\n(.*?)^```$", TEXT, re.M | re.S))
    assert blocks.count(">>> ") == len(re.findall(r"^>>> ", TEXT, re.M))
    test = doctest.DocTestParser().get_doctest(blocks, {}, "theory.md", "docs/theory.md", 0)
    said: list[str] = []
    assert doctest.DocTestRunner().run(test, out=said.append).failed == 0, "".join(said)


def test_terminal_values_are_those_of_the_schedules():
    for T, alpha, snr, mended in rows("T")[2:]:
        assert alpha == f"{schedules.linear(steps=int(T))(1.0)[0].item():.3f}"
        assert snr == f"{schedules.linear(steps=int(T)).terminal_snr:.1e}"
        assert mended == f"{schedules.linear(steps=int(T), mended=True).terminal_snr:.1e}"


def test_the_published_table_of_300_steps_is_ours():
    (_, *steps), _, (_, *alphas), (_, *sigmas) = rows("step")
    alpha, sigma = schedules.linear(steps=300)((torch.tensor([int(i) for i in steps]) + 1.0) / 300)
    assert alphas == [f"{a:.4f}".removeprefix("0") for a in alpha.tolist()]
    assert sigmas == [f"{s:.4f}".removeprefix("0") for s in sigma.tolist()]


def test_the_table_of_shapes_is_that_of_simple_unet():
    found, told = {}, {name: (gets, gives) for name, gets, gives, _ in rows("part")[2:]}
    with torch.device("meta"):
        net = nets.build("simple_unet").eval()
    net = net.to_empty(device="cpu")  # weights of any value: shapes alone are asked for
    for name in told:
        spell = lambda x: " x ".join(map(str, x.shape[1:]))
        keep = lambda module, given, made, name=name, spell=spell: found.update({name: (spell(given[0]), spell(made))})
        net.get_submodule(name).register_forward_hook(keep)
    with torch.no_grad():
        net(torch.zeros(1, 3, 64, 64), torch.zeros(1))
    assert found == told
    assert len(found) == 10


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as image:
            found[path.name] = image.size
    return found


def test_figures_are_there_and_small():
    named = set(re.findall(r"\]\((theory/\S+\.png)\)", TEXT))
    assert named == {f"theory/{path.name}" for path in (ROOT / "docs" / "theory").iterdir()}
    assert sum((ROOT / "docs" / path).stat().st_size for path in named) < 1_000_000


def command():
    spec = importlib.util.spec_from_file_location("theory", ROOT / "docs" / "figures" / "theory.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_command_draws_the_figures(tmp_path, monkeypatch):
    module, drawn = command(), []
    monkeypatch.setattr(module, "save", lambda image, path: drawn.append(path))  # rendering takes most of the time
    module.main(tmp_path / "theory", detail=0.04)
    assert {path.name for path in drawn} == sizes(ROOT / "docs" / "theory").keys()
    assert {path.parent for path in drawn} == {tmp_path / "theory"}


@pytest.mark.slow
def test_one_command_makes_the_figures(tmp_path):
    command().main(tmp_path, detail=0.04)
    assert sizes(tmp_path) == sizes(ROOT / "docs" / "theory")
