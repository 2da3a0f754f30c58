"""What a version 0.1 of mechdiff left in tests/data/v0.1, and how today's version is asked about it.

Only what people have in their hands is used: command lines, addresses of the app, files, `mechdiff.run` and `mechdiff.Run`. Every
command runs in a process and a cache of its own. DRIVER knows more: it reads a page's answered requests out of the app's session.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "v0.1"
NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e-\d+)?"
VALUE = re.compile(rf"(?:{NUMBER}|full) (?:% )?\[[^\]]*\d[^\]]*\]|full \[full, full\]|(?<![\w.])[-+]?\d+\.\d+(?:e-\d+)?(?![\w.])")
DRIVER = """
import dataclasses, json, logging, sys, time
from pathlib import Path
from urllib.parse import parse_qs

logging.disable(logging.WARNING)
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

APP = Path(sys.argv[1]) / "app"
sys.path.insert(0, str(APP))


def plain(value):
    if dataclasses.is_dataclass(value):
        named = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        more = {"question": value.question} if hasattr(value, "question") else {}
        return {"type": type(value).__name__} | more | named
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value


def opened(page, query):
    at = AppTest.from_file(str(APP / "Home.py"), default_timeout=600)
    at._page_hash = calc_hash("" if page == "home" else page)
    for key, values in parse_qs(query, keep_blank_values=True).items():
        at.query_params[key] = values
    at.run()
    while at.get("progress"):
        time.sleep(0.3)
        at.run()
    return at


for name, link in json.load(open(sys.argv[2])).items():
    page, _, query = link.partition("?")
    start, page = time.monotonic(), page.strip("./") or "home"
    at = opened(page, query)
    page_now = {
        "page": page,
        "header": [part.value for part in at.header],
        "selection": {key: at.session_state[key] for key in parse_qs(query) if key in at.session_state},
        "requests": [plain(request) for request in at.session_state["_page_record"].answers],
        "commands": [part.value for part in at.code if part.value.startswith("python -m mechdiff")],
        "metrics": {metric.label: metric.value for metric in at.metric},
        "problems": [*(part.value for part in at.error), *(part.message for part in at.exception)],
        "warnings": [part.value for part in at.warning],
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps({name: page_now}), flush=True)
"""


def python(*arguments, cache: Path, place: Path = DATA, package: Path = ROOT) -> subprocess.CompletedProcess:
    """Python in a process of its own. cache: its cache folder. place: where it runs. package: the checkout it imports."""
    environment = os.environ | {"MECHDIFF_CACHE": str(cache), "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


def cli(*arguments, **where) -> subprocess.CompletedProcess:
    """The command line."""
    return python("-m", "mechdiff", *arguments, **where)


def lines_of(done: subprocess.CompletedProcess) -> list:
    """A JSON value a line."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{", "["))]


def recorded(name: str):
    return json.loads((DATA / name).read_text(encoding="utf-8"))


def values(text: str) -> list[str]:
    """The measured values of a text, in order, whatever its words: numbers with their intervals, and decimal numbers."""
    return VALUE.findall(text)


def estimates(text: str) -> list[str]:
    """The numbers of a text without their intervals, which are others since templates are the units."""
    return values(re.sub(r" \[[^\]]*\]", "", text))


def copied(place: Path) -> Path:
    """A checkout without any stored sweep: the package and the app. Returns where sweeps are stored in it."""
    for name in ("mechdiff", "app"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("artifacts", "__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", place)
    return place / "mechdiff" / "artifacts"


def summary_of(table: pd.DataFrame) -> dict[str, float]:
    """How many lines, and the mean of every column that holds numbers."""
    numbers = [name for name in table if table[name].dtype.kind in "fi" and table[name].notna().any()]
    return {"lines": len(table)} | {name: float(table[name].astype(float).mean()) for name in numbers}
