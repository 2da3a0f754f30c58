"""`mechdiff study`: everything about a pair from nothing, whatever interrupts it; what it asks, and what it skips."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from string import ascii_letters

import numpy as np
import pandas as pd
import pytest
from support import hub_server, small_models
from support.sweeping import until

from mechdiff import UserError
from mechdiff.__main__ import main
from mechdiff.inputs import domain_files, prompts
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models import downloads
from mechdiff.study import already_stored, artifacts, published_comparison, sweep_plan, sweep_process, sweeps, whole_study
from mechdiff.study.published_comparison import compare
from mechdiff.study.stored_sweep import StoredSweep

ROOT = Path(__file__).parents[1]


# From nothing to the report


@pytest.fixture
def place(tmp_path):
    """Two models on a hub, a pair file that names them, and a domain of a few prompts."""
    for seed, side in enumerate(("base", "tuned")):
        small_models.write_model(tmp_path / "models" / side, seed, vocab_size=30_000, num_hidden_layers=2)
    (tmp_path / "domains" / "short").mkdir(parents=True)
    for split, count in (("train", 40), ("val", 12)):
        small_models.write_prompts(tmp_path / "domains" / "short" / f"{split}.jsonl", count)
    names = ('hub = "org/base"', 'hub = "org/tuned"')
    return tmp_path, Path(small_models.write_pair(tmp_path, *names, domain="short")).rename(tmp_path / "mine.toml")


@pytest.mark.slow
def test_a_study_killed_twice_ends_in_its_report_and_fetches_every_byte_once(place, sweep_cache):
    folder, pair = place
    models = {f"org/{side}": folder / "models" / side for side in ("base", "tuned")}
    weights = [f"{name}/model.safetensors" for name in models]
    with hub_server.serving(repositories=models, rate=3e6) as hub:
        own = {"MECHDIFF_CACHE": str(sweep_cache), "MECHDIFF_DATA": str(folder / "domains"), "PYTHONPATH": str(ROOT)}
        environment = hub.environment(folder / "hf") | own | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "mechdiff", "study", "--pair", str(pair), "--grid", "quick", "--device", "cpu", "--yes"]
        command += ["--out", str(folder / "out")]

        def begin() -> subprocess.Popen:
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

        first = begin()
        until(lambda: all(hub.sent[name] > 2_000_000 for name in weights))
        kill(first)
        parts = {path: path.stat().st_size for path in (folder / "hf").rglob(f"*{downloads.PART}")}
        assert len(parts) == 2 and min(parts.values()) > 1_000_000
        asked, hub.rate = len(hub.asked), float("inf")

        second = begin()
        assert second.stdout is not None
        assert any(line.startswith("mapped states, base-to-tuned") for line in second.stdout), "half of the sweep"
        kill(second)
        assert {part for name in weights for part in hub.fetched(name)[1:]} == {f"bytes={size}-" for size in parts.values()}
        assert all(len(hub.fetched(name)) == 2 for name in weights) and len(hub.asked) > asked
        asked = len(hub.asked)

        third = begin()
        said = third.communicate()[0]
        assert third.returncode == 0, said
        assert len(hub.asked) == asked, "the models are here: the hub is not asked"
    assert "download   nothing: the models are here" in said and "Nothing was published about mine on" in said
    assert "mapped states, base-to-tuned: 0 cells in" in said, "what the second one finished is in the cache"
    manifest = json.loads((folder / "out" / "short" / "rq1" / "mine@study" / "manifest.json").read_text())
    assert manifest["base"]["fingerprint"] == f"org/base@{hub.commit('org/base')}"
    assert "<svg" in (folder / "out" / "report-mine@study-short.html").read_text()


def kill(process: subprocess.Popen) -> None:
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()


# What it asks, and what it skips


@pytest.fixture
def here(toy, tmp_path, monkeypatch, sweep_cache):
    """The tiny pair and its domain, on this machine, with sweeps in a folder of this test. Returns what runs `study` on it."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # main() takes SIGTERM over

    def study(*words: str) -> int:
        return main(["study", "--pair", str(toy.spec.path), "--grid", "quick", "--out", str(tmp_path / "out"), *words])

    return study


