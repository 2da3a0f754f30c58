"""What all charts share: colours, titles, axes, curves with bands, and marks that can be clicked. No streamlit.

Channels are constructed with keywords: every setter method, bare field name or alt.value costs Altair milliseconds.
"""

import textwrap
from typing import Any, TypeVar

import altair as alt
import numpy as np
import pandas as pd

from mechdiff.reporting.charts.large import staged

HEIGHT = 240
LINE, NARROW = 56, 44  # characters in a line of a subtitle, and of a narrow chart's
BLUE, ORANGE, GREY, GREEN = "#3f78d8", "#e07b39", "#8a8f98", "#3a9d6e"
LIGHT, PLUM = "#93b5ec", "#a8437c"
RISING = [
    "rgba(138, 143, 152, .12)",
    BLUE,
]  # a map's colours from lowest to highest value, for light and dark backgrounds
KL = "Effect: KL(patched || clean), nats"
PATCHED = "patched"  # the series of patches that are no controls
PICK = "pick"  # the name of the selection that a click sets
LEGEND: dict[str, Any] = {
    "orient": "bottom",
    "symbolType": "stroke",
    "symbolSize": 700,
    "symbolOpacity": 1,
    "symbolStrokeWidth": 2.5,
    "columns": alt.ExprRef("width < 420 ? 2 : width < 700 ? 3 : 5"),
    "labelFontSize": 13,
    "labelLimit": 260,
    "offset": 6,
    "columnPadding": 14,
}
SOLID, DASHED, DOTTED = [1, 0], [7, 4], [2, 2]
AnyChart = TypeVar("AnyChart", alt.Chart, alt.LayerChart)
Look = tuple[str, list[int], bool]  # colour, dash, whether it has a band
LIVE_LOOK: Look = (ORANGE, SOLID, False)
LONG_LEGEND: dict[str, Any] = LEGEND | {"columns": 1}  # for long names
CONTROLS = {  # a control's dashes; all controls are thin and grey, and drawn behind the rest
    "self (floor)": SOLID,
    "mean ablation": [9, 4],
    "random map": DOTTED,
    "shuffled rows": [9, 3, 2, 3],
    "other layer's map": [4, 8],
}
CONTROL_NAMES: dict[str, str] = dict(zip(("self", "mean", "random", "shuffled", "other-layer"), CONTROLS))


def layered(*layers: alt.Chart) -> alt.LayerChart:
    """Layers on top of each other, the first at the back."""
    return alt.LayerChart(layer=list(layers))


def layer_axis(title: str = "Layer") -> alt.X:
    return alt.X("layer:Q", title=title, axis=alt.Axis(tickMinStep=1, grid=False), scale=alt.Scale(nice=False))


def titled(chart: AnyChart, title: str, subtitle: str | list[str] = "", line: int = LINE) -> AnyChart:
    """A chart under its question, with a subtitle. Vega does not wrap text, so both are cut into lines here.

    line: characters in a line of the subtitle; NARROW also for the title.
    """
    parts = [subtitle] if isinstance(subtitle, str) else subtitle
    lines = [text for part in parts for text in textwrap.wrap(part.replace(" %", "\u00a0%").replace("% CI", "%\u00a0CI"), line)]
    text = textwrap.wrap(title, line) if line == NARROW < len(title) else title
    style: dict[str, Any] = {"fontSize": 16, "subtitleFontSize": 13, "subtitleColor": GREY, "subtitleLineHeight": 16, "offset": 8}
    chart.title = alt.TitleParams(text, subtitle=lines, anchor="start", **style)  # set in place: every method copies the chart
    chart.height, chart.autosize = HEIGHT, alt.AutoSizeParams(type="fit-x", contains="padding")
    chart.config = alt.Config(axis=alt.AxisConfig(labelFontSize=13, titleFontSize=13, titlePadding=6))
    return chart


class Unchecked:
    """A chart to be drawn without validation against Vega-Lite's schema, which takes a third of the time. Tests validate all."""

    def __init__(self, chart):
        self.chart = chart

    def to_dict(self) -> dict:
        return staged(self.chart.to_dict(validate=False))


def chosen_layer(layer: int) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(alt.X("layer:Q"))


def numbers(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".4~g") for name in names]


def clickable(marks: alt.Chart, now: object, *names: str, nearest: bool = True) -> alt.Chart:
    """Marks whose fields of these names a click returns. nearest: a click next to the marks selects the nearest one.

    now: what is chosen. A click returns it as well: a click that returned the same as the previous one would go unnoticed.
    """
    chosen = "".join(letter if letter.isalnum() else "-" for letter in str(now))
    pick = alt.selection_point(name=PICK, fields=[*names, "now"], on="click", clear=False, toggle=False, nearest=nearest)
    marks = marks.transform_calculate(now=f"'{chosen}'")
    marks.params = [pick.param]
    return marks


