"""The verdict: what two choices answer to the four questions, as numbers with 95 % intervals, and how far they differ.

Intervals cover prompts, not other fine-tunes. Everything comes from stored sweeps; needs no torch.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import LEVEL, bootstrap_weights, floor_of
from mechdiff.study.stored_sweep import MAP, MODULES, STREAM, Choice, cut

REACH = 80  # per cent of the whole that counts as reaching it
NOT_STORED, AT_FLOOR, NO_DROP = "not stored", "at the floor", "the full map drops nothing"
INTERVALS = f"[..]: {LEVEL} % intervals over prompts (templates first, then prompts in them), not over other fine-tunes."


@dataclass(frozen=True)
class Estimate:
    """One number of one choice with its interval, or the reason why there is none.

    place: where it was measured, as text. whole: what a count is a count of. draws: its value in each bootstrap resample, where
    what is stored allows that.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    why: str = ""
    place: str = ""
    whole: float = 1.0
    draws: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Quantity:
    """A line of the verdict. words: up to which value each word holds. show: a value as text. ranked: compared by order alone."""

    name: str
    about: str
    words: tuple[tuple[float, str], ...]
    show: Callable[[float], str] = "{:.2f}".format
    ranked: bool = False


def rank_text(rank: float) -> str:
    return "full" if rank == np.inf else f"{rank:.0f}"


RANK_WORDS = ((0, "mean ablation is enough"), (8, "low-rank"), (32, "medium-rank"), (np.inf, "high-rank"))
HEAD_WORDS = ((0.25, "few heads"), (0.5, "some heads"), (np.inf, "many heads"))
QUANTITIES = {  # the one place that says what the words mean
    "drift": Quantity(
        "Depth of drift",
        f"Mean relative depth (0 first, 1 last layer), weighted by 1 - debiased CKA of {STREAM}; 0.5: the same drift everywhere. "
        "No joint resamples of CKA are stored, so the layers' jackknife errors are added up, to first order, as if all pulled "
        "one way: this interval and that of the difference are wider than a joint one, never narrower.",
        ((0.4, "early"), (0.6, "middle"), (np.inf, "late")),
    ),
    "effect": Quantity(
        "Depth of effect",
        f"Mean relative depth, weighted by the effect of patching {STREAM}. A state carries everything upstream of it, so the "
        "curve mostly rises: 0.5 is a flat curve, 0.68 a straight rise from nought.",
        ((0.5, "early"), (0.7, "middle"), (np.inf, "late")),
    ),
    "rank_mean": Quantity(
        f"Rank for {REACH} % of the drop",
        f"Smallest stored rank of {MAP} whose drop reaches {REACH} % of the full map's, the rest deleted (complement mean). Rank "
        "0 is mean ablation. Blank where the full map's own drop is not above nought.",
        RANK_WORDS,
        rank_text,
        True,
    ),
    "rank_own": Quantity(
        f"Rank for {REACH} % of the effect",
        f"The same with the recipient's own state in place of the rest (complement own): smallest stored rank whose effect "
        f"reaches {REACH} % of the full map's.",
        RANK_WORDS,
        rank_text,
        True,
    ),
    "greedy": Quantity(
        f"Heads for {REACH} %, greedy",
        f"Smallest number of heads, chosen one after another on train, that reaches {REACH} % of all heads' effect, at the layer "
        "where that is largest on these prompts. Only summaries of sets are stored: the range goes from where the upper end of "
        "the curve's interval reaches it to where the lower end does. The words go by the share of the layer's heads.",
        HEAD_WORDS,
        "{:.0f}".format,
    ),
    "topk": Quantity(
        f"Heads for {REACH} %, top k",
        "The same for the heads with the largest single effects on train.",
        HEAD_WORDS,
        "{:.0f}".format,
    ),
    "attention": Quantity(
        "Attention's share",
        "Of the summed effects of all single attention and MLP transplants, the share of the attention modules.",
        ((0.4, "MLP-led"), (0.6, "balanced"), (np.inf, "attention-led")),
    ),
}


def scale(quantity: Quantity) -> str:
    """What a quantity's words mean."""
    *lower, (_, last) = quantity.words
    return ", ".join([*(f"**{name}** up to {most:g}" for most, name in lower), f"**{last}** above"])


def word(quantity: Quantity, estimate: Estimate) -> str:
    """What an estimate is called: the word that holds in its whole interval, or those at both ends."""
    if not estimate.low <= estimate.high:
        return ""
    ends = [next(name for most, name in quantity.words if end <= most * estimate.whole) for end in (estimate.low, estimate.high)]
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def estimates(choice: Choice, depth: float | None, seed: int = 0) -> dict[str, Estimate]:
    """Every quantity of one choice. depth: where rank cuts are read, 0 to 1; None for the most affected layer."""
    layer, strongest = choice.layer(depth), choice.strongest()
    cuts = (None, None) if layer is None else choice.cuts(layer)
    return {
        "drift": drift(choice),
        "effect": effect(choice, seed),
        "rank_mean": rank(choice, *cuts, "mean", seed),
        "rank_own": rank(choice, *cuts, "own", seed),
        "greedy": heads(choice, strongest, "greedy"),
        "topk": heads(choice, strongest, "topk"),
        "attention": attention(choice, seed),
    }