def test_without_a_terminal_it_computes_only_if_told_so(here, capsys, tmp_path):
    assert here() == 2
    out, err = capsys.readouterr()
    assert "Study of tiny on toy: grid quick, float32 on cpu" in out and "sweep      " in out and " cells, " in out
    assert err.startswith("mechdiff: ") and "\nTry:  --yes\n" in err and not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("answer", "status"), [("y", 0), ("Yes", 0), ("n", 1), ("", 1)])
def test_in_a_terminal_it_asks(here, capsys, monkeypatch, answer, status):
    asked = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or answer)
    assert here("--stop-after", "curate") == status and asked == ["Go on? [y/N] "]
    assert ("Nothing was downloaded or computed." in capsys.readouterr().out) == bool(status)


def test_its_first_step_alone_asks_and_changes_nothing(here, capsys, tmp_path):
    assert here("--stop-after", "check") == 0 and not list((tmp_path / "out").iterdir())
    assert "2/6" not in capsys.readouterr().out
    assert here("--stop-after", "dessert") == 2 and "check, download, curate, sweep" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_that_is_stored_is_not_computed_again(here, capsys, tmp_path, monkeypatch):
    assert here("--yes", "--stop-after", "sweep") == 0
    assert " cells, about " in capsys.readouterr().out.partition("The sweep: ")[2], "the check's cells tell the time"
    monkeypatch.setattr(sweeps, "sweep", lambda *_, **__: pytest.fail("it was computed"))
    assert here() == 0, "nothing is left to ask about"
    out = capsys.readouterr().out
    assert out.count("nothing: it is stored (") == 2
    report = tmp_path / "out" / "report-tiny@study-toy.html"
    written = report.stat().st_mtime_ns
    assert here() == 0 and report.stat().st_mtime_ns == written


def test_what_a_sweep_depends_on_makes_it_another(toy, tmp_path):
    place = {"pair": str(toy.spec.path), "domain": "toy", "grid": "quick", "out": tmp_path / "out"}
    settings = {"device": "cpu", "seed": 0, "metrics": ()}
    tables = sweep_plan.plan(place["pair"], "toy", sweep_plan.GRIDS["quick"], **settings)
    for folder in {table.folder for table in tables}:
        about = sweeps.manifest([table for table in tables if table.folder == folder], "quick", ["sweep"], 1.0)
        artifacts.save(tmp_path / "out" / "toy" / folder / "tiny", {}, about)
    assert already_stored.stored_at(**place, **settings) is not None
    assert already_stored.stored_at(**place, **settings | {"offload": "on"}) is not None, "it changes no number"
    for change in ({"seed": 1}, {"metrics": ("entropy",)}, {"dtype": "bfloat16"}):
        assert already_stored.stored_at(**place, **settings | change) is None
    for change in ({"grid": "full"}, {"out": tmp_path / "elsewhere"}):
        assert already_stored.stored_at(**place | change, **settings) is None
    (tmp_path / "domains" / "toy" / "val.jsonl").write_text('{"text": "w1 w2 w3"}\n')
    assert already_stored.stored_at(**place, **settings) is None


