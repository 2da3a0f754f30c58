"""Where files go: in a checkout into it; an installed package is never written to, and its sweeps are read after the user's."""

import importlib.util
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest

from mechdiff import UserError
from mechdiff.common import paths
from mechdiff.inputs import domain_files, prompts, templates
from mechdiff.study import artifacts, stored_sweep

SHIPPED = prompts.shipped_domains()[0]


def places(folder: Path):
    """The module of places, as if the package lay in this folder."""
    at = folder / "mechdiff" / "common" / "paths.py"
    at.parent.mkdir(parents=True)
    shutil.copy(paths.__file__, at)
    spec = importlib.util.spec_from_file_location("places", at)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def where(module) -> dict[str, Path]:
    names = ("APP", "CACHE", "ARTIFACTS", "SHIPPED_SWEEPS", "OWN_PAIRS", "DOMAINS", "OWN_MODELS")
    return {name: getattr(module, name) for name in names}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("MECHDIFF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, appauthor: tmp_path / "home" / "cached" / name)
    monkeypatch.setattr("platformdirs.user_data_path", lambda name, appauthor: tmp_path / "home" / "data" / name)
    return tmp_path / "home"


def test_a_checkout_keeps_everything_in_it(tmp_path, home):
    (tmp_path / "pyproject.toml").touch()
    assert where(places(tmp_path)) == {
        "APP": tmp_path / "app" / "Home.py",
        "CACHE": tmp_path / "cache",
        "ARTIFACTS": tmp_path / "mechdiff" / "artifacts",
        "SHIPPED_SWEEPS": tmp_path / "mechdiff" / "artifacts",
        "OWN_PAIRS": tmp_path / "cache" / "pairs",
        "DOMAINS": tmp_path / "cache" / "domains",
        "OWN_MODELS": tmp_path / "models",
    }


@pytest.mark.parametrize("moved", [False, True])
def test_an_installed_package_is_not_written_to(tmp_path, home, monkeypatch, moved):
    if moved:
        monkeypatch.setenv("MECHDIFF_CACHE", str(tmp_path / "elsewhere"))
    site, data = tmp_path / "site-packages", home / "data" / "mechdiff"
    assert where(places(site)) == {
        "APP": site / "mechdiff_app" / "Home.py",
        "CACHE": tmp_path / "elsewhere" if moved else home / "cached" / "mechdiff",
        "ARTIFACTS": data / "sweeps",
        "SHIPPED_SWEEPS": site / "mechdiff" / "artifacts",
        "OWN_PAIRS": data / "pairs",
        "DOMAINS": data / "domains",
        "OWN_MODELS": data / "models",
    }


def test_shipped_prompts_are_made_anew_in_a_checkout_only(monkeypatch):
    monkeypatch.setattr(paths, "CHECKOUT", False)
    with pytest.raises(UserError, match="Try:  the same command in a checkout"):
        templates.write_prompts(SHIPPED, 0)
    with pytest.raises(UserError, match="Try:  the same command in a checkout"):
        domain_files.write_positions(prompts.SHIPPED_DOMAINS / SHIPPED, None, 16, 0)


def store(place: Path, folder: str, pair: str, value: float) -> None:
    artifacts.save(
        place / "somewhere" / folder / pair, {"drift": pd.DataFrame({"layer": [0], "value": [value]})}, {"value": value}
    )


def test_a_users_sweep_is_read_before_the_shipped_one(tmp_path, monkeypatch):
    own, shipped = tmp_path / "own", tmp_path / "shipped"
    monkeypatch.setattr(artifacts, "ARTIFACTS", own)
    monkeypatch.setattr(artifacts, "ELSEWHERE", (shipped,))
    for folder, pair in (("rq1", "mine"), ("rq1", "both")):
        store(own, folder, pair, 1.0)
    for folder, pair in (("rq1", "both"), ("rq4", "both"), ("rq1", "theirs")):
        store(shipped, folder, pair, 2.0)
    expected = {("rq1", "mine"): 1.0, ("rq1", "both"): 1.0, ("rq4", "both"): 2.0, ("rq1", "theirs"): 2.0}
    for (folder, pair), value in expected.items():
        table, manifest = artifacts.read("somewhere", folder, pair, "drift")
        assert table["value"].item() == manifest["value"] == value
    folders = artifacts.sweep_folders(*artifacts.places())
    assert {(folder.folder, folder.pair): folder.manifest["value"] for folder in folders} == expected
    assert {"mine", "both", "theirs"} <= set(stored_sweep.stored_pairs())
    assert stored_sweep.own_domain("theirs") == "somewhere"
    assert stored_sweep.parse("theirs@somewhere", "base-to-tuned").stamp() > 0
    assert artifacts.read("somewhere", "rq1", "nobody", "drift") == (None, None)
