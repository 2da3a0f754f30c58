"""A line per condition: mean effect with its 95 % interval, and the ratios that apply, with theirs. Needs no torch."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import APPROXIMATE, RatioOfSums, Templates, floor_of
from mechdiff.maths.multiple import band
from mechdiff.questions.shared.lines import SITE, Wide

LABELS_OF = {"heads": ("chosen",)}  # columns that only say what a point of a chart is
AT_ONCE = 256  # conditions whose resamples one thread holds in memory together
KEYS = ["pair", "domain", "question", "direction", "split", *SITE, "chosen", "stack", "intervention", "vocabulary"]


def wide(table: pd.DataFrame, ratio: str = "drop", columns: Iterable[str] = (), metrics: Iterable[str] = ()) -> Wide:
    """A long table, a line per prompt and condition, with a row per condition again. columns: what tells conditions apart,
    beside KEYS. metrics: what is averaged, beside the effect.
    """
    keys = [name for name in dict.fromkeys((*KEYS, *columns)) if name in table]
    code, conditions = pd.factorize(pd.MultiIndex.from_frame(table[keys]))
    shape = len(conditions), table["prompt"].max() + 1 if len(table) else 0
    values = {}
    for name in (name for name in table if name not in (*keys, "prompt", "template")):
        values[name] = np.full(shape, np.nan)
        values[name][code, table["prompt"]] = table[name]
    return Wide(conditions.to_frame(index=False).set_axis(keys, axis=1), values, ratio, tuple(metrics))


def effect_summary(effects: Wide, clusters: list[str]) -> pd.DataFrame:
    """Conditions with mean, low, high (nats), prompts, templates, and the ratios that apply, each with _low and _high:

    recovery: 1 - mean KL(donor || patched) / mean KL(donor || clean). drop (transport, rank): per cent of the zscore effect;
    not under complement `own`, where rank 0 would drop everything. beyond_shift (transport): 1 - KL_map / KL_shift. coverage
    (heads): share of all heads' effect. All are blank where their denominator is at the floor of the self-patches, if those
    were requested.
    clusters: the template of each prompt. Prompts that lack a condition are left out.
    """
    complete = ~np.isnan(effects.values["kl"]).any(0) if len(effects.conditions) else np.zeros(0, bool)
    if not complete.any():
        return effects.conditions.iloc[:0].assign(mean=[], low=[], high=[], prompts=[], templates=[])
    chosen = [clusters[prompt] for prompt in np.flatnonzero(complete)]
    templates = Templates(chosen)
    values = {name: measure[:, complete].T.astype(float) for name, measure in effects.values.items()}
    floor = floor_of(values["kl"][:, (effects.conditions["control"] == "self").to_numpy()])

    def part(start: int) -> pd.DataFrame:
        columns = slice(start, start + AT_ONCE)
        chunk = {name: measure[:, columns] for name, measure in values.items()}
        return measures(effects.conditions.iloc[columns], chunk, templates, floor, effects.ratio, effects.metrics)

    with ThreadPoolExecutor() as pool:
        numbers = pd.concat(pool.map(part, range(0, len(effects.conditions), AT_ONCE)), ignore_index=True)
    counts = {"prompts": len(chosen), "templates": templates.count}
    return effects.conditions.reset_index(drop=True).join(numbers).assign(**counts)


def bands(effects: Wide, clusters: list[str], x: str) -> pd.DataFrame:
    """Simultaneous 95 % bands of the mean effect, and of the ratio that its chart shows, where there are templates enough.

    x: the column along one chart; conditions that differ in nothing else are its points. Returns band_low and band_high, and
    those of the ratio as NAME_band_low, NAME_band_high, a row per condition; nothing where there are under APPROXIMATE templates.
    """
    complete = ~np.isnan(effects.values["kl"]).any(0) if len(effects.conditions) else np.zeros(0, bool)
    templates = Templates([clusters[prompt] for prompt in np.flatnonzero(complete)]) if complete.any() else None
    labels = effects.conditions.reset_index(drop=True)
    if templates is None or templates.count < APPROXIMATE:
        return pd.DataFrame(index=labels.index)
    values = {name: measure[:, complete].T.astype(float) for name, measure in effects.values.items()}
    others = [name for name in labels if name != x and name not in LABELS_OF.get(x, ())]
    charts = [rows for _, rows in labels.groupby(others, sort=False, dropna=False).indices.items()]
    with ThreadPoolExecutor() as pool:
        parts = list(pool.map(lambda rows: bands_of_chart(rows, values, templates, effects.ratio), charts))
    return pd.concat(parts).sort_index() if parts else pd.DataFrame(index=labels.index)


def bands_of_chart(rows: np.ndarray, values: dict[str, np.ndarray], templates: Templates, ratio: str) -> pd.DataFrame:
    """The bands of one chart's conditions, indexed by their rows."""
    columns = dict(zip(("band_low", "band_high"), band(templates.average(values["kl"][:, rows]))))
    reference, name = ("kl_shift", "beyond_shift") if "kl_shift" in values else ("kl_reference", ratio)
    if reference in values:
        top, bottom = values["kl"][:, rows], values[reference][:, rows]
    elif "kl_to_donor" in values:
        top, bottom, name = values["kl_to_donor"][:, rows], values["kl_donor_clean"][:, rows], "recovery"
    else:
        return pd.DataFrame(columns, index=rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = band(RatioOfSums(templates, templates.sums(top), templates.sums(bottom)))
    if name != "coverage":
        factor = 100 if name == "drop" else 1
        low, high = factor * (1 - high), factor * (1 - low)
    return pd.DataFrame(columns | {f"{name}_band_low": low, f"{name}_band_high": high}, index=rows)


def measures(
    conditions: pd.DataFrame, values: dict, templates: Templates, floor: float, name: str, metrics: Iterable[str]
) -> pd.DataFrame:
    """The mean effect, the ratios and the means of metrics of some conditions. name: what kl / kl_reference is called."""
    columns: dict[str, np.ndarray] = dict(zip(("mean", "low", "high"), templates.mean(values["kl"])))

    def add(name: str, middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
        columns[name], columns[f"{name}_low"], columns[f"{name}_high"] = middle, low, high

    if "kl_to_donor" in values and not np.isnan(values["kl_to_donor"]).any():
        share, low, high = templates.ratio(values["kl_to_donor"], values["kl_donor_clean"], floor)
        add("recovery", 1 - share, 1 - high, 1 - low)
    if "kl_reference" in values:
        share, low, high = templates.ratio(values["kl"], values["kl_reference"], floor)
        if name == "coverage":
            add("coverage", share, low, high)
        else:
            blank = np.where(conditions["complement"] == "own", np.nan, 1.0) if "complement" in conditions else 1.0
            add("drop", 100 * (1 - share) * blank, 100 * (1 - high) * blank, 100 * (1 - low) * blank)
    if "kl_shift" in values:
        share, low, high = templates.ratio(values["kl"], values["kl_shift"], floor)
        add("beyond_shift", 1 - share, 1 - high, 1 - low)
    for metric in metrics:
        add(metric, *templates.mean(values[metric]))
    return pd.DataFrame(columns)