def curves(
    table: pd.DataFrame,
    x: alt.X,
    looks: dict[str, Look],
    y: str,
    now: object = None,
    live_looks: dict[str, Look] | None = None,
    **scale,
) -> list[alt.Chart]:
    """Lines with bands, and live points with their intervals: the layers of a chart.

    table: a line per point, with the x field and columns shown (its series), mean, low, high, perhaps live (bool), and more for
    the tooltip. looks: series -> colour, dash, whether it has a band; in the legend's order. live_looks: the same of live
    series; None: all live points are one series. y: the axis' title. now: what is chosen on the x axis, if a click on a point may
    choose another.
    """
    table, styles = labelled(table, looks, live_looks)
    live, control = is_live(table) & ~table["shown"].isin(CONTROLS), table["shown"].isin(CONTROLS)
    names, (colours, dashes) = [*styles], ([look[i] for look in styles.values()] for i in range(2))
    legend = None if len(names) == 1 else alt.Legend(**LEGEND)
    colour = alt.Color("series:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    dash = alt.StrokeDash("series:N", title=None, scale=alt.Scale(domain=names, range=dashes), legend=legend)
    tip = [alt.Tooltip(x["shorthand"]), alt.Tooltip("series:N", title="what"), *numbers("mean", "low", "high")]
    tip += [alt.Tooltip(f"{name}:Q") for name in ("prompts", "templates") if name in table]
    axis, low, high = alt.Y("mean:Q", title=y, scale=alt.Scale(**scale)), alt.Y("low:Q", title=y), alt.Y2("high:Q")
    clip = "domain" in scale
    banded = table[table["series"].isin([name for name in names if styles[name][2]]) & ~live]
    layers = []
    if len(banded):
        layers.append(alt.Chart(banded).mark_area(opacity=0.18, clip=clip).encode(x, low, high, colour))
    behind = pd.concat([table[control], table[~control]], ignore_index=True)  # what comes first is drawn first
    lives, controls = list(dict.fromkeys(table["series"][live])), [name for name in names if name in CONTROLS]
    size = among(lives + controls, alt.SizeValue, 1.3, 2.5)
    layers.append(alt.Chart(behind).mark_line(clip=clip).encode(x, axis, colour, dash, size))
    if live.any():
        layers.append(alt.Chart(table[live]).mark_rule(size=2.5, clip=clip).encode(x, low, high, colour))
    size, clear = among(lives, alt.SizeValue, 110, 24), among(controls, alt.OpacityValue, 0, 1)
    points = alt.Chart(behind).mark_point(filled=True, clip=clip).encode(x, axis, colour, size, clear, tooltip=tip)
    return [*layers, points if now is None else clickable(points, now, x["shorthand"].partition(":")[0])]


def with_long_legend(layer: alt.Chart) -> alt.Chart:
    """The layer with a line of the legend for each series, as their names are long, and no tooltip on bands."""
    if layer.mark["type"] == "area":
        layer.mark["tooltip"] = None
    for channel in ("color", "strokeDash"):
        encoding = getattr(layer.encoding, channel)
        if encoding is not alt.Undefined and encoding["legend"]:
            encoding["legend"] = alt.Legend(**LONG_LEGEND)
    return layer


def is_live(table: pd.DataFrame) -> pd.Series:
    """Which lines are live."""
    return table["live"].eq(True) if "live" in table else pd.Series(False, index=table.index)


def labelled(
    table: pd.DataFrame, looks: dict[str, Look], live_looks: dict[str, Look] | None
) -> tuple[pd.DataFrame, dict[str, Look]]:
    """The lines with their series as the legend calls it, and the looks of these labels, in the legend's order."""
    table = table.reset_index(drop=True)
    live = is_live(table) & ~table["shown"].isin(CONTROLS)
    styles, series = {}, pd.Series("", index=table.index)
    for name in [name for name in looks if name in set(table["shown"][~live])]:
        lines = ~live & (table["shown"] == name)
        label = counted("stored", table[lines]) if name == PATCHED and live.any() else name
        styles[label], series[lines] = looks[name], label
    groups = {"": live} if live_looks is None else {name: live & (table["shown"] == name) for name in live_looks}
    for name, lines in groups.items():
        if lines.any():
            label = counted(f"live {name}".strip(), table[lines])
            styles[label], series[lines] = (live_looks or {}).get(name, LIVE_LOOK), label
    return table.assign(series=series)[series != ""], styles


def counted(label: str, table: pd.DataFrame) -> str:
    """A label with the number of prompts, where all lines have the same."""
    counts = table["prompts"].dropna().unique() if "prompts" in table else []
    return f"{label} ({counts[0]:.0f} prompts)" if len(counts) == 1 else label


def among(names: list[str], channel: type, inside: float, outside: float):
    """A channel's value for these series, and for the rest."""
    return value_where(channel, {"field": "series", "oneOf": names}, inside, outside)


def value_where(channel: type, test: dict | str, inside, outside):
    """A channel's value where a test holds, and elsewhere."""
    return channel(outside, condition={"test": test, "value": inside})


def room(table: pd.DataFrame) -> tuple[dict, str]:
    """The scale of an effect axis, and a note on it: a control that is off the scale would flatten everything else."""
    far = table["shown"] == CONTROL_NAMES["other-layer"]
    top, most = table[~far][["mean", "high"]].max().max(), table[far]["mean"].max()
    if not far.any() or far.all() or most <= 1.5 * top:
        return {}, ""
    return {"domain": [0, 1.1 * top]}, f"Other-layer map off scale (max {most:.3g} nats)"


def percent(table: pd.DataFrame) -> list[float]:
    """The range of an axis in per cent: up to 100, and down to the lowest value, but not below -100."""
    lowest = float(np.nanmin(table[["low", "mean"]].to_numpy(float), initial=0.0))
    return [max(-100.0, lowest), 100.0]


def zero_line() -> alt.Chart:
    return alt.Chart(pd.DataFrame({"zero": [0.0]})).mark_rule(color=GREY, size=1).encode(alt.Y("zero:Q"))
