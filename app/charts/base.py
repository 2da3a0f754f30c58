"""What every chart shares: colours, titles, axes, and curves with bands. No streamlit."""

import altair as alt
import pandas as pd

HEIGHT = 300
BLUE, ORANGE, GREY, GREEN = "#3f78d8", "#e07b39", "#8a8f98", "#3a9d6e"
LIGHT = "#93b5ec"
KL = "Effect: KL(patched || clean), nats"
LIVE = "these prompts, live"
LEGEND = {
    "orient": "bottom",
    "symbolType": "stroke",
    "symbolSize": 300,
    "symbolOpacity": 1,
    "symbolStrokeWidth": 2.5,
    "columns": 3,
}
SOLID, DASHED, DOTTED = [1, 0], [5, 3], [2, 2]
CONTROLS = {  # a control's colour: muted, so that it stands behind what it is a control of
    "self (floor)": GREY,
    "mean ablation": "#b3935a",
    "random map": "#a284bd",
    "shuffled rows": "#c08080",
    "other layer's map": "#6f9d97",
}
CONTROL_NAMES = dict(zip(("self", "mean", "random", "shuffled", "other-layer"), CONTROLS))


def layer_axis(title: str = "Layer") -> alt.X:
    return alt.X("layer:Q").title(title).axis(tickMinStep=1, grid=False).scale(nice=False)


def titled(chart, title: str, subtitle: str | list[str] = ""):
    title = alt.TitleParams(
        title, subtitle=subtitle or [], anchor="start", fontSize=16, subtitleFontSize=12, subtitleColor=GREY, offset=12
    )
    return chart.properties(title=title, height=HEIGHT, autosize=alt.AutoSizeParams(type="fit-x", contains="padding"))


def chosen_layer(layer: int) -> alt.Chart:
    return alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rule(color=ORANGE, strokeDash=[2, 2]).encode(alt.X("layer:Q"))


def numbers(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".4~g") for name in names]


def curves(table: pd.DataFrame, x: alt.X, looks: dict[str, tuple], y: str, **scale) -> list[alt.Chart]:
    """Lines with bands, and live points with their intervals: the layers of a chart.

    table: a line per point, with the x field and columns shown (what it is), mean, low, high, and perhaps more for the tooltip.
    looks: shown -> colour, dash, whether it has a band; in the legend's order. y: the axis' title.
    """
    names = [name for name in looks if name in set(table["shown"])]
    colours, dashes = ([looks[name][i] for name in names] for i in range(2))
    legend = None if len(names) == 1 else alt.Legend(**LEGEND)
    colour = alt.Color("shown:N").title(None).scale(domain=names, range=colours).legend(legend)
    dash = alt.StrokeDash("shown:N").title(None).scale(domain=names, range=dashes).legend(legend)
    tip = [x["shorthand"], alt.Tooltip("shown:N").title("what"), *numbers("mean", "low", "high")]
    tip += [name for name in ("prompts", "templates") if name in table]
    axis, clip = alt.Y("mean:Q").title(y).scale(**scale), "domain" in scale
    live, rest = table["shown"] == LIVE, alt.Chart(table[table["shown"] != LIVE])
    banded = table[table["shown"].isin([name for name in names if looks[name][2]]) & ~live]
    bands = alt.Chart(banded).mark_area(opacity=0.18, clip=clip).encode(x, alt.Y("low:Q").title(y), alt.Y2("high:Q"), colour)
    lines = rest.mark_line(point={"size": 22}, clip=clip).encode(x, axis, colour, dash, tooltip=tip)
    layers = [bands, lines] if len(banded) else [lines]
    if not live.any():
        return layers
    base = alt.Chart(table[live]).encode(x, tooltip=tip)
    rule = base.mark_rule(size=2.5, clip=clip).encode(alt.Y("low:Q").title(y), alt.Y2("high:Q"), colour)
    return [*layers, rule, base.mark_point(size=110, filled=True, opacity=1, clip=clip).encode(axis, colour)]


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
