"""Imports kept and shown: the command, the tables on disk, and the charts' numbers, which are the files'."""

import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support import study_folder
from support.study_folder import BROKEN, FILES

from mechdiff.__main__ import main
from mechdiff.common import paths
from mechdiff.reporting import charts
from mechdiff.study.imports import imported_sets, marks
from mechdiff.study.imports.layout import layout
from mechdiff.study.imports.reading import read_study

SEED = Path(__file__).parents[2] / "shared" / "seed-artifacts"
TOP, OTHER = "cultural", "cognitive"
WAY, BACK = "base-to-tuned", "tuned-to-base"


@pytest.fixture
def folder(tmp_path):
    return study_folder.write(tmp_path / "artifacts")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def test_the_command_prints_what_was_read_and_why_not(folder, cache, capsys):
    assert main(["import", str(folder), "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"read {len(FILES)}, skipped {len(BROKEN) + 1}\n")
    assert all(f"  {name}: " in out for name in BROKEN) and "more than one file" in out
    about = imported_sets.manifest_of("mine")
    assert about["kind"] == "import" and about["source"] == str(folder) and "intervals" in about["lacks"]
    assert {file["path"] for file in about["read"]} == FILES.keys()
    for path, count in about["tables"].items():
        assert len(pd.read_parquet(cache / "imports" / "mine" / f"{path}.parquet")) == count


def test_tables_come_back_without_a_bit_lost(folder, cache):
    study = read_study(folder, "study")
    imported_sets.import_folder(folder, "mine")
    for (domain, table), before in study.tables.items():
        pd.testing.assert_frame_equal(imported_sets.read("mine", domain, table), before, check_dtype=False)
    assert imported_sets.read("mine", OTHER, "refusals").empty


def test_importing_again_replaces_the_set_whole(folder, cache):
    imported_sets.import_folder(folder, "mine")
    for path in (folder / OTHER).rglob("*.json"):
        path.unlink()
    imported_sets.import_folder(folder, "mine")
    assert imported_sets.read("mine", OTHER, "drift").empty and not imported_sets.read("mine", TOP, "drift").empty
    assert imported_sets.names() == ["mine"] and [p.name for p in (cache / "imports").iterdir()] == ["mine"]
    imported_sets.remove("mine")
    assert imported_sets.names() == [] and folder.exists()


def test_a_zip_gives_the_same_as_its_folder(folder, cache):
    study = read_study(folder, "study")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, Path("artifacts") / path.relative_to(folder))
    again = imported_sets.import_folder(packed, called="my artifacts.zip")
    assert [(f.path, f.reason) for f in again.files] == [(f"artifacts/{f.path}", f.reason) for f in study.files]
    assert again.tables.keys() == study.tables.keys() and imported_sets.names() == ["my-artifacts"]
    assert (again.tables[TOP, "drift"]["cka"] == study.tables[TOP, "drift"]["cka"]).all()


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (lambda p: p / "missing", "", "does not exist"),
        (lambda p: p.mkdir() or p, "", "it is empty"),
        (lambda p: p.write_text("x") and p, "", "neither a folder nor a .zip"),
        (lambda p: p.mkdir() or ((p / "a.txt").write_text("x") and p), "", "read 0, skipped 1"),
        (lambda p: p.mkdir() or p, "../up", "cannot name an import"),
        (lambda p: p.mkdir() or p, imported_sets.NONE, "cannot name an import"),
    ],
)
def test_a_bad_folder_is_one_sentence_and_what_to_type(make, name, said, tmp_path, cache, capsys):
    source = make(tmp_path / "source")
    assert main(["import", str(source), *(["--name", name] if name else [])]) == 2
    error = capsys.readouterr().err
    assert said in error and "Try:  " in error and not (cache / "imports").exists()


def test_a_folder_that_is_no_import_is_left_alone(folder, tmp_path, capsys):
    (tmp_path / "out" / "mine").mkdir(parents=True)
    assert main(["import", str(folder), "--name", "mine", "--out", str(tmp_path / "out")]) == 2
    assert "--name" in capsys.readouterr().err and list((tmp_path / "out").rglob("*")) == [tmp_path / "out" / "mine"]


def values(figure) -> list[dict]:
    """What the browser gets of a chart's marks."""
    return [row for rows in figure.to_dict()["datasets"].values() for row in rows]


