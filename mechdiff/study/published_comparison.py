"""Published values against a stored sweep's own, number by number, in words. Needs no torch."""

from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from mechdiff.common.terms import WHITENED
from mechdiff.study import published
from mechdiff.study.stored_sweep import StoredSweep, sized

COLUMNS = ["quantity", "layer", "stream", "map", "alpha", "rank", "heads", "direction", "value", "valid", "reason", "note"]
KEYS = ["layer", "stream", "map", "alpha", "rank", "heads"]  # what tells a sweep's lines apart
RESULTS = ["ours", "low", "high", "difference", "verdict"]
NONE = "not comparable: "
EFFECTS = (("rq1", "patch_summary"), ("rq2", "transport_summary"), ("rq2", "alpha_summary"))
EFFECTS += (("rq3", "rank_summary"), ("rq3", "alpha_summary"))
VALUES = ["value", "low", "high"]
Lines = pd.DataFrame


def measured(tables: tuple[tuple[str, str], ...], value: str, low: str, high: str) -> Callable[[StoredSweep, dict], Lines]:
    """What reads one quantity's lines with columns value, low, high from the first table that has the condition."""

    def read(sweep: StoredSweep, keys: dict[str, Any]) -> Lines:
        for folder, name in tables:
            table = sweep.read(folder, name)
            if table is not None and value in table and len(lines := matching(table, keys)):
                return lines[[value, low, high]].set_axis(VALUES, axis=1)
        return pd.DataFrame()

    return read


def covered(sweep: StoredSweep, keys: dict[str, Any]) -> Lines:
    """Coverage, in per cent of all heads, of a set of heads, or of the best `rank` heads together."""
    if "heads" in keys:
        sets = sweep.read("rq4", "heads_summary", layer=keys.get("layer"), heads=keys["heads"], control="none")
        return pd.DataFrame() if sets is None else in_per_cent(sets)
    table = sweep.read("rq4", "coverage_summary", layer=keys.get("layer"))
    if table is None or "rank" not in keys:
        return pd.DataFrame()
    sets = sized(table[(table["chosen"] == "topk") & (table["control"] == "none")])
    sets = sets[sets["size"].map(text) == keys["rank"]]
    return in_per_cent(sets)


def in_per_cent(sets: pd.DataFrame) -> pd.DataFrame:
    return sets[["coverage", "coverage_low", "coverage_high"]].mul(100).set_axis(VALUES, axis=1)


QUANTITIES: dict[str, Callable[[StoredSweep, dict[str, Any]], Lines]] = {
    "cka": measured((("rq1", "drift"),), "cka", "low_plain", "high_plain"),
    "cka_debiased": measured((("rq1", "drift"),), "cka_debiased", "low", "high"),
    "kl": measured(EFFECTS, "mean", "low", "high"),  # nats
    "drop": measured(EFFECTS, "drop", "drop_low", "drop_high"),  # per cent of the z-score effect
    "coverage": covered,
}


def published_values(pair: str, prompts: str) -> pd.DataFrame:
    """The published values of a pair on its prompts, with COLUMNS; without lines where nothing was published.

    A set of heads that the study chose stands for our set of the same size, chosen the same way.
    """
    values = published.of_pair(pair, prompts)
    values = values[values["control"] == ""]
    chosen = values["chosen"].ne("") & values["size"].notna()
    ranged = values["layer2"].notna()
    values = values.assign(
        rank=values["rank"].mask(chosen, values["size"].map("{:.0f}".format)),
        heads=values["heads"].mask(chosen, ""),
        stream=values["stream"].mask(values["quantity"].eq("coverage"), ""),
        valid=values["valid"].astype(bool) & ~ranged,
        reason=values["reason"].mask(ranged, "published as a range of layers and values"),
        note=values["definition"],
    )
    return values[COLUMNS].reset_index(drop=True)


