"""Charts of weight changes. A click on a cell returns its layer and module."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import BLUE, GREY, NARROW, ORANGE, RISING, clickable, layered, titled

MEASURES = {  # a map's measure -> its legend, and the format of its numbers
    "relative_norm": ("Share of base", ".2%"),
    "participation_ratio": ("Directions", ".3~g"),
    "stable_rank": ("Directions", ".3~g"),
    "rank_90": ("Directions", ".3~g"),
}


def weights_map(table: pd.DataFrame, measure: str, layer: int, module: str, subtitle: str = "") -> alt.LayerChart:
    """One measure of every matrix's change; a click selects the matrix.

    table: a row per layer and module, as the question `weights` answers.
    """
    legend, number_format = MEASURES[measure]
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("module:N", title=None, sort=list(dict.fromkeys(table["module"])), axis=alt.Axis(labelLimit=170))
    scale = alt.Legend(gradientLength=180, format=number_format)
    colour = alt.Color(f"{measure}:Q", title=legend, scale=alt.Scale(range=RISING), legend=scale)
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("module:N")]
    tip += [alt.Tooltip(f"{name}:Q", format=form, title=name.replace("_", " ")) for name, (_, form) in MEASURES.items()]
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    cells = clickable(cells, f"{layer} {module}", "layer", "module", nearest=False)
    chosen = alt.Chart(table[(table["layer"] == layer) & (table["module"] == module)])
    frame = chosen.mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(x, y)
    return titled(layered(cells, frame), "Which matrices changed, and how?", subtitle)


def singular_bars(values: list[float], title: str, subtitle: str = "") -> alt.Chart:
    """A change's leading singular values, largest first."""
    table = pd.DataFrame({"number": range(1, len(values) + 1), "value": values})
    x = alt.X("number:O", title="Direction", axis=alt.Axis(labelAngle=0))
    tip = [alt.Tooltip("number:O", title="direction"), alt.Tooltip("value:Q", format=".4~g")]
    bars = alt.Chart(table).mark_bar(color=BLUE).encode(x, alt.Y("value:Q", title="Singular value"), tooltip=tip)
    return titled(bars, title, subtitle, NARROW)


def weight_overlap(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """How far the changes' output directions lie in the subspace mapped at a layer, compared with chance.

    table: columns written (the matrix's layer), module, overlap, chance; one k.
    """
    modules = list(dict.fromkeys(table["module"]))
    x = alt.X("written:Q", title="Layer of the matrix", axis=alt.Axis(tickMinStep=1, grid=False), scale=alt.Scale(nice=False))
    colour = alt.Color(
        "module:N",
        title=None,
        scale=alt.Scale(domain=modules, range=[BLUE, ORANGE][: len(modules)]),
        legend=alt.Legend(orient="bottom"),
    )
    tip = [alt.Tooltip("written:Q", title="layer"), alt.Tooltip("module:N"), alt.Tooltip("overlap:Q", format=".2%")]
    share = alt.Y("overlap:Q", title="Shared with the mapped subspace", axis=alt.Axis(format="%"))
    lines = alt.Chart(table).mark_line(point=True).encode(x, share, colour, tooltip=tip)
    chance = alt.Chart(table.head(1)).mark_rule(color=GREY, strokeDash=[6, 4], size=1.5).encode(alt.Y("chance:Q"))
    return titled(layered(chance, lines), f"Do they write into the subspace mapped at layer {layer}?", subtitle)
