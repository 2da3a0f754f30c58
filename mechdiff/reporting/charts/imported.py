"""Imported numbers on our charts: hollow squares, means without intervals, each naming its file."""

import textwrap

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREEN, GREY, LEGEND, NARROW, ORANGE, PLUM, layer_axis, layered, titled
from mechdiff.reporting.charts.ranks import rank_order

OUTLINE = {"filled": False, "strokeWidth": 1.8, "opacity": 1, "size": 80}
COLOURS = [BLUE, ORANGE, GREEN, PLUM, GREY]
WITHOUT = "stream unknown"


def apart(marks: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Published marks, and imported ones."""
    if "what" not in marks:
        return marks, marks.iloc[:0]
    is_imported = marks["what"].notna()
    return marks[~is_imported], marks[is_imported]


def legend_lines(imported: pd.DataFrame, domain: list[float] | None = None) -> list[str]:
    """The subtitle's lines about the marks. domain: of the y axis, if it is cut."""
    if imported.empty:
        return []
    beyond = "; triangles: below the axis" if domain and (imported["mean"] < domain[0]).any() else ""
    return [f"Hollow squares: {what}{beyond}" for what in imported["what"].unique()]


def squares(marks: pd.DataFrame, x: alt.X, y: alt.Y, colour, domain: list[float] | None = None) -> list[alt.Chart]:
    """A hollow square per mark; a mark below the axis is a triangle at its lower end, with its value in the tooltip.

    marks: columns x or x's own field, mean, note, source, what, and perhaps layer. domain: of the y axis, if it is cut.
    """
    if marks.empty:
        return []
    name = x["shorthand"].partition(":")[0]
    marks = marks.rename(columns={"x": name}) if name not in marks else marks
    number = marks[name].dtype.kind in "if"
    tip = [alt.Tooltip("what:N"), alt.Tooltip(f"{name}:Q", format=".3~g") if number else alt.Tooltip(f"{name}:N")]
    tip += [alt.Tooltip("layer:Q")] if "layer" in marks and name != "layer" else []
    tip += [alt.Tooltip("mean:Q", format=".6~g"), alt.Tooltip("note:N"), alt.Tooltip("source:N", title="file")]
    foot = domain[0] if domain else -float("inf")
    below = marks["mean"] < foot
    y = y.copy()
    y["shorthand"] = "at:Q"
    layers = []
    for part, shape in ((marks[~below], "square"), (marks[below], "triangle-down")):
        if len(part):
            drawn = alt.Chart(part.assign(at=part["mean"].clip(lower=foot))).mark_point(shape=shape, **OUTLINE)
            layers.append(drawn.encode(x, y, colour if isinstance(colour, alt.Color) else alt.ColorValue(colour), tooltip=tip))
    return layers


def with_imported(figure: alt.LayerChart, marks: pd.DataFrame) -> alt.LayerChart:
    """A chart with imported marks on top, on its own axes. marks: as for squares, with the chart's x field."""
    if marks.empty:
        return figure
    axes = next(layer.encoding for layer in reversed(figure.layer) if is_mean(layer.encoding.y))
    if axes.x["shorthand"].startswith("rank:"):
        order = rank_order({*axes.x["sort"], *marks["rank"]})
        for layer in figure.layer:
            if layer.encoding.x is not alt.Undefined:
                layer.encoding.x["sort"] = order
    scale = axes.y["scale"]
    domain = None if scale is alt.Undefined else scale.to_dict().get("domain")
    figure.layer += squares(marks, axes.x, axes.y, PLUM, domain)
    figure.title["subtitle"] = [*figure.title["subtitle"], *textwrap.wrap(legend_lines(marks, domain)[0], NARROW)]
    return figure


def is_mean(y) -> bool:
    return y is not alt.Undefined and y["shorthand"] == "mean:Q"


def means_only(marks: pd.DataFrame, x: str, y: str, title: str, subtitle: str) -> alt.LayerChart:
    """A chart of imported marks alone, coloured by stream, and by layer unless layers are its axis.

    marks: as for squares, with layer and stream. x: layer, rank or size.
    """
    axes = {
        "layer": layer_axis(),
        "rank": alt.X("rank:O", title="Rank k of the map", sort=rank_order(marks.get("rank", ())), axis=alt.Axis(labelAngle=0)),
        "size": alt.X("size:Q", title="Number of heads replaced", axis=alt.Axis(tickMinStep=1, grid=False)),
    }
    stream = marks["stream"].replace("", WITHOUT)
    marks = marks.assign(group=stream if x == "layer" else "layer " + marks["layer"].astype(str) + ", " + stream)
    names = sorted(marks["group"].unique())
    legend = alt.Legend(**LEGEND | {"symbolType": "square", "symbolSize": 90}) if len(names) > 1 or x != "layer" else None
    scale = alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])
    colour = alt.Color("group:N", title=None, scale=scale, legend=legend)
    return titled(layered(*squares(marks, axes[x], alt.Y("mean:Q", title=y), colour)), title, subtitle)
