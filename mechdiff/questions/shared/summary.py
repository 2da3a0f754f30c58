"""A line per condition: mean effect with its 95 % interval, and the ratios that apply, with theirs. Needs no torch."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd

from mechdiff.maths.intervals import Templates, floor_of
from mechdiff.questions.shared.lines import SITE, Wide

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
