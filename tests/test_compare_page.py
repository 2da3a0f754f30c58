"""The Compare page, as a user sees it: the verdict's own numbers, its curves, and notes where nothing is stored."""

import json
import os
import shutil

import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import charts_of, open_page
from views.study import compare

from mechdiff.reporting.charts.base import BLUE, ORANGE
from mechdiff.study import artifacts, quantities
from mechdiff.study.compare_sweeps import bootstrap_seeds, is_shown
from mechdiff.study.estimates import estimates
from mechdiff.study.quantities import QUANTITIES, text
from mechdiff.study.stored_sweep import parse

pytestmark = [pytest.mark.usefixtures("no_model"), pytest.mark.slow]
FIRST, SECOND = "demo-cultural", "demo-cognitive"


def table(at: AppTest):
    return at.table[0].value


def column(at: AppTest, letter: str) -> list[str]:
    """The cells of a choice, without their words."""
    name = next(name for name in table(at) if f"{letter}: " in name)
    return [cell.partition(" — ")[0] for cell in table(at)[name]]


def layers(spec: dict) -> list[dict]:
    return [layer for layer in spec["layer"] if "mark" in layer]


def colours(spec: dict) -> dict[str, str]:
    scales = [layer["encoding"].get("color", {}).get("scale") for layer in layers(spec)]
    return dict(pair for scale in scales if scale for pair in zip(scale["domain"], scale["range"]))


def hollow(spec: dict) -> list[dict]:
    return [layer for layer in layers(spec) if layer["mark"].get("shape") == "diamond" or layer["mark"]["type"] == "rect"]


def expected(left: str, right: str, direction="base-to-tuned", depth=None) -> list[list[str]]:
    both = [parse(name, direction) for name in (left, right)]
    sides = [estimates(choice, depth, seed) for choice, seed in zip(both, bootstrap_seeds(*both))]
    shown = [key for key in QUANTITIES if any(is_shown(key, values) for values in sides)]
    return [[text(QUANTITIES[key], values[key]) for key in shown] for values in sides]


def test_the_default_is_both_demo_pairs_each_on_its_own_domain():
    at = open_page("compare")
    assert [column(at, "A"), column(at, "B")] == expected(FIRST, SECOND)
    assert list(table(at).iloc[:, 0]) == [quantity.name for quantity in QUANTITIES.values() if not quantity.instead]
    assert charts_of(at) and not at.info and not at.warning
    assert any(quantities.INTERVALS in caption.value for caption in at.caption)


def test_every_chart_names_the_choices_in_their_own_colours():
    at = open_page("compare")
    names = {f"A: {FIRST} on {parse(FIRST, 'base-to-tuned').domain}": BLUE}
    names[f"B: {SECOND} on {parse(SECOND, 'base-to-tuned').domain}"] = ORANGE
    for spec in charts_of(at):
        assert colours(spec) == names
        titles = {layer["encoding"][axis].get("title") for layer in layers(spec) for axis in "xy" if axis in layer["encoding"]}
        assert len(titles - {None}) == 2 and spec["title"]["text"].endswith("?")


def test_a_point_can_be_clicked_and_what_is_chosen_is_marked():
    fields = [p["select"]["fields"] for spec in charts_of(open_page("compare")) for p in spec.get("params", ())]
    assert all({"shown", "layer", "now"} <= set(names) for names in fields) and len(fields) == 11
    assert [names for names in fields if "rank" in names] == [fields[2], fields[8]]
    at = open_page("compare", pair=SECOND, layer="15")
    at.run()
    (rule,) = [layer for layer in layers(charts_of(at)[1]) if "values" in layer.get("data", {})]
    assert rule["data"]["values"] == [{"depth": 15 / 29}] and rule["mark"]["color"] == ORANGE
    assert "15" in json.dumps(charts_of(at)[1]["layer"]), "part of a click, so that the same point can be clicked again"


def test_a_link_brings_the_choices_back():
    link = {"a_pair": SECOND, "b_pair": FIRST, "b_domain": "cultural", "rank_at": "0.9", "direction": "tuned-to-base"}
    at = open_page("compare", **link)
    assert [column(at, "A"), column(at, "B")] == expected(SECOND, f"{FIRST}@cultural", "tuned-to-base", 0.9)
    assert any("--direction tuned-to-base --depth 0.9" in code.value for code in at.code)
    assert table(open_page("compare", **link)).equals(table(at))


