"""What every chart shares: colours, titles, axes, curves with bands, and marks that can be clicked. No streamlit.

Channels are written whole, with keywords: a setter method, a bare field name or alt.value costs Altair milliseconds each.
"""

import textwrap

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.large import staged

HEIGHT = 240
LINE, NARROW = 56, 44  # letters of a subtitle's line, and of a narrow chart's
BLUE, ORANGE, GREY, GREEN = "#3f78d8", "#e07b39", "#8a8f98", "#3a9d6e"
LIGHT, PLUM = "#93b5ec", "#a8437c"
RISING = ["rgba(138, 143, 152, .12)", BLUE]  # the colours of a map from its least to its most, on light and dark ground alike
KL = "Effect: KL(patched || clean), nats"
LIVE = "these prompts, live"  # what is live ends so, and is drawn as points
PICK = "pick"  # the name of the selection that a click makes
LEGEND = {
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
CONTROLS = {  # a control's dashes: all are thin and grey, and stand behind what they are controls of
    "self (floor)": SOLID,
    "mean ablation": [9, 4],
    "random map": DOTTED,
    "shuffled rows": [9, 3, 2, 3],
    "other layer's map": [4, 8],
}
CONTROL_NAMES = dict(zip(("self", "mean", "random", "shuffled", "other-layer"), CONTROLS))


def layer_axis(title: str = "Layer") -> alt.X:
    return alt.X("layer:Q", title=title, axis=alt.Axis(tickMinStep=1, grid=False), scale=alt.Scale(nice=False))


def titled(chart, title: str, subtitle: str | list[str] = "", line: int = LINE):
    """A chart under its question; what is told of it is cut into lines, for Vega does not wrap them."""
    told = [subtitle] if isinstance(subtitle, str) else subtitle
    told = [text for part in told for text in textwrap.wrap(part.replace(" %", "\u00a0%"), line)]
    style = {"fontSize": 16, "subtitleFontSize": 13, "subtitleColor": GREY, "subtitleLineHeight": 16, "offset": 8}
    chart.title = alt.TitleParams(title, subtitle=told, anchor="start", **style)  # set in place: every method copies the chart
    chart.height, chart.autosize = HEIGHT, alt.AutoSizeParams(type="fit-x", contains="padding")
    chart.config = alt.Config(axis=alt.AxisConfig(labelFontSize=13, titleFontSize=13, titlePadding=6))
    return chart


class Unchecked:
    """A chart to be drawn without the check against Vega-Lite's schema, a third of the time it takes. Tests check them all."""

    def __init__(self, chart):
        self.chart = chart

    def to_dict(self) -> dict:
        return staged(self.chart.to_dict(validate=False))


def chosen_layer(layer: int) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(alt.X("layer:Q"))


def numbers(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".4~g") for name in names]


def clickable(marks: alt.Chart, now: object, *names: str, nearest: bool = True) -> alt.Chart:
    """The same marks; their fields of these names a click gives. nearest: a click beside the marks means the nearest one.

    now: what is chosen. It is part of what a click gives, for a click that gives what the one before it gave is not noticed.
    """
    chosen = "".join(letter if letter.isalnum() else "-" for letter in str(now))
    pick = alt.selection_point(name=PICK, fields=[*names, "now"], on="click", clear=False, toggle=False, nearest=nearest)
    marks = marks.transform_calculate(now=f"'{chosen}'")
    marks.params = [pick.param]
    return marks


def curves(table: pd.DataFrame, x: alt.X, looks: dict[str, tuple], y: str, now: object = None, **scale) -> list[alt.Chart]:
    """Lines with bands, and live points with their intervals: the layers of a chart.

    table: a line per point, with the x field and columns shown (what it is), mean, low, high, and perhaps more for the tooltip.
    looks: shown -> colour, dash, whether it has a band; in the legend's order. y: the axis' title. now: what is chosen on the
    x axis, if a click on a point may choose another.
    """
    names = [name for name in looks if name in set(table["shown"])]
    colours, dashes = ([looks[name][i] for name in names] for i in range(2))
    legend = None if len(names) == 1 else alt.Legend(**LEGEND)
    colour = alt.Color("shown:N", title=None, scale=alt.Scale(domain=names, range=colours), legend=legend)
    dash = alt.StrokeDash("shown:N", title=None, scale=alt.Scale(domain=names, range=dashes), legend=legend)
    tip = [alt.Tooltip(x["shorthand"]), alt.Tooltip("shown:N", title="what"), *numbers("mean", "low", "high")]
    tip += [alt.Tooltip(f"{name}:Q") for name in ("prompts", "templates") if name in table]
    axis, low, high = alt.Y("mean:Q", title=y, scale=alt.Scale(**scale)), alt.Y("low:Q", title=y), alt.Y2("high:Q")
    clip, live, control = "domain" in scale, table["shown"].map(is_live), table["shown"].isin(CONTROLS)
    banded = table[table["shown"].isin([name for name in names if looks[name][2]]) & ~live]
    layers = []
    if len(banded):
        layers.append(alt.Chart(banded).mark_area(opacity=0.18, clip=clip).encode(x, low, high, colour))
    behind = pd.concat([table[control], table[~control]], ignore_index=True)  # what comes first is drawn first
    lives, controls = ([name for name in names if part(name)] for part in (is_live, CONTROLS.__contains__))
    size = among(lives + controls, alt.SizeValue, 1.3, 2.5)
    layers.append(alt.Chart(behind).mark_line(clip=clip).encode(x, axis, colour, dash, size))
    if live.any():
        layers.append(alt.Chart(table[live]).mark_rule(size=2.5, clip=clip).encode(x, low, high, colour))
    size, clear = among(lives, alt.SizeValue, 110, 24), among(controls, alt.OpacityValue, 0, 1)
    points = alt.Chart(behind).mark_point(filled=True, clip=clip).encode(x, axis, colour, size, clear, tooltip=tip)
    return [*layers, points if now is None else clickable(points, now, x["shorthand"].partition(":")[0])]


def among(names: list[str], channel: type, inside: float, outside: float):
    """A channel's value for what is shown under these names, and for the rest."""
    return value_where(channel, {"field": "shown", "oneOf": names}, inside, outside)


def value_where(channel: type, test: dict | str, inside, outside):
    """A channel's value where a test holds, and elsewhere."""
    return channel(outside, condition={"test": test, "value": inside})


def is_live(name: str) -> bool:
    return name.endswith("live")


def room(table: pd.DataFrame) -> tuple[dict, str]:
    """The scale of an effect axis, and what a reader is told of it: a control of another order would flatten all the rest."""
    far = table["shown"] == CONTROL_NAMES["other-layer"]
    top, most = table[~far][["mean", "high"]].max().max(), table[far]["mean"].max()
    if not far.any() or far.all() or most <= 1.5 * top:
        return {}, ""
    return {"domain": [0, 1.1 * top]}, f"The other layer's map leaves the chart, up to {most:.3g} nats"


def percent(table: pd.DataFrame) -> list[float]:
    """The range of an axis in per cent: to 100, and down to what is there, but no deeper than -100."""
    lowest = table["low"].min()
    return [max(-100.0, min(0.0, lowest if lowest == lowest else 0.0)), 100.0]


def nought() -> alt.Chart:
    return alt.Chart(pd.DataFrame({"nought": [0.0]})).mark_rule(color=GREY, size=1).encode(alt.Y("nought:Q"))
