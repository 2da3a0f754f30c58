"""The wheel, installed outside the checkout, answers from an empty folder and leaves its own files as they are."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
import zipfile
from pathlib import Path

import pandas as pd
import psutil
import pytest
from support import browser, swept_pair

import mechdiff
from mechdiff.common.paths import CACHE
from mechdiff.inputs.prompts import domains
from mechdiff.reporting import bundle

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
SOURCES = ("app", "mechdiff", "pyproject.toml", "setup.py", "README.md", "LICENSE", "NOTICE")
LARGEST = 60_000_000  # bytes of the wheel
TALK = """title = "One slide"
[[step]]
headline = "Which heads?"
page = "compare"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of the sources, because a build writes next to them."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name, **({"ignore": shutil.ignore_patterns("__pycache__")} if copy is shutil.copytree else {}))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder / "dist", folder)
    return next((folder / "dist").glob("*.whl"))


def pip(*words) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *map(str, words)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr


class Installed:
    """A Python environment with the wheel, and this one's other packages; its own home folder; an empty folder to work in."""

    def __init__(self, folder: Path, wheel: Path):
        venv.create(folder / "env", with_pip=False)
        self.python = folder / "env" / "bin" / "python"
        pip(f"--python={self.python}", "install", "--no-deps", "--no-index", wheel)
        (self.site,) = (folder / "env" / "lib").glob("python*/site-packages")
        (self.site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.place, self.data = folder / "empty", folder / "home" / "data" / "mechdiff"
        self.place.mkdir()
        moved = {"HOME": folder / "home", "XDG_CACHE_HOME": folder / "home" / "cache", "XDG_DATA_HOME": folder / "home" / "data"}
        unset = ("PYTHONPATH", "MECHDIFF_CACHE", "MECHDIFF_DATA", "MECHDIFF_MODELS")
        self.environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.environment |= {name: str(path) for name, path in moved.items()} | {"PYTHONDONTWRITEBYTECODE": "1"}
        (folder / "home" / "cache" / "mechdiff").mkdir(parents=True)
        (folder / "home" / "cache" / "mechdiff" / "models").symlink_to(CACHE / "models")

    @property
    def command(self) -> str:
        return str(self.python.with_name("mechdiff"))

    def files(self) -> dict[Path, int]:
        """The files of the installed packages, with their times."""
        return {path: path.stat().st_mtime_ns for name in ("mechdiff", "mechdiff_app") for path in (self.site / name).rglob("*")}

    def run(self, *words: str) -> str:
        """What a command prints. It may not change the installed files."""
        before = self.files()
        done = subprocess.run(words, cwd=self.place, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert self.files() == before
        return done.stdout


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory, demo):
    return Installed(tmp_path_factory.mktemp("installed"), wheel)


def test_the_wheel_holds_two_packages_and_is_small(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"mechdiff-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {"mechdiff", "mechdiff_app", about}
    assert wheel.stat().st_size < LARGEST
    assert names >= {"mechdiff/py.typed", f"{about}/licenses/LICENSE", f"{about}/licenses/NOTICE", "mechdiff_app/icon.png"}
    for folder, package in (("mechdiff", "mechdiff"), ("app", "mechdiff_app")):
        sources = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.is_file()]
        assert names >= {f"{package}/{path.as_posix()}" for path in sources if "__pycache__" not in path.parts}


def test_the_installed_command_answers(installed):
    listed = installed.run(installed.command, "pairs")
    assert "demo-cultural" in listed and "ready" in listed
    installed.run(installed.command, "run", "patch", "--limit", "2", "--layers", "20", "--out", "t.csv")
    table = pd.read_csv(installed.place / "t.csv")
    assert len(table) == 2 and (table["kl"] > 0).all()
    assert "%" in installed.run(installed.command, "compare", "--a", "demo-cultural", "--b", "demo-cognitive"), "shipped sweeps"


def test_a_sweep_goes_to_the_users_folder_and_is_read_from_there(installed, tmp_path):
    pair = swept_pair.write_pair(tmp_path, domains()[0])
    installed.run(installed.command, "sweep", "--pair", str(pair), "--grid", "behaviour")
    assert list(installed.data.glob("sweeps/*/rq1-behaviour/tiny/behaviour.parquet"))
    installed.run(installed.command, "report", "--pair", str(pair), "--out", "report.html")
    assert "tiny" in (installed.place / "report.html").read_text(encoding="utf-8")


def test_the_installed_demo_is_ready(installed):
    assert "ready" in installed.run(installed.command, "demo").lower()


def test_a_bundle_of_the_checkout_is_replayed_by_the_installed_package(installed):
    request = mechdiff.Run("patch", limit=2, layers=(20,))
    content = bundle.write([bundle.Answer(request, mechdiff.run(request))], [], "patching")
    (installed.place / "finding.zip").write_bytes(content)
    assert "same" in installed.run(installed.command, "replay", "finding.zip")


def test_a_talk_is_prepared_by_the_installed_package(installed):
    (installed.place / "mine.toml").write_text(TALK)
    assert "Ready" in installed.run(installed.command, "talk", "prepare", "mine.toml", "--minutes", "0")


def test_the_app_is_drawn_from_the_installed_package(installed):
    home = installed.site / "mechdiff_app" / "Home.py"
    code = f"""
import sys
sys.path.insert(0, {str(home.parent)!r})  # as streamlit run does
from streamlit.testing.v1 import AppTest
page = AppTest.from_file({str(home)!r}, default_timeout=300).run()
assert not page.exception and not page.error, [*page.exception, *page.error]
print(page.title[0].value)
"""
    assert "mechdiff" in installed.run(str(installed.python), "-c", code)


def test_the_installed_app_listens_on_localhost_only(installed):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [installed.command, "app", "--server.headless", "true", "--server.port", str(port)]
    with (installed.place / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=installed.place, env=installed.environment, stdout=log, stderr=log)
    try:
        browser.wait_for(port)
        sockets = psutil.Process(process.pid).net_connections(kind="tcp")
        listening = [s.laddr for s in sockets if s.status == psutil.CONN_LISTEN]
        assert {address.port for address in listening} == {port} and {address.ip for address in listening} <= {"127.0.0.1", "::1"}
        with urllib.request.urlopen(f"http://localhost:{port}/", timeout=30) as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.wait(60)