def drift(choice: Choice) -> Estimate:
    table = choice.drift()
    if table is None:
        return Estimate(why=NOT_STORED)
    weight, error = 1 - table["mean"], (table["high"] - table["low"]) / 2
    if weight.sum() <= error.sum():
        return Estimate(why="no drift above its error")
    middle = (weight * table["depth"]).sum() / weight.sum()
    most = ((table["depth"] - middle).abs() * error).sum(skipna=False) / weight.sum()  # the gradient of the weighted mean
    return Estimate(middle, *np.clip([middle - most, middle + most], 0, 1))


def effect(choice: Choice, seed: int) -> Estimate:
    lines = choice.read("rq1", "patch", stream=STREAM)
    if lines is None:
        return Estimate(why=NOT_STORED)
    wide = by_prompt(lines[lines["control"] == "none"], "layer")
    means = resampled(wide, choice, "rq1", seed)
    if silent(means, lines):
        return Estimate(why=AT_FLOOR)
    depths = wide.columns.to_numpy(float) / wide.columns.max()
    return interval(means @ depths / means.sum(1))


def rank(choice: Choice, lines: pd.DataFrame | None, zscore: pd.DataFrame | None, complement: str, seed: int) -> Estimate:
    """The smallest rank that reaches the full map's drop (complement mean) or effect (own), as far as REACH says.

    lines: a layer's stored cuts by prompt. zscore: its reference.
    """
    if lines is None or zscore is None:
        return Estimate(why=NOT_STORED)
    wide = by_prompt(lines[cut(lines) & (lines["complement"] == complement)], "rank")
    ladder = np.sort([np.inf if name == "full" else float(name) for name in wide])
    wide = wide[[rank_text(number) for number in ladder]].assign(zscore=zscore.set_index("prompt")["kl"]).dropna()
    means = resampled(wide, choice, "rq3", seed)
    effects, reference = means[:, :-1], means[:, -1:]
    place = f"at layer {lines['layer'].iloc[0]}"
    if silent(reference if complement == "mean" else effects, lines):
        return Estimate(why=AT_FLOOR, place=place)
    gained = reference - effects if complement == "mean" else effects
    if lowest(gained[1:, -1]) <= 0:
        return Estimate(why=NO_DROP, place=place)
    reached = gained >= REACH / 100 * gained[:, -1:]
    reached &= gained[:, -1:] > 0  # a resample in which even the full map gains nothing needs all of it
    return interval(first(reached, ladder), place)


def heads(choice: Choice, layer: int | None, chosen: str) -> Estimate:
    """The number of heads that reaches REACH. Only the curve's summary is stored, so the ends of its interval give the range."""
    table = None if layer is None else choice.coverage(layer, chosen)
    if table is None or not (table["chosen"] == chosen).any():
        return Estimate(why=NOT_STORED)
    whole = int(table["size"].max())
    if table["mean"].isna().any():
        return Estimate(why=AT_FLOOR, place=f"at layer {layer}")
    sizes = table["size"].to_numpy(float)
    value, low, high = (first(table[part].to_numpy() >= REACH, sizes) for part in ("mean", "high", "low"))
    return Estimate(value, low, high, place=f"of {whole} at layer {layer}", whole=whole)


def attention(choice: Choice, seed: int) -> Estimate:
    parts = [choice.read("rq1", "transplant", stream=module) for module in MODULES]
    if any(part is None for part in parts):
        return Estimate(why=NOT_STORED)
    lines = pd.concat(parts)
    wide = by_prompt(lines[lines["control"] == "none"], ["stream", "layer"])
    means = resampled(wide, choice, "rq1", seed)
    if silent(means, lines):
        return Estimate(why=AT_FLOOR)
    mine = wide.columns.get_level_values("stream") == MODULES[0]
    return interval(means[:, mine].sum(1) / means.sum(1))


def by_prompt(lines: pd.DataFrame, columns) -> pd.DataFrame:
    """Effects with a row per prompt; prompts that lack a condition are left out."""
    return lines.pivot(index="prompt", columns=columns, values="kl").astype(float).dropna()


def resampled(wide: pd.DataFrame, choice: Choice, folder: str, seed: int) -> np.ndarray:
    """The columns' means, [1 + resamples, columns]: first those of the prompts themselves, then of each resample of them."""
    weights = np.vstack([np.ones(len(wide)), bootstrap_weights(choice.templates(folder, wide.index), seed=seed)])
    return weights @ wide.to_numpy() / weights.sum(1, keepdims=True)


