"""Estimates: what one stored sweep answers to the four questions, as numbers with 95 % intervals.

Intervals cover prompts, not other fine-tunes. Needs no torch.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from mechdiff.common.terms import DIRECTIONS, OUR_MAP
from mechdiff.maths import recovery_curves
from mechdiff.maths.intervals import LEVEL, RatioOfSums, Templates, floor_of
from mechdiff.study.quantities import REACH, Estimate, rank_text
from mechdiff.study.readings import Curve, Read
from mechdiff.study.stored_sweep import MODULES, STREAM, StoredSweep

NOT_STORED, AT_FLOOR, NO_DROP = "not stored", "at the floor", "the full map has no drop"


def estimates(sweep: StoredSweep, depth: float | None, seed: int = 0) -> dict[str, Estimate]:
    """Every quantity of one stored sweep, by its key in QUANTITIES.

    depth: where cuts and maps are read, 0 to 1; None: at the layer that was chosen on train, or without one at the most
    affected layer. seed: of the bootstrap.
    """
    layer, strongest, read = sweep.layer(depth), sweep.strongest(), Read(sweep, seed)
    cuts = (None, None) if layer is None else sweep.cuts(layer)
    half = sweep.half() if depth is None else layer
    readers = (read.cuts, read.neutral, read.maps, read.answer)
    difference, neutral, maps, answer = (None if half is None else reader(half) for reader in readers)
    return {
        "centroid": centroid(read),
        "drift": drift(sweep),
        "effect": effect(sweep, seed),
        "shift": recovered(half, difference, 0.0),
        "directions80": directions_needed(half, difference),
        "format": format_share(half, neutral),
        "beyond": beyond(half, maps),
        "answer": recovered(half, answer, half),
        "rank_mean": rank(sweep, layer, *cuts, sweep.complement, seed),
        "rank_own": rank(sweep, layer, *cuts, "own", seed),
        "greedy": heads(sweep, strongest, "greedy"),
        "topk": heads(sweep, strongest, "topk"),
        "attention": attention(sweep, seed),
        "streams": streams(sweep, layer),
        "directions": directions(sweep, seed),
    }


def centroid(read: Read) -> Estimate:
    """Where in the depth the change lies, from the states of all tokens."""
    every, where = read.everywhere, read.depth
    if every is None or where is None:
        return Estimate(why=NOT_STORED)
    if where.why:
        return Estimate(why=where.why)
    return of_sums(every.templates, every.to_donor.iloc[:, 1:].to_numpy(float).mean(1), every.clean)


def recovered(layer: int | None, curve: Curve | None, point: float | None) -> Estimate:
    """The recovery at a point of a curve of a layer."""
    if curve is None or point not in curve.to_donor:
        return Estimate(why=NOT_STORED)
    return of_sums(curve.templates, gain(curve, point), curve.clean, f"at layer {layer}")


def directions_needed(layer: int | None, cuts: Curve | None) -> Estimate:
    """The number of directions, next to the shift, from which REACH per cent of the whole patch holds."""
    if cuts is None or np.inf not in cuts.to_donor:
        return Estimate(why=NOT_STORED)
    points, place = np.sort([float(str(point)) for point in cuts.to_donor]), f"at layer {layer}"
    patched = cuts.to_donor[points].to_numpy(float)
    ends = recovery_curves.smallest(cuts.templates, cuts.clean, patched, REACH / 100)
    if ends is None:
        return Estimate(why="the whole patch recovers nothing", place=place)
    draws = points[recovery_curves.smallest_drawn(cuts.templates, cuts.clean, patched, REACH / 100)]
    value, low, high = (float(points[end]) for end in ends)
    return Estimate(value, low, high, place=place, draws=draws)


def format_share(layer: int | None, neutral: Curve | None) -> Estimate:
    """The recovery by the mean shift of neutral prompts as a share of the whole state's."""
    if neutral is None:
        return Estimate(why=NOT_STORED)
    return of_sums(neutral.templates, gain(neutral, 0.0), gain(neutral, np.inf), f"at layer {layer}")


