"""A page of the app without a browser: opened by its address, read off, and the app on a tiny pair.

Needs `app/` on the path, which pyproject.toml puts there for tests.
"""

import json
import shutil
from dataclasses import replace

import controls
import pytest
import session
from streamlit.testing.v1 import AppTest

from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts, sweep_plan, sweeps

PROMPTS = 8


def app_at(view: str, **query) -> AppTest:
    """A page in its frame, as navigation runs it, with these values in its address; not run yet."""
    return script(f"import session\nfrom pages import PAGES\nsession.frame(PAGES['{view}'].draw, '{view}')\n", **query)


def script(code: str, **query) -> AppTest:
    """An app with this code and these values in its address, which has the number of today's format."""
    at = AppTest.from_string(code, default_timeout=300)
    for name, value in ({"v": "2"} | query if query else {}).items():
        at.query_params[name] = value
    return at


def fine(at: AppTest) -> AppTest:
    assert not at.exception and not at.error, [*(e.message for e in at.exception), *(e.value for e in at.error)]
    charts_of(at)
    return at


def open_page(view: str, **query) -> AppTest:
    return fine(app_at(view, **query).run())


def open_demo(view: str, **query) -> AppTest:
    """A page on a few prompts of a demo pair, unless the address names another one."""
    return open_page(view, **{"pair": "demo-cultural", "prompts": str(PROMPTS)} | query)


def metric(at: AppTest, label: str) -> str:
    return next(m.value for m in at.metric if m.label.startswith(label))


def badges(at: AppTest) -> list[str]:
    return [m.value for m in at.markdown if "-badge[" in m.value]


def charts_of(at: AppTest) -> list[dict]:
    """The charts' specifications, which a browser could read: without NaN or Infinity."""

    def refuse(constant: str):
        raise AssertionError(f"{constant} in a chart is no JSON")

    charts = (*at.get("vega_lite_chart"), *at.get("arrow_vega_lite_chart"))
    return [json.loads(chart.proto.spec, parse_constant=refuse) for chart in charts]


@pytest.fixture
def patient(monkeypatch, own_store):
    """A page waits for its answers."""
    monkeypatch.setattr(session, "PATIENCE", 300.0)


@pytest.fixture
def no_model(monkeypatch):
    """To load a model is a failure."""
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))


@pytest.fixture
def tiny(study, tmp_path, monkeypatch):
    """The app on a tiny pair, and nothing stored. Returns what its sidebar gives."""
    shared = {name: value for name, value in study.items() if name != "limit"}
    shared |= {"domain": "none", "direction": "base-to-tuned", "limit": 20}
    monkeypatch.setattr(controls, "selection", lambda: Selection(**shared))
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path / "artifacts")
    return shared


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory):
    """Where the first test's sweep stays for the others: it is the same pair and the same prompts."""
    return tmp_path_factory.mktemp("swept") / "artifacts"


@pytest.fixture
def swept(tiny, small_sweep, monkeypatch):
    """The same with a small sweep stored."""
    small = replace(sweep_plan.GRIDS["full"], limit=None, ranks=("1", "4", "full"), alphas=("0.5",), maps=("procrustes_scaled",))
    monkeypatch.setitem(sweep_plan.GRIDS, "small", small)
    if small_sweep.exists():
        shutil.copytree(small_sweep, artifacts.ARTIFACTS)
        return tiny
    settings = {name: tiny[name] for name in ("prompts", "train", "device")}
    for task, _ in sweeps.sweep(tiny["pair"], "none", "small", artifacts.ARTIFACTS, ["sweep"], **settings):
        for _ in task.steps():
            pass
    shutil.copytree(artifacts.ARTIFACTS, small_sweep)
    return tiny
