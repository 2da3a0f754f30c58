"""Uncertainty: bootstrap over templates and prompts. numpy only, so that stored tables need no torch."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

RESAMPLES = 2000
LEVEL = 95  # per cent
FLOOR_FACTOR = 4  # no mean over self-patches comes near even the largest single one: on the demo base it is a fifth of it

Array = np.ndarray
Clusters = Sequence | np.ndarray  # the template of each prompt


def bootstrap_weights(clusters: Clusters, resamples: int = RESAMPLES, seed: int = 0) -> Float[Array, "resamples n"]:
    """How often each prompt occurs in each two-level resample: templates with replacement, then prompts within each.

    clusters: the template of each of n prompts. Use one matrix for everything that is compared: differences and ratios are
    then paired.
    Source: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 3.8.
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


def interval(
    values: Float[Array, "n m"], weights: Float[Array, "resamples n"]
) -> tuple[Float[Array, " m"], Float[Array, " m"], Float[Array, " m"]]:
    """Mean of each column, and the two ends of its 95 % bootstrap interval, in the values' unit."""
    means = weights @ values / weights.sum(1, keepdims=True)
    low, high = percentiles(means)
    return values.mean(0), low, high


def percentiles(resampled: Float[Array, " resamples *m"]) -> Float[Array, " 2 *m"]:
    """The 95 % interval of each column of resampled values: its low and its high end."""
    return np.percentile(resampled, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=0)


def floor_of(self_patches: Float[Array, "..."]) -> float:
    """The size up to which an effect is rounding error, in the effects' unit.

    FLOOR_FACTOR times the largest self-patch effect of any prompt and site; zero if there is none.
    """
    return FLOOR_FACTOR * float(self_patches.max(initial=0.0))


def ratio(
    top: Float[Array, " n *m"], bottom: Float[Array, " n *m"], weights: Float[Array, "resamples n"], floor: float = 0.0
) -> tuple[Float[Array, "*m"], Float[Array, "*m"], Float[Array, "*m"]]:
    """Ratio of two means over the same prompts, resampled jointly, and its 95 % interval.

    top, bottom: one ratio, or m ratios at once. floor: see floor_of. All three results are nan where the denominator's interval
    touches the floor: the ratio then says nothing.
    """
    total = weights.sum(1).reshape(-1, *[1] * (top.ndim - 1))
    below, above = weights @ bottom / total, weights @ top / total
    blank = np.percentile(below, (100 - LEVEL) / 2, axis=0) <= floor
    low, high = percentiles(above / np.where(blank, 1.0, below))
    middle = top.mean(0) / np.where(blank, 1.0, bottom.mean(0))
    return np.where(blank, np.nan, middle), np.where(blank, np.nan, low), np.where(blank, np.nan, high)


def difference(
    first: Float[Array, " n"],
    second: Float[Array, " k"],
    first_clusters: Clusters,
    second_clusters: Clusters,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of one sample minus the mean of another, independent one, and its 95 % bootstrap interval."""
    weights = bootstrap_weights(first_clusters, seed=seed), bootstrap_weights(second_clusters, seed=seed + 1)
    means = [w @ values / w.sum(1) for w, values in zip(weights, (first, second))]
    low, high = percentiles(means[0] - means[1])
    return float(first.mean() - second.mean()), float(low), float(high)


def summarise(table: pd.DataFrame, by: list[str], clusters: Clusters, value: str = "kl") -> pd.DataFrame:
    """A row per condition with mean, low, high (95 %), prompts and templates.

    table: a row per prompt and condition, columns `prompt`, by and value. clusters: the template of each prompt index. Prompts
    that lack a condition are left out.
    """
    wide = table.pivot_table(index="prompt", columns=by, values=value, sort=False, observed=True)
    complete = wide.dropna(axis=0)
    if complete.empty:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "prompts", "templates"])
    templates = [clusters[prompt] for prompt in complete.index]
    mean, low, high = interval(complete.to_numpy(float), bootstrap_weights(templates))
    index = complete.columns.to_frame(index=False) if len(by) > 1 else pd.DataFrame({by[0]: complete.columns})
    return index.assign(mean=mean, low=low, high=high, prompts=len(complete), templates=len(set(templates)))
