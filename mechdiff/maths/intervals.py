"""Uncertainty: bootstrap over templates and prompts. numpy only, so that stored tables need no torch."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 2000
LEVEL = 95
FLOOR_FACTOR = 4  # no self-patch's mean comes near even the largest single one: on the demo base it is a fifth of it


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
    return values.mean(0), *span(means)


def span(resampled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % interval of each column of resampled values [resamples, m]."""
    low, high = np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)
    return low, high


def floor_of(self_patches: np.ndarray) -> float:
    """The size up to which an effect is rounding: FLOOR_FACTOR times the largest self-patch effect of any prompt and site.

    Nought where there is none.
    """
    return FLOOR_FACTOR * self_patches.max(initial=0.0)


def ratio(top: np.ndarray, bottom: np.ndarray, weights: np.ndarray, floor: float = 0.0) -> tuple[np.ndarray, ...]:
    """Ratio of two means over the same prompts, resampled jointly, and its 95 % interval.

    top, bottom: [n], or [n, m] for m ratios at once. floor: see floor_of. All three results are nan where the
    denominator's interval touches the floor: the ratio then says nothing.
    """
    total = weights.sum(1).reshape(-1, *[1] * (top.ndim - 1))
    below, above = weights @ bottom / total, weights @ top / total
    blank = np.percentile(below, (100 - LEVEL) / 2, axis=0) <= floor
    safe = np.where(blank, 1.0, below)
    low, high = span(above / safe)
    middle = top.mean(0) / np.where(blank, 1.0, bottom.mean(0))
    return tuple(np.where(blank, np.nan, value) for value in (middle, low, high))


def difference(one: np.ndarray, other: np.ndarray, clusters: Sequence, other_clusters: Sequence, seed: int = 0) -> tuple:
    """Mean of one sample minus the mean of another, independent one, and its 95 % bootstrap interval. one: [n]; other: [k]."""
    means = [bootstrap_weights(c, seed=seed + i) for i, c in enumerate((clusters, other_clusters))]
    resampled = [(w @ v) / w.sum(1) for w, v in zip(means, (one, other))]
    return one.mean() - other.mean(), *span(resampled[0] - resampled[1])


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
