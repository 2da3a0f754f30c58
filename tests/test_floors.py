"""The packages' order: imports go down only, no circle inside a package, no browser in the instrument; domains are data.

Test modules do not import each other either.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["common", "maths", "inputs", "engine", "models", "questions", "study", "validation", "reporting", "library", "cli"]
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted((ROOT / "mechdiff").rglob("*.py"))}
APP = sorted((ROOT / "app").rglob("*.py"))
TESTS = sorted((ROOT / "tests").glob("*.py"))
SUPPORT = sorted((ROOT / "tests" / "support").glob("*.py"))


def imported(code: str) -> set[str]:
    """Every absolute name that a module imports, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def floor(name: str) -> int:
    """A package's floor; what lies beside the packages (`mechdiff`, `mechdiff.__main__`) is above all of them."""
    top, *rest = name.split(".")
    return ORDER.index(rest[0]) if top == "mechdiff" and rest and rest[0] in ORDER else len(ORDER)


def upward(name: str, code: str) -> list[str]:
    return sorted(target for target in imported(code) if target.split(".")[0] == "mechdiff" and floor(target) > floor(name))


def module_of(name: str) -> str | None:
    """The module of ours that an imported name lies in."""
    candidates = (name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__")
    return next((candidate for candidate in candidates if candidate in FILES), None)


def test_every_folder_is_a_package_with_a_line_about_it():
    folders = {name.split(".")[1] for name in FILES if name.count(".") > 1}
    assert folders == {*ORDER, "scripts"}
    for name in FILES:
        if name.endswith(".__init__"):
            assert ast.get_docstring(ast.parse(FILES[name].read_text())), name


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down_only(name):
    assert upward(name, FILES[name].read_text()) == []


@pytest.mark.parametrize("package", ORDER)
def test_no_circle_inside_a_package(package):
    graph = {
        name: {module for target in imported(path.read_text()) if (module := module_of(target)) not in (None, name)}
        for name, path in FILES.items()
        if name.startswith(f"mechdiff.{package}.")
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize(
    ("name", "code", "wrong"),
    [
        ("mechdiff.common.cache", "from mechdiff.questions.shared.request import Run", True),
        ("mechdiff.common.cache", "def f():\n from mechdiff.inputs import pair_file", True),
        ("mechdiff.maths.similarity", "import mechdiff", True),
        ("mechdiff.models.load", "from mechdiff.engine.trace import run_trace", False),
        ("mechdiff.models.load", "def f():\n from mechdiff.questions import drift", True),
        ("mechdiff.__main__", "from mechdiff import cli", False),
    ],
)
def test_the_check_itself_tells_up_from_down(name, code, wrong):
    assert bool(upward(name, code)) == wrong


@pytest.mark.parametrize("name", FILES)
def test_the_instrument_knows_no_browser(name):
    libraries = {target.split(".")[0] for target in imported(FILES[name].read_text())}
    assert "streamlit" not in libraries
    assert "altair" not in libraries or name.startswith(("mechdiff.reporting.", "mechdiff.library."))


@pytest.mark.parametrize("path", [*FILES.values(), *APP], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_names_a_domain(path):
    domains = {folder.name for folder in (ROOT / "mechdiff" / "data" / "domains").iterdir()} - {"neutral"}  # a word of its own
    constants = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
    assert domains and [(node.lineno, node.value) for node in constants if node.value in domains] == []


@pytest.mark.parametrize("path", [*TESTS, *SUPPORT], ids=lambda path: path.stem)
def test_no_test_module_is_imported(path):
    """What several of them use is in tests/support, and fixtures come by name."""
    modules = {file.stem for file in TESTS} | {"tests"}
    assert {target.split(".")[0] for target in imported(path.read_text())} & modules == set()


def test_stored_results_and_charts_need_no_torch():
    names = ("study.sweeps", "maths.intervals", "questions", "reporting.charts", "cli")
    code = f"import {', '.join(f'mechdiff.{name}' for name in names)}, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
