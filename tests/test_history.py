"""One selection on every page and in the link, clicks on charts, history and pin, and what is stored beside what is live."""

import json
from urllib.parse import parse_qs, urlsplit

import controls
import history
import jobs
import numpy as np
import pandas as pd
import pytest
import rates
from glossary import TERMS
from streamlit.testing.v1 import AppTest
from support.app_page import charts_of, fine, metric, script

import mechdiff
from mechdiff import Run
from mechdiff.maths.intervals import Templates
from mechdiff.reporting import charts
from mechdiff.study import timings

pytestmark = pytest.mark.usefixtures("patient")
VIEWS = ("home", "drift", "patching", "transport", "rank", "heads")
APP = """
import session, streamlit as st
from views import home
from views.how import heads, rank, transport
from views.where import drift, patching
page = st.query_params["page"]
session.frame(globals()[page].page, page)
"""


def open_app(page: str, **query) -> AppTest:
    """All pages in one app; which one is drawn stands in the address."""
    return go(script(APP), page, **query)


def go(at: AppTest, page: str, **query) -> AppTest:
    for name, value in ({"page": page, "v": "2"} | query).items():
        at.query_params[name] = value
    return fine(at.run())


def follow(link: str) -> AppTest:
    """What a link opens."""
    parts = urlsplit(link)
    return open_app(parts.path, **parse_qs(parts.query, keep_blank_values=True))


def test_a_links_selection_survives_page_switches(tiny):
    at = open_app("rank", layer="1", rank="16", complement="own", heads=["1", "3"], alpha="0.8", prompt="5")
    for page in (*VIEWS, "rank"):
        go(at, page)
        assert at.slider(key="layer").value == 1 and at.select_slider(key="rank").value == "16", page
        assert at.button_group(key="heads").value == [1, 3] and at.number_input(key="prompt").value == 5, page
        assert at.radio(key="complement").value == "own" and at.selectbox(key="alpha").value == "0.8", page


def test_a_value_chosen_on_one_page_is_there_on_the_next(tiny):
    at = open_app("heads")
    at.slider(key="layer").set_value(2).run()
    assert metric(go(at, "drift"), "CKA over templates at layer 2")
    at.selectbox(key="stream").set_value("mlp_out").run()
    assert go(at, "transport").selectbox(key="stream").value == "mlp_out" and metric(at, "Effect at layer 2")


@pytest.mark.parametrize("page", VIEWS)
def test_values_that_cannot_be_give_the_defaults(tiny, page):
    wrong = {
        "layer": "99",
        "rank": "foo",
        "alpha": "9",
        "heads": "77",
        "prompt": "400",
        "stream": "x",
        "fit": "?",
        "blend": "nan",
    }
    at = open_app(page, **wrong)
    assert at.slider(key="layer").value in range(4) and at.select_slider(key="rank").value == "8"
    assert at.number_input(key="prompt").value in range(8) and at.selectbox(key="fit").value == "ridge_cv"
    (warning,) = at.warning
    assert all(f"`{key}={value}`" in warning.value for key, value in wrong.items()), warning.value
    assert at.run().warning, "it stays while the page is drawn anew"
    assert not at.slider(key="layer").set_value(1).run().warning, "until something else is chosen"


@pytest.mark.parametrize("page", VIEWS)
def test_a_link_that_can_be_is_shown_without_a_word(tiny, page):
    given = {"layer": "1", "rank": "full", "heads": ["3", "1"], "blend": "0.50", "direction": "tuned-to-base"}
    assert not open_app(page, **given).warning
    assert not open_app(page, heads="").warning


def test_a_value_of_a_larger_pair_is_mended(tiny):
    at = script(APP)
    at.session_state["layer"], at.session_state["heads"], at.session_state["prompt"] = 29, [0, 31], 149
    go(at, "heads")
    assert (at.slider(key="layer").value, at.button_group(key="heads").value, at.number_input(key="prompt").value) == (3, [0], 19)


def test_a_map_without_directions_says_what_to_choose(tiny):
    at = open_app("rank", fit="zscore", basis="map")
    assert any("no leading directions" in i.value and "ridge" in i.value for i in at.info) and not at.metric


CLICK = """
import streamlit as st, controls
from functools import partial
from mechdiff.study.stored_sweep import StoredSweep
from views import home
from views.how import coverage
from views.study import compare
from views.how.heads import take_bar
take_side = partial(compare.choose, {{"A": StoredSweep("p", "d", "base-to-tuned")}})
take_set, take_curve = partial(coverage.take_set, count=4), partial(home.choose, "p")
st.session_state["chart"] = {{"selection": {{"pick": {picked}}}}}
controls.clicked("chart", {take})
"""


