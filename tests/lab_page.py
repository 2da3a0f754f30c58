"""The Lab page on a tiny pair, for its tests: fixtures, and what can be read off it."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from test_study import study  # noqa: F401

from mechdiff.inputs import prompts

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))
import controls
import jobs  # noqa: F401 (for the tests)
import session
import token_strip
from views.lab import chips, continuation, effects, positions  # noqa: F401 (for the tests)
from views.lab import page as lab

from mechdiff.reporting import charts

PAGE = "import session\nfrom pages import PAGES\nsession.frame(PAGES['lab'].draw, 'lab')\n"
STACK = "layer=1 stream=mlp_out; layer=2 stream=heads heads=1,3 blend=0.5"
TEXT = "w40 w41 w42 w43 w44"


@pytest.fixture
def shared(study, tmp_path, monkeypatch):  # noqa: F811
    """The app on a tiny pair, which waits for every answer. Returns what its sidebar gives."""
    found = {name: value for name, value in study.items() if name != "limit"}
    found |= {"domain": "none", "direction": "base-to-tuned", "limit": 8}
    monkeypatch.setattr(controls, "selection", lambda: found)
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(session, "PATIENCE", 300.0)
    monkeypatch.setattr(lab, "READ_S", 300.0)
    monkeypatch.setattr(charts.Unchecked, "to_dict", lambda self: self.chart.to_dict())  # every chart against the schema
    return found


@pytest.fixture
def drawn(monkeypatch):
    """What the strip was last given: tokens, chosen, take."""
    found = {}
    monkeypatch.setattr(
        token_strip, "draw", lambda tokens, chosen, key, take: found.update(tokens=tokens, chosen=chosen, take=take)
    )
    return found


def open_lab(**query) -> AppTest:
    at = AppTest.from_string(PAGE, default_timeout=300)
    for name, value in query.items():
        at.query_params[name] = value
    return at.run()


def fine(at: AppTest) -> AppTest:
    assert not at.exception and not at.error, [*at.exception, *at.error]
    return at


def typed(at: AppTest, text: str) -> AppTest:
    return at.text_area(key="text").set_value(text).run()


def keep(*texts: str) -> str:
    """One's own prompts, kept. Returns the link's name for them."""
    return prompts.keep_prompts([prompts.Prompt(text, f"t{i}") for i, text in enumerate(texts)]).removeprefix(prompts.OWN)


def charts_of(at: AppTest) -> list[dict]:
    """The charts' specifications."""
    return [json.loads(chart.proto.spec) for chart in at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart")]


def titles(at: AppTest) -> list[str]:
    return [" ".join(np.ravel(spec["title"]["text"])) for spec in charts_of(at)]


def stack_table(at: AppTest) -> pd.DataFrame:
    """The table under the stack's result."""
    (found,) = (frame.value for frame in at.dataframe if "stack" in frame.value)
    return found
