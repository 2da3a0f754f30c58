"""The chart of a question that has none of its own: its first number over layers, or a bar for every condition."""

from collections.abc import Sequence
from itertools import cycle

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import (
    BLUE,
    CONTROL_NAMES,
    CONTROLS,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PLUM,
    SOLID,
    Look,
    curves,
    layer_axis,
    layered,
    numbers,
    titled,
)

ASKED = ("pair", "domain", "question", "direction")  # columns that are the same in all lines
CONDITION = ("stream", "map", "rank", "complement", "alpha", "heads", "blend", "control")
COUNTS = ("prompt", "prompts", "templates", "n")
BOUNDS = ("low", "high")
PLAIN = "value"  # a series with nothing that tells it apart
MOST = 24  # series; a table of more is not drawn


def question_chart(
    lines: pd.DataFrame, title: str, layer: int | None = None, y: str = "", subtitle: str = "", columns: Sequence[str] = ()
) -> alt.LayerChart | None:
    """A question's summary, with the interval of its number, if it has one. None if there is no number, or too much, to draw.

    lines: a row per condition. layer: the chosen one, if a click may choose another. y: the axis' title; default: the column.
    columns: the question's own, which tell conditions apart.
    """
    name = measured(lines, columns)
    if name is None or lines.empty:
        return None
    table = with_interval(lines, name).assign(shown=series(lines, columns))
    if table["shown"].nunique() > MOST:
        return None
    y = y or name.replace("_", " ").capitalize()
    if "layer" not in table or table["layer"].nunique() < 2:
        return titled(bars(table, y), title, subtitle)
    return titled(layered(*curves(table, layer_axis(), looks(table["shown"]), y, now=layer)), title, subtitle)


def measured(lines: pd.DataFrame, columns: Sequence[str] = ()) -> str | None:
    """The column that is drawn: the mean, else the first of numbers that are neither a condition nor a count nor a bound."""
    if "mean" in lines:
        return "mean"
    names = [str(name) for name in lines if name not in (*ASKED, *CONDITION, *COUNTS, *columns, "layer")]
    return next((name for name in names if lines[name].dtype.kind == "f" and not name.endswith(BOUNDS)), None)


def with_interval(lines: pd.DataFrame, name: str) -> pd.DataFrame:
    """The lines with the drawn column as mean, and with low and high: its interval, or the value itself where it has none."""
    value = lines[name]
    for low, high in ((f"{name}_low", f"{name}_high"), BOUNDS):
        if low in lines and high in lines and value.between(lines[low], lines[high])[value.notna()].all():
            return lines.assign(mean=value, low=lines[low], high=lines[high])
    return lines.assign(mean=value, low=value, high=value)


def series(lines: pd.DataFrame, columns: Sequence[str] = ()) -> list[str]:
    """What tells each line apart beside its layer: texts that vary, and the conditions' columns that do."""
    names = [str(name) for name in lines if name in (*CONDITION, *columns) or lines[name].dtype.kind in "OUTSb"]
    varying = [name for name in names if name not in (*ASKED, "layer") and lines[name].astype(str).nunique() > 1]
    parts = [[label(name, value, lines[name].dtype.kind) for value in lines[name]] for name in varying]
    joined = [" · ".join(part for part in line if part != "none") for line in zip(*parts)]
    return [text or PLAIN for text in joined] if parts else [PLAIN] * len(lines)


def label(name: str, value: object, kind: str) -> str:
    """A value of a condition's column; a number of a question's own column with its name."""
    return f"{name} {value}" if kind in "fiu" and name not in CONDITION else CONTROL_NAMES.get(str(value), str(value))


def looks(names: pd.Series) -> dict[str, Look]:
    """A look for every series: four colours, then the same dashed; controls in grey."""
    kinds = cycle([(colour, dash, True) for dash in (SOLID, DASHED, DOTTED) for colour in (BLUE, ORANGE, GREEN, PLUM)])
    return {name: (GREY, CONTROLS[name], False) if name in CONTROLS else next(kinds) for name in dict.fromkeys(names)}


def bars(table: pd.DataFrame, y: str) -> alt.LayerChart:
    """A bar for each condition, with its interval."""
    names = alt.Y("shown:N", title=None, sort=list(dict.fromkeys(table["shown"])), axis=alt.Axis(labelLimit=300))
    base = alt.Chart(table)
    tip = [alt.Tooltip("shown:N", title="condition"), *numbers("mean", "low", "high")]
    return layered(
        base.mark_bar(color=BLUE, opacity=0.75).encode(alt.X("mean:Q", title=y), names, tooltip=tip),
        base.mark_rule(size=2).encode(alt.X("low:Q"), alt.X2("high:Q"), names),
    )