def gain(curve: Curve, point: float | None) -> np.ndarray:
    """What a point of a curve recovers of each prompt, in nats."""
    return curve.clean - curve.to_donor[point].to_numpy(float)


def beyond(layer: int | None, maps: Curve | None) -> Estimate:
    """How much of one constant shift's effect the fitted map removes, in per cent."""
    if maps is None or not {OUR_MAP, "shift"} <= set(maps.effect):
        return Estimate(why=NOT_STORED)
    shift = maps.effect["shift"].to_numpy(float)
    removed = shift - maps.effect[OUR_MAP].to_numpy(float)
    return of_sums(maps.templates, 100 * removed, shift, f"at layer {layer}")


def drift(sweep: StoredSweep) -> Estimate:
    table = sweep.drift()
    if table is None:
        return Estimate(why=NOT_STORED)
    weight, error = 1 - table["mean"], (table["high"] - table["low"]) / 2
    if error.isna().all():
        return Estimate((weight * table["depth"]).sum() / weight.sum(), place=over(table))
    if weight.sum() <= error.sum():
        return Estimate(why="no drift above its error")
    middle = (weight * table["depth"]).sum() / weight.sum()
    largest_error = ((table["depth"] - middle).abs() * error).sum(skipna=False) / weight.sum()  # gradient of the weighted mean
    return Estimate(middle, *np.clip([middle - largest_error, middle + largest_error], 0, 1))


def effect(sweep: StoredSweep, seed: int) -> Estimate:
    lines, table = sweep.read("rq1", "patch", stream=STREAM), sweep.effect()
    if table is None:
        return Estimate(why=NOT_STORED)
    if lines is None:  # means alone, as of the study's own files
        return Estimate((table["mean"] * table["depth"]).sum() / table["mean"].sum(), place=over(table))
    wide = by_prompt(lines[lines["control"] == "none"], "layer")
    templates = templates_of(wide, sweep, "rq1", seed)
    if at_floor(wide, templates, lines):
        return Estimate(why=AT_FLOOR)
    depths = np.asarray(wide.columns, dtype=float) / sweep.last_layer(table)
    place = over(table) if len(table) <= sweep.last_layer(table) else ""
    return of_sums(templates, wide.to_numpy() @ depths, wide.to_numpy().sum(1), place)


def rank(
    sweep: StoredSweep, layer: int | None, lines: pd.DataFrame | None, zscore: pd.DataFrame | None, complement: str, seed: int
) -> Estimate:
    """The smallest rank that reaches REACH per cent of the full map's drop, or of its effect under complement own.

    lines: a layer's stored cuts by prompt. zscore: the effects that the drop refers to. Without them, the stored drops are read.
    """
    if lines is None or zscore is None:
        return rank_of_means(sweep, layer, complement)
    judged = lines["complement"].eq(complement) | (lines["control"].eq("mean") & (complement != "own"))
    wide = by_prompt(lines[sweep.is_own_map(lines) & judged], "rank")
    if not {"full"} <= set(wide):
        return Estimate(why=NOT_STORED)
    ranks = np.sort([np.inf if name == "full" else float(str(name)) for name in wide])
    wide = (
        wide[[rank_text(number) for number in ranks]]
        .assign(zscore=zscore.drop_duplicates("prompt").set_index("prompt")["kl"])
        .dropna()
    )
    templates, cuts = templates_of(wide, sweep, "rq3", seed), wide.drop(columns="zscore")
    place = f"at layer {lines['layer'].iloc[0]}"
    if at_floor(cuts if complement == "own" else wide[["zscore"]], templates, lines):
        return Estimate(why=AT_FLOOR, place=place)
    gained = cuts if complement == "own" else -cuts.sub(wide["zscore"], axis=0)
    if templates.touches(gained["full"].to_numpy(), 0.0):
        return Estimate(why=NO_DROP, place=place)
    gains = templates.resampled_means(gained.to_numpy())
    reached = gains >= REACH / 100 * gains[:, -1:]
    reached &= gains[:, -1:] > 0  # in a resample where even the full map gains nothing, no smaller rank is enough
    return from_draws(first_reached(reached, ranks), place)


