"""`python -m benchmarks.coverage`: populations whose truth is known, and how often intervals contain it."""

import numpy as np
import pandas as pd
import pytest

from benchmarks import coverage
from benchmarks.coverage import POPULATIONS, PROMPTS, Population, populations, report

EFFECTS = np.random.default_rng(0).lognormal(size=(40, PROMPTS, 2))


def test_the_stored_populations_are_of_every_kind():
    table = pd.read_parquet(POPULATIONS)
    members = populations(table)
    assert len(members) == 25 and {kind for kind, _ in members.values()} == set(coverage.KINDS)
    assert POPULATIONS.stat().st_size < 200_000 and (table["value"] > 0).all()


def test_the_truth_of_a_population_is_the_mean_of_its_samples():
    population = Population(EFFECTS)
    draws = population.draw(np.random.default_rng(1), 4000, [3] * 50)
    assert draws.shape == (150, 4000, 2)
    np.testing.assert_allclose(draws.mean((0, 1)), population.truth, rtol=0.02)
    assert np.log(draws).std() == pytest.approx(np.log(EFFECTS).std(), rel=0.1), "the kernel leaves the spread as it is"


def test_intervals_contain_the_truth_about_as_often_as_they_say():
    table = coverage.coverage(200, only="mean patch cult L24")
    shares = table["inside"] / table[["inside", "above", "below"]].sum(axis=1)
    assert list(table["design"]) == list(coverage.DESIGNS) and shares.between(0.88, 0.99).all()
    assert "| 150 x 1 | mean |" in report(table)


def test_intervals_that_are_too_narrow_are_reported(monkeypatch):
    ends = coverage.ends
    monkeypatch.setattr(coverage, "ends", lambda *given: tuple(np.mean(ends(*given), 0) + side * 1e-9 for side in (-1, 1)))
    assert "Below 93 %: mean patch cult L24" in report(coverage.coverage(200, only="mean patch cult L24"))
