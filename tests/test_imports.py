"""Reading the study's artifacts: every known name, every kind of broken file, and what every line says of itself."""

import json
import math

import pandas as pd
import pytest
from support import study_folder
from support.study_folder import BROKEN, FILES

from mechdiff.common.errors import UserError
from mechdiff.study.imports.reading import FLAT, read_study

TOP, OTHER = "cultural", "cognitive"
WAY, BACK = "base-to-tuned", "tuned-to-base"


@pytest.fixture
def folder(tmp_path):
    return study_folder.write(tmp_path / "artifacts")


@pytest.fixture
def study(folder):
    return read_study(folder, "study")


def lines(study, table: str, domain: str = TOP, **where) -> pd.DataFrame:
    rows = study.tables[domain, table]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return rows


def only(study, table: str, file: str, domain: str = TOP) -> pd.Series:
    (row,) = lines(study, table, domain, source=file).to_dict("records")
    return pd.Series(row)


def test_every_file_is_read_or_listed_with_its_reason(study, folder):
    everything = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {file.path for file in study.files} == everything and len(study.files) == len(everything)
    assert {file.path for file in study.read} == FILES.keys()
    reasons = {file.path: file.reason for file in study.skipped}
    assert reasons.pop("rq1/rq1_cka_bytes.json") == "is not UTF-8 text"
    assert reasons.keys() == BROKEN.keys()
    assert {name: reason for name, reason in reasons.items() if BROKEN[name][1] not in reason} == {}


def test_every_file_that_is_read_gives_lines(study):
    given = {source for table in study.tables.values() for source in table["source"]}
    assert given == FILES.keys() and all(file.lines > 0 and len(file.sha256) == 64 for file in study.read)
    assert sum(file.lines for file in study.read) == sum(map(len, study.tables.values()))


def test_a_folder_on_the_way_names_the_domain_and_the_top_level_is_the_studys(study, folder):
    assert {domain for domain, _ in study.tables} == {TOP, OTHER}
    assert set(lines(study, "drift", OTHER)["layer"]) == {12, 30}
    assert all(source.startswith(OTHER) for (of, _), t in study.tables.items() if of == OTHER for source in t["source"])
    assert {domain for domain, _ in read_study(folder, "study", OTHER).tables} == {OTHER}
    with pytest.raises(UserError, match="Choose from"):
        read_study(folder, "study", "martian")


def test_question_1(study):
    both = lines(study, "patch_summary", source="rq1/patch_kl.json").set_index("direction")
    assert list(both.loc[[WAY, BACK], "mean"]) == [1.4, 0.6] and list(both.loc[[WAY, BACK], "sd"]) == [0.9, 0.7]
    assert set(both["prompts"]) == {100} and set(both["map"]) == {"zscore"} and set(both["lacks"]) == {"intervals"}
    old = only(study, "patch_summary", "rq1/rq1_patch.json")
    assert (old["mean"], old["direction"], old["lacks"], old["claims"]) == (1.4, WAY, "intervals, prompts", 2)
    refused = only(study, "behaviour", "rq1/rq1_patch.json")
    assert (refused["measure"], refused["mean"], refused["layer"]) == ("refusal_delta_pp", 2.0, 24)
    rate = lines(study, "behaviour", measure="refusal_rate_base").iloc[0]
    assert (rate["mean"], rate["prompts"]) == (0.1, 40)
    assert lines(study, "refusals")[["prompt", "base", "tuned"]].values.tolist() == [[0, 0, 1], [1, 0, 0]]
    resampled = only(study, "drift", "rq1/cka_boot.json")
    assert list(resampled[["cka", "low", "high", "claims"]]) == [0.35, 0.3, 0.4, 2] and "intervals" not in resampled["lacks"]


@pytest.mark.parametrize(
    ("file", "stream", "fitted", "rank", "subspace"),
    [
        ("rq2_clt.json", "", "", "", ""),
        ("rq2/rq2_clt_L24.json", "", "", "", ""),
        ("rq2/rq2_clt_L24_ridge.json", "", "ridge", "full", ""),
        ("rq2/rq2_clt_L24_pca512_ridge.json", "", "ridge", "512", ""),
        ("rq2/rq2_clt_L24_logit512_ridge.json", "", "ridge", "full", "512"),
        ("rq2/rq2_clt_L24_logitjoint:256_ridge_20250823_133310.json", "", "ridge", "", "joint:256"),
        ("rq2/rq2_clt_L26_procrustes_scaled_20250823_141030.json", "", "procrustes_scaled", "full", ""),
        ("rq2/rq2_clt_L26_attn_out_procrustes_scaled_20250826_122942.json", "attn_out", "procrustes_scaled", "1", ""),
    ],
)
def test_fitted_maps_old_and_new(study, file, stream, fitted, rank, subspace):
    line = only(study, "maps", file)
    assert tuple(line[["stream", "map", "rank", "subspace"]]) == (stream, fitted, rank, subspace)
    content = FILES[file]
    assert line["r2_val"] == content["val_r2"] and line["cka"] in content.values()
    assert [name for name in ("stream", "map", "rank") if not line[name]] == [
        name for name in line["lacks"].split(", ") if name != "intervals"
    ]
    assert ("ignored this rank" in line["note"]) == (rank == "1") and ("leak" in line["note"]) == (file == "rq2_clt.json")