@pytest.mark.parametrize(
    ("picked", "take", "before", "after"),
    [
        ([{"layer": 3, "now": "1"}], "controls.choose", {"layer": 1}, {"layer": 3}),
        ([{"rank": "full", "alpha": "0.3", "now": "8-auto"}], "controls.choose", {}, {"rank": "full", "alpha": "0.3"}),
        ([{"prompt": 6, "now": "0"}], "controls.choose", {"prompt": 0}, {"prompt": 6}),
        ([], "controls.choose", {"layer": 1}, {"layer": 1}),
        ([{"layer": 1, "head": 2}], "controls.toggle_head", {"layer": 1, "heads": [0]}, {"layer": 1, "heads": [0, 2]}),
        ([{"layer": 1, "head": 2}], "controls.toggle_head", {"layer": 1, "heads": [0, 2]}, {"layer": 1, "heads": [0]}),
        ([{"layer": 1, "head": 0}], "controls.toggle_head", {"layer": 1, "heads": [0]}, {"layer": 1, "heads": [0]}),
        ([{"layer": 2, "head": 3}], "controls.toggle_head", {"layer": 1, "heads": [0]}, {"layer": 2, "heads": [3]}),
        ([{"layer": 1, "head": -1}], "take_bar", {"layer": 1, "heads": [0]}, {"layer": 1, "heads": [0]}),
        ([{"heads": "5-3", "now": "0"}], "take_set", {"heads": [0]}, {"heads": [3, 5]}),
        ([{"heads": "all", "now": "0"}], "take_set", {"heads": [0]}, {"heads": [0, 1, 2, 3]}),
        ([{"heads": None, "now": "0"}], "take_set", {"heads": [0]}, {"heads": [0]}),
        ([{"shown": "A: p on d", "layer": 7, "rank": "4"}], "take_side", {"rank": "8"}, {"layer": 7, "rank": "4", "domain": "d"}),
        ([{"layer": 7, "now": "2"}], "take_curve", {"layer": 2, "domain": "x"}, {"layer": 7, "pair": "p", "domain": "own"}),
    ],
)
def test_a_click_sets_the_selection(picked, take, before, after):
    at = script(CLICK.format(picked=picked, take=take))
    for key, value in before.items():
        at.session_state[key] = value
    at.run()
    assert not at.exception and {key: at.session_state[key] for key in after} == after


CLICKS = {  # what can be chosen by a click on a page's charts
    "drift": {"layer"},
    "patching": {"layer", "prompt", "head"},
    "transport": {"layer"},
    "rank": {"rank"},
    "heads": {"layer", "head", "heads"},
}


@pytest.mark.parametrize("page", CLICKS)
def test_charts_can_be_clicked_and_are_valid(swept, page, monkeypatch):
    monkeypatch.setattr(charts.Unchecked, "to_dict", lambda self: self.chart.to_dict())  # the schema is checked
    at = open_app(page, layer="1")
    picks = [p["select"]["fields"] for s in charts_of(at) for p in s.get("params", []) if p["name"] == charts.PICK]
    assert set().union(*picks) - {"now"} == CLICKS[page] and all("now" in fields for fields in picks)
    for toggle in at.toggle:
        toggle.set_value(True)
    at.run()
    assert not at.exception and not at.error


def test_what_was_clicked_before_is_part_of_a_click():
    table = pd.DataFrame({"layer": [0, 1], "shown": charts.PATCHED, "mean": 1.0, "low": 0.5, "high": 1.5})
    first, second = (json.dumps(charts.layer_curve(table, layer).to_dict()) for layer in (0, 1))
    assert '"calculate": "\'0\'"' in first and '"calculate": "\'1\'"' in second


@pytest.mark.parametrize(
    ("page", "stored_as"), [("drift", "CKA over templates"), ("patching", "stored ("), ("transport", "shift")]
)
def test_stored_and_live_stand_on_one_chart(swept, page, stored_as):
    at = open_app(page, layer="1")
    main = json.dumps(charts_of(at)[0])
    assert stored_as in main and "live (" in main
    assert any("mechdiff sweep" in c.value for c in at.code), "where the stored numbers come from"


def test_whether_a_point_is_live_is_a_column_and_the_legend_counts_prompts():
    table = pd.DataFrame({"layer": [0, 1, 0], "shown": charts.PATCHED, "live": [False, False, True], "prompts": [150, 150, 32]})
    table = table.assign(mean=1.0, low=0.5, high=1.5)
    layers = charts.layer_curve(table).to_dict()["layer"]
    domains = [layer["encoding"]["color"]["scale"]["domain"] for layer in layers if "color" in layer["encoding"]]
    assert domains and all(domain == ["stored (150 prompts)", "live (32 prompts)"] for domain in domains)
    assert "live (" not in json.dumps(charts.layer_curve(table[:2]).to_dict())


def test_controls_differ_by_their_dashes():
    dashes = [tuple(dash) for dash in charts.base.CONTROLS.values()]
    assert len(set(dashes)) == len(dashes) == 5


