"""Summarised lines to the table that a chart draws: the same on the app's pages and in a report. Needs no torch."""

import numpy as np
import pandas as pd

from mechdiff.common.terms import MAP_CONTROLS, WHITENED
from mechdiff.reporting import charts
from mechdiff.study.stored_sweep import MODULES

RANK_ZERO = {"mean": "mean", "self": "own"}  # the controls that are rank 0 -> under which complement
SETS = {"greedy": "greedy", "topk": "top k"}  # how sets of heads are chosen -> their series
RANDOM = "random sets"
FLOOR = charts.CONTROL_NAMES["self"]


def join(*parts: pd.DataFrame) -> pd.DataFrame:
    """Tables, one below the other, without the empty ones."""
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)


def share(table: pd.DataFrame, name: str, factor: float = 1.0, **more) -> pd.DataFrame:
    """The lines with one of their ratios as mean, low and high, in per cent, as a chart draws them. more: further columns."""
    parts = {"mean": name, "low": f"{name}_low", "high": f"{name}_high"}
    parts |= {f"band_{end}": f"{name}_band_{end}" for end in ("low", "high") if f"{name}_band_{end}" in table}
    table = table.drop(columns=["band_low", "band_high"], errors="ignore")
    return banded(table.assign(**{short: factor * table[column] for short, column in parts.items()}, **more))


def banded(table: pd.DataFrame) -> pd.DataFrame:
    """The lines with the ends of the band that holds for a whole chart, where one is stored, in place of each line's own."""
    if "band_low" not in table:
        return table
    stored = table["band_low"].notna()
    return table.assign(**{end: table[f"band_{end}"].where(stored, table[end]) for end in ("low", "high")})


