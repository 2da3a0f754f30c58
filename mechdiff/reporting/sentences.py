"""Numbers in sentences and tables: digits, intervals, lists of layers, a map against its controls. Needs no torch."""

from collections.abc import Iterable

import pandas as pd

from mechdiff.common.terms import FIXED
from mechdiff.reporting import charts

EFFECT = {"effect, nats": ("mean", "low", "high")}  # a measure's heading -> its columns
DROP = {"drop, %": ("drop", "drop_low", "drop_high")}
COVERAGE = {"coverage, %": ("coverage", "coverage_low", "coverage_high")}


def recovery(table: pd.DataFrame) -> dict[str, tuple[str, str, str]]:
    """The recovery's columns, if the table has them."""
    return {"recovery, %": ("recovery", "recovery_low", "recovery_high")} if "recovery" in table else {}


def digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:#.3g}".rstrip(".")


def number(line: pd.Series, name: str = "", factor: float = 1.0, unit: str = "nats") -> str:
    """A line's mean, or one of its ratios, with its interval. Per cents have no decimals."""
    columns = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    mean, low, high = (factor * line[column] for column in columns)
    if mean != mean:
        return "not defined"
    show = "{:z.0f}".format if unit == "%" else digits
    ends = f" [{show(low)}, {show(high)}]" if low <= high else " (no interval)"
    return f"{show(mean)} %{ends}" if unit == "%" else f"{show(mean)}{ends} {unit}".strip()


def largest(table: pd.DataFrame, name: str = "mean") -> pd.Series:
    return table.iloc[int(table[name].argmax())]


def listed(layers: Iterable[int]) -> str:
    """Layers as text, with runs joined: 4, 6 to 9."""
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs) or "none"


def by_condition(table: pd.DataFrame, measures: dict[str, tuple[str, str, str]], own: str) -> pd.DataFrame:
    """A table for people: a row per condition, and its numbers with intervals. own: the name of what is not a control."""
    rows = []
    for _, line in table.iterrows():
        row = {"condition": charts.CONTROL_NAMES.get(line["control"], own if line["map"] not in FIXED else line["map"])}
        for label, columns in measures.items():
            unit, factor = ("%", 1 if "drop" in label else 100) if label.endswith("%") else ("", 1)
            values = pd.Series([line[column] for column in columns], ["mean", "low", "high"])
            row[label] = number(values, "", factor, unit).replace(" %", "")
        rows.append(row)
    return pd.DataFrame(rows)


def against_controls(judged: pd.DataFrame) -> str:
    """Which controls clearly have more effect than the map, which less, and which cannot be distinguished from it.

    judged: a row per control, with columns shown (its name) and more (1, -1, or 0 where it is not clear).
    """
    headings = {1: "Clearly more effect than the map", -1: "Clearly less", 0: "Not clearly different"}
    groups = {heading: judged.loc[judged["more"] == sign, "shown"] for sign, heading in headings.items()}
    return " ".join(f"{heading}: {', '.join(members)}." for heading, members in groups.items() if len(members))


def missing(parts: dict[str, object]) -> str:
    """The names of the parts that are None."""
    return ", ".join(name for name, part in parts.items() if part is None)
