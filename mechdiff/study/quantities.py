"""Quantities: the numbers that answer the four questions, the words for their values, and an estimate as text. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from mechdiff.maths.intervals import LEVEL, RatioOfSums
from mechdiff.study.stored_sweep import STREAM

REACH = 80  # per cent of the whole that counts as reaching it
INTERVALS = f"[..]: {LEVEL} % CI over prompts, with their templates as the units, not over other fine-tunes."


@dataclass(frozen=True)
class Estimate:
    """One quantity of one stored sweep with its 95 % interval, or the reason why there is none.

    why: the reason. place: where it was measured, as text. whole: what a count is a count of. ratio: what it is a ratio of, and
    draws: a rank in each resample, where the stored tables allow that.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    why: str = ""
    place: str = ""
    whole: float = 1.0
    ratio: RatioOfSums | None = field(default=None, repr=False)
    draws: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Quantity:
    """A line of the comparison. words: the largest value that each word covers, if it has any. show: a value as text.

    ranked: whether two estimates are compared by their order alone. instead: the quantity that is read in its place where that
    is stored.
    """

    name: str
    about: str
    words: tuple[tuple[float, str], ...] = ()
    show: Callable[[float], str] = "{:.2f}".format
    ranked: bool = False
    instead: str = ""


def rank_text(rank: float) -> str:
    return "full" if rank == np.inf else f"{rank:.0f}"


RANKS = ((8, "low-rank"), (32, "medium-rank"), (np.inf, "high-rank"))
RANK_WORDS = ((0, "mean ablation is enough"), *RANKS)
HEAD_WORDS = ((0.25, "few heads"), (0.5, "some heads"), (np.inf, "many heads"))
AT_HALF = "Read at the first layer from which the last token's state recovers half at all later ones, chosen on train."
QUANTITIES = {  # the one place that defines the words
    "centroid": Quantity(
        "Centroid of the change",
        "Where in the depth the change lies: 1 - the mean over layers of the recovery with the donor's states of all tokens at a "
        "layer, from 0 (the first layer) to 1 (the end). Lower layers are replaced first: it is one order of replacement.",
        ((1 / 3, "early"), (2 / 3, "middle"), (np.inf, "late")),
    ),
    "drift": Quantity(
        "Depth of drift",
        f"Mean relative depth (0 first layer, 1 last), weighted by 1 - CKA over templates of {STREAM}; 0.5: the same drift "
        "everywhere. No joint resamples of CKA are stored, so the layers' jackknife errors are added to first order, as if they "
        "were fully correlated: this interval, and that of the difference, may be too wide but not too narrow.",
        ((0.4, "early"), (0.6, "middle"), (np.inf, "late")),
    ),
    "effect": Quantity(
        "Depth of effect",
        f"Mean relative depth, weighted by the effect of patching {STREAM}. A state carries everything upstream of it, so the "
        "curve mostly rises: 0.5 is a flat curve, 0.68 a straight rise from zero.",
        ((0.5, "early"), (0.7, "middle"), (np.inf, "late")),
        instead="centroid",
    ),
    "shift": Quantity(
        "Constant share",
        "The recovery by one constant: the train mean of donor - recipient, added to the recipient's state of the last token. "
        f"{AT_HALF}",
    ),
    "directions80": Quantity(
        f"Directions for {REACH} %",
        f"Smallest number of directions of the observed difference, next to the constant shift, from which {REACH} % of the "
        "whole patch's recovery holds at all larger ones. Its interval is that of a mean, turned into one of directions. "
        f"{AT_HALF}",
        ((0, "one shift is enough"), *RANKS),
        rank_text,
        True,
    ),
    "format": Quantity(
        "Format share",
        "What the mean shift of neutral prompts recovers, as a share of the whole state's recovery: what prompts without the "
        f"domain's content would show too. {AT_HALF}",
    ),
    "beyond": Quantity(
        "Map beyond the shift",
        "1 - KL_map / KL_shift, in per cent: how much of one constant shift's effect the fitted linear map removes. 0: a map is "
        f"no better than a constant. {AT_HALF}",
        show="{:.0f}".format,
    ),
    "answer": Quantity(
        "Recovery over 8 tokens",
        "The recovery over the first 8 tokens of the donor's own answer, which is given to both models (teacher-forced), with "
        f"the last token's state replaced. {AT_HALF}",
    ),
    "rank_mean": Quantity(
        f"Rank for {REACH} % of the drop",
        f"Smallest stored rank of the fitted map whose drop reaches {REACH} % of the full map's, with the rest deleted "
        "(complement mean). Rank 0 is mean ablation. No value where the full map's own drop is not above zero.",
        RANK_WORDS,
        rank_text,
        True,
        "directions80",
    ),
    "rank_own": Quantity(
        f"Rank for {REACH} % of the effect",
        f"The same, but the rest keeps the recipient's own state (complement own): smallest stored rank whose effect "
        f"reaches {REACH} % of the full map's.",
        RANK_WORDS,
        rank_text,
        True,
        "directions80",
    ),
    "greedy": Quantity(
        f"Heads for {REACH} %, greedy",
        f"Smallest number of heads, chosen one after another on the train split, that reaches {REACH} % of all heads' effect, at "
        "the layer where that effect is largest there (in older sweeps: on these prompts). Only summaries of sets are stored: "
        "the range runs from where the upper end of the curve's interval reaches it to where the lower end does. The words refer "
        "to the share of the layer's heads.",
        HEAD_WORDS,
        "{:.0f}".format,
    ),
    "topk": Quantity(
        f"Heads for {REACH} %, top k",
        "The same for the heads with the largest single effects on the train split.",
        HEAD_WORDS,
        "{:.0f}".format,
    ),
    "attention": Quantity(
        "Attention's share",
        "The attention modules' share of the summed effects of all single attention and MLP transplants.",
        ((0.4, "MLP-led"), (0.6, "balanced"), (np.inf, "attention-led")),
    ),
    "streams": Quantity(
        "Residual over attention transport",
        f"Drop of the map at {STREAM} less its drop at attn_out, in percentage points, at the layer of the rank cuts: does the "
        "residual stream transport better than the attention module's output? Next to it the same of a map that was fitted on "
        "shuffled pairs. Only summaries of attn_out are stored, so the interval is an upper bound on its width.",
        ((0, "attention better"), (np.inf, "residual better")),
        "{:.0f}".format,
    ),
    "directions": Quantity(
        "This direction over the other",
        f"Summed effects of patching {STREAM} at every layer, in this direction over the other one: 1 is symmetric.",
        ((0.8, "weaker this way"), (1.25, "about equal"), (np.inf, "stronger this way")),
    ),
}