def rank_of_means(sweep: StoredSweep, layer: int | None, complement: str) -> Estimate:
    """The same from the summary's drops, or its effects under complement own, without an interval."""
    read = sweep.effect_by_rank if complement == "own" else sweep.drop_by_rank
    table = None if layer is None else read(layer)
    if table is None or not (table["rank"] == "full").any():
        return Estimate(why=NOT_STORED)
    ranks = np.array([np.inf if name == "full" else float(name) for name in table["rank"]])
    order = ranks.argsort()
    gains, place = table["mean"].to_numpy()[order], f"at layer {layer}"
    if np.isnan(gains[-1]):
        return Estimate(why=AT_FLOOR, place=place)
    if gains[-1] <= 0:
        return Estimate(why=NO_DROP, place=place)
    return Estimate(float(first_reached(gains >= REACH / 100 * gains[-1], ranks[order])), place=place)


def streams(sweep: StoredSweep, layer: int | None) -> Estimate:
    """The uncut map's drop at the residual stream less that at the attention module's output, in percentage points.

    Only summaries are stored of the second, so the interval runs from one end to the other's opposite end. Next to it the same
    of the map fitted on shuffled pairs.
    """
    where = {"map": sweep.map, "alpha": sweep.alpha, "layer": layer}
    table = None if layer is None else sweep.read("rq2", "transport_summary", **where)
    if table is None:
        return Estimate(why=NOT_STORED)
    place, gaps = f"at layer {layer}", {}
    for control in ("none", "shuffled"):
        lines = table[table["control"] == control].drop_duplicates("stream").set_index("stream").reindex([STREAM, MODULES[0]])
        (middle, other), (low, other_low), (high, other_high) = lines[["drop", "drop_low", "drop_high"]].to_numpy(float).T
        gaps[control] = middle - other, low - other_high, high - other_low
    if table[table["control"] == "none"]["stream"].isin([STREAM, MODULES[0]]).sum() < 2:
        return Estimate(why=NOT_STORED, place=place)
    if np.isnan(gaps["none"][0]):
        return Estimate(why=AT_FLOOR, place=place)
    control = "" if np.isnan(gaps["shuffled"][0]) else f"; shuffled pairs {gaps['shuffled'][0]:+.0f}"
    return Estimate(*gaps["none"], place=f"{place}{control}")


def directions(sweep: StoredSweep, seed: int) -> Estimate:
    """The summed effects of patching the residual stream in this direction, over those in the other one."""
    pair = sweep, replace(sweep, direction=next(name for name in DIRECTIONS if name != sweep.direction))
    tables = [table for side in pair if (table := side.effect()) is not None]
    if len(tables) < len(pair):
        return Estimate(why=NOT_STORED)
    stored = [lines for side in pair if (lines := side.read("rq1", "patch", stream=STREAM)) is not None]
    if len(stored) < len(pair):
        return Estimate(tables[0]["mean"].sum() / tables[1]["mean"].sum(), place=over(tables[0]))
    wide = [by_prompt(lines[lines["control"] == "none"], "layer") for lines in stored]
    both = wide[0].index.intersection(wide[1].index)
    wide = [part.loc[both] for part in wide]
    templates = templates_of(wide[0], sweep, "rq1", seed)
    if any(at_floor(part, templates, lines) for part, lines in zip(wide, stored)):
        return Estimate(why=AT_FLOOR)
    return of_sums(templates, *(part.to_numpy().sum(1) for part in wide))


