"""The original study's own numbers as stored sweeps: what its files become, and pages that need neither weights nor prompts."""

import json
import re

import pandas as pd
import pytest
from support.app_page import charts_of, open_page
from support.study_folder import write

from mechdiff import UserError
from mechdiff.common.paths import SHIPPED_SWEEPS
from mechdiff.inputs.pair_file import read_pair
from mechdiff.reporting import charts
from mechdiff.study import artifacts, published_comparison
from mechdiff.study.imports import as_sweep
from mechdiff.study.imports.reading import read_study
from mechdiff.study.stored_sweep import StoredSweep

STUDYS = {"llama-8b-cognitive": "math-500", "llama-8b-cultural": "kk-culture"}
TABLES = {"rq1": "patch_summary", "rq2": "transport_summary", "rq3": "rank_summary", "rq4": "heads_summary"}


@pytest.mark.parametrize("pair", STUDYS)
def test_its_pairs_are_studied_on_its_prompts_under_its_protocol(pair):
    spec = read_pair(pair)
    assert (spec.domain, spec.protocol, spec.depth, spec.heads) == (STUDYS[pair], "study", 32, 32)
    for folder, name in TABLES.items():
        lines, about = artifacts.read(spec.domain, folder, f"{pair}@study", name)
        assert lines is not None and len(lines) and lines["low"].isna().all(), "the study has no intervals"
        assert about is not None and about["kind"] == "import" and "without intervals" in about["about"]


@pytest.mark.parametrize("pair", STUDYS)
def test_every_valid_published_number_is_the_stored_one(pair):
    values = published_comparison.published_values(pair, STUDYS[pair])
    table = published_comparison.compare(values, StoredSweep(f"{pair}@study", STUDYS[pair], "base-to-tuned"))
    compared = table[table["valid"]]
    assert len(compared) >= 10 and compared["ours"].notna().all()
    assert (compared["difference"].abs() <= 2e-3 * compared["value"].abs() + 1e-4).all(), "they are rounded to 12 bits"
    assert (~table["valid"]).sum() >= 2 and table.loc[~table["valid"], "verdict"].str.startswith("not comparable: ").all()


def test_invalid_numbers_are_listed_with_the_reason():
    notes = [note for path in SHIPPED_SWEEPS.glob("*/rq*/llama*/manifest.json") for note in json.loads(path.read_text())["notes"]]
    for reason in ("ignored the rank", "100 % minus the coverage", "in the place of the residual stream"):
        assert any(reason in note for note in notes), reason


def test_a_study_folder_becomes_sweeps_of_its_pairs(tmp_path):
    folder = write(tmp_path / "study")
    folders = as_sweep.store(read_study(folder, "study"), tmp_path / "out")
    assert folders and all(path.name.endswith("@study") for path in folders)
    lines = pd.concat([pd.read_parquet(path) for path in (tmp_path / "out").glob("*/rq2/*/transport_summary.parquet")])
    scored = lines[lines["map"] == "zscore"]
    mapped = lines[(lines["map"] == "procrustes_full") & lines["mean"].notna()]
    reference = mapped.merge(scored, on=["direction", "layer", "stream"], suffixes=("", "_z")).dropna(subset="drop")
    drop = 100 * (1 - reference["mean"] / reference["mean_z"])
    assert len(reference) and (drop - reference["drop"]).abs().median() < 1, "a file's drop is of its own z-score effect"


def test_other_folders_are_a_sentence(tmp_path):
    (tmp_path / "rq1_cka.json").write_text('{"3": 0.5}')
    contents = read_study(tmp_path, "x")
    with pytest.raises(UserError, match="Nothing in x is of the study's domains"):
        as_sweep.store(type(contents)("x", {}, contents.files), tmp_path / "out")


@pytest.mark.slow
@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("page", ["drift", "patching", "transport", "rank", "heads"])
def test_a_pair_that_is_not_here_shows_its_stored_sweep(page):
    at = open_page(page, pair="llama-8b-cognitive")
    assert charts_of(at) and not at.error
    (line,) = [info.value for info in at.info if "Live results need the models" in info.value]
    assert "python -m mechdiff study --pair llama-8b-cognitive" in line
    assert any(caption.value == "Protocol: **study**." for caption in at.caption)
    subtitles = re.sub(r"\W+", " ", " ".join(str(spec["title"].get("subtitle")) for spec in charts_of(at)))
    assert "the study s own numbers" in subtitles or page == "heads"


@pytest.mark.slow
@pytest.mark.usefixtures("no_model")
def test_what_was_not_asked_of_a_site_is_said_with_where_it_was():
    at = open_page("rank", pair="llama-8b-cultural")
    assert any("Stored for this question: attn_out at layer 26" in info.value for info in at.info)
    assert charts_of(open_page("rank", pair="llama-8b-cultural", stream="attn_out"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_model")
def test_the_studys_definition_of_drift_stands_beside_ours_under_its_protocol():
    lines, _ = artifacts.read("cultural", "rq1", "demo-cultural@study", "drift", {"stream": "resid_post"})
    for plain, names in ((True, {"CKA over templates", "plain CKA", "templates shuffled"}), (False, {"CKA over templates"})):
        drawn = charts.drift_curve(lines, plain=plain).to_dict()
        series = {row["shown"] for rows in drawn["datasets"].values() for row in rows if "shown" in row}
        assert names <= series and ("plain CKA" in series) == plain


def test_home_has_the_contrasts_of_all_four_pairs():
    (table,) = [table.value for table in open_page("home").table]
    assert [row.partition("?")[0] for row in table.iloc[:, 0]] == [
        "Late or early", "Late or early", "High or low rank", "High or low rank", "Many or few heads", "Residual or attention",
    ]  # fmt: skip
    assert [name.partition(" on ")[0] for name in table.columns[1:]] == [
        "demo-cultural", "demo-cognitive", "llama-8b-cultural@study", "llama-8b-cognitive@study",
    ]  # fmt: skip
    assert "residual better" in table.iloc[5, 1]
    for row in (1, 3):
        assert (table.iloc[row, 1:3] == "—").all() and (table.iloc[row - 1, 3:] == "not stored").sum() == 0, (
            "one definition a line"
        )


@pytest.mark.parametrize("protocol", ["mechdiff", "study"])
def test_models_that_mechdiff_can_fetch_itself_are_fetched(tmp_path, monkeypatch, protocol):
    """On a first start the demo model is not there yet: its stored sweeps are no reason to leave it at that."""
    monkeypatch.setattr("mechdiff.inputs.pair_file.MODELS", tmp_path)
    monkeypatch.setattr("session.ready", lambda pair: fetched.append(pair.name))
    fetched = []
    at = open_page("rank", pair="demo-cognitive", protocol=protocol)
    assert fetched == ["demo-cognitive"] and not any("stored sweep" in info.value for info in at.info)
