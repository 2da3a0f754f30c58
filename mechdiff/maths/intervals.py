"""Uncertainty: a studentised bootstrap over templates. Needs no torch, as stored tables do not.

Templates are the units: prompts of one template are near copies of each other. What is estimated is a ratio of two sums over
templates, theta = sum T / sum B: a mean (B counts prompts), a ratio of means, or a mean of paired differences. Its standard error
is the linearised, cluster-robust one, CR1: sqrt(G / (G - 1) sum (T_g - theta B_g)^2) / sum B over G templates. The interval is
bootstrap-t: theta minus SE times quantiles of (theta* - theta) / SE* over resamples of templates, at levels a little outside 2.5
and 97.5 per cent, so that few templates are paid for as in Student's t.
Sources: Davison and Hinkley 1997, Bootstrap Methods and their Application, section 5.2; the levels: Hesterberg 2015,
doi:10.1080/00031305.2015.1089789. How often such intervals contain the truth: benchmarks/coverage.py, docs/method.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.special import ndtr, stdtrit

RESAMPLES = 2000
LEVEL = 95  # per cent
FEWEST = 20  # templates from which there is an interval
APPROXIMATE = 100  # templates below which an interval covers noticeably less than it says, so that pages say so
DEGENERATE = 0.01  # share of resamples without spread, or with a denominator at the floor, from which resampling says nothing
FLOOR_FACTOR = 4  # no mean over self-patches comes near even the largest single one: on the demo base it is a fifth of it

Array = np.ndarray
Clusters = Sequence | np.ndarray  # the template of each prompt
Numbers = Any  # of one estimate a number, of m an array [*m]
Ends = tuple[Numbers, Numbers, Numbers]  # an estimate, and the two ends of its interval


class Templates:
    """The templates of some prompts, and resamples of them: one object for everything that is compared, which is then paired.

    clusters: the template of each of n prompts. seed: of the resamples. There are `count` templates.
    """

    def __init__(self, clusters: Clusters, seed: int = 0, resamples: int = RESAMPLES):
        names, self.index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
        self.count, self.seed, self.resamples = len(names), seed, resamples
        self.order = np.argsort(self.index, kind="stable")
        self.sizes = np.bincount(self.index, minlength=self.count).astype(float)

    @cached_property
    def drawn(self) -> Float[Array, "resamples templates"]:
        """How often each template occurs in each resample."""
        rng = np.random.default_rng(self.seed)
        return rng.multinomial(self.count, np.full(self.count, 1 / self.count), size=self.resamples).astype(float)

    @property
    def levels(self) -> tuple[float, float]:
        """The lower and upper level of quantiles, as shares: those of Student's t, expressed as normal ones."""
        low = float(ndtr(np.sqrt(self.count / (self.count - 1)) * self.student))
        return low, 1 - low

    @property
    def student(self) -> float:
        """The lower quantile of Student's t with a degree of freedom less than there are templates."""
        return float(stdtrit(self.count - 1, (100 - LEVEL) / 200))

    @property
    def enough(self) -> bool:
        """Whether there are enough templates for an interval."""
        return self.count >= FEWEST

    def same_as(self, other: "Templates") -> bool:
        """Whether both are of the same prompts, resampled together, so that differences are paired."""
        return self.seed == other.seed and np.array_equal(self.index, other.index)

    def sums(self, values: Float[Array, " n *m"]) -> Float[Array, " templates *m"]:
        """Each template's sum over its prompts."""
        starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(int)
        return np.add.reduceat(values[self.order].astype(float), starts, axis=0)

    def resampled_means(self, values: Float[Array, " n *m"]) -> Float[Array, " draws *m"]:
        """Means over the prompts themselves, then over the prompts of each resample: [1 + resamples, ...]."""
        weights = np.vstack([np.ones(self.count), self.drawn])
        sums = weights @ self.sums(values).reshape(self.count, -1) / (weights @ self.sizes)[:, None]
        return sums.reshape(-1, *values.shape[1:])

    def mean(self, values: Float[Array, " n *m"]) -> Ends:
        """Mean of each column and its interval, in the values' unit. The ends are nan where there are too few templates."""
        return self.average(values).ends()

    def average(self, values: Float[Array, " n *m"]) -> "RatioOfSums":
        """The mean of each column as what it is a ratio of."""
        sizes = self.sizes.reshape(-1, *[1] * (values.ndim - 1))
        return RatioOfSums(self, self.sums(values), np.broadcast_to(sizes, (self.count, *values.shape[1:])))

    def ratio(self, top: Float[Array, " n *m"], bottom: Float[Array, " n *m"], floor: float = 0.0) -> Ends:
        """Ratio of two means over the same prompts, and its interval.

        floor: see floor_of. All three are nan where the denominator's own interval touches the floor, or its mean does so in more
        than DEGENERATE of the resamples: the ratio then says nothing.
        """
        blank = self.touches(bottom, floor)
        ends = RatioOfSums(self, self.sums(top), self.sums(np.where(blank, 1.0, bottom))).ends()
        middle, low, high = (np.where(blank, np.nan, part) for part in ends)
        return middle, low, high

    def touches(self, values: Float[Array, " n *m"], floor: float) -> Any:
        """Whether each column's mean cannot be told from the floor: its interval reaches it, or too many resamples do."""
        means, (_, low, _) = self.resampled_means(values), self.mean(values)
        return ((means[1:] <= floor).mean(0) > DEGENERATE) | (means[0] <= floor) | (low <= floor)


