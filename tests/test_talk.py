"""Talks: every mistake in a file names its step, the ready one says what its charts show, and a slide shows what it names."""

import re
import subprocess
import sys
from pathlib import Path

import controls
import jobs
import pandas as pd
import pytest
import session
import talk
from support.app_page import app_at
from views.study import compare

from mechdiff.__main__ import main
from mechdiff.common.errors import UserError
from mechdiff.reporting import charts, prepare
from mechdiff.reporting import talk as talks
from mechdiff.reporting.talk import PARTS, READY, SELECTION, find, keep, read_talk
from mechdiff.study import artifacts
from mechdiff.study.estimates import estimates
from mechdiff.study.stored_sweep import parse

STEP = '[[step]]\nheadline = "What is seen"\npage = "patching"\n'
NOT_ON_SLIDES = {"own", "own_prompt", "back", "stack", "horizon", "measure", "target", "foil"}  # the Lab's


@pytest.fixture
def read(tmp_path):
    """A talk from text."""

    def from_text(text: str) -> talks.Talk:
        path = tmp_path / "mine.toml"
        path.write_text(f"format = 2\n{text}")
        return read_talk(path)

    return from_text


MISTAKES = {
    "not TOML": ("[[step", ["is not TOML", "[[step]]"]),
    "no step": ('title = "x"', ["no [[step]]"]),
    "another table": (STEP + "[slide]\n", ["'slide'", "[[step]]"]),
    "no headline": ('[[step]]\npage = "rank"', ["Step 1 has no headline"]),
    "no page": ('[[step]]\nheadline = "x"', ["Step 1: page '(none)'", "patching"]),
    "page": (STEP + STEP.replace("patching", "lab"), ["Step 2: page 'lab'", "rank, heads, compare"]),
    "key": (STEP + "layr = 3", ["Step 1: key 'layr'", "layer"]),
    "pair": (STEP + 'pair = "demo"', ["Step 1: Pair 'demo'", "demo-cognitive"]),
    "domain": (STEP + 'domain = "weather"', ["Step 1: domain 'weather'", "cultural"]),
    "direction": (STEP + 'direction = "up"', ["Step 1: direction 'up'", "base-to-tuned"]),
    "rank": (STEP + 'rank = "5"', ["Step 1: rank '5'", "4, 6, 8"]),
    "count": (STEP + "prompts = 10", ["Step 1: prompts '10'", "8, 16, 32"]),
    "blend": (STEP + "blend = 0.33", ["Step 1: blend 0.33", "0.05"]),
    "switch": (STEP + 'curve = "yes"', ["Step 1: curve 'yes'", "true, false"]),
    "part": (STEP + 'show = ["curve", "map"]', ["Step 1: part of patching 'map'", "tokens"]),
    "link": (STEP + 'link = "http://localhost:8501/rank?size=3"', ["Step 1: the link's key 'size'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_names_its_step(mistake, read):
    text, says = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        read(text)
    assert all(part in str(caught.value) for part in says), str(caught.value)


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("layer = 30", "layer 30 is not a number from 0 to 29"),
        ("layer = 2.5", "layer 2.5"),
        ("heads = [1, 9]", "head 9"),
        ("heads = 3", "heads 3 is not a list"),
    ],
)
def test_a_place_that_the_pair_does_not_have_names_its_step(line, says, read):
    with pytest.raises(UserError, match=rf"Step 2: {says}"):
        read(STEP + STEP + line)


def test_a_pasted_link_is_its_page_and_selection(read):
    link = controls.link(
        "heads", {"pair": "demo-cultural", "layer": 21, "heads": [6, 7], "blend": 0.5, "prompts": 8, "stream": "mlp_out"}
    )
    (step,) = read(f'[[step]]\nheadline = "x"\nlayer = 3\nlink = "http://localhost:8501/{link}&curve=true&talk=1&step=4"').steps
    assert step.page == "heads" and step.show == ("map",)
    values = {
        "pair": "demo-cultural",
        "layer": 3,
        "heads": [6, 7],
        "blend": 0.5,
        "prompts": 8,
        "stream": "mlp_out",
        "curve": True,
    }
    assert step.values == values


def test_an_address_is_read_back_as_its_step(read):
    text = STEP.replace("patching", "compare") + 'a_pair = "demo-cultural"\npublished = false\nheads = []\n'
    (step,) = read(text).steps
    page, values = talks.read_link(talk.address("mine", 3, step), "Step 1")
    assert (page, values) == ("compare", {"a_pair": "demo-cultural", "published": False, "v": "2"})


def test_talks_and_the_app_know_the_same_names():
    assert set(SELECTION) >= controls.DEFAULTS.keys() - NOT_ON_SLIDES
    assert {page: set(parts) for page, parts in talk.KEYS.items()} == {page: set(parts) for page, parts in PARTS.items()}
    assert set(PARTS["compare"]) == {"verdict", *compare.CURVES, *compare.MODULES, *compare.SETS, *compare.AT_A_LAYER}


def test_a_kept_talk_is_found_by_its_name_and_no_other_file_is(read, tmp_path, monkeypatch):
    monkeypatch.setattr(talks, "CACHE", tmp_path / "cache")
    (tmp_path / "my talk.toml").write_text(STEP)
    assert keep(tmp_path / "my talk.toml") == "my-talk"
    assert read_talk(find("my-talk")).steps[0].headline == "What is seen"
    for name in ("../my-talk", "other", "", "/etc/passwd"):
        with pytest.raises(UserError, match="my-talk"):
            find(name)
    (tmp_path / "1.toml").write_text(STEP)
    with pytest.raises(UserError, match=r"my-talk\.toml"):
        keep(tmp_path / "1.toml")


def stored_lines(step: talks.Step, folder: str, name: str, **where) -> pd.DataFrame:
    pair = controls.read_pair(step.values["pair"])
    lines, about = artifacts.read(step.values.get("domain", pair.domain), folder, pair.name, name, where)
    assert about["prompts"] == step.values["prompts"], "the live numbers are the stored ones"
    return lines


def decimals(text: str) -> list[float]:
    return [float(x) for x in re.findall(r"0\.\d+", text)]


@pytest.mark.slow
def test_every_number_in_the_ready_talks_headlines_is_the_stored_one():
    home, drift, patch, shift, control, transport, heads, together = read_talk(find(READY)).steps
    there = {"direction": "base-to-tuned", "control": "none"}
    pairs = ("demo-cultural", "demo-cognitive")
    removed, installed = ([estimates(parse(name, way), None) for name in pairs] for way in ("base-to-tuned", "tuned-to-base"))
    assert decimals(home.headline) == [round(values["centroid"].value, 2) for values in removed]
    line = stored_lines(drift, "rq1", "drift", stream="resid_post").set_index("layer")["cka_templates"]
    assert decimals(drift.headline) == [round(line[layer], 2) for layer in (12, 29)]
    assert line.idxmin() == drift.values["layer"] == 29
    line = stored_lines(patch, "rq1", "patch_summary", stream="resid_post", **there).set_index("layer")["recovery"]
    assert decimals(patch.headline) == [round(line[layer], 2) for layer in (14, 21)] and "layer 14, and 0.87 at" in patch.headline
    line = stored_lines(shift, "rq3", "difference_summary", layer=14, **there).set_index("rank")["recovery"]
    assert decimals(shift.headline) == [round(line[rank], 2) for rank in ("0", "full")]
    assert decimals(control.headline) == [round(values["format"].value, 2) for values in removed]
    effects = stored_lines(transport, "rq2", "transport_summary", layer=14, stream="resid_post", direction="base-to-tuned")
    line = effects[effects["control"] == "none"].set_index("map")["mean"]
    mean = effects.loc[effects["control"] == "mean", "mean"].item()
    assert decimals(transport.headline) == [round(value, 3) for value in (line["ridge_cv"], line["shift"], mean)]
    line = stored_lines(heads, "rq4", "coverage_summary", layer=21, **there)
    three = line[line["heads"].str.count("-") == 2].groupby("chosen")["coverage"]
    numbers = [int(x) for x in re.findall(r"(\d+) %", heads.headline)]
    assert numbers == [round(100 * three.get_group(name).item()) for name in ("greedy", "topk")]
    assert together.values["direction"] == "tuned-to-base"
    assert decimals(together.headline) == [round(values["centroid"].value, 2) for values in installed[::-1]]


def test_a_large_chart_grows_with_the_window_and_keeps_its_data():
    table = pd.DataFrame({"layer": [0, 1], "shown": charts.PATCHED, "mean": [0.1, 2.0], "low": 0.0, "high": 3.0})
    plain = charts.Unchecked(
        charts.layer_curve(table, 1, "4 prompts; a subtitle of more than one line, as most of them are here")
    )
    before = plain.to_dict()
    with charts.stage(92):
        drawn = plain.to_dict()
    assert plain.to_dict() == before and before["height"] == 240
    assert drawn["height"] == "container" and drawn["datasets"] == before["datasets"]
    assert len(drawn["title"]["subtitle"]) == 1 < len(before["title"]["subtitle"])
    sizes = [drawn["title"]["fontSize"], drawn["config"]["axis"]["labelFontSize"]]
    assert all("windowSize()" in size["expr"] for size in sizes)


@pytest.mark.usefixtures("demo")
def test_preparing_leaves_nothing_to_compute(read, tmp_path, monkeypatch, own_store, capsys):
    monkeypatch.setattr(session, "PATIENCE", 300.0)
    monkeypatch.setattr(talks, "CACHE", tmp_path / "cache")
    text = STEP + 'pair = "demo-cultural"\nprompts = 8\nlayer = 16\n'
    slides = read(text)
    name = keep(tmp_path / "mine.toml")
    monkeypatch.setattr(prepare, "positions", lambda step: [{"layer": 17}])
    prepare.prepare(slides, 5.0)
    assert "1 of 1 slider positions ready" in capsys.readouterr().out
    monkeypatch.delattr(jobs, "start")  # anything left to compute is an error from here on
    for layer in ("16", "17"):
        at = app_at("patching")
        for key, value in (slides.steps[0].values | {"talk": name, "step": 1, "layer": layer, "v": "2"}).items():
            at.query_params[key] = str(value)
        at.run()
        assert not at.exception and not at.error
        assert at.metric[0].label == f"Mean effect at layer {layer}"


def test_what_cannot_be_computed_names_its_step(read, own_store, demo):
    with pytest.raises(UserError, match="Step 2: CKA needs at least"):
        prepare.compute(2, talks.Step("x", "drift", {"prompts": 3}), prepare.Voice())


@pytest.mark.slow
def test_preparing_needs_no_browser():
    code = "import mechdiff.reporting.prepare, sys; sys.exit('streamlit' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1], check=True)


def test_positions_are_the_nearest_first():
    step = talks.Step("x", "rank", {"rank": "8"}, ("curve",))
    assert [moved["rank"] for moved in prepare.positions(step)][:4] == ["6", "12", "4", "16"]
    assert prepare.positions(talks.Step("x", "compare")) == []


def test_home_as_a_slide_marks_no_layer():
    at = app_at("home")
    at.query_params["talk"], at.query_params["step"] = "1", "1"
    drawn = [chart.proto.spec for chart in at.run().get("vega_lite_chart") + at.get("arrow_vega_lite_chart")]
    assert drawn and not any('"params"' in spec for spec in drawn)


def test_an_unknown_talk_says_so_on_the_page():
    at = app_at("home")
    at.query_params["talk"] = "nothing-of-the-kind"
    at.run()
    assert "talk prepare" in at.error[0].value and at.subheader


@pytest.mark.parametrize(
    ("line", "says"), [("talk give", "'give'"), ("talk prepare no.toml", "no.toml"), ("talk prepare --minutes -1", "-1")]
)
def test_a_wrong_command_is_a_sentence(line, says, capsys):
    assert main(line.split()) == 2
    assert says in capsys.readouterr().err