def test_every_answer_of_a_session_is_a_link_that_brings_it_back(tiny):
    at = open_app("rank", layer="1", rank="4")
    at.select_slider(key="rank").set_value("2").run()
    go(at, "heads").button_group(key="heads").set_value([1, 2]).run()
    at.run()
    views = at.session_state["_views"]
    assert [view.question.split(" · ")[0] for view in views] == ["heads", "heads", "rank", "rank"], "newest first, each once"
    metrics = [m.value for m in at.metric]
    for view, values in ((views[0], metrics), (views[-1], None)):
        again = follow(controls.link(view.page, view.state))
        assert again.session_state["_views"][0].lines == view.lines
        assert values is None or [m.value for m in again.metric] == values
        assert again.select_slider(key="rank").value == view.state["rank"]


def test_a_link_names_what_is_not_the_default():
    values = controls.DEFAULTS | {"layer": 3, "heads": [1, 2], "blend": 0.5}
    assert controls.link("heads", values) == "heads?layer=3&heads=1&heads=2&blend=0.5&v=2"
    assert controls.link("home", controls.DEFAULTS | {"heads": []}) == "./?heads=&v=2"


def test_history_keeps_no_more_than_it_says():
    at = script(
        "import history, streamlit as st\nfor i in range(40):\n    st.session_state['_answered'] = history.View("
        "'rank', {}, f'rank {i}', 'a pair', i, 'nats', 'texts')\n    st.session_state['layer'] = i\n    history.keep()\n"
    ).run()
    assert not at.exception and [v.value for v in at.session_state["_views"]] == list(range(39, 9, -1))


def test_a_pinned_view_is_what_others_are_compared_with(tiny):
    at = open_app("heads", layer="1", heads="0")
    assert not [c for c in at.caption if "pinned" in c.value]
    at.session_state["_pinned"] = at.session_state["_views"][0]
    at.run()
    assert not [c for c in at.caption if "compared with the pinned" in c.value], "nothing to compare with itself"
    at.button_group(key="heads").set_value([0, 2]).run()
    effects = []
    for heads in ("0,2", "0"):
        run = Run("heads", head_sets=heads, layers=(1,), **tiny)
        table = mechdiff.run(run)
        effects.append(table[table["heads"] == heads.replace(",", "-")].sort_values("prompt")["kl"].to_numpy(float))
    apart = effects[0] - effects[1]
    _, low, high = Templates([p.template for p in run.chosen_prompts]).mean(apart)
    said = f"{apart.mean():+.3g} nats [{low:+.3g}, {high:+.3g}] (95 %, paired over 20 prompts)"
    assert any(said in c.value for c in at.caption)
    assert not [c for c in go(at, "drift").caption if "compared with the pinned" in c.value], "another kind of number"


def test_other_prompts_are_not_paired():
    left, right = (history.View("rank", {}, "a", "b", v, "nats", t, np.ones(4) * v) for v, t in ((0.5, "x"), (0.2, "y")))
    assert history.difference(left, right, ["t"] * 4) == "+0.3 nats (different prompts, so not paired)"


def test_an_estimate_is_honest(tiny, monkeypatch):
    run = Run("patch", streams=("mlp_out",), **tiny)
    rates.remaining.clear()
    assert "no time estimate" in rates.estimate(run)
    monkeypatch.setattr(timings, "ENOUGH", 32)
    jobs.TaskJob("patching", task=mechdiff.questions.task(Run("patch", **tiny))).work()
    assert (
        timings.known()[timings.cell_of(run)] > 0
        and rates.estimate(run).startswith("about ")
        and rates.estimate(run).endswith(" here")
    )
    mechdiff.run(run)
    rates.remaining.clear()
    assert rates.estimate(run) == "cached, shown at once"


def test_the_page_says_how_long_it_will_take(tiny):
    (toggle,) = [t for t in open_app("transport", layer="1").toggle if t.key == "curve"]
    assert toggle.label.startswith("Compute on these prompts (")
    assert any(part in toggle.label for part in ("no time estimate yet", "about "))


def test_a_stopped_job_can_go_on_and_an_abandoned_one_begins_anew(tiny):
    run = Run("patch", **tiny)
    made = []

    def make():
        made.append(jobs.new_job(run, mechdiff.questions.task(run)))
        return made[-1]

    job = jobs.start(run, make)
    job.future.result()
    job.cancelled = True
    assert jobs.start(run, make) is not job and len(made) == 2
    jobs.finish(run)


@pytest.mark.parametrize("page", VIEWS)
def test_every_page_explains_its_terms(tiny, page):
    at = open_app(page)
    tooltips = " ".join([*(h.help for h in (*at.header, *at.title) if h.help), *(m.help for m in at.metric if m.help)])
    assert sum(sentence in tooltips for sentence in TERMS.values()) >= 4
