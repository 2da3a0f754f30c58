"""A stored sweep as files, and the charts of a map over its scales, streams and singular directions."""

import pandas as pd
import pytest

from mechdiff.__main__ import main
from mechdiff.common.paths import SHIPPED_SWEEPS
from mechdiff.reporting import chart_tables, charts

PAIR = "llama-8b-cognitive@study"


def test_every_table_and_every_chart_of_a_sweep_is_a_file(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--pair", PAIR]) == 0
    stored = {path.relative_to(SHIPPED_SWEEPS): pd.read_parquet(path) for path in SHIPPED_SWEEPS.glob(f"*/rq*/{PAIR}/*.parquet")}
    for path, table in stored.items():
        written = pd.read_csv(tmp_path / path.parts[0] / path.parts[1] / f"{PAIR}-{path.stem}.csv")
        assert len(written) == len(table) and list(written) == list(table)
    pictures = list((tmp_path / "math-500").glob("rq*/*.png"))
    assert len(pictures) >= 5 and all(path.with_suffix(".svg").exists() and path.stat().st_size > 2000 for path in pictures)
    assert f"{len(stored)} CSV, {len(pictures)} PNG" in capsys.readouterr().out


def test_a_sweep_that_is_not_stored_is_a_sentence_with_its_command(tmp_path, capsys):
    assert main(["export", str(tmp_path), "--pair", "demo-cultural@study", "--domain", "neutral"]) == 2
    assert "--pair demo-cultural --domain neutral --grid full --protocol study" in capsys.readouterr().err


CELLS = pd.DataFrame(
    {"rank": ["1", "full", "1", "full"], "alpha": ["auto", "auto", "0.8", "0.8"], "mean": [1.0, 0.5, 1.2, 0.6], "live": False}
).assign(low=0.1, high=2.0, drop=[-40.0, 20.0, -60.0, 10.0], drop_low=-90.0, drop_high=40.0)


def colour_of(spec: dict) -> set[str]:
    return {layer["encoding"]["color"]["field"] for layer in spec["layer"] if "field" in layer["encoding"].get("color", {})}


def test_the_map_over_rank_and_scale_shows_the_drop_where_there_is_one():
    assert colour_of(charts.rank_alpha_map(CELLS, "1", "auto").to_dict()) == {"drop"}
    assert colour_of(charts.rank_alpha_map(CELLS.assign(drop=float("nan")), "1", "auto").to_dict()) == {"mean"}


def test_a_line_for_every_rank_over_the_scales_and_the_fitted_one_apart():
    spec = charts.alpha_curve(CELLS, "0.8").to_dict()
    x = next(layer["encoding"]["x"] for layer in spec["layer"] if layer["encoding"].get("x", {}).get("field") == "alpha")
    assert x["sort"][0] == "auto" and colour_of(spec) == {"rank"}
    assert any(layer.get("transform", [{}])[0].get("filter") == "datum.alpha != 'auto'" for layer in spec["layer"])


def test_the_best_layer_of_every_stream():
    lines = pd.DataFrame({"stream": ["a", "a", "b", "b"], "layer": [1, 2, 1, 2], "drop": [5.0, 9.0, float("nan"), -3.0]})
    assert chart_tables.best_drops(lines)[["stream", "layer"]].values.tolist() == [["a", 2], ["b", 2]]


def test_the_spectrum_and_the_ranks_that_reach_its_shares():
    spectrum = chart_tables.spectrum(pd.DataFrame([{"layer": 3, "spectrum_8": 1.0, "spectrum_1": 0.4, "spectrum_2": 0.55}]))
    assert spectrum["rank"].tolist() == [1, 2, 8] and [chart_tables.reached(spectrum, s) for s in (0.3, 0.5, 0.9)] == [1, 2, 8]
    assert charts.spectrum_curve(spectrum).to_dict()["title"]["text"] == "How many directions does the map have?"
    assert chart_tables.spectrum(pd.DataFrame([{"layer": 3}])).empty, "older sweeps have none"


@pytest.mark.parametrize("domain", ["cognitive", "cultural"])
@pytest.mark.parametrize("pair", ["demo-cognitive", "demo-cultural"])
def test_the_demo_sweeps_under_the_studys_protocol(pair, domain):
    folders = list(SHIPPED_SWEEPS.glob(f"{domain}/rq*/{pair}@study"))
    assert {folder.parent.name for folder in folders} == {"rq1", "rq1-behaviour", "rq2", "rq3", "rq4"}
    assert sum(file.stat().st_size for folder in folders for file in folder.iterdir()) < 1_000_000
    (folder,) = [folder for folder in folders if folder.parent.name == "rq3"]
    cuts, controls = (at_site(pd.read_parquet(folder / f"{name}.parquet")) for name in ("alpha_summary", "rank_summary"))
    lowest = cuts[(cuts["rank"] == "1") & (cuts["alpha"] == "1.0") & (cuts["control"] == "none")]["mean"].iloc[0]
    ablated = controls[controls["control"] == "mean"]["mean"].iloc[0]
    assert lowest == pytest.approx(ablated, rel=0.02), "a small rank puts in nearly the mean, as docs/method.md says"


def at_site(lines: pd.DataFrame) -> pd.DataFrame:
    return lines[(lines["layer"] == 28) & (lines["stream"] == "resid_post") & (lines["direction"] == "base-to-tuned")]