def silent(means: np.ndarray, lines: pd.DataFrame) -> bool:
    """Whether even the largest effect cannot be told from the floor of the self-patches."""
    floor = floor_of(lines.loc[lines["control"] == "self", "kl"].to_numpy())
    return lowest(means[1:, means[0].argmax()]) <= floor


def lowest(draws: np.ndarray) -> float:
    return np.percentile(draws, (100 - LEVEL) / 2)


def first(reached: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The smallest size that has reached; the last where none has. reached: [..., sizes], sizes rising."""
    return sizes[np.where(reached.any(-1), reached.argmax(-1), -1)]


def interval(values: np.ndarray, place: str = "") -> Estimate:
    """values: of the prompts themselves, then of each resample. Percentiles are values that occurred: a rank is never between."""
    ends = (100 - LEVEL) / 2, (100 + LEVEL) / 2
    low, high = np.percentile(values[1:], ends, method="inverted_cdf")
    return Estimate(values[0], low, high, place=place, draws=values[1:])


def seeds(a: Choice, b: Choice) -> tuple[int, int]:
    """Seeds of the two bootstraps: the same on the same prompts, so that differences are paired; else independent ones."""
    hashes = [about and about["prompts_hash"] for about in (a.about("rq1"), b.about("rq1"))]
    return 0, 0 if hashes[0] is not None and hashes[0] == hashes[1] else 1


def difference(quantity: Quantity, a: Estimate, b: Estimate) -> Estimate:
    """B - A. Where there are no resamples, from one's end to the other's opposite end: at most this wide."""
    if a.why or b.why:
        return Estimate(why="")
    if quantity.ranked:
        up, down = (100 * np.mean(side) for side in (b.draws > a.draws, b.draws < a.draws))
        parts = [f"{name} in {share:.0f} %" for name, share in (("higher", up), ("lower", down)) if share >= 0.5]
        return Estimate(why=f"B {', '.join(parts) or 'the same in 100 %'} of resamples")
    if a.whole != b.whole:
        return Estimate(why=f"{a.whole:.0f} heads against {b.whole:.0f}")
    if a.draws is None:
        return Estimate(b.value - a.value, b.low - a.high, b.high - a.low)
    return interval(np.concatenate([[b.value - a.value], b.draws - a.draws]))


def text(quantity: Quantity, estimate: Estimate, sign: bool = False) -> str:
    """An estimate for people: value, interval, where; or why there is none."""
    if estimate.value != estimate.value:
        return f"{estimate.why} {estimate.place and f'({estimate.place})'}".strip() or "—"
    shown = [quantity.show(part) for part in (estimate.value, estimate.low, estimate.high)]
    if sign:
        shown = [part if part.startswith("-") else f"+{part}" for part in shown]
    ends = f" [{shown[1]}, {shown[2]}]" if estimate.low <= estimate.high else " (no interval)"
    return f"{shown[0]}{ends} {estimate.place}".strip()


def table(a: dict[str, Estimate], b: dict[str, Estimate]) -> pd.DataFrame:
    """A line per quantity: name, both choices' text and word, the difference, and whether that is clear of nought."""
    rows = []
    for key, quantity in QUANTITIES.items():
        apart = difference(quantity, a[key], b[key])
        row = {"quantity": quantity.name, "a": text(quantity, a[key]), "a_word": word(quantity, a[key])}
        row |= {"b": text(quantity, b[key]), "b_word": word(quantity, b[key])}
        rows.append(row | {"difference": text(quantity, apart, sign=True), "clear": apart.low > 0 or apart.high < 0})
    return pd.DataFrame(rows)


def missing(choice: Choice, found: dict[str, Estimate]) -> str:
    """What to type for the quantities that are not stored; nothing if all are."""
    names = [QUANTITIES[key].name for key, estimate in found.items() if estimate.why == NOT_STORED]
    return f"{choice.label}: not stored: {'; '.join(names)}.\nTry:  {choice.command}" if names else ""


def report(a: Choice, b: Choice, depth: float | None = None) -> str:
    """The verdict as text."""
    found = [estimates(choice, depth, seed) for choice, seed in zip((a, b), seeds(a, b))]
    lines = table(*found)
    cells = {"": lines["quantity"]} | {side.upper(): lines[side] + "  " + lines[f"{side}_word"] for side in ("a", "b")}
    shown = pd.DataFrame(cells | {"B - A": lines["difference"]})
    shown = shown.map(str.strip).apply(lambda column: column.str.ljust(column.str.len().max()))
    heads = [f"{side}: {choice.label} ({choice.origin()})" for side, choice in (("A", a), ("B", b))]
    notes = [note for note in map(missing, (a, b), found) if note]
    return "\n".join([*heads, "", shown.to_string(index=False, justify="left"), "", INTERVALS, *notes])