@dataclass(frozen=True)
class RatioOfSums:
    """theta = sum T / sum B over templates. top, bottom: T and B of each template, for one theta or many."""

    templates: Templates
    top: Float[Array, " templates *m"]
    bottom: Float[Array, " templates *m"]

    @cached_property
    def value(self) -> Numbers:
        """theta; nan where sum B is zero."""
        below = self.bottom.sum(0)
        return self.top.sum(0) / np.where(below == 0, np.nan, below)

    @cached_property
    def residuals(self) -> Float[Array, " templates *m"]:
        """What each template adds to theta, to first order, times sum B: T - theta B."""
        return self.top - self.value * self.bottom

    @cached_property
    def error(self) -> Numbers:
        """The standard error, CR1."""
        return np.sqrt(correction(self.templates) * np.square(self.residuals).sum(0)) / np.abs(self.bottom.sum(0))

    @cached_property
    def resampled(self) -> tuple[Float[Array, " resamples *m"], Float[Array, " resamples *m"]]:
        """theta* - theta and SE* of every resample. Around theta, so that a small spread keeps its digits."""
        shape, drawn = self.top.shape[1:], self.templates.drawn

        def total(values: Array) -> Array:
            return (drawn @ values.reshape(len(values), -1)).reshape(-1, *shape)

        below = total(self.bottom)
        below[below == 0] = np.nan
        shift = total(self.residuals) / below
        squares = total(self.residuals**2) - 2 * shift * total(self.residuals * self.bottom) + shift**2 * total(self.bottom**2)
        return shift, np.sqrt(correction(self.templates) * squares.clip(min=0)) / np.abs(below)

    def ends(self) -> Ends:
        """theta and its interval."""
        return studentised(self.value, self.error, *self.resampled, self.templates)


def correction(templates: Templates) -> float:
    """The small-sample factor of a variance over templates."""
    return templates.count / max(templates.count - 1, 1)


def studentised(
    value: Numbers,
    error: Numbers,
    shift: Float[Array, " resamples *m"],
    errors: Float[Array, " resamples *m"],
    *templates: Templates,
) -> Ends:
    """An estimate and its bootstrap-t interval. shift, errors: of every resample. templates: of each independent sample.

    Student's t replaces the resampled quantiles where too many resamples have no spread, as for a share that is nearly zero.
    """
    if not all(sample.enough for sample in templates):
        return value, value * np.nan, value * np.nan
    error = np.where(np.isfinite(value), error, np.nan)
    least = min(templates, key=lambda sample: sample.count)
    flat = ~(errors > 1e-6 * error)
    quantiles = np.quantile(np.divide(shift, errors, out=np.zeros_like(shift), where=~flat), least.levels, axis=0)
    student = np.stack([np.full_like(value, end) for end in (least.student, -least.student)])
    low, high = np.where(flat.mean(0) > DEGENERATE, student, quantiles)
    return value, value - high * error, value - low * error


def difference(first: RatioOfSums, second: RatioOfSums, paired: bool) -> Ends:
    """The second ratio minus the first, and its interval. paired: whether both are of the same prompts, in the same order.

    Paired, each template's two residuals are subtracted; otherwise the squared errors add up.
    """
    value, (shift, errors) = second.value - first.value, zip(first.resampled, second.resampled)
    moved = shift[1] - shift[0]
    if not paired:
        error = np.hypot(first.error, second.error)
        return studentised(value, error, moved, np.hypot(*errors), first.templates, second.templates)
    drawn, factor = first.templates.drawn, correction(first.templates)

    def of_resample(weights: Array, shifts: Sequence[Numbers]) -> Numbers:
        """The difference's standard error in a resample, with each ratio's theta* - theta there."""
        one, other = (
            (side.residuals - by * side.bottom) / np.tensordot(weights, side.bottom, 1)
            for side, by in zip((first, second), shifts)
        )
        return np.sqrt(factor * np.tensordot(weights, np.square(other - one), 1))

    error = of_resample(np.ones(first.templates.count), (np.zeros_like(value), np.zeros_like(value)))
    resampled = np.stack([of_resample(weights, shifts) for weights, *shifts in zip(drawn, *shift)])
    return studentised(value, error, moved, resampled, first.templates)


def floor_of(self_patches: Float[Array, "..."]) -> float:
    """The size up to which an effect is rounding error, in the effects' unit.

    FLOOR_FACTOR times the largest self-patch effect of any prompt and site; zero if there is none.
    """
    return FLOOR_FACTOR * float(self_patches.max(initial=0.0))


def wilson(hits: int, total: int) -> dict[str, int | float]:
    """A share's 95 % Wilson score interval, with its counts. Source: Wilson 1927, doi:10.1080/01621459.1927.10502953."""
    z2, share = 1.96**2, hits / total
    centre, half = share + z2 / (2 * total), np.sqrt(z2 * (share * (1 - share) / total + z2 / (4 * total**2)))
    low, high = (float(np.clip(end / (1 + z2 / total), 0, 1)) for end in (centre - half, centre + half))
    return {"found": hits, "total": total, "low": low, "high": high}


def summarise(table: pd.DataFrame, by: list[str], clusters: Clusters, value: str = "kl") -> pd.DataFrame:
    """A row per condition with mean, low, high (95 %), prompts and templates.

    table: a row per prompt and condition, columns `prompt`, by and value. clusters: the template of each prompt index. Prompts
    that lack a condition are left out.
    """
    wide = table.pivot_table(index="prompt", columns=by, values=value, sort=False, observed=True)
    complete = wide.dropna(axis=0)
    if complete.empty:
        return pd.DataFrame(columns=[*by, "mean", "low", "high", "prompts", "templates"])
    templates = Templates([clusters[prompt] for prompt in complete.index])
    mean, low, high = templates.mean(complete.to_numpy(float))
    index = complete.columns.to_frame(index=False) if len(by) > 1 else pd.DataFrame({by[0]: complete.columns})
    return index.assign(mean=mean, low=low, high=high, prompts=len(complete), templates=templates.count)
