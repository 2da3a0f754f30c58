"""Many estimates at once: bands over a chart, estimates tied with the best, p-values corrected for their number. No torch.

All are of the same prompts, and rest on the same resamples of whole templates: see maths/intervals.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtr

from mechdiff.maths.intervals import DEGENERATE, LEVEL, RatioOfSums, Templates

Array = np.ndarray


def band(estimates: RatioOfSums) -> tuple[Float[Array, " *m"], Float[Array, " *m"]]:
    """The two ends of a band that contains all true values together in 95 % of samples: single-step, studentised max |t|.

    nan where there are too few templates, and where an estimate does not vary.
    """
    if not estimates.templates.enough:
        return estimates.value * np.nan, estimates.value * np.nan
    shift, errors = estimates.resampled
    usable = estimates.error > 0
    score = np.abs(np.divide(shift, errors, out=np.zeros_like(shift), where=errors > 0)) * usable
    reach = np.quantile(score.reshape(len(score), -1).max(1), LEVEL / 100)
    half = np.where(usable, reach * estimates.error, np.nan)
    return estimates.value - half, estimates.value + half


def tied_with_best(templates: Templates, values: Float[Array, " n m"]) -> Bool[Array, " m"]:
    """Which columns' means cannot be told from the largest one: 95 % of such sets contain the truly largest.

    i is in the set if theta_j - theta_i <= c se_ij for every j, with c the 95 % quantile of the largest centred, studentised
    difference over ordered pairs. Only the best itself where there are too few templates to tell.
    """
    count = values.shape[1]
    best = np.zeros(count, bool)
    best[int(values.mean(0).argmax())] = True
    if not templates.enough or count == 1:
        return best
    first, second = np.triu_indices(count, 1)
    pairs = templates.average(values[:, second] - values[:, first])
    shift, errors = pairs.resampled
    score = np.abs(np.divide(shift, errors, out=np.zeros_like(shift), where=errors > 0))  # both orders of each pair
    reach = np.quantile(score.max(1), LEVEL / 100)
    behind = np.zeros((count, count))  # by how many errors i is behind j
    with np.errstate(divide="ignore", invalid="ignore"):
        score = np.nan_to_num(pairs.value / pairs.error, nan=0.0)
    behind[first, second], behind[second, first] = score, -score
    return best | (behind <= reach).all(1)


def p_value(estimates: RatioOfSums) -> Float[Array, " *m"]:
    """Two-sided p of each estimate being zero, from the same studentised resamples as its interval; nan without one."""
    if not estimates.templates.enough:
        return np.asarray(estimates.value * np.nan)
    (shift, errors), usable = estimates.resampled, estimates.error > 0
    score = np.divide(estimates.value, estimates.error, out=np.zeros_like(np.asarray(estimates.value)), where=usable)
    flat = ~(errors > 1e-6 * estimates.error)
    drawn = np.divide(shift, errors, out=np.zeros_like(shift), where=~flat)
    above, below = ((1 + hits.sum(0)) / (len(drawn) + 1) for hits in (drawn >= score, drawn <= score))
    student = 2 * stdtr(estimates.templates.count - 1, -np.abs(score))
    p = np.where(flat.mean(0) > DEGENERATE, student, np.minimum(1, 2 * np.minimum(above, below)))
    return np.where(usable, p, np.where(np.asarray(estimates.value) == 0, 1.0, np.nan))


def holm(p: Float[Array, " m"]) -> Float[Array, " m"]:
    """p-values of m tests, adjusted so that the chance of any false one is bounded. Source: Holm 1979."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)).clip(max=1)
    return steps[np.argsort(order)]
