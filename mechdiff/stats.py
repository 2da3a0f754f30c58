"""Uncertainty: bootstrap over templates and prompts. numpy only, so that stored tables need no torch."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 2000
LEVEL = 95


def bootstrap_weights(clusters: Sequence, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each prompt occurs in each two-level resample: templates with replacement, then prompts in each of them.

    clusters: the template of each of n prompts. Returns [resamples, n]. Use one matrix for everything that is compared:
    differences and ratios are then paired.
    """
    rng = np.random.default_rng(seed)
    _, group = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    members = [np.flatnonzero(group == g) for g in range(group.max() + 1)]
    drawn = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    weights = np.zeros((resamples, len(group)))
    for index, inside in enumerate(members):
        size = len(inside)
        weights[:, inside] = rng.multinomial(drawn[:, index] * size, np.full(size, 1 / size))
    return weights


def interval(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and 95 % bootstrap interval of each column. values: [n, m]. Returns three arrays [m]."""
    means = weights @ values / weights.sum(1, keepdims=True)
    low, high = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return values.mean(0), low, high


def ratio(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray, floor: float = 0.0) -> tuple[float, float, float]:
    """Ratio of two means over the same prompts, resampled jointly, and its 95 % interval.

    top, bottom: [n]. All three are nan where the denominator's interval touches the floor: the ratio then says nothing.
    """
    below = weights @ bottom / weights.sum(1)
    if np.percentile(below, (100 - LEVEL) / 2) <= floor:
        return np.nan, np.nan, np.nan
    ratios = (weights @ top / weights.sum(1)) / below
    low, high = np.percentile(ratios, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return top.mean() / bottom.mean(), low, high


def summarise(table: pd.DataFrame, by: list[str], clusters: Sequence, value: str = "kl") -> pd.DataFrame:
    """A row per condition with mean, low, high (95 %), prompts and templates.

    table: a row per prompt and condition. clusters: the template of each prompt index.
    """
    wide = table.pivot_table(index="prompt", columns=by, values=value, sort=False, observed=True)
    complete = wide.dropna(axis=0)
    if complete.empty:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "prompts", "templates"])
    chosen = [clusters[prompt] for prompt in complete.index]
    mean, low, high = interval(complete.to_numpy(float), bootstrap_weights(chosen))
    index = complete.columns.to_frame(index=False) if len(by) > 1 else pd.DataFrame({by[0]: complete.columns})
    return index.assign(mean=mean, low=low, high=high, prompts=len(complete), templates=len(set(chosen)))
