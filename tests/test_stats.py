"""The two-level bootstrap: its totals, its clusters, its coverage, and ratios resampled jointly."""

import numpy as np
import pandas as pd
import pytest

from mechdiff.maths.intervals import bootstrap_weights, interval, ratio, summarise


def width(values, clusters):
    _, low, high = interval(values[:, None], bootstrap_weights(clusters))
    return (high - low).item()


def test_every_resample_of_equal_templates_counts_as_many_prompts_as_there_are():
    weights = bootstrap_weights(["a", "b", "c", "d"] * 5, resamples=300)
    assert weights.shape == (300, 20)
    assert (weights.sum(1) == 20).all()
    assert (weights >= 0).all() and (weights == weights.round()).all()


def test_a_drawn_template_brings_as_many_prompts_as_it_has():
    clusters = np.array(["a"] * 3 + ["b"] * 7)
    for row in bootstrap_weights(clusters, resamples=200):
        drawn_a, drawn_b = row[clusters == "a"].sum() / 3, row[clusters == "b"].sum() / 7
        assert drawn_a + drawn_b == 2
        assert drawn_a == round(drawn_a)


def test_each_prompt_is_drawn_once_on_average():
    weights = bootstrap_weights(["a"] * 2 + ["b"] * 4 + ["c"] * 6, resamples=20_000)
    assert weights.mean(0) == pytest.approx(1, abs=0.05)


def test_the_same_seed_gives_the_same_resamples():
    clusters = ["a", "b", "b", "c"]
    assert (bootstrap_weights(clusters, 50, seed=3) == bootstrap_weights(clusters, 50, seed=3)).all()
    assert (bootstrap_weights(clusters, 50, seed=3) != bootstrap_weights(clusters, 50, seed=4)).any()


def test_templates_are_resampled_as_clusters():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(10), 10)
    values = rng.normal(size=10)[clusters]  # prompts of one template are all alike: 10 observations, not 100
    assert width(values, clusters) > 2 * width(values, np.arange(100))


def test_the_interval_covers_the_known_mean():
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(30), 3)
    values = 5 + rng.normal(size=(30, 200))[clusters] + rng.normal(size=(90, 200))
    mean, low, high = interval(values, bootstrap_weights(clusters))
    assert mean == pytest.approx(values.mean(0))
    assert 0.88 <= ((low < 5) & (high > 5)).mean() <= 0.995


def test_the_interval_is_the_2_5_and_97_5_percentile_of_the_weighted_means():
    values, weights = np.arange(6.0), bootstrap_weights(list("aabbcc"), 500)
    means = [np.average(values, weights=row) for row in weights]
    _, low, high = interval(values[:, None], weights)
    assert (low.item(), high.item()) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))


def test_a_ratio_is_resampled_jointly():
    rng = np.random.default_rng(0)
    bottom = rng.exponential(size=40)
    assert ratio(0.3 * bottom, bottom, bootstrap_weights(range(40))) == pytest.approx((0.3, 0.3, 0.3))


def test_a_ratio_is_one_of_means_not_a_mean_of_ratios():
    top, bottom = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.1, 2.0, 3.0, 2.9])
    assert ratio(top, bottom, bootstrap_weights(range(4)))[0] == pytest.approx(4 / 8)


def test_a_ratio_is_blank_where_its_denominator_touches_the_floor():
    rng = np.random.default_rng(0)
    bottom, weights = 1 + 0.1 * rng.normal(size=50), bootstrap_weights(range(50))
    _, low, _ = interval(bottom[:, None], weights)
    assert np.isnan(ratio(bottom, bottom, weights, floor=low.item() + 1e-9)).all()
    assert not np.isnan(ratio(bottom, bottom, weights, floor=low.item() - 1e-9)).any()
    assert np.isnan(ratio(bottom, np.zeros(50), weights)).all()


def effects(prompts=12, layers=(0, 3, 7)):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [{"prompt": p, "layer": l, "map": "none", "kl": rng.exponential()} for p in range(prompts) for l in layers]
    )


@pytest.mark.parametrize("by", [["layer"], ["layer", "map"]])
def test_a_summary_has_the_means_and_counts(by):
    table, clusters = effects(), [f"t{i // 3}" for i in range(12)]
    summary = summarise(table, by, clusters)
    expected = table.groupby(by, as_index=False).kl.mean()
    assert summary[by].to_dict("list") == expected[by].to_dict("list")
    assert summary["mean"].to_numpy() == pytest.approx(expected.kl.to_numpy())
    assert (summary.prompts == 12).all() and (summary.templates == 4).all()
    assert (summary.low < summary["mean"]).all() and (summary["mean"] < summary.high).all()


def test_a_summary_ignores_prompts_that_lack_a_condition():
    table, clusters = effects(), [f"t{i // 3}" for i in range(12)]
    partly = table.drop(table.index[(table.prompt < 3) & (table.layer == 7)])
    expected = summarise(table[table.prompt >= 3], ["layer"], clusters)
    pd.testing.assert_frame_equal(summarise(partly, ["layer"], clusters), expected)
    assert (expected.prompts == 9).all() and (expected.templates == 3).all()


def test_a_summary_of_no_complete_prompt_is_empty():
    table = pd.DataFrame({"prompt": [0, 1], "layer": [0, 1], "kl": [1.0, 2.0]})
    assert summarise(table, ["layer"], ["a", "b"]).empty