def test_choosing_a_domain_changes_one_side_alone():
    at = open_page("compare", a_domain="cultural@1", b_domain="cognitive@1")
    before = column(at, "A")
    at.selectbox(key="b_domain").set_value("cultural@1").run()
    assert column(at, "A") == before and column(at, "B") == expected(f"{FIRST}@cultural@1", f"{SECOND}@cultural@1")[1]
    assert any("resamples are paired" in caption.value for caption in at.caption), "both are on the same prompts now"


def test_what_is_not_stored_is_a_note_with_its_command(monkeypatch, tmp_path):
    place = tmp_path / "artifacts"
    shutil.copytree(artifacts.ARTIFACTS, place, copy_function=os.symlink)
    (place / "cultural" / "rq4" / FIRST / "coverage_summary.parquet").unlink()
    monkeypatch.setattr(artifacts, "ARTIFACTS", place)
    at = open_page("compare", a_domain="cultural")
    (note,) = [info.value for info in at.info]
    assert "Heads for 80 %" in note and f"python -m mechdiff sweep --pair {FIRST} --domain cultural --grid full" in note
    assert column(at, "A").count("not stored") == 2 and charts_of(at)
    coverage = [spec for spec in charts_of(at) if "heads" in spec["title"]["text"]]
    assert len(coverage) == 2 and all(list(colours(spec).values()) == [ORANGE] for spec in coverage)


def test_with_nothing_stored_no_chart_is_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    at = open_page("compare", a_pair="llama-8b-cognitive", b_pair="llama-8b-cultural")
    assert len(at.info) == 2 and not charts_of(at) and not at.table
    at = open_page("compare", a_pair="llama-8b-cognitive", b_pair="llama-8b-cognitive")
    assert len(at.info) == 1, "a sweep compared with itself is named once"


def test_published_numbers_are_hollow_and_can_be_hidden(tmp_path, monkeypatch):
    """The study's own pair, swept again on its prompts under its definitions: its numbers stand next to ours."""
    for source in artifacts.ARTIFACTS.glob("math-500/rq*/llama-8b-cognitive@study"):
        as_sweep(shutil.copytree(source, tmp_path / source.relative_to(artifacts.ARTIFACTS)) / "manifest.json")
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    own = {"a_pair": "llama-8b-cognitive@study", "b_pair": "llama-8b-cognitive@study"}
    at = open_page("compare", **own)
    drawn = [hollow(spec) for spec in charts_of(at)]
    assert sum(bool(marks) for marks in drawn) >= 4
    assert {mark["mark"].get("color") for mark in drawn[0]} == {BLUE, ORANGE}
    assert any("published" in line.lower() for line in charts_of(at)[0]["title"]["subtitle"])
    at.toggle(key="published").set_value(False).run()
    assert not any(hollow(spec) for spec in charts_of(at))


def as_sweep(path) -> None:
    """A manifest of imported files as that of a sweep."""
    about = json.loads(path.read_text()) | {"kind": "sweep"}
    about |= {"templates": [str(i) for i in range(350)], "prompts": 350, "grid": "full", "prompts_hash": "x"}
    path.write_text(json.dumps(about))


def test_published_numbers_stand_next_to_no_other_pair():
    assert not any(hollow(spec) for spec in charts_of(open_page("compare")))


def test_a_sweep_without_a_manifest_is_called_so(tmp_path, monkeypatch):
    for source in artifacts.ARTIFACTS.glob(f"*/rq1/{FIRST}"):
        shutil.copytree(
            source, tmp_path / source.relative_to(artifacts.ARTIFACTS), ignore=shutil.ignore_patterns("manifest.json")
        )
    monkeypatch.setattr(artifacts, "ARTIFACTS", tmp_path)
    at = open_page("compare", a_pair=FIRST)
    assert any("no manifest" in warning.value for warning in at.warning)


def test_a_page_that_was_there_once_reads_and_draws_nothing_anew(monkeypatch):
    at = open_page("compare")
    before = charts_of(at)
    monkeypatch.delattr(compare.estimates, "estimates")
    monkeypatch.delattr(compare, "curve")
    at.run()
    assert not at.exception and charts_of(at) == before and len(before) == 12
