"""Many estimates at once: bands, ties and corrected p-values, on populations whose truth is known."""

import numpy as np
import pytest

from mechdiff.maths.intervals import Templates
from mechdiff.maths.multiple import band, holm, p_value, tied_with_best

TEMPLATES = Templates([f"t{i}" for i in range(120)])


def sample(rng, means, spread=0.5):
    """120 prompts, each a template: skewed, and correlated over columns as curves over layers are."""
    common = rng.gamma(2, 0.5, (120, 1)) - 1
    return np.asarray(means) + spread * (common + 0.5 * rng.normal(size=(120, len(means))))


def test_a_band_contains_the_whole_truth_and_an_interval_does_not():
    rng, truth = np.random.default_rng(1), np.linspace(0, 3, 30)
    whole = alone = 0
    for _ in range(150):
        estimates = TEMPLATES.average(truth + rng.normal(size=(120, 30)))
        low, high = band(estimates)
        whole += ((low <= truth) & (truth <= high)).all()
        _, low, high = estimates.ends()
        alone += ((low <= truth) & (truth <= high)).all()
    assert whole >= 134 > 75 > alone


def test_a_band_is_the_largest_studentised_shift_written_out():
    estimates = TEMPLATES.average(sample(np.random.default_rng(2), [0.0, 1.0, 5.0]))
    shift, errors = estimates.resampled
    reach = np.quantile(np.abs(shift / errors).max(1), 0.95)
    np.testing.assert_allclose(band(estimates)[1], estimates.value + reach * estimates.error)


def test_the_tied_set_contains_the_truly_best_and_leaves_out_the_clearly_worse():
    rng, hits, sizes = np.random.default_rng(3), 0, []
    for _ in range(150):
        tied = tied_with_best(TEMPLATES, sample(rng, [1.0, 0.98, 0.95, 0.3, 0.2, 0.1]))
        hits += tied[0]
        sizes.append(tied.sum())
        assert not tied[3:].any()
    assert hits >= 143 and np.mean(sizes) > 1.5


def test_equal_columns_are_tied_and_few_templates_name_only_the_best():
    values = sample(np.random.default_rng(4), [1.0, 0.5])
    assert tied_with_best(TEMPLATES, values[:, [0, 0, 1]]).tolist() == [True, True, False]
    few = Templates([f"t{i // 10}" for i in range(120)])
    assert tied_with_best(few, values).sum() == 1


def test_p_values_agree_with_intervals_and_are_right_under_the_null():
    rng, hits = np.random.default_rng(5), 0
    for _ in range(200):
        estimates = TEMPLATES.average(sample(rng, [0.0]))
        _, low, high = estimates.ends()
        p = p_value(estimates)[0]
        hits += p < 0.05
        assert (p < 0.05) == (low[0] > 0 or high[0] < 0) or 0.03 < p < 0.07
    assert 2 <= hits <= 20
    assert p_value(TEMPLATES.average(sample(rng, [1.0])))[0] < 0.01
    assert np.isnan(p_value(Templates([f"t{i // 10}" for i in range(120)]).average(sample(rng, [1.0])))).all()


@pytest.mark.parametrize(
    ("p", "adjusted"), [([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]), ([0.5, 0.9], [1.0, 1.0]), ([0.02], [0.02])]
)
def test_holm_written_out(p, adjusted):
    np.testing.assert_allclose(holm(np.array(p)), adjusted)
