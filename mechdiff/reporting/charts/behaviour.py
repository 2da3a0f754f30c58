"""How models write: marks of style with intervals, base hollow and tuned filled, of one pair or of two stored sweeps."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREY, NARROW, ORANGE, layered, numbers, titled

ROW = 40  # a measure's height in pixels, enough for two pairs
COLOURS = {"A": BLUE, "B": ORANGE}  # by the first letter of a sweep's name


def style_marks(table: pd.DataFrame, subtitle: str = "", compared: bool = False) -> alt.LayerChart:
    """Marks per 100 tokens of each kind, base against tuned.

    table: a row per kind and model, with columns kind, model (base, tuned), mean, low, high, and where pairs are compared choice
    (`A: ...`, `B: ...`).
    """
    table = table.assign(choice=table["choice"] if compared else "")
    names = list(dict.fromkeys(table["choice"]))
    colours = [COLOURS.get(name[:1], BLUE) for name in names]
    table = table.assign(place=table["choice"] + table["model"])
    legend = alt.Legend(orient="bottom", columns=1, labelFontSize=13, labelLimit=300, symbolType="circle") if compared else None
    colour = alt.Color("choice:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    order = [name + model for name in names for model in ("base", "tuned")]
    axis = alt.Axis(labelLimit=120, grid=False, ticks=False)
    y = alt.Y("kind:N", title="Kind of mark", sort=list(dict.fromkeys(table["kind"])), axis=axis)
    offset = alt.YOffset("place:N", sort=order, scale=alt.Scale(paddingOuter=0.6))
    x = alt.X("mean:Q", title="Marks per 100 tokens", axis=alt.Axis(tickCount=5), scale=alt.Scale(zero=True, nice=True))
    tip = [*([alt.Tooltip("choice:N")] if compared else []), alt.Tooltip("kind:N"), alt.Tooltip("model:N")]
    ends = alt.X("low:Q", title=x["title"]), alt.X2("high:Q")
    layers = [alt.Chart(table).mark_rule(size=1.8, opacity=0.75).encode(y, *ends, offset, colour)]
    for model, filled in (("base", False), ("tuned", True)):
        points = alt.Chart(table[table["model"] == model]).mark_point(size=75, filled=filled, strokeWidth=2, opacity=1)
        layers.append(points.encode(y, x, offset, colour, tooltip=[*tip, *numbers("mean", "low", "high")]))
    grid = alt.Chart(table[["kind"]].drop_duplicates()).mark_rule(color=GREY, opacity=0.15, yOffset=ROW / 2).encode(y)
    chart = titled(
        layered(grid, *layers), "How do they write?", ["Hollow: base, filled: tuned; lines: 95 % CI", subtitle], NARROW
    )
    chart.height = ROW * table["kind"].nunique() * (1.3 if compared else 1)
    return chart
