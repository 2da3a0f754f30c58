"""Intervals over templates: bootstrap-t against its definition, its coverage, ratios, differences, and what is blank."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from mechdiff.maths.intervals import FEWEST, RatioOfSums, Templates, difference, summarise, wilson
from mechdiff.questions.shared.in_words import counted

RNG = np.random.default_rng(0)
CLUSTERS = np.repeat(np.arange(24), [1, 2, 3] * 8)
SKEWED = np.exp(RNG.normal(size=24)[CLUSTERS] + 0.3 * RNG.normal(size=48))
BOTTOM = np.exp(0.5 * RNG.normal(size=24)[CLUSTERS]) + 1


def width(values, clusters):
    _, low, high = Templates(clusters).mean(values)
    return high - low


def by_hand(top, bottom, clusters, seed=0):
    """Bootstrap-t of a ratio, resample by resample."""
    names = sorted(set(map(str, clusters)))
    members = [np.flatnonzero(np.asarray(clusters, str) == name) for name in names]
    t, b, g = np.array([top[m].sum() for m in members]), np.array([bottom[m].sum() for m in members]), len(names)

    def estimate(t, b):
        theta = t.sum() / b.sum()
        return theta, np.sqrt(g / (g - 1) * ((t - theta * b) ** 2).sum()) / b.sum()

    theta, error = estimate(t, b)
    pivots = []
    for counts in np.random.default_rng(seed).multinomial(g, np.full(g, 1 / g), size=2000):
        again, spread = estimate(np.repeat(t, counts), np.repeat(b, counts))
        pivots.append((again - theta) / spread)
    level = stats.norm.cdf(np.sqrt(g / (g - 1)) * stats.t.ppf(0.025, g - 1))
    low, high = np.quantile(pivots, [level, 1 - level])
    return theta, theta - high * error, theta - low * error


def test_an_interval_is_bootstrap_t_over_templates():
    templates = Templates(CLUSTERS)
    assert templates.mean(SKEWED) == pytest.approx(by_hand(SKEWED, np.ones(48), CLUSTERS))
    assert templates.ratio(SKEWED, BOTTOM) == pytest.approx(by_hand(SKEWED, BOTTOM, CLUSTERS))
    columns = np.stack([SKEWED, BOTTOM], 1)
    np.testing.assert_allclose(np.stack(templates.mean(columns))[:, 0], templates.mean(SKEWED))


def test_a_resample_draws_whole_templates():
    templates = Templates(["a"] * 3 + ["b"] * 7, resamples=50)
    assert (templates.drawn.sum(1) == 2).all()
    values = np.arange(10.0)
    for counts, mean in zip(templates.drawn, templates.resampled_means(values)[1:]):
        assert mean == pytest.approx(
            np.repeat([values[:3].sum(), values[3:].sum()], counts.astype(int)).sum() / (counts @ [3, 7])
        )


def test_the_same_seed_gives_the_same_resamples():
    assert (Templates(CLUSTERS, 3).drawn == Templates(CLUSTERS, 3).drawn).all()
    assert (Templates(CLUSTERS, 3).drawn != Templates(CLUSTERS, 4).drawn).any()


def test_templates_are_the_units():
    clusters = np.repeat(np.arange(20), 10)
    values = RNG.normal(size=20)[clusters]  # prompts of one template are all alike: 20 observations, not 200
    assert width(values, clusters) > 2 * width(values, np.arange(200))


@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_the_interval_covers_the_known_mean(skew):
    rng, clusters = np.random.default_rng(1), np.repeat(np.arange(40), 3)
    values = 0.7 * rng.normal(size=(40, 1000))[clusters] + 0.3 * rng.normal(size=(120, 1000))
    values, truth = (np.exp(skew * values), np.exp(skew**2 * 0.58 / 2)) if skew else (values, 0.0)
    mean, low, high = Templates(clusters).mean(values)
    assert mean == pytest.approx(values.mean(0))
    assert 0.92 <= ((low < truth) & (high > truth)).mean() <= 0.98


def test_a_ratio_is_resampled_jointly():
    bottom = RNG.exponential(size=40)
    assert Templates(range(40)).ratio(0.3 * bottom, bottom) == pytest.approx((0.3, 0.3, 0.3))


def test_a_ratio_is_one_of_means_not_a_mean_of_ratios():
    top, bottom = np.array([1.0, 1.0, 1.0, 1.0]), np.array([0.1, 2.0, 3.0, 2.9])
    assert Templates(range(4)).ratio(top, bottom)[0] == pytest.approx(4 / 8)


def test_a_ratio_is_blank_where_its_denominator_touches_the_floor():
    bottom, templates = 1 + 0.1 * np.random.default_rng(0).normal(size=50), Templates(range(50))
    _, low, _ = templates.mean(bottom)
    assert np.isnan(templates.ratio(bottom, bottom, floor=low + 1e-9)).all()
    assert not np.isnan(templates.ratio(bottom, bottom, floor=low - 0.02)).any()
    assert np.isnan(templates.ratio(bottom, np.zeros(50))).all()
    assert np.isnan(Templates(range(5)).ratio(bottom[:5], bottom[:5], floor=2.0)).all(), "with too few templates by the mean"


def test_a_ratio_is_blank_where_resamples_fall_to_the_floor():
    rare = np.zeros(60)
    rare[:3] = 1  # without any of these three in 5 % of resamples
    assert Templates(range(60)).touches(rare, 0.0)


def test_too_few_templates_have_no_interval_and_few_are_called_approximate():
    mean, low, high = Templates(range(FEWEST - 1)).mean(np.arange(FEWEST - 1.0))
    assert mean == pytest.approx((FEWEST - 2) / 2) and np.isnan([low, high]).all()
    assert not np.isnan(Templates(range(FEWEST)).mean(np.arange(FEWEST * 1.0))).any()
    assert counted(40, 19) == "40 prompts (no intervals: 19 templates, fewer than 20)"
    assert counted(32, 32) == "32 prompts (intervals approximate: 32 templates)"
    assert counted(150, 150) == "150 prompts (150 templates)"


def test_a_constant_has_no_width_and_a_rare_event_a_finite_one():
    templates = Templates(range(150))
    assert templates.mean(np.full(150, 0.25)) == (0.25, 0.25, 0.25)
    once = np.eye(150)[0]
    mean, low, high = templates.mean(once)
    assert low < 0 < mean < high < 0.03, "Student's t, where resamples say nothing"


@pytest.mark.parametrize("paired", [True, False])
def test_a_difference_of_means(paired):
    clusters, other = np.repeat(np.arange(40), 3), 1.5 * np.repeat(RNG.normal(size=40), 3) + RNG.normal(size=120)
    values = other + 0.1 * RNG.normal(size=120)
    sides = [Templates(clusters), Templates(clusters, 0 if paired else 1)]
    parts = [RatioOfSums(side, side.sums(of), side.sizes) for side, of in zip(sides, (other, values))]
    value, low, high = difference(*parts, paired=paired)
    assert value == pytest.approx((values - other).mean())
    if paired:
        assert (value, low, high) == pytest.approx(sides[0].mean(values - other))
    else:
        assert high - low > 5 * width(values - other, clusters)
        assert high - low == pytest.approx(np.hypot(*(width(of, clusters) for of in (other, values))), rel=0.15)


def test_a_paired_difference_of_ratios_covers_the_truth():
    rng, inside = np.random.default_rng(2), 0
    for _ in range(200):
        common, sides = np.exp(rng.normal(size=40)), Templates(range(40))
        parts = [RatioOfSums(sides, share * common * np.exp(0.3 * rng.normal(size=40)), common) for share in (0.4, 0.7)]
        _, low, high = difference(*parts, paired=True)
        inside += low <= 0.3 * np.exp(0.045) <= high
    assert inside >= 180


@pytest.mark.parametrize(("hits", "total", "low", "high"), [(48, 48, 0.9259, 1), (0, 10, 0, 0.2775), (50, 100, 0.4038, 0.5962)])
def test_wilson(hits, total, low, high):
    counts = wilson(hits, total)
    assert (counts["low"], counts["high"]) == pytest.approx((low, high), abs=1e-4)


def effects(prompts=60, layers=(0, 3, 7)):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        [{"prompt": p, "layer": l, "map": "none", "kl": rng.exponential()} for p in range(prompts) for l in layers]
    )


@pytest.mark.parametrize("by", [["layer"], ["layer", "map"]])
def test_a_summary_has_the_means_and_counts(by):
    table, clusters = effects(), [f"t{i // 3}" for i in range(66)]
    summary = summarise(table, by, clusters)
    expected = table.groupby(by, as_index=False).kl.mean()
    assert summary[by].to_dict("list") == expected[by].to_dict("list")
    assert summary["mean"].to_numpy() == pytest.approx(expected.kl.to_numpy())
    assert (summary.prompts == 60).all() and (summary.templates == 20).all()
    assert (summary.low < summary["mean"]).all() and (summary["mean"] < summary.high).all()


def test_a_summary_ignores_prompts_that_lack_a_condition():
    table, clusters = effects(66), [f"t{i // 3}" for i in range(66)]
    partly = table.drop(table.index[(table.prompt < 3) & (table.layer == 7)])
    expected = summarise(table[table.prompt >= 3], ["layer"], clusters)
    pd.testing.assert_frame_equal(summarise(partly, ["layer"], clusters), expected)
    assert (expected.prompts == 63).all() and (expected.templates == 21).all()


def test_a_summary_of_no_complete_prompt_is_empty():
    table = pd.DataFrame({"prompt": [0, 1], "layer": [0, 1], "kl": [1.0, 2.0]})
    assert summarise(table, ["layer"], ["a", "b"]).empty