def patched(table: pd.DataFrame) -> pd.DataFrame:
    """Patches with their series: their control, or that they are patched."""
    return banded(table.assign(shown=table["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED)))


def named(table: pd.DataFrame) -> pd.DataFrame:
    """The lines with their series: their control, or their map."""
    return banded(table.assign(shown=table["control"].map(charts.CONTROL_NAMES).fillna(table["map"])))


def recoveries(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Summaries of patches by what they replace, as recoveries over layers."""
    return join(*(share(lines[lines["layer"] >= 0], "recovery", shown=name) for name, lines in tables.items()))


def of_difference(lines: pd.DataFrame) -> pd.DataFrame:
    """Cuts of the difference as recoveries over ranks, with their series; the whole patch at every rank."""
    names = {"none": charts.OWN_DIRECTIONS, "random": charts.RANDOM_DIRECTIONS}
    lines = lines[lines["control"].isin(names)]
    lines = share(lines.assign(shown=lines["control"].map(names)), "recovery")
    whole = lines[lines["rank"] == "full"].assign(shown=charts.WHOLE_PATCH).drop(columns="rank")
    every = whole.merge(pd.DataFrame({"rank": charts.rank_order(lines["rank"])}), how="cross")
    return join(lines[lines["rank"] != "full"], every)


def removed(lines: pd.DataFrame, live: pd.DataFrame) -> pd.DataFrame:
    """What a map removes of the shift's effect, and of the z-score effect, over layers, stored and live, in per cent."""
    parts = []
    for name, column, factor in ((charts.BEYOND, "beyond_shift", 100), (charts.DROP, "drop", 1)):
        parts += [share(part, column, factor, shown=name) for part in (lines, live) if len(part) and column in part]
    return join(*parts)


def as_live(lines: pd.DataFrame, series: str = "live") -> pd.DataFrame:
    """Live lines, of one series where a chart has several."""
    return lines.assign(shown=series, live=True)


def by_module(lines: pd.DataFrame, live: bool = False, floor: bool = True) -> pd.DataFrame:
    """Transplants with their series. floor: whether to include the floor; that of the first module is enough."""
    if lines.empty:
        return lines
    modules = lines[lines["stream"].isin(MODULES)]
    wanted = (modules["control"] == "none") | ((modules["stream"] == MODULES[0]) & floor)
    return banded(modules.assign(shown=modules["stream"].where(modules["control"] == "none", FLOOR), live=live)[wanted])


def of_uncut(every: pd.DataFrame, scaled: pd.DataFrame, name: str, alpha: str) -> pd.DataFrame:
    """The stored lines of a full map at an alpha, with those of shift, z-score and of the controls that belong to them.

    every: at alpha auto. scaled: the map's lines at other alphas.
    """
    if every.empty:
        return every
    fixed = every["control"].isin(["self", "mean"])
    mapped = at_alpha(every[(every["map"] == name) & ~fixed], scaled, alpha)
    if mapped.empty:
        return mapped
    reference = every[every["map"].isin(["shift", "zscore"]) & (every["map"] != name)]
    return join(mapped, reference, every[fixed])


def judged(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """The map, the two that it is judged against, one constant shift and mean ablation, and what is live.

    Without a stored shift, z-score is in its place.
    """
    reference = "shift" if (rows["shown"] == "shift").any() else "zscore"
    live = rows["live"].eq(True) if "live" in rows else False
    return rows[rows["shown"].isin([name, reference, charts.CONTROL_NAMES["mean"]]) | live]


def of_cut(every: pd.DataFrame, scaled: pd.DataFrame, name: str, alpha: str) -> pd.DataFrame:
    """The stored lines of a map's cuts at an alpha, with the controls that belong to it.

    every: at alpha auto. scaled: the map's lines at other alphas.
    """
    if every.empty:
        return every
    fixed = every["control"].isin(["self", "mean"])
    mapped = at_alpha(every[(every["map"] == name) & ~fixed], scaled, alpha)
    return join(mapped, every[fixed]) if len(mapped) else mapped


def ends(lines: pd.DataFrame) -> str:
    """A subtitle's part on intervals, if the lines have any."""
    if lines["low"].isna().all():
        return ""
    whole = "band_low" in lines and lines["band_low"].notna().any()
    if "live" not in lines or not lines["live"].eq(True).any():
        return "; band: 95 % for the whole chart" if whole else "; band: 95 % CI"
    return "; band: 95 % for the whole chart; bars: 95 % CI" if whole else "; band, bars: 95 % CI"


def at_alpha(lines: pd.DataFrame, scaled: pd.DataFrame, alpha: str) -> pd.DataFrame:
    """A map's lines at an alpha: among its own, else among those of other scales."""
    here = lines[lines["alpha"] == alpha]
    if len(here) or alpha == "auto":
        return here if len(here) else lines
    return scaled[scaled["alpha"] == alpha] if len(scaled) else scaled


def by_rank(lines: pd.DataFrame, complement: str, ranks: set[str]) -> pd.DataFrame:
    """Lines over rank with their series. What has no rank of its own (floor, mean ablation, uncut map) gets every rank."""
    if lines.empty:
        return lines
    cuts = lines[lines["control"] == "none"]
    cuts = cuts.assign(shown="complement " + cuts["complement"])
    flat = lines[lines["control"].isin(RANK_ZERO)]
    if "0" not in set(cuts["rank"]):  # a sweep stores rank 0 as the control that it is
        zero = RANK_ZERO if complement != WHITENED else {"mean": WHITENED}
        cuts = join(flat.assign(rank="0", shown="complement " + flat["control"].map(zero)).dropna(subset="shown"), cuts)
    flat = flat.assign(shown=flat["control"].map(charts.CONTROL_NAMES))
    uncut = cuts[(cuts["rank"] == "full") & (cuts["complement"] == complement)].assign(shown=charts.UNCUT)
    flat = join(flat, uncut).drop(columns="rank").merge(pd.DataFrame({"rank": charts.rank_order(ranks)}), how="cross")
    controlled = lines[lines["control"].isin(MAP_CONTROLS) & (lines["complement"] == complement)]
    controlled = controlled.assign(shown=controlled["control"].map(charts.CONTROL_NAMES))
    return banded(join(cuts, flat, controlled))


def overlap(diagnostics: pd.DataFrame) -> pd.DataFrame:
    """The overlaps of the first line of a map's diagnostics, a row per rank."""
    names = [str(name) for name in diagnostics if str(name).startswith("overlap_")] if len(diagnostics) else []
    rows = [(name.removeprefix("overlap_"), diagnostics.iloc[0][name]) for name in names]
    return pd.DataFrame(rows, columns=["rank", "overlap"]).dropna()


def spectrum(diagnostics: pd.DataFrame) -> pd.DataFrame:
    """The cumulative singular values of the first line of a map's diagnostics, a row per rank; none for older ones."""
    names = [str(name) for name in diagnostics if str(name).startswith("spectrum_")] if len(diagnostics) else []
    rows = [(int(name.removeprefix("spectrum_")), diagnostics.iloc[0][name]) for name in names]
    return pd.DataFrame(rows, columns=["rank", "share"]).dropna().sort_values("rank", ignore_index=True)


def reached(spectrum: pd.DataFrame, share: float) -> int:
    """The first rank of a spectrum that reaches a share of its sum; the last one if none does."""
    enough = spectrum[spectrum["share"] >= share - 1e-3]
    return int((enough if len(enough) else spectrum.iloc[-1:])["rank"].iloc[0])


def best_drops(lines: pd.DataFrame) -> pd.DataFrame:
    """For every stream the line of the layer with the largest drop."""
    lines = lines.dropna(subset=["drop"]) if len(lines) else lines
    return lines.loc[lines.groupby("stream", sort=False)["drop"].idxmax()].reset_index(drop=True) if len(lines) else lines


def single_heads(lines: pd.DataFrame) -> pd.DataFrame:
    """A row per layer and head of stored single heads: mean effect, and its share of all heads' effect at that layer."""
    singles = lines.rename(columns={"coverage": "share"})[lines["heads"].str.isdigit()]
    return singles.assign(head=singles["heads"].astype(int))[["layer", "head", "mean", "share"]]


def by_size(lines: pd.DataFrame, count: int, live: bool = False, random: bool = True) -> pd.DataFrame:
    """Coverage in per cent over the number of heads; a series for each method of choosing sets.

    count: of the layer's heads. random: whether to include random sets, which are always drawn as a band.
    """
    if lines.empty:
        return lines
    sizes = [count if heads == "all" else heads.count("-") + 1 for heads in lines["heads"]]
    lines = share(lines.assign(size=sizes), "coverage", 100).drop_duplicates(["chosen", "control", "heads"])
    whole = lines[(lines["chosen"] == "all") & (lines["control"] == "none")]
    parts = []
    for chosen, name in SETS.items():
        sets = lines[lines["chosen"] == chosen]
        parts += [join(sets, whole).assign(shown=name, live=live)] if len(sets) else []
    drawn = lines[lines["chosen"] == "random"].groupby("size")["mean"]
    if random and len(drawn):
        quantiles = (
            drawn.quantile(np.array([0.025, 0.5, 0.975])).unstack().set_axis(["low", "mean", "high"], axis=1).reset_index()
        )
        parts.append(quantiles.assign(shown=RANDOM, live=False))
    return join(*parts)
