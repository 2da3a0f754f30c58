"""Imported numbers in the app: brought in and taken away, chosen in the sidebar, and drawn beside ours."""

import json
import re
from dataclasses import replace

import controls
import pandas as pd
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import fine, open_page, script
from views import imports

from mechdiff.common import paths
from mechdiff.reporting import charts
from mechdiff.reporting.selection import Selection
from mechdiff.study.imports import imported_sets
from mechdiff.study.imports.layout import layout

pytestmark = [pytest.mark.usefixtures("no_model"), pytest.mark.slow]
PAIR, OWN = "llama-8b-cognitive", "cognitive"  # a pair without weights here, and its domain
CKA = {"12": 0.561677873134613, "30": 0.7189369797706604}
PATCH = {"layer": 24, "hook": "resid_post", "n": 150, "solver": "procrustes_scaled", "alpha": 1.0, "head_mask": "ALL"}
MASK = {"layer": 30, "n": 150, "alpha": 1.0, "head_mask": "19", "KL_raw_mean": 0.006, "KL_mapped_mean": 0.0015}
FILES = {
    "rq1/rq1_cka.json": CKA,
    "rq1/patch_kl.json": {"layers": {"L24": {"tuned<-base": {"kl_mean": 0.2636}}}, "n_prompts": 350},
    "rq2/mapped_patch_L24_val.json": PATCH | {"KL_raw_mean": 0.29, "KL_mapped_mean": 0.17},
    "rq3/ranks/mapped_patch_L24_resid_post_k8_alpha1.0.json": PATCH | {"KL_raw_mean": 0.29, "KL_mapped_mean": 0.7},
    "rq4/head_mask_L30_attn_out_19.json": MASK,
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    place = tmp_path / "artifacts"
    for name, content in FILES.items():
        path = place / OWN / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (place / "notes.txt").write_text("words")
    return place


def squares(at: AppTest) -> list[pd.DataFrame]:
    """What the browser gets of the imported marks, chart by chart."""
    frames = []
    for chart in at.get("vega_lite_chart"):
        spec, sent = json.loads(chart.proto.spec), {dataset.name: dataset.data.data for dataset in chart.proto.datasets}
        for layer in spec["layer"]:
            if "mark" in layer and layer["mark"].get("shape") == "square":
                name = layer.get("data", spec.get("data"))["name"]
                frames.append(pa.ipc.open_stream(sent[name]).read_pandas())
    return frames


def test_the_control_is_there_only_when_something_is_imported(folder):
    at = open_page("compare")
    assert not [box for box in at.selectbox if box.key == "imported"]
    imported_sets.import_folder(folder, "mine")
    at = fine(at.run())
    box = at.selectbox(key="imported")
    assert box.options == [imported_sets.NONE, "mine"] and box.value == imported_sets.NONE
    assert not squares(at)
    at.selectbox(key="imported").set_value("mine")
    assert squares(fine(at.run()))
    assert controls.DEFAULTS["imported"] == imported_sets.NONE


def test_a_link_to_an_import_that_is_not_here_shows_none(folder):
    imported_sets.import_folder(folder, "mine")
    at = open_page("compare", imported="gone")
    assert at.selectbox(key="imported").value == imported_sets.NONE and not squares(at)


@pytest.mark.parametrize(("page", "charts"), [("drift", 2), ("patching", 2), ("transport", 4), ("rank", 3), ("heads", 2)])
def test_a_pair_without_weights_still_has_its_imported_numbers(folder, page, charts):
    imported_sets.import_folder(folder, "mine")
    at = open_page(page, pair=PAIR, imported="mine")
    assert len(squares(at)) == charts
    assert len([e for e in at.expander if "mine" in e.label]) == 1
    tables = [frame.value for frame in at.dataframe]
    assert all({"lacks", "source", "claims"} <= set(table) for table in tables) and tables
    assert all(source.startswith(OWN) for table in tables for source in table["source"])
    assert not squares(open_page(page, pair=PAIR))


def test_the_drawn_numbers_are_the_files(folder):
    imported_sets.import_folder(folder, "mine")
    at = open_page("drift", pair=PAIR, imported="mine")
    drawn = squares(at)[-1]
    assert dict(zip(drawn["layer"].astype(str), drawn["mean"])) == CKA
    table = next(frame.value for frame in at.dataframe if "cka" in frame.value)
    assert dict(zip(table["layer"].astype(str), table["cka"])) == CKA
    compared = squares(open_page("compare", imported="mine", a_pair="demo-cognitive"))[0]
    assert dict(zip((31 * compared["depth"]).round().astype(int).astype(str), compared["mean"])) == CKA


def test_on_another_pairs_domain_nothing_is_drawn_on_compare(folder):
    imported_sets.import_folder(folder, "mine")
    both = len(squares(open_page("compare", imported="mine", a_pair="demo-cognitive", b_pair="demo-cultural")))
    crossed = open_page("compare", imported="mine", a_pair="demo-cognitive", a_domain="cultural", b_pair="demo-cultural")
    assert both > 0 and not squares(crossed)


def section() -> AppTest:
    return fine(script("import session\nfrom views import imports\nsession.frame(imports.section)\n").run())


def test_bring_in_look_and_take_away(folder):
    at = section()
    at.text_input(key="import_folder").set_value(str(folder))
    at.text_input(key="import_name").set_value("mine")
    at.button[0].click()
    fine(at.run())
    assert [re.findall(r"\d+", note.value) for note in at.success] == [["5", "1"]] and imported_sets.names() == ["mine"]
    skipped = next(frame.value for frame in at.dataframe if "reason" in frame.value)
    assert skipped["path"].tolist() == ["notes.txt"] and "summary in words" in skipped["reason"].iloc[0]
    at.button(key="remove-mine").click()
    fine(at.run())
    assert imported_sets.names() == [] and folder.exists()


def test_a_bad_folder_is_a_notice(folder):
    at = section()
    at.text_input(key="import_folder").set_value(str(folder / "nowhere"))
    at.button[0].click()
    at.run()
    assert not at.exception and "does not exist" in at.error[0].value and imported_sets.names() == []


@pytest.mark.usefixtures("demo")
def test_marks_lie_on_a_pages_own_chart_where_the_layers_agree(folder, monkeypatch):
    imported_sets.import_folder(folder, "mine")
    monkeypatch.setattr(imports, "selected", lambda: "mine")
    selection = Selection("demo-cognitive", OWN)
    ours = pd.DataFrame({"layer": [0, 29], "cka": 0.9, "cka_debiased": 0.8, "low": 0.7, "high": 0.9, "n": 8})

    def added(**more) -> list[dict]:
        spec = imports.on(charts.drift_curve(ours, 3), "drift", replace(selection, **more), stream="resid_post").to_dict()
        drawn = [layer for layer in spec["layer"] if layer["mark"].get("shape") == "square"]
        return [row for layer in drawn for row in spec["datasets"][layer["data"]["name"]]]

    assert added() == []  # 30 layers here, 32 there
    monkeypatch.setitem(layout(), "layers", 30)
    monkeypatch.setitem(layout(), "heads", 9)
    assert {str(row["layer"]): row["mean"] for row in added()} == CKA
    assert added(domain="cultural") == []


@pytest.mark.usefixtures("demo")
def test_drop_over_rank_lies_beside_a_pair_of_any_depth(folder, monkeypatch):
    imported_sets.import_folder(folder, "mine")
    monkeypatch.setattr(imports, "selected", lambda: "mine")
    selection = Selection("demo-cognitive", OWN)
    ours = pd.DataFrame({"rank": ["1", "8"], "shown": "drop", "mean": 20.0, "low": -160.0, "high": 30.0})
    drawn = imports.on(charts.share_curve(ours, "8"), "rank", selection, stream="resid_post", layer=29).to_dict()
    (mark,) = [row for rows in drawn["datasets"].values() for row in rows if "source" in row]
    assert (mark["rank"], mark["layer"]) == ("8", 24) and mark["mean"] == pytest.approx(100 * (0.29 - 0.7) / 0.29)
