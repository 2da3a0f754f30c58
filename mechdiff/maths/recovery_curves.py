"""What recoveries over layers or ranks say: where in the depth a change lies, and from where on enough of it is recovered.

A recovery is R = 1 - mean KL(donor || patched) / mean KL(donor || clean). It is never clipped. All curves are of the same
prompts: `clean`, [n], is each prompt's KL(donor || clean) and `patched`, [n, k], its KL(donor || patched) at each point.
Needs no torch.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from mechdiff.maths.intervals import Ends, RatioOfSums, Templates

HALF, REACH = 0.5, 0.8
USUAL = (-0.1, 1.1)  # a curve outside this is no share of a change at some point, so that it has no centroid
LEAST = 0.1  # of the lower end of a recovery that another one is divided by
THIRDS = ("early", "middle", "late")
NONE = (np.nan, np.nan, np.nan)

Array = np.ndarray


def recovery(templates: Templates, clean: Float[Array, " n"], patched: Float[Array, " n k"], floor: float = 0.0) -> Ends:
    """R at each point and its interval, [k] each."""
    share, low, high = templates.ratio(patched, np.broadcast_to(clean[:, None], patched.shape), floor)
    return 1 - share, 1 - high, 1 - low


def increments(templates: Templates, clean: Float[Array, " n"], patched: Float[Array, " n k"]) -> Ends:
    """What each point adds to the recovery of the one before, and its interval, [k - 1] each."""
    steps = patched[:, :-1] - patched[:, 1:]
    return ratio(templates, steps, np.broadcast_to(clean[:, None], steps.shape)).ends()


def share_through(
    templates: Templates, clean: Float[Array, " n"], token: Float[Array, " n k"], every: Float[Array, " n k"]
) -> Ends:
    """The recovery through one token's state as a share of that through all tokens' states, [k] each.

    Blank where the lower end of the latter is below LEAST.
    """
    whole = clean[:, None] - every
    value, low, high = ratio(templates, clean[:, None] - token, whole).ends()
    enough = recovery(templates, clean, every)[1] >= LEAST
    value, low, high = (np.where(enough, part, np.nan) for part in (value, low, high))
    return value, low, high


def first_from(reached: Bool[Array, " k"]) -> int | None:
    """The first point from which all later ones are reached; None if the last one is not."""
    missed = np.flatnonzero(~np.asarray(reached))
    first = int(missed[-1]) + 1 if len(missed) else 0
    return first if first < len(reached) else None


def half(clean: Float[Array, " n"], patched: Float[Array, " n k"]) -> int | None:
    """The first point from which at least half is recovered at all later ones; None if there is none."""
    return first_from(1 - patched.mean(0) / clean.mean() >= HALF)


@dataclass(frozen=True)
class Depth:
    """Where in the depth of a model a change lies, from the recoveries with all tokens' states of one layer.

    embedding: R below the first layer, what the embeddings change. after: 1 - R at the last layer, what the final norm and the
    unembedding change. centroid: 1 - the mean of R over layers, from 0 (the first layer) to 1; nan for the reason `why`.
    half: the first layer from which at least half is recovered. quartiles: the layers by which a quarter, a half and three
    quarters of the increments are made; None where the centroid is blank. place: early, middle or late, the third of the
    depth that the centroid's interval covers (or both); without a centroid that of `half`; empty if there is none.
    """

    embedding: Ends
    after: Ends
    centroid: Ends
    why: str
    half: int | None
    quartiles: tuple[int, ...] | None
    place: str


def depth(templates: Templates, clean: Float[Array, " n"], patched: Float[Array, " n k"], floor: float = 0.0) -> Depth:
    """Where a change lies. patched: at the embedding, then at every layer. floor: of the denominator."""
    value, low, high = recovery(templates, clean, patched, floor)
    ends = [(value[i], low[i], high[i]) for i in (0, -1)]
    after, layers = tuple(1 - end for end in (ends[1][0], ends[1][2], ends[1][1])), patched.shape[1] - 1
    if np.isnan(value[0]):
        return Depth(NONE, NONE, NONE, "the two models' next tokens do not differ beyond the floor", None, None, "")
    first = half(clean, patched[:, 1:])
    if value.min() < USUAL[0] or value.max() > USUAL[1]:
        why = f"recoveries from {value.min():.2f} to {value.max():.2f} are no shares of a change"
        place = "" if first is None else THIRDS[third((first + 0.5) / layers)]
        return Depth(ends[0], after, NONE, why, first, None, place)
    centroid = ratio(templates, patched[:, 1:].mean(1), clean).ends()
    made = (value[1:] - value[0]) / (value[-1] - value[0])
    quartiles = [first_from(made >= share) for share in (0.25, 0.5, 0.75)]
    places = () if np.isnan(centroid[1]) else dict.fromkeys(THIRDS[third(end)] for end in centroid[1:])
    known = tuple(quartile for quartile in quartiles if quartile is not None)
    return Depth(ends[0], after, centroid, "", first, known if len(known) == 3 else None, " to ".join(places))


def third(share: float) -> int:
    """The third of the depth, from 0, that a share of it lies in."""
    return min(max(int(3 * share), 0), 2)


def smallest(
    templates: Templates, clean: Float[Array, " n"], cuts: Float[Array, " n k"], reach: float = REACH
) -> tuple[int, int, int] | None:
    """The first point from which `reach` of the last one's recovery holds at all later ones, and its interval.

    cuts: rising, the last one full. R_k >= c R_full is the same as mean[(1 - c) D0 - D_k + c D_full] >= 0, which is a mean, and
    its interval is turned into one of points. None where the full recovery's own interval reaches zero.
    """
    contrast = (1 - reach) * clean[:, None] - cuts + reach * cuts[:, -1:]
    value, low, high = templates.mean(contrast)
    if np.isnan(low[-1]):
        low = high = value
    middle, first, last = (first_from(ends >= 0) for ends in (value, high, low))
    return None if middle is None or first is None or last is None else (middle, first, last)


def smallest_drawn(
    templates: Templates, clean: Float[Array, " n"], cuts: Float[Array, " n k"], reach: float = REACH
) -> Int[Array, " resamples"]:
    """The same point in each resample of templates; the last one where even that recovers nothing."""
    contrast = (1 - reach) * clean[:, None] - cuts + reach * cuts[:, -1:]
    missed = templates.resampled_means(contrast)[1:] < 0
    after = missed.shape[1] - missed[:, ::-1].argmax(1)
    return np.where(missed.any(1), after, 0).clip(max=missed.shape[1] - 1)


def ratio(templates: Templates, top: Float[Array, " n *k"], bottom: Float[Array, " n *k"]) -> RatioOfSums:
    return RatioOfSums(templates, templates.sums(top), templates.sums(bottom))
