"""What curves of recovery say: planted places, equal to ratios written out, blank where they say nothing."""

import numpy as np
import pytest

from mechdiff.maths.intervals import Templates
from mechdiff.maths.recovery_curves import depth, first_from, half, increments, recovery, share_through, smallest

RNG = np.random.default_rng(0)
CLEAN = RNG.gamma(4, 0.5, 120)
TEMPLATES = Templates([f"t{i}" for i in range(120)])


def prompts(curve, noise=0.05):
    """KL(donor || patched) of 120 prompts whose recoveries are about these."""
    return CLEAN[:, None] * (1 - np.asarray(curve) + noise * RNG.normal(size=(120, len(curve))))


def step(layers, at):
    """The curve of an edit of one layer, from the embedding on."""
    return np.r_[0.0, (np.arange(layers) >= at).astype(float)]


@pytest.mark.parametrize(("at", "place"), [(1, "early"), (6, "middle"), (11, "late")])
def test_an_edit_of_one_layer_lies_there(at, place):
    where = depth(TEMPLATES, CLEAN, prompts(step(12, at), 0))
    assert where.centroid[0] == pytest.approx(at / 12) and where.half == at and where.place == place
    assert where.quartiles == (at, at, at) and where.embedding[0] == pytest.approx(0) and where.after[0] == pytest.approx(0)


def test_an_even_change_has_its_centroid_in_the_middle_and_its_quartiles_apart():
    curve = np.linspace(0, 1, 14)
    where = depth(TEMPLATES, CLEAN, prompts(curve))
    assert where.centroid[1] < 1 - curve[1:].mean() < where.centroid[2]
    assert where.quartiles == (3, 6, 9) and where.place == "middle"


def test_a_centroid_between_two_thirds_has_both_words():
    where = depth(TEMPLATES, CLEAN, prompts(step(3, 1), 0.4))
    assert where.centroid[1] < 1 / 3 < where.centroid[2] and where.place == "early to middle"


@pytest.mark.parametrize("wild", [-0.4, 1.4])
def test_a_curve_that_is_no_share_has_no_centroid_but_a_place(wild):
    curve = np.r_[0, wild, step(10, 8)[2:]]
    where = depth(TEMPLATES, CLEAN, prompts(curve, 0))
    assert np.isnan(where.centroid).all() and f"{wild:.2f}" in where.why
    assert (where.half, where.place) == (8, "late") and where.quartiles is None


def test_what_embeddings_and_the_head_change_stands_beside():
    where = depth(TEMPLATES, CLEAN, prompts(np.linspace(0.2, 0.7, 7), 0))
    assert where.embedding[0] == pytest.approx(0.2) and where.after[0] == pytest.approx(0.3)


def test_equal_models_have_no_place():
    where = depth(TEMPLATES, CLEAN * 1e-9, prompts(step(4, 1)) * 1e-9, floor=1e-6)
    assert "beyond the floor" in where.why and where.place == "" and where.half is None


def test_recoveries_and_increments_are_the_ratios_written_out():
    patched = prompts([0.1, 0.4, 0.9])
    values = 1 - patched.sum(0) / CLEAN.sum()
    np.testing.assert_allclose(recovery(TEMPLATES, CLEAN, patched)[0], values)
    value, low, high = increments(TEMPLATES, CLEAN, patched)
    np.testing.assert_allclose(value, np.diff(values))
    assert (low < value).all() and (value < high).all()


def test_the_share_through_one_token_is_blank_where_nothing_is_recovered():
    every, token = prompts([0.0, 0.5, 1.0], 0.02), prompts([0.0, 0.1, 0.5], 0.02)
    value, low, _ = share_through(TEMPLATES, CLEAN, token, every)
    assert np.isnan([value[0], low[0]]).all()
    np.testing.assert_allclose(value[1:], [0.2, 0.5], atol=0.03)


@pytest.mark.parametrize(
    ("reached", "first"),
    [([True] * 3, 0), ([False, True, False, True], 3), ([True, False], None), ([False, True, True], 1)],
)
def test_the_first_point_from_which_all_later_ones_are_reached(reached, first):
    assert first_from(np.array(reached)) == first


def test_half_is_the_first_layer_from_which_half_holds():
    assert half(CLEAN, prompts([0.1, 0.6, 0.4, 0.7, 0.9], 0)) == 3


def test_the_smallest_rank_is_a_threshold_on_means():
    cuts = prompts([0.0, 0.5, 0.6, 0.62, 0.7], 0.3)
    value, low, high = smallest(TEMPLATES, CLEAN, cuts)
    assert value == first_from(1 - cuts.sum(0) / CLEAN.sum() >= 0.8 * (1 - cuts[:, -1].sum() / CLEAN.sum()))
    assert low <= value <= high


def test_the_smallest_rank_covers_the_truth():
    truth, hits = np.array([0.1, 0.3, 0.5, 0.56, 0.6, 0.65, 0.7]), 0
    for _ in range(200):
        _, low, high = smallest(TEMPLATES, CLEAN, prompts(truth, 0.3))
        hits += low <= first_from(truth >= 0.8 * truth[-1]) <= high
    assert hits >= 185  # a rank whose contrast is exactly zero is left out by one end in 2.5 per cent


def test_a_patch_that_recovers_nothing_has_no_smallest_rank():
    assert smallest(TEMPLATES, CLEAN, prompts([0.0, 0.0, 0.0], 0.5)) is None
