"""Where the whole change lies, on a page's own prompts: computed when it is asked for, and then what a sweep's readings say."""

from dataclasses import replace
from itertools import pairwise

import pytest
from support.app_page import charts_of, fine, metric, open_page

import mechdiff
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import Selection

pytestmark = [pytest.mark.usefixtures("patient"), pytest.mark.slow]
TITLE = "Where in the depth does the change lie?"


@pytest.fixture
def page(tiny, monkeypatch):
    """The Patching page of the tiny pair, for which its own train prompts stand for neutral ones, and its selection."""
    monkeypatch.setattr(view_requests, "NEUTRAL", tiny["train"])
    return open_page("patching", layer="1"), Selection(**tiny, layer=1)


def titles(at) -> list[str]:
    return [spec["title"]["text"] for spec in charts_of(at)]


def test_it_is_computed_when_it_is_asked_for_alone(page):
    at, selection = page
    asked = at.session_state["_page_record"].answers
    wanted = [view_requests.everywhere(selection)[-1], *view_requests.at_the_layer(selection)]
    assert not set(wanted) & set(asked) and TITLE not in titles(at)
    at.button(key="everywhere").click().run()
    while at.session_state["_pending"]:
        at.run()
    fine(at)
    assert set(wanted) <= set(at.session_state["_page_record"].answers) and TITLE in titles(at)
    assert "everywhere" not in {button.key for button in at.button}, "nothing is left to compute"
    at.slider(key="layer").set_value(2).run()
    assert {button.key for button in at.button} >= {"everywhere"}, "the other layer's readings wait for the button"
    later = view_requests.at_the_layer(replace(selection, layer=2))
    assert not set(later) & set(fine(at).session_state["_page_record"].answers) and TITLE in titles(at)


def test_it_says_what_the_same_requests_say_elsewhere(page, monkeypatch):
    at, selection = page
    drawn, draw = [], charts.recovery_curve
    monkeypatch.setattr(charts, "recovery_curve", lambda table, *how: drawn.append(table) or draw(table, *how))
    at.button(key="everywhere").click().run()
    while at.session_state["_pending"]:
        at.run()
    fine(at)
    table = mechdiff.run(view_requests.everywhere(selection)[-1])
    recovery = 1 - table.groupby("layer")["kl_to_donor"].mean() / table.groupby("layer")["kl_donor_clean"].mean()
    curve = drawn[-1][drawn[-1]["shown"] == charts.ALL_TOKENS].set_index("layer")["mean"]
    assert curve.to_dict() == pytest.approx(recovery.drop(-1).to_dict(), rel=1e-6)
    answer, shift = (mechdiff.run(run).query("control == 'none'") for run in view_requests.at_the_layer(selection))
    said = 100 * (1 - answer["kl_to_donor"].sum() / answer["kl_donor_clean"].sum())
    assert metric(at, "Recovery over 8 tokens, layer 1") == f"{said:z.0f} %"
    gained = shift.assign(gain=shift["kl_donor_clean"] - shift["kl_to_donor"]).groupby("rank")["gain"].sum()
    assert metric(at, "Format share, layer 1") == f"{100 * gained['0'] / gained['full']:z.0f} %"
    half = next((layer for layer in range(3) if (recovery.loc[layer:] >= 0.5).all()), None)
    said = [text.value for text in at.markdown if "of the change" in text.value]
    assert len(said) == 1 and (half is None or f"layer {half} of" in said[0])


def test_layers_are_computed_from_coarse_to_fine():
    runs = view_requests.everywhere(Selection("demo-cultural", "cultural"))
    assert [run.layers for run in runs[:2]] == [(7, 15, 23), (3, 7, 11, 15, 19, 23, 27)] and runs[-1].layers is None
    assert all(set(first.layers) <= set(second.layers) for first, second in pairwise(runs[:-1]))
