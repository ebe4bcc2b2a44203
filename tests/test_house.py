"""The house's own rules: the size of the heart, arrows that point down, who may print, what is never imported."""

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "sfumato"
HEART = ("schedules", "denoisers", "losses", "samplers", "guides")

# Which parts of the package each part may import; a part not listed here may not exist.
BASE = {"errors", "spec", "disk"}
ARROWS = {
    "errors": set(),
    "spec": {"errors"},
    "disk": set(),
    "draws": set(),
    "schedules": {"draws", *BASE},
    "denoisers": {"schedules", "draws", *BASE},
    "losses": {"denoisers", "schedules", "draws", *BASE},
    "samplers": {"denoisers", "schedules", "draws", *BASE},
    "guides": {"denoisers", "schedules", "draws", *BASE},
    "toy": {"denoisers", "schedules", "draws", *BASE},
    "nets": BASE,
    "data": BASE,
    "picture": BASE,
    "flags": BASE,
    "rates": set(),
    "config": {*HEART, "flags", "rates", *BASE},
    "defaults": {"schedules", "config", "nets", *BASE},
    "recipes": {"config", *BASE},
    "run": {"config", *BASE},
    "training": {*HEART, "draws", "rates", "config", "data", "picture", *BASE},
    "built": {"config", "nets", "training", *BASE},
    "model": {*HEART, "draws", "config", "run", "built", "data", "picture", "training", *BASE},
    "plan": {"denoisers", "config", "defaults", "nets", "data", "training", "built", "model", *BASE},
    "finetune": {"config", "run", "data", "training", "built", *BASE},
    "trainer": {
        *(*HEART, "draws", "rates", "config", "defaults", "run", "nets", "data", "picture", "training", "model", "finetune"),
        *("plan", *BASE),
    },
    "interop": {"schedules", "config", "run", "nets", "data", "training", *BASE},
    "scenes": {*HEART, "draws", "config", "run", "data", "picture", "model", "trainer", *BASE},
    "slurm": BASE,
    "few": {*HEART, "model", "run", *BASE},
    "judge": {
        *(*HEART, "draws", "config", "run", "nets", "data", "picture", "training", "built", "model", "finetune"),
        *("plan", "trainer", "interop"),
        *BASE,
    },
    "commands": None,  # everything
    "cli": {"errors", "__init__", "commands"},
    "__main__": {"cli"},
    "__init__": {"commands", "model", "spec"},
}


def files(part=""):
    return sorted(p for p in SOURCE.rglob("*.py") if part in ("", p.relative_to(SOURCE).parts[0].removesuffix(".py")))


def part_of(path):
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path):
    """(third-party roots, parts of this package) that a file imports anywhere."""
    outside, inside = set(), set()
    package = ["sfumato", *path.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = base + (node.module.split(".") if node.module else [])
            if full[:1] != ["sfumato"]:
                outside.add(full[0])
            elif len(full) > 1:
                inside.add(full[1])
            else:
                inside |= {alias.name if alias.name != "__version__" else "__init__" for alias in node.names}
    return outside - set(sys.stdlib_module_names), inside - {part_of(path)}


def lines_of_code(path):
    """Lines that hold code: neither blank, nor comment, nor docstring."""
    text, code = path.read_text(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
            code |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):  # docstrings, those of fields too
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code - {len(text.splitlines()) + 1})


def test_the_heart_is_small():
    sizes = {name: lines_of_code(SOURCE / f"{name}.py") for name in HEART}
    print(f"the heart: {sizes}, {sum(sizes.values())} lines of code")
    assert sum(sizes.values()) < 900
    for name in HEART:
        assert len((SOURCE / f"{name}.py").read_text().splitlines()) <= 400


def test_the_heart_imports_torch_alone():
    for name in (*HEART, "draws", "toy"):
        outside, _ = imports(SOURCE / f"{name}.py")
        assert outside <= {"torch"}, name
    for name in ("errors", "spec", "disk"):
        assert imports(SOURCE / f"{name}.py")[0] == set()


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_arrows_point_down(path):
    allowed = ARROWS[part_of(path)]
    assert allowed is None or imports(path)[1] <= allowed


def test_arrows_have_no_circle():
    known = {name: set(allowed) for name, allowed in ARROWS.items() if allowed is not None}
    for name in ("__init__", "cli", "__main__", "commands"):  # the door, through which everything is reached
        known.pop(name, None)
    while known:
        leaves = [name for name, allowed in known.items() if not allowed & known.keys()]
        assert leaves, f"a circle among {sorted(known)}"
        for name in leaves:
            del known[name]


def test_rooms_are_not_too_large():
    for path in files():
        assert len(path.read_text().splitlines()) <= 400, path


def test_only_commands_and_watchers_print():
    for path in files():
        if part_of(path) in ("commands", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", path


def test_no_pickle_anywhere():
    for path in files():
        outside = {alias.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)
                   for alias in node.names}  # fmt: skip
        assert not outside & {"pickle", "dill", "joblib", "cloudpickle", "shelve"}, path
        text = path.read_text()
        assert "torch.load(" not in text or "weights_only=True" in text, path
        assert "allow_pickle=True" not in text, path


def test_commands_are_short():
    for path in files("commands"):
        assert lines_of_code(path) <= 80, path


def test_help_does_not_wait_for_torch():
    code = "import sys; from sfumato.cli import main; assert main(['--help']) == 0; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_sfumato_pulls_in_nothing():
    code = "import sys; import sfumato; sfumato.schedules\nbad = {'matplotlib', 'sklearn', 'gradio'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + "; assert not bad, bad"], check=True)


def test_every_module_tells_what_it_is():
    for path in files():
        assert ast.get_docstring(ast.parse(path.read_text())), path
