"""The house's floors: imports go down only, the instrument knows no browser, and domains are data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = [
    ["errors", "terms", "paths", "conditions", "stacks", "files", "shapes", "kernels", "memory"],
    ["linalg", "store", "transport", "metrics", "stats", "stored", "published"],
    ["models", "loaded", "locks", "loading", "tokens", "gguf", "prompts", "pairs", "vocabularies", "answers"],
    ["hooks", "rows", "trace", "anatomy", "transplant", "decoding", "weights", "offload"],
    ["interventions", "preflight", "talk"],
    ["experiments"],
    ["choices", "verdict", "imports"],
    ["charts", "shaping", "comparison", "figures"],
    ["plain"],
    ["sweeps", "running", "findings", "report", "compare", "bench", "shaped", "edits", "planted", "own", "scripts", "__init__"],
    ["bundle", "card"],
    ["notebooks", "unpacking", "replay"],
    ["commands", "__main__"],
    ["app"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
# The one way up: a loaded pair makes its own clean passes and pre-flight, and imports them when it does.
UPWARD = {
    (module, name)
    for module in ("models", "loaded")
    for name in ("trace", "anatomy", "preflight", "transplant", "decoding", "offload")
}
FILES = sorted(path for folder in ("mechdiff", "app") for path in (ROOT / folder).rglob("*.py"))
APP_MODULES = {path.stem for path in (ROOT / "app").rglob("*.py")} | {"views"}


def module_of(path: Path) -> str:
    """The name of the floor's module that a file belongs to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "app" if parts[0] == "app" else parts[1]


def imports(tree: ast.AST) -> list[tuple[str, bool]]:
    """Every absolute name that is imported, and whether the import waits inside a function."""
    inside = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef) for node in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        found += [(name, id(node) in inside) for name in names]
    return found


def imported_module(name: str) -> str | None:
    """The module of ours that an import reaches; None for another library."""
    top, *rest = name.split(".")
    if top == "mechdiff":
        return rest[0] if rest and rest[0] in FLOOR else "__init__"
    return "app" if top in APP_MODULES else None


def wrong_ways(module: str, tree: ast.AST) -> list[str]:
    wrong = []
    for name, lazy in imports(tree):
        target = imported_module(name)
        up = target is not None and FLOOR[target] > FLOOR[module]
        if up and not (lazy and (module, target) in UPWARD):
            wrong.append(f"{module} -> {name}")
    return wrong


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_module_has_a_floor():
    assert {module_of(path) for path in FILES} <= FLOOR.keys()


@pytest.mark.parametrize("path", FILES, ids=label)
def test_imports_go_down_only(path):
    assert wrong_ways(module_of(path), tree_of(path)) == []


@pytest.mark.parametrize(
    ("module", "code", "wrong"),
    [
        ("store", "from mechdiff.experiments.request import Run", True),
        ("store", "def f():\n from mechdiff import pairs", True),
        ("metrics", "import mechdiff", True),
        ("rows", "import session", True),
        ("models", "from mechdiff.trace import run_trace", True),
        ("models", "def f():\n from mechdiff.trace import run_trace", False),
        ("models", "def f():\n from mechdiff.interventions import as_rows", True),
        ("pairs", "def f():\n from mechdiff.trace import run_trace", True),
        ("app", "from mechdiff import sweeps", False),
    ],
)
def test_the_check_itself_tells_up_from_down(module, code, wrong):
    assert bool(wrong_ways(module, ast.parse(code))) == wrong


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) != "app"], ids=label)
def test_the_instrument_knows_no_browser(path):
    found = {name.split(".")[0] for name, _ in imports(tree_of(path))}
    assert "streamlit" not in found
    assert "altair" not in found or module_of(path) == "charts"


@pytest.mark.parametrize("path", [path for path in FILES if module_of(path) != "scripts"], ids=label)
def test_no_code_names_a_domain(path):
    domains = {folder.name for folder in (ROOT / "mechdiff" / "data").iterdir() if folder.is_dir()}
    assert domains
    constants = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant)]
    assert [(node.lineno, node.value) for node in constants if node.value in domains] == []


def test_stored_results_and_charts_need_no_torch():
    names = ("sweeps", "stats", "experiments", "charts", "commands")
    code = f"import {', '.join(f'mechdiff.{name}' for name in names)}, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
