"""Behaviour in sweeps, on Home and on Compare: the numbers are the summary's, stored ones need no model."""

import json

import pandas as pd
import pytest
from support.app_page import fine, script
from support.lab_page import titles

import mechdiff
from mechdiff import Run
from mechdiff.questions.shared.behaviour_summary import STYLE, in_words, style
from mechdiff.reporting import charts
from mechdiff.study import artifacts, sweep_plan, sweeps

BLOCK = "import controls, session\nfrom views import behaviour\n"
BLOCK += "session.frame(lambda: behaviour.block(controls.current()))\n"
COMPARED = """import session
from views import behaviour
from views.study import compare
from mechdiff.study.stored_sweep import StoredSweep
sides = dict(zip("AB", (StoredSweep("tiny", "none", "tuned-to-base"), StoredSweep({other!r}, "none", "tuned-to-base"))))
session.frame(lambda: behaviour.compared(sides, compare.SIDES))
"""


@pytest.fixture
def swept(shared, tmp_path, monkeypatch):
    """The tiny pair's behaviour, stored by a sweep of it alone. Returns the folder."""
    settings = {name: shared[name] for name in ("prompts", "train", "device")}
    tasks = list(sweeps.extent(shared["pair"], "none", "behaviour", **settings))
    assert tasks == ["behaviour"]
    for task, _ in sweeps.sweep(shared["pair"], "none", "behaviour", tmp_path / "artifacts", ["sweep"], **settings):
        list(task.steps())
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path / "artifacts")
    return tmp_path / "artifacts" / "none" / sweep_plan.SPOKEN / "tiny"


def test_a_sweep_of_behaviour_is_the_commands_table_with_a_manifest(swept, shared):
    table = mechdiff.run(Run("behaviour", **shared | {"limit": None}))
    frame = pd.read_parquet(swept / "behaviour.parquet")
    assert frame["text"].tolist() == table["text"].tolist() and len(frame) == 40
    about = json.loads((swept / "manifest.json").read_text())
    assert about["grid"] == "behaviour" and about["prompts"] == 20
    assert [sweep.folder for sweep in artifacts.sweep_folders(artifacts.ARTIFACTS)] == [sweep_plan.SPOKEN]


def test_the_full_grid_has_behaviour_and_the_quick_one_has_not():
    names = {
        grid: [table.name for table in sweep_plan.plan("demo-cultural", None, sweep_plan.GRIDS[grid])]
        for grid in ("full", "quick", "behaviour")
    }
    assert "behaviour" in names["full"] and "behaviour" not in names["quick"] and names["behaviour"] == ["behaviour"]


def test_home_shows_what_is_stored_without_a_model(swept, monkeypatch):
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    at, words = fine(script(BLOCK).run()), in_words(pd.read_parquet(swept / "behaviour_summary.parquet"))
    metrics = {metric.label: (metric.value, metric.delta) for metric in at.metric}
    agree = words.loc["agrees_base", "both"]
    assert metrics["Same next token"] == (agree.partition(" [")[0], "95 % CI [" + agree.partition(" [")[2])
    assert metrics["Marks of style"][1] == words.loc[STYLE, "change"] and "Exact match" not in metrics
    assert any("exact match needs known answers" in caption.value for caption in at.caption)
    assert any(caption.value.startswith("Stored sweep: 20 prompts (") for caption in at.caption)
    assert titles(at) == ["How do they write?"]
    (swept / "manifest.json").unlink()
    monkeypatch.setattr("stored_results.read", stored_read)
    assert any("WITHOUT a manifest" in caption.value for caption in fine(script(BLOCK).run()).caption)


def stored_read(place, domain, folder, pair, name, where):
    return artifacts.read(domain, folder, pair, name, dict(where))


def test_home_computes_when_it_is_asked_to(shared):
    at = fine(script(BLOCK).run())
    assert not at.metric and any("sweep --pair" in caption.value for caption in at.caption), "nothing is computed unasked"
    assert "no time estimate yet" in at.toggle(key="behaviour").label
    at = fine(at.toggle(key="behaviour").set_value(True).run())
    run = Run("behaviour", **shared)
    words = in_words(run.summary(mechdiff.run(run)))
    assert next(m.value for m in at.metric if m.label == "Same next token") == words.loc["agrees_base", "both"].partition(" [")[0]
    assert any("python -m mechdiff run behaviour" in code.value for code in at.code)
    at.run()
    assert "cached" in at.toggle(key="behaviour").label


def test_a_sweep_stored_before_some_marks_were_counted_is_read_and_drawn():
    """The shipped ones: their tables lack columns, and their summaries lines. They are stored with few digits."""
    table, stored = (
        artifacts.read("cultural@1", sweep_plan.SPOKEN, "demo-cultural", name)[0] for name in ("behaviour", "behaviour_summary")
    )
    run = Run("behaviour", "demo-cultural", domain="cultural@1")
    known = [name for name in stored if not name.endswith(("low", "high"))]
    pd.testing.assert_frame_equal(run.summary(table)[known], stored[known], check_dtype=False, rtol=2e-3, atol=2e-3)
    kinds = style(stored)["kind"].unique().tolist()
    assert "hedges" in kinds and "politeness" not in kinds
    assert set(json.loads(charts.style_marks(style(stored)).to_json())["datasets"]) and STYLE in in_words(stored).index


def test_compare_has_both_sides_in_either_direction_and_says_what_is_missing(swept):
    words = in_words(pd.read_parquet(swept / "behaviour_summary.parquet"))
    at = fine(script(COMPARED.format(other="tiny")).run())
    table = at.table[0].value
    assert (
        list(table.iloc[:, 0]) == words["name"].tolist()
        and table.iloc[0, 1] == table.iloc[0, 2] == words.loc["agrees_base", "both"]
    )
    assert titles(at) == ["How do they write?"] and not at.info
    at = fine(script(COMPARED.format(other="another")).run())
    assert at.table[0].value.shape[1] == 2 and "--pair another --domain none --grid behaviour" in at.info[0].value


def test_with_nothing_stored_compare_shows_nothing(swept):
    for path in swept.iterdir():
        path.unlink()
    at = fine(script(COMPARED.format(other="another")).run())
    assert not at.table and not at.subheader
