"""The Lab page on a tiny pair, for its tests: fixtures, and what can be read off it."""

import numpy as np
import pandas as pd
import pytest
import token_strip
from streamlit.testing.v1 import AppTest
from views.lab import page as lab

from mechdiff.inputs import prompts
from mechdiff.reporting import charts
from support.app_page import app_at, charts_of

STACK = "layer=1 stream=mlp_out; layer=2 stream=heads heads=1,3 blend=0.5"
TEXT = "w40 w41 w42 w43 w44"


@pytest.fixture
def shared(tiny, patient, tmp_path, monkeypatch):
    """The app on a tiny pair, which waits for every answer. Returns what its sidebar gives."""
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(lab, "READ_S", 300.0)
    monkeypatch.setattr(charts.Unchecked, "to_dict", lambda self: self.chart.to_dict())  # every chart against the schema
    return tiny


@pytest.fixture
def drawn(monkeypatch):
    """What the strip was last given: tokens, chosen, take."""
    strip = {}
    monkeypatch.setattr(
        token_strip, "draw", lambda tokens, chosen, key, take: strip.update(tokens=tokens, chosen=chosen, take=take)
    )
    return strip


def open_lab(**query) -> AppTest:
    return app_at("lab", **query).run()


def typed(at: AppTest, text: str) -> AppTest:
    return at.text_area(key="text").set_value(text).run()


def keep(*texts: str) -> str:
    """One's own prompts, kept. Returns the link's name for them."""
    return prompts.keep_prompts([prompts.Prompt(text, f"t{i}") for i, text in enumerate(texts)]).removeprefix(prompts.OWN)


def titles(at: AppTest) -> list[str]:
    return [" ".join(np.ravel(spec["title"]["text"])) for spec in charts_of(at)]


def stack_table(at: AppTest) -> pd.DataFrame:
    """The table under the stack's result."""
    (table,) = (frame.value for frame in at.dataframe if "stack" in frame.value)
    return table
