"""The documentation is true: its Python runs, its commands can be typed, its links and pictures are there.

docs/extending.md needs a second project: tests/test_extending.py.
"""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mechdiff.cli import build_parser, run
from mechdiff.common.paths import CACHE
from mechdiff.reporting.talk import read_talk

ROOT = Path(__file__).parents[1]
PLACES = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs", "mechdiff", "benchmarks"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if path.relative_to(ROOT).parts[0] in PLACES)
COMMAND = re.compile(r"python -m mechdiff (?!\.\.\.)([^`\n]*)")
LARGEST = 250_000  # bytes of a picture


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def commands(path: Path) -> list[list[str]]:
    """Every command that a page shows, as words. Square brackets around what may be left out are dropped."""
    texts = COMMAND.findall(path.read_text(encoding="utf-8"))
    return [shlex.split(re.sub(r"[\[\]]", "", text), comments=True) for text in texts]


def test_pages_and_what_they_show_are_found():
    assert {"README.md", "docs/tutorial.md", "docs/api.md"} <= {label(path) for path in PAGES}
    assert len(blocks(ROOT / "docs" / "api.md", "python")) > 5 and len(commands(ROOT / "README.md")) > 15


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("path", [path for path in PAGES if blocks(path, "python") and path.name != "extending.md"], ids=label)
def test_the_python_of_a_page_runs_from_top_to_bottom(path, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(CACHE / "models")
    environment = os.environ | {"MECHDIFF_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    code = "\n".join(blocks(path, "python"))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [path for path in PAGES if commands(path)], ids=label)
def test_every_shown_command_can_be_typed(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a stack's file is read when the command is
    for words in commands(path):
        words = [word.split("|")[0] for word in words if word != "--help"]  # `drift|patch`: the first stands for all
        if words:
            args = build_parser().parse_args(words)
            if args.command == "run" and "--help" not in args.options:
                run.read(args)


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_every_named_file_is_there(path):
    names = re.findall(r"`((?:mechdiff|app|docs|tests|benchmarks)/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=label)
def test_every_link_and_picture_is_there(path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert missing == []


def test_every_picture_is_shown_small_and_can_be_remade():
    sys.path.insert(0, str(ROOT / "docs"))
    import shots

    pictures = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.png")}
    assert pictures == set(shots.SHOTS)
    text = "".join(path.read_text(encoding="utf-8") for path in PAGES)
    for name in pictures:
        assert f"{name})" in text, f"{name} is shown nowhere"
        assert (ROOT / "docs" / name).stat().st_size < LARGEST


def test_the_shown_talk_can_be_given(tmp_path):
    (example,) = blocks(ROOT / "docs" / "talk.md", "toml")
    (tmp_path / "mine.toml").write_text(example)
    assert [step.page for step in read_talk(tmp_path / "mine.toml").steps] == ["patching", "rank"]
    for path in PAGES:
        for text in blocks(path, "toml"):
            tomllib.loads(text)