def compare(values: pd.DataFrame, sweep: StoredSweep) -> pd.DataFrame:
    """The published values with ours next to them: columns ours, low, high (95 % interval), difference (ours less published),
    and verdict, in words.

    values: a line per published value, with COLUMNS. A key that is empty is not asked for; a direction that is empty is the
    sweep's. A value that is not valid is not compared, for its reason.
    """
    rows = [compared(row, sweep) for row in values.to_dict("records")]
    return pd.concat([values.reset_index(drop=True), pd.DataFrame(rows, columns=pd.Index(RESULTS))], axis=1)


def compared(row: dict[Hashable, Any], sweep: StoredSweep) -> dict[str, Any]:
    """One published value against ours."""
    empty = dict.fromkeys(RESULTS[:-1], np.nan)
    if row["valid"] is not None and not pd.isna(row["valid"]) and not row["valid"]:
        return empty | {"verdict": f"{NONE}{row['reason']}"}
    if row["quantity"] not in QUANTITIES:
        return empty | {"verdict": f"{NONE}a sweep does not measure {row['quantity']}"}
    keys = {name: key_of(name, row[name]) for name in KEYS if not blank(row[name])}
    lines = QUANTITIES[row["quantity"]](sweep if blank(row["direction"]) else replace(sweep, direction=row["direction"]), keys)
    if lines.empty:
        return empty | {"verdict": f"{NONE}no stored value at {described(keys)}"}
    if len(lines) > 1:
        return empty | {"verdict": f"{NONE}{len(lines)} stored values at {described(keys)}"}
    ours, low, high = (float(lines[name].iloc[0]) for name in VALUES)
    values = {"ours": ours, "low": low, "high": high, "difference": ours - row["value"]}
    return values | {"verdict": verdict(row["value"], ours, low, high)}


def verdict(published: float, ours: float, low: float, high: float) -> str:
    """Whether a published value is within our interval, or by how much ours differs."""
    if np.isnan(ours):
        return f"{NONE}ours has no value: its effect is rounding"
    share = f", {(ours - published) / abs(published):+.0%}" if published else ""
    if np.isnan([low, high]).any():
        return f"differs by {ours - published:+.3g}{share}; ours has no interval"
    if low <= published <= high:
        return f"agrees: within our interval, {low:.3g} to {high:.3g}"
    return f"differs by {ours - published:+.3g}{share}: outside our interval, {low:.3g} to {high:.3g}"


def matching(table: pd.DataFrame, keys: dict[str, Any]) -> pd.DataFrame:
    """The lines of a condition, without controls, cuts under another complement than the mean, and sets of heads.

    A table without a column that is asked for has none, unless what is asked for is that nothing was done: no map, no rank cut.
    """
    fixed = {"control": ("none",), "complement": ("mean", "", WHITENED), "heads": ("",)}
    for name, values in fixed.items():
        if name in table:
            table = table[table[name].isin(values)]
    for name, value in keys.items():
        if name in table:
            table = table[table[name] == value if name == "layer" else table[name].map(text) == value]
        elif (name, value) not in {("map", "none"), ("rank", "full"), ("alpha", "1")}:
            return table.iloc[:0]
    return table


def key_of(name: str, value: Any) -> Any:
    """A key as the tables have it: a layer as a number, a set of heads as it is, all else as text."""
    return int(value) if name == "layer" else str(value) if name == "heads" else text(value)


def blank(value: object) -> bool:
    return value is None or value == "" or (isinstance(value, float) and np.isnan(value))


def text(value: object) -> str:
    """A key as text, one and the same for 1, 1.0 and "1.0"."""
    try:
        return f"{float(str(value)):g}"
    except ValueError:
        return str(value)


def described(keys: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in keys.items()) or "any place"


def as_lines(table: pd.DataFrame) -> list[str]:
    """The comparison for a terminal, a line per value."""
    lines = []
    for row in table.to_dict("records"):
        keys = described({name: text(row[name]) for name in [*KEYS, "direction"] if not blank(row[name])})
        ours = "" if np.isnan(row["ours"]) else f", here {row['ours']:.3g}"
        lines.append(f"{row['quantity']}, {keys}: published {row['value']:.3g}{ours}. {row['verdict']}")
    return lines