# Its prompts


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe, from a file in place of a data set."""
    letters = random.Random(0)
    rows = [json.dumps({"question": " ".join(letters.sample(ascii_letters, 8))}) for _ in range(60)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "recipes").mkdir()
    text = f'file = "{tmp_path / "rows.jsonl"}"\ntext = "{{question}}"\ntrain = 20\nval = 5\n'
    (tmp_path / "recipes" / "sums.toml").write_text(text)
    monkeypatch.setattr(domain_files, "RECIPES", tmp_path / "recipes")


def test_a_recipe_is_followed_if_its_prompts_are_not_here(here, recipe, capsys, tmp_path):
    half = tmp_path / "domains" / "sums" / "train.jsonl"
    half.parent.mkdir()
    half.write_text("of a study that was killed while it wrote")
    assert here("--domain", "sums", "--yes", "--stop-after", "curate") == 0
    out = capsys.readouterr().out
    assert "curate     20 train and 5 val prompts from" in out and "sums val: 5 prompts" in out
    assert len(prompts.read_domain("sums", "train")) == 20 and (half.parent / "positions.jsonl").exists()
    assert here("--domain", "sums", "--stop-after", "check") == 0
    assert "curate     nothing: the prompts are here" in capsys.readouterr().out


def test_a_domain_that_nothing_makes_is_a_sentence(here, recipe, capsys):
    assert here("--domain", "weather") == 2
    err = capsys.readouterr().err
    assert "'weather'" in err and "toy" in err and "sums" in err


@pytest.mark.parametrize("name", ["llama-8b-cognitive", "llama-8b-cultural"])
def test_the_original_pairs_take_the_original_prompts(name, tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path)
    pair = read_pair(name)
    domain, spec = whole_study.chosen_domain(pair, None)
    assert domain == pair.domain and spec == domain_files.read_recipe(domain) and spec.dataset
    assert whole_study.chosen_domain(pair, "cognitive") == ("cognitive", None), "shipped prompts, if they are named"
    (tmp_path / domain).mkdir()
    (tmp_path / domain / "val.jsonl").touch()
    assert whole_study.chosen_domain(pair, None) == (domain, None)


# Its models


def test_what_prevents_it_is_said_before_anything_is_asked(place, monkeypatch, capsys, tmp_path):
    folder, pair = place
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(prompts, "DOMAINS", folder / "domains")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    refusals = {"org/base": UserError("org/base is gated.\nTry:  a"), "org/tuned": UserError("There is no org/tuned.\nTry:  b")}

    def look_up(wanted):
        raise refusals[wanted.name]

    monkeypatch.setattr(downloads, "look_up", look_up)
    assert main(["study", "--pair", str(pair), "--out", str(tmp_path / "out"), "--device", "cpu", "--yes"]) == 2
    assert capsys.readouterr().err.strip().splitlines() == ["org/base is gated.", "Try:  a", "There is no org/tuned.", "Try:  b"]


def test_its_plan_counts_the_memory_of_models_that_are_still_to_come(place, monkeypatch, tmp_path):
    folder, path = place
    monkeypatch.setattr(prompts, "DOMAINS", folder / "domains")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    files = (downloads.File("model.safetensors", 6_000_000_000, "0" * 64),)
    monkeypatch.setattr(downloads, "look_up", lambda wanted: downloads.Repository(wanted.name, None, "c", files, 3_000_000_000))
    monkeypatch.setattr(downloads, "free_space", lambda: 10**12)
    request = sweep_process.SweepRequest(str(path), grid="full", device="cpu", dtype="bfloat16", out=str(tmp_path / "out"))
    plan = whole_study.plan(request, {"device": "cpu", "dtype": "bfloat16"})
    assert plan.memory == 2 * 2 * 3_000_000_000 and not plan.done and plan.faults == []
    assert any("Without a GPU" in note and "--grid quick" in note for note in plan.notes)
    monkeypatch.setattr(downloads, "free_space", lambda: 10**9)
    assert "12.0 GB are to be downloaded, and 1.0 GB are free" in whole_study.plan(request, plan.settings).faults[0]


# Published numbers


@pytest.fixture
def stored(tmp_path):
    """A stored sweep of a few conditions."""
    site = {"direction": "base-to-tuned", "stream": "resid_post", "control": "none"}
    patched = [site | {"layer": layer, "map": "none", "heads": "", "mean": mean} for layer, mean in ((8, 0.005), (24, 0.3))]
    mapped = site | {"layer": 24, "map": "procrustes_scaled", "rank": "full", "complement": ""}
    cuts = [mapped | {"rank": "8", "complement": c, "alpha": "1.0", "drop": drop} for c, drop in (("mean", -80.0), ("own", 5.0))]
    transport = [mapped | {"alpha": "auto", "drop": 40.0}, mapped | {"alpha": "auto", "drop": 1.0, "control": "shuffled"}]
    heads = [site | {"layer": 30, "heads": text, "chosen": "topk", "coverage": 0.3} for text in ("19", "19-30")]

    def with_interval(rows: list[dict], value: str, low: str, high: str) -> pd.DataFrame:
        table = pd.DataFrame(rows)
        return table.assign(**{low: table[value] - 0.1 * table[value].abs(), high: table[value] + 0.1 * table[value].abs()})

    drift = pd.DataFrame({"layer": [24], "stream": "resid_post", "cka": 0.66, "low_plain": np.nan, "high_plain": np.nan})
    for folder, tables in {
        "rq1": {"patch_summary": with_interval(patched, "mean", "low", "high"), "drift": drift},
        "rq2": {"transport_summary": with_interval(transport, "drop", "drop_low", "drop_high")},
        "rq3": {"alpha_summary": with_interval(cuts, "drop", "drop_low", "drop_high")},
        "rq4": {"coverage_summary": with_interval(heads, "coverage", "coverage_low", "coverage_high")},
    }.items():
        artifacts.save(tmp_path / "d" / folder / "p", tables, {})
    return StoredSweep("p", "d", "base-to-tuned", (tmp_path,))


def value_of(**values) -> pd.DataFrame:
    """One published value."""
    row = dict.fromkeys(published_comparison.COLUMNS) | {"stream": "resid_post", "valid": True} | values
    return pd.DataFrame([row], columns=published_comparison.COLUMNS)


PATCHED = {"quantity": "kl", "layer": 24, "map": "none"}
MAPPED = {"quantity": "drop", "layer": 24, "map": "procrustes_scaled"}
COMPARISONS = {
    "within the interval": (PATCHED | {"value": 0.29}, 0.3, "agrees: within our interval, 0.27"),
    "outside of it": (PATCHED | {"value": 0.2}, 0.3, "differs by +0.1, +50%: outside our"),
    "a map's drop": (MAPPED | {"value": 40.8}, 40.0, "agrees"),
    "a rank's": (MAPPED | {"rank": 8.0, "alpha": 1.0, "value": -140.0}, -80.0, "differs by +60, +43%"),
    "both directions": ({"quantity": "kl", "layer": 8, "value": 0.005, "direction": np.nan}, 0.005, "agrees"),
    "no interval": ({"quantity": "cka", "layer": 24, "value": 0.664}, 0.66, "differs by -0.00"),
    "heads": ({"quantity": "coverage", "layer": 30, "stream": None, "rank": "2", "value": 31.0}, 30.0, "agrees"),
}


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_published_value_is_compared_with_ours(stored, name):
    values, ours, verdict = COMPARISONS[name]
    (row,) = compare(value_of(**values), stored).to_dict("records")
    assert row["ours"] == pytest.approx(ours, rel=1e-3) and row["difference"] == pytest.approx(ours - values["value"], abs=2e-2)
    assert row["verdict"].startswith(verdict)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"quantity": "kl", "layer": 24, "valid": False, "reason": "the rank was not applied"}, "the rank was not applied"),
        ({"quantity": "politeness"}, "a sweep does not measure politeness"),
        ({"quantity": "kl", "layer": 10}, "no stored value at layer 10, stream resid_post"),
        ({"quantity": "kl", "layer": 24, "direction": "tuned-to-base"}, "no stored value"),
        ({"quantity": "drop", "rank": "8", "stream": None, "alpha": "0.3"}, "no stored value at alpha 0.3, rank 8"),
        ({"quantity": "kl"}, "2 stored values at stream resid_post"),
    ],
)
def test_what_cannot_be_compared_says_why(stored, values, reason):
    (row,) = compare(value_of(**{"value": 1.0} | values), stored).to_dict("records")
    assert row["verdict"] == f"not comparable: {reason}" or row["verdict"].startswith(f"not comparable: {reason} at")
    assert np.isnan(row["ours"])


def test_a_study_ends_with_the_published_numbers_next_to_ours(here, stored, monkeypatch, capsys, tmp_path):
    from mechdiff.cli import study

    table = pd.concat([value_of(quantity="kl", layer=24, value=0.2), value_of(quantity="cka", layer=2, value=0.9)])
    monkeypatch.setattr(published_comparison, "published_values", lambda pair, prompts: table)
    monkeypatch.setattr(whole_study.Plan, "sweep", stored)
    request = sweep_process.SweepRequest("demo-cognitive", "d", out=str(tmp_path))
    study.compare(whole_study.Plan(read_pair("demo-cognitive"), request, {}, "cpu", "float32"))
    out = capsys.readouterr().out
    assert "kl, layer 24, stream resid_post: published 0.2, here 0.3. differs by +0.1, +50%" in out
    assert "cka, layer 2, stream resid_post: published 0.9. not comparable: no stored value" in out
    assert len(pd.read_csv(tmp_path / "published-demo-cognitive-d.csv")) == 2