def test_the_charts_numbers_are_the_files(folder, cache):
    imported_sets.import_folder(folder, "mine")
    points = marks.points("mine", "drift", OTHER, WAY)
    drawn = values(charts.means_only(points, "layer", "CKA", "Drift?", ""))
    assert {row["layer"]: row["mean"] for row in drawn} == {12: 0.56, 30: 0.72}
    assert {row["what"] for row in drawn} == {"imported: mine, means only"} and all(
        "rq1_cka.json" in row["source"] for row in drawn
    )
    compared = marks.compared("mine", "drift", OTHER, WAY)
    assert list(compared["x"]) == [12 / (layout()["layers"] - 1), 30 / 31] and list(compared["mean"]) == [0.56, 0.72]
    cuts = marks.compared("mine", "rank", OTHER, WAY, depth=0.9)
    assert dict(zip(cuts["x"], cuts["mean"])) == {
        "8": pytest.approx(100 * (0.29 - 0.7) / 0.29),
        "full": pytest.approx(41.379, abs=1e-3),
    }


def test_two_claims_of_one_condition_are_two_marks_or_one_that_names_both(folder, cache):
    imported_sets.import_folder(folder, "mine")
    drift = marks.points("mine", "drift", TOP, WAY)
    assert sorted(drift["mean"]) == [0.34, 0.35] and set(drift["layer"]) == {24}  # two files, two values, both there
    (same,) = marks.points("mine", "effect", TOP, WAY).to_dict("records")
    assert same["mean"] == 1.4 and same["source"] == "rq1/patch_kl.json, rq1/rq1_patch.json"
    (cut,) = marks.points("mine", "cut", TOP, WAY, layer=24, rank="1").to_dict("records")
    assert set(cut["source"].split(", ")) == {
        "rq3/ranks/mapped_patch_L24_resid_post_k1_alpha1.0.json",
        "rq3/rq3_combined.csv",
    }
    assert marks.points("mine", "effect", TOP, BACK)["mean"].tolist() == [0.6]


def test_a_mark_below_the_axis_is_drawn_at_its_foot_and_keeps_its_number(folder, cache):
    imported_sets.import_folder(folder, "mine")
    ranks = pd.DataFrame({"rank": ["1", "8", "full"], "shown": "drop", "mean": 20.0, "low": 10.0, "high": 30.0})
    figure = charts.with_imported(charts.share_curve(ranks, "8", "about"), marks.points("mine", "rank", OTHER, WAY))
    below = [row for row in values(figure) if row.get("at") is not None and row["at"] != row["mean"]]
    assert [(row["rank"], row["at"]) for row in below] == [("8", 0.0)] and below[0]["mean"] == pytest.approx(-141.379, abs=1e-3)
    assert "triangles: below the axis" in " ".join(figure.to_dict()["title"]["subtitle"])


@pytest.mark.skipif(not SEED.is_dir(), reason="the study's own files are not here")
def test_the_seeds_every_file_and_number(cache):
    study = imported_sets.import_folder(SEED, "seed")
    assert len(study.read) >= 47 and all(file.reason for file in study.skipped)
    for (_, name), table in study.tables.items():
        for row in table.to_dict("records"):
            assert row["lacks"].startswith("intervals")
            path = SEED / row["source"]
            content = json.loads(path.read_text()) if path.suffix == ".json" else None
            if name == "maps":
                cka = content.get("cka_mapped_vs_tuned_val", content.get("cka_mapped_vs_tuned"))
                assert (row["layer"], row["r2_val"], row["cka"]) == (content["layer"], content["val_r2"], cka)
                assert (
                    row["cosine_mean"] == content["cos_stats"]["mean"]
                    if content.get("cos_stats")
                    else pd.isna(row["cosine_mean"])
                )
            elif name == "transport_summary":
                assert row["reference"] == content["KL_raw_mean"] and row["mean"] == content.get(
                    "KL_mapped_mean", row["reference"]
                )
            elif name == "patch_summary":
                side = content.get("layers", content)[f"L{row['layer']}"][
                    "tuned<-base" if row["direction"] == WAY else "base<-tuned"
                ]
                assert row["mean"] == side.get("kl_mean", side.get("kl_nexttoken"))
            elif name == "drift":
                assert row["cka"] == content[str(row["layer"])]
            elif name == "behaviour" and "behavior" in row["source"]:
                assert row["mean"] == content[row["measure"]]
    assert len(study.tables[TOP, "behaviour"]) == 22 + 6 and len(study.tables[TOP, "refusals"]) == 40
    doubled = study.tables[TOP, "maps"].query("claims > 1")
    assert len(doubled) > 2 and doubled["source"].is_unique
    effects = marks.points("seed", "effect", TOP, WAY).set_index("layer")["mean"]
    assert effects[24] == 1.413544921875 and effects[10] == 0.62947265625
