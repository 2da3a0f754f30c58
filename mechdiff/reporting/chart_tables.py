"""Summarised lines to what a chart draws of them: the same on the app's pages and in a report. Needs no torch."""

import pandas as pd

from mechdiff.common.terms import MAP_CONTROLS
from mechdiff.reporting import charts
from mechdiff.study.stored_sweep import MODULES

NOUGHT = {"mean": "mean", "self": "own"}  # the controls that are rank nought: under which complement
SETS = {"greedy": "greedy", "topk": "top k"}  # how sets of heads are chosen: what the legend calls them
RANDOM = "random sets"
FLOOR = charts.CONTROL_NAMES["self"]


def join(*parts: pd.DataFrame) -> pd.DataFrame:
    """Tables below one another; empty ones have no columns to give."""
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)


def share(table: pd.DataFrame, name: str, factor: float = 1.0, **more) -> pd.DataFrame:
    """The lines with one of their ratios as mean, low and high, in per cent."""
    parts = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
    return table.assign(**{short: factor * table[column] for short, column in parts.items()}, **more)


def patched(table: pd.DataFrame) -> pd.DataFrame:
    """Patches with what a chart's legend calls them: their control, or that they are patched."""
    return table.assign(shown=table["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED))


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The lines with what a chart's legend calls them: their control, or their map."""
    return table.assign(shown=table["control"].map(charts.CONTROL_NAMES).fillna(table["map"]))


def by_module(lines: pd.DataFrame, suffix: str = "", floor: bool = True) -> pd.DataFrame:
    """Transplants with what the chart's legend calls them. One floor is enough: that of the first module."""
    if lines.empty:
        return lines
    shown = lines[lines["stream"].isin(MODULES)]
    wanted = (shown["control"] == "none") | ((shown["stream"] == MODULES[0]) & floor)
    return shown.assign(shown=(shown["stream"] + suffix).where(shown["control"] == "none", FLOOR))[wanted]


def of_uncut(every: pd.DataFrame, scaled: pd.DataFrame, name: str, alpha: str) -> pd.DataFrame:
    """The stored lines of a whole map at an alpha, with zscore's and those of the controls that belong to them.

    every: at alpha auto. scaled: the map's at that alpha, where it is another.
    """
    if every.empty:
        return every
    fixed = every["control"].isin(["self", "mean"])
    mine = every[(every["map"] == name) & ~fixed] if alpha == "auto" else scaled
    if mine.empty:
        return mine
    reference = every[(every["map"] == "zscore") & (every["map"] != name)]
    return join(mine, reference, every[fixed])


def of_cut(kept: pd.DataFrame, scaled: pd.DataFrame, name: str, alpha: str) -> pd.DataFrame:
    """The stored lines of a map's cuts at an alpha, with the controls that belong to it."""
    if kept.empty:
        return kept
    fixed = kept["control"].isin(["self", "mean"])
    mine = kept[(kept["map"] == name) & ~fixed]
    if alpha != "auto":
        mine = scaled[scaled["alpha"] == alpha] if len(scaled) else scaled
    return join(mine, kept[fixed]) if len(mine) else mine


def by_rank(found: pd.DataFrame, complement: str, ranks: set[str]) -> pd.DataFrame:
    """Lines over rank with their legend's names. What has no rank of its own (floor, mean ablation, uncut map) runs across."""
    if found.empty:
        return found
    cuts = found[found["control"] == "none"]
    cuts = cuts.assign(shown="complement " + cuts["complement"])
    flat = found[found["control"].isin(NOUGHT)]
    if "0" not in set(cuts["rank"]):  # a sweep keeps rank nought as the control that it is
        cuts = join(flat.assign(rank="0", shown="complement " + flat["control"].map(NOUGHT)), cuts)
    flat = flat.assign(shown=flat["control"].map(charts.CONTROL_NAMES))
    uncut = cuts[(cuts["rank"] == "full") & (cuts["complement"] == complement)].assign(shown=charts.UNCUT)
    flat = join(flat, uncut).drop(columns="rank").merge(pd.DataFrame({"rank": charts.rank_order(ranks)}), how="cross")
    controlled = found[found["control"].isin(MAP_CONTROLS) & (found["complement"] == complement)]
    controlled = controlled.assign(shown=controlled["control"].map(charts.CONTROL_NAMES))
    return join(cuts, flat, controlled)


def overlap(found: pd.DataFrame) -> pd.DataFrame:
    """The overlaps of a line of diagnostics, a row per rank."""
    names = [name for name in found if name.startswith("overlap_")] if len(found) else []
    rows = [(name.removeprefix("overlap_"), found.iloc[0][name]) for name in names]
    return pd.DataFrame(rows, columns=["rank", "overlap"]).dropna()


def single_heads(kept: pd.DataFrame) -> pd.DataFrame:
    """A row per layer and head of stored single heads: mean effect, and its share of all heads' effect at that layer."""
    shown = kept.rename(columns={"coverage": "share"})[kept["heads"] != "all"]
    return shown.assign(head=shown["heads"].astype(int))[["layer", "head", "mean", "share"]]


def by_size(found: pd.DataFrame, count: int, suffix: str = "", random: bool = True) -> pd.DataFrame:
    """Coverage in per cent over the number of heads, with what the legend calls each way of choosing sets."""
    if found.empty:
        return found
    sizes = [count if heads == "all" else heads.count("-") + 1 for heads in found["heads"]]
    found = share(found.assign(size=sizes), "coverage", 100).drop_duplicates(["chosen", "control", "heads"])
    whole = found[(found["chosen"] == "all") & (found["control"] == "none")]
    parts = []
    for chosen, name in SETS.items():
        mine = found[found["chosen"] == chosen]
        parts += [join(mine, whole).assign(shown=name + suffix)] if len(mine) else []
    drawn = found[found["chosen"] == "random"].groupby("size")["mean"]
    if random and len(drawn):
        sets = drawn.quantile([0.025, 0.5, 0.975]).unstack().set_axis(["low", "mean", "high"], axis=1).reset_index()
        parts.append(sets.assign(shown=RANDOM))
    return join(*parts)