def heads(sweep: StoredSweep, layer: int | None, chosen: str) -> Estimate:
    """The number of heads that reaches REACH. Only the curve's summary is stored, so the ends of its interval give the range."""
    table = None if layer is None else sweep.coverage(layer, chosen)
    if table is None or not (table["chosen"] == chosen).any():
        return Estimate(why=NOT_STORED)
    whole, place = int(table["size"].max()), f"of {int(table['size'].max())} at layer {layer}"
    if table["mean"].isna().any():
        return Estimate(why=AT_FLOOR, place=f"at layer {layer}")
    sizes = table["size"].to_numpy(float)
    if table["low"].isna().all():  # means alone, of few sizes
        reached, largest = table["mean"].to_numpy() >= REACH, int(table["size"][table["chosen"] == chosen].max())
        if largest < 2 or not reached[sizes <= largest].any():
            return Estimate(why=f"more than {largest} of {whole} at layer {layer}" if largest > 1 else NOT_STORED)
        return Estimate(float(first_reached(reached, sizes)), place=place, whole=whole)
    value, low, high = (first_reached(table[name].to_numpy() >= REACH, sizes) for name in ("mean", "high", "low"))
    return Estimate(float(value), float(low), float(high), place=place, whole=whole)


def attention(sweep: StoredSweep, seed: int) -> Estimate:
    tables = [table for module in MODULES if (table := sweep.read("rq1", "transplant", stream=module)) is not None]
    if len(tables) < len(MODULES):
        means = [float(table["mean"].sum()) for module in MODULES if (table := sweep.transplants(module)) is not None]
        return Estimate(means[0] / sum(means)) if len(means) == len(MODULES) else Estimate(why=NOT_STORED)
    lines = pd.concat(tables)
    wide = by_prompt(lines[lines["control"] == "none"], ["stream", "layer"])
    templates = templates_of(wide, sweep, "rq1", seed)
    if at_floor(wide, templates, lines):
        return Estimate(why=AT_FLOOR)
    is_attention = wide.columns.get_level_values("stream") == MODULES[0]
    return of_sums(templates, wide.to_numpy()[:, is_attention].sum(1), wide.to_numpy().sum(1))


def over(table: pd.DataFrame) -> str:
    """How many layers a mean over layers is of, where these are few."""
    return f"over {len(table)} layers"


def by_prompt(lines: pd.DataFrame, columns: str | Sequence[str]) -> pd.DataFrame:
    """Effects with a row per prompt; prompts that lack a condition are left out."""
    return lines.pivot(index="prompt", columns=columns, values="kl").astype(float).dropna()


def templates_of(wide: pd.DataFrame, sweep: StoredSweep, folder: str, seed: int) -> Templates:
    """The templates of the prompts that effects are of."""
    return Templates(sweep.templates(folder, list(wide.index)), seed)


def at_floor(wide: pd.DataFrame, templates: Templates, lines: pd.DataFrame) -> bool:
    """Whether even the largest effect cannot be distinguished from the floor of the self-patches."""
    floor = floor_of(lines.loc[lines["control"] == "self", "kl"].to_numpy())
    return bool(templates.touches(wide[wide.mean().idxmax()].to_numpy(), floor))


def first_reached(reached: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The smallest size that reaches; the last one where none does. reached: [..., sizes], sizes rising."""
    return sizes[np.where(reached.any(-1), reached.argmax(-1), -1)]


def of_sums(templates: Templates, top: np.ndarray, bottom: np.ndarray, place: str = "") -> Estimate:
    """The ratio of two sums over prompts. top, bottom: of each prompt."""
    ratio = RatioOfSums(templates, templates.sums(top), templates.sums(bottom))
    value, low, high = ratio.ends()
    return Estimate(value, low, high, place=place, ratio=ratio)


def from_draws(values: np.ndarray, place: str = "") -> Estimate:
    """values: over the prompts themselves, then over each resample. Percentiles are values that occurred, never between ranks."""
    ends = (100 - LEVEL) / 2, (100 + LEVEL) / 2
    low, high = np.percentile(values[1:], ends, method="inverted_cdf")
    return Estimate(values[0], low, high, place=place, draws=values[1:])
