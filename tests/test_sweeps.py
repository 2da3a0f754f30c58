"""Sweeps on a tiny pair: every question in few walks, killed and resumed to the same tables, stored with a manifest."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.sweeping import assert_same, tables

import mechdiff
from mechdiff import Run
from mechdiff.maths.intervals import Templates
from mechdiff.study import artifacts, sweep_plan


def test_a_sweep_holds_what_the_questions_answer(small, tmp_path):
    sweep, study = small
    sweep(tmp_path / "out")
    files = tables(tmp_path / "out")
    place = "none/{}/tiny/{}.parquet"
    assert {name.split("/")[1] for name in files} == {"rq1", "rq2", "rq3", "rq4", sweep_plan.SPOKEN}
    settings = study | {"limit": None}
    rank = mechdiff.run(Run("rank", map="ridge_cv", ranks=("4",), complement=("own",), layers=(2,), **settings))
    cut = files[place.format("rq3", "rank_summary")].query(
        "map == 'ridge_cv' and rank == '4' and complement == 'own' and layer == 2 and stream == 'resid_post' and "
        "direction == 'base-to-tuned' and control == 'none'"
    )
    assert set(files[place.format("rq2", "transport")]["stream"]) == {"resid_post"}, "prompt by prompt, one stream"
    assert set(files[place.format("rq2", "transport_summary")]["stream"]) == {"resid_post", "attn_out", "mlp_out"}
    np.testing.assert_allclose(cut["mean"], rank["kl"].mean(), rtol=1e-3)
    difference = mechdiff.run(Run("rank", ranks=("4",), layers=(2,), **settings)).query("rank == '4'")
    stored = files[place.format("rq3", "difference")].query(
        "rank == '4' and layer == 2 and direction == 'base-to-tuned' and control == 'none'"
    )
    np.testing.assert_allclose(stored["kl_to_donor"], difference["kl_to_donor"], rtol=2**-12, atol=1e-6)
    assert list(stored["template"]) == list(difference["template"])
    summarised = files[place.format("rq3", "rank_summary")].query("control == 'shuffled'")
    assert set(summarised["rank"]) == {"1", "4", "full"}
    heads = mechdiff.run(Run("heads", direction="tuned-to-base", layers=(1,), **settings)).query("heads == '3'")
    single = files[place.format("rq4", "heads")].query("direction == 'tuned-to-base' and layer == 1 and heads == '3'")
    np.testing.assert_allclose(single["kl"], heads["kl"], rtol=2**-12, atol=1e-6)
    summary = files[place.format("rq4", "heads_summary")].query("direction == 'tuned-to-base' and layer == 1 and heads == '3'")
    expected = Templates(range(20)).mean(heads["kl"].to_numpy(float))
    assert summary[["mean", "low", "high"]].to_numpy()[0] == pytest.approx(expected, rel=1e-3)
    assert summary[["prompts", "templates"]].to_numpy().tolist() == [[20, 20]]
    alpha = files[place.format("rq3", "alpha_summary")]
    alpha = alpha[alpha["control"] == "none"]
    assert set(alpha["alpha"]) == {"0.5"} and set(alpha["map"]) == {"procrustes_scaled"} and len(alpha) == 2 * 3 * 4 * (2 * 3)
    coverage = files[place.format("rq4", "coverage_summary")]
    assert set(coverage["chosen"]) == {"topk", "greedy", "random", "all"}
    assert coverage.query("chosen == 'all' and control == 'none'")["coverage"].to_numpy() == pytest.approx(1)


def test_every_table_with_a_ratio_has_the_floor_that_blanks_it(small, tmp_path):
    sweep, _ = small
    sweep(tmp_path / "out")
    ratios = {name: table for name, table in tables(tmp_path / "out").items() if {"drop", "coverage"} & set(table)}
    assert len(ratios) == 8 and all((table["control"] == "self").any() for table in ratios.values())


def test_every_condition_is_stored_once(small, tmp_path):
    sweep, _ = small
    sweep(tmp_path / "out")
    for name, table in tables(tmp_path / "out").items():
        keys = [column for column in table if table[column].dtype.kind not in "f" and column not in ("prompts", "templates", "n")]
        keys += ["train_share"] if "train_share" in table else []
        assert not table.duplicated(keys).any(), name
        assert not table.filter(regex="^(kl|mean|low|high)$").isna().any(axis=None), name


SCRIPT = """
from mechdiff.study import sweep_plan, sweeps
sweep_plan.GRIDS["small"] = sweep_plan.Grid(ranks=("1", "4", "full"), alphas=("0.5",), maps=("ridge_cv", "procrustes_scaled"))
settings = dict(prompts={prompts!r}, train={train!r}, device="cpu")
print("ready", flush=True)
for task, _ in sweeps.sweep({pair!r}, "none", "small", __import__("pathlib").Path({out!r}), ["sweep"], **settings):
    for _ in task.steps():
        pass
"""


def test_killed_at_random_moments_it_ends_in_the_same_tables_bit_for_bit(small, tmp_path):
    _, study = small
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def script(out):
        text = SCRIPT.format(out=str(out), **{k: study[k] for k in ("pair", "prompts", "train")})
        environment = os.environ | {"MECHDIFF_CACHE": str(tmp_path / f"cache-{out.name}"), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", text], env=environment, stdout=subprocess.PIPE)

    started = time.monotonic()
    assert script(whole).wait() == 0
    lasted, rng = time.monotonic() - started, np.random.default_rng()
    for _ in range(3):
        process = script(killed)
        process.stdout.readline()
        time.sleep(lasted * rng.uniform(0.05, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert script(killed).wait() == 0
    assert_same(whole, killed)


def test_a_manifest_says_what_is_needed_to_remake_the_tables(small, tmp_path):
    sweep, _ = small
    sweep(tmp_path / "out", seed=3)
    import json

    for path in (tmp_path / "out").rglob("manifest.json"):
        about = json.loads(path.read_text())
        for name in (
            "base",
            "tuned",
            "dtype",
            "device",
            "device_name",
            "versions",
            "prompts_hash",
            "train_hash",
            "command",
            "seconds",
        ):
            assert about[name], name
        assert about["cells_from_cache"] == 0
        assert about["seed"] == 3 and about["prompts"] == 20 == len(about["templates"])
        assert set(about["requests"]) and about["base"]["fingerprint"] != about["tuned"]["fingerprint"]


def test_stored_values_keep_twelve_bits():
    values = np.float32(np.random.default_rng(0).lognormal(-3, 4, 10_000))
    assert (np.abs(artifacts.rounded(values) - values) <= 2**-13 * 2 * values).all()
    assert artifacts.rounded(np.float32([0, np.nan, 1])).tolist()[::2] == [0, 1]