def test_mapped_patches(study):
    old = only(study, "transport_summary", "rq2/mapped_patch_L10.json")
    assert tuple(old[["layer", "mean", "reference", "drop", "prompts"]]) == (10, 6.0, 8.0, 25.0, 150)
    assert (old["lacks"], old["direction"], old["rank"], old["control"]) == ("intervals, map, alpha", WAY, "full", "none")
    raw = only(study, "transport_summary", "rq2/mapped_patch_L24_rawonly.json")
    assert (raw["layer"], raw["map"], raw["mean"], raw["lacks"]) == (24, "zscore", 6.5, "intervals, stream")
    assert "layer only in the name" in raw["note"] and math.isnan(raw["drop"])
    other = only(study, "transport_summary", "rq2/mapped_patch_L10_resid_post_val.json")
    assert (other["control"], other["map"], other["alpha"]) == ("other-layer", "procrustes_scaled", "1.0")
    assert "the map of layer 24" in other["note"]
    swept = only(study, "transport_summary", "rq2/mapped_patch_L26_attn_out_alpha0.5_20250824_101010.json")
    assert swept["alpha"] == "0.5" and "replaced the residual stream" in swept["note"]
    assert "replaced the residual stream" in only(study, "transport_summary", "rq2/mapped_patch_L26_val.json")["note"]


def test_ranks_stand_in_names_and_both_claims_stay(study):
    single = only(study, "rank_summary", "rq3/ranks/mapped_patch_L24_resid_post_k1_alpha1.0.json")
    combined = only(study, "rank_summary", "rq3/rq3_combined.csv")
    for line in (single, combined):
        assert (line["rank"], line["alpha"], line["mean"], line["claims"]) == ("1", "1.0", 5.6, 2)
        assert "rank only in the name" in line["note"]
    assert combined["drop"] == 12.5 and "from mapped_patch_L24_resid_post_k1_alpha1.0.json" in combined["note"]
    assert set(combined["lacks"].split(", ")) == {"intervals", "prompts", "map"}
    swept = only(study, "rank_summary", "rq3/mapped_patch_L26_attn_out_alpha0.3.json")
    assert (swept["rank"], swept["alpha"], swept["drop"], swept["claims"]) == ("full", "0.3", 33.3, 2)
    assert json.loads(swept["rest"]) == {"timestamp": "x"}


def test_the_same_number_at_every_rank_is_said_to_be_no_cut(study):
    flat = lines(study, "rank_summary")
    assert set(flat[flat["note"].str.contains(FLAT)]["rank"]) == {"1", "full"}
    assert not lines(study, "rank_summary", OTHER)["note"].str.contains(FLAT).any()


@pytest.mark.parametrize(
    ("file", "heads", "coverage", "chosen", "note"),
    [
        ("ALL", "all", 1.0, "", ""),
        ("NONE", "none", 0.0, "", ""),
        ("24", "24", 0.01, "", ""),
        ("19-8-2", "2-8-19", 0.25, "", ""),
        ("head3", "3", 0.05, "", ""),
        ("head31_alpha0.3", "0", 0.05, "", "the name says heads 31"),
        ("top2", "1-5", 0.45, "topk", ""),
        ("rand2_s0", "4-8", 0.15, "random", ""),
    ],
)
def test_head_masks(study, file, heads, coverage, chosen, note):
    line = only(study, "heads_summary", f"rq4/head_mask_L26_attn_out_{file}.json")
    assert (line["heads"], line["stream"], line["chosen"]) == (heads, "heads", chosen)
    assert line["coverage"] == pytest.approx(coverage) and line["note"] == note
    assert line["blend"] == (0.3 if "alpha" in file else 1.0)


def test_lists_of_heads(study):
    singles = lines(study, "heads_summary", source="rq4/single_head_L26_attn_out_alpha0.3.json")
    assert list(singles["heads"]) == ["0", "1"] and set(singles["blend"]) == {0.3} and set(singles["layer"]) == {26}
    assert singles["note"].str.contains("every entry of the file holds the same number").all()
    entry = only(study, "heads_summary", "rq4/rq4_results.json")
    assert (entry["heads"], entry["chosen"]) == ("0", "topk") and "requested heads 0-1, but holds the run of 0" in entry["note"]
    assert only(study, "transport_summary", "rq4/rq4_results.json")["mean"] == 0.003
    delta = only(study, "heads_summary", "rq4/single_head_details.csv")
    assert math.isnan(delta["mean"]) and "effect" in delta["lacks"] and json.loads(delta["rest"])["delta"] == "0.178897"
    share = only(study, "heads_summary", "cognitive/rq4/fig/single_head_details.csv", OTHER)
    assert (share["mean"], share["coverage"]) == (0.002105, pytest.approx(0.3448)) and "layer" in share["lacks"]
    assert pd.isna(share["layer"])