def scale(quantity: Quantity) -> str:
    """What a quantity's words mean, in Markdown; empty if it has none."""
    if not quantity.words:
        return ""
    *lower, (_, last) = quantity.words
    return ", ".join([*(f"**{name}** up to {most:g}" for most, name in lower), f"**{last}** above"])


def word(quantity: Quantity, estimate: Estimate) -> str:
    """The word for an estimate: the one that covers its whole interval, else those at both ends; empty without an interval."""
    if not quantity.words or not estimate.low <= estimate.high:
        return ""
    ends = [next(name for most, name in quantity.words if end <= most * estimate.whole) for end in (estimate.low, estimate.high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def text(quantity: Quantity, estimate: Estimate, sign: bool = False) -> str:
    """An estimate for people: value, interval and place; or why there is none."""
    if estimate.value != estimate.value:
        return f"{estimate.why} {estimate.place and f'({estimate.place})'}".strip() or "—"
    numbers = [quantity.show(number) for number in (estimate.value, estimate.low, estimate.high)]
    if sign:
        numbers = [number if number.startswith("-") else f"+{number}" for number in numbers]
    ends = f" [{numbers[1]}, {numbers[2]}]" if estimate.low <= estimate.high else " (no interval)"
    if quantity.ranked and estimate.low == estimate.high and estimate.draws is not None:  # an interval of one rank says nothing
        ends = f" in {100 * np.mean(estimate.draws == estimate.value):.0f} % of resamples"
    return f"{numbers[0]}{ends} {estimate.place}".strip()
