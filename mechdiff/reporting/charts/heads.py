"""Charts of attention heads. A click on a cell or a bar returns its head."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import (
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    KL,
    LIVE_LOOK,
    NARROW,
    ORANGE,
    PLUM,
    RISING,
    SOLID,
    clickable,
    curves,
    is_live,
    layered,
    numbers,
    titled,
    value_where,
)

STORED, LIVE = "stored sweep", "live"


def heads_map(table: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effect of every single head of every layer; a click selects a head.

    table: a row per layer and head, with columns layer, head, mean (nats), share (of all heads' effect at that layer), and
    stored (nats) where there is a sweep.
    """
    tip = [alt.Tooltip("layer:O"), alt.Tooltip("head:O"), alt.Tooltip("mean:Q", format=".5f", title="KL, nats")]
    tip += [alt.Tooltip("share:Q", format=".0%")]
    tip += [alt.Tooltip("stored:Q", format=".5f", title="stored, nats")] if "stored" in table else []
    x = alt.X("layer:O", title="Layer", axis=alt.Axis(labelAngle=0, labelOverlap=True))
    y = alt.Y("head:O", title="Head", axis=alt.Axis())
    colour = alt.Color("mean:Q", title="KL, nats", scale=alt.Scale(range=RISING), legend=alt.Legend(gradientLength=180))
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    marked = alt.Chart(table[(table["layer"] == layer) & table["head"].isin(chosen)])
    column = alt.Chart(pd.DataFrame({"layer": [layer]})).mark_rect(fill=None, stroke=ORANGE, strokeWidth=1).encode(x)
    frame = marked.mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(x, y)
    cells = clickable(cells, f"{layer} {chosen}", "layer", "head", nearest=False)
    return titled(layered(cells, column, frame), "Which single heads carry the change?", subtitle)


def head_bars(table: pd.DataFrame, stored: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effects at one layer: each head alone, the chosen set, and all heads together, with 95 % intervals.

    table: columns label, kind (single, chosen, all), head (a single one's number, -1 for a set), mean, low, high (nats), in the
    order to show. stored: the same of a sweep, where it has them, drawn as a mark next to each bar.
    """
    kinds = {"single": BLUE, "chosen": ORANGE, "all": GREY, STORED: PLUM}
    axis = alt.Axis(labelAngle=0)
    x = alt.X("label:N", title=f"Heads replaced at layer {layer}", sort=list(table["label"]), axis=axis)
    colour = coloured(kinds if len(stored) else dict(list(kinds.items())[:-1]))
    tip = [alt.Tooltip("label:N"), *numbers("mean", "low", "high")]
    mean, low, high = alt.Y("mean:Q", title=KL), alt.Y("low:Q", title=KL), alt.Y2("high:Q")
    layers = [
        alt.Chart(table).mark_bar().encode(x, mean, colour),
        alt.Chart(table).mark_rule(size=1.5, color=GREY).encode(x, low, high),
    ]
    if len(stored):
        marks = alt.Chart(stored.assign(kind=STORED))
        layers.append(marks.mark_rule(size=1.5, strokeDash=[3, 2], xOffset=8).encode(x, low, high, colour))
        layers.append(marks.mark_point(shape="diamond", size=80, filled=True, opacity=1, xOffset=8).encode(x, mean, colour))
        table, tip = table.merge(stored[["label", "mean"]], on="label", how="left", suffixes=("", "_stored")), [*tip]
        tip.append(alt.Tooltip("mean_stored:Q", title="stored", format=".4~g"))
    layers.append(columns(table, x, tip, f"{layer} {chosen}"))
    return titled(layered(*layers), "How much do the chosen heads carry?", subtitle, NARROW)


def transplant_bars(table: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effect of each head's own weights at one layer; the chosen heads are framed.

    table: columns layer, head, live (bool), mean, low, high (nats).
    """
    table = table.assign(kind=is_live(table).map({False: STORED, True: LIVE}))
    x, colour = alt.X("head:O", title="Head", axis=alt.Axis(labelAngle=0)), coloured({STORED: BLUE, LIVE: ORANGE})
    mean, low, high = alt.Y("mean:Q", title=KL), alt.Y("low:Q", title=KL), alt.Y2("high:Q")
    framed = value_where(alt.StrokeValue, {"field": "head", "oneOf": chosen}, ORANGE, None)
    bars, points = (alt.Chart(table[table["kind"] == kind]) for kind in (STORED, LIVE))
    tip = [alt.Tooltip("head:O"), alt.Tooltip("kind:N", title="what"), *numbers("mean", "low", "high")]
    layers = [
        bars.mark_bar(strokeWidth=3).encode(x, mean, colour, framed),
        alt.Chart(table).mark_rule(size=1.5, color=GREY).encode(x, low, high),
        points.mark_point(size=110, filled=True, opacity=1).encode(x, mean, colour),
        columns(table, x, tip, f"{layer} {chosen}"),
    ]
    return titled(layered(*layers), f"Which heads' own weights matter at layer {layer}?", subtitle, NARROW)


def coloured(kinds: dict[str, str]) -> alt.Color:
    """The colour channel of bars. kinds: what they are -> colour."""
    scale, legend = alt.Scale(domain=[*kinds], range=[*kinds.values()]), alt.Legend(orient="bottom", labelFontSize=13)
    return alt.Color("kind:N", title=None, scale=scale, legend=legend)


def columns(table: pd.DataFrame, x: alt.X, tip: list, now: str) -> alt.Chart:
    """Transparent columns over bars, so that a head with a small effect is as easy to click."""
    clear = alt.Chart(table).mark_bar(opacity=0).encode(x, alt.YValue(0), alt.Y2Value("height"), tooltip=tip)
    return clickable(clear, now, "layer", "head", nearest=False)


def coverage_curve(table: pd.DataFrame, layer: int, subtitle: str = "", chosen: list[int] | None = None) -> alt.LayerChart:
    """Coverage over the number of heads: chosen sets with intervals over prompts, random sets as a band over sets.

    chosen: the heads that are chosen now, if a click on a point may choose its set.
    table: columns size, heads (text), shown (`top k`, `greedy`, `random sets`), mean, low, high (per cent), perhaps live (bool).
    Of `random sets`, mean is the median over sets, low and high their 2.5 and 97.5 % quantiles.
    """
    looks = {
        "greedy": (GREEN, SOLID, True),
        "top k": (BLUE, DASHED, True),
        "random sets": (GREY, DOTTED, True),
    }
    live_looks = {"greedy": LIVE_LOOK, "top k": (PLUM, DASHED, False), "random sets": (GREY, SOLID, False)}
    about, axis = f"Number of heads replaced at layer {layer}", alt.Axis(tickMinStep=1, grid=False)
    x = alt.X("size:Q", title=about, axis=axis, scale=alt.Scale(nice=False))
    *layers, points = curves(table, x, looks, "Coverage: share of all heads' effect, %", live_looks=live_looks)
    layers.append(points if chosen is None else clickable(points, chosen, "heads"))
    whole = alt.Chart(pd.DataFrame({"all": [100.0]})).mark_rule(color=GREY, strokeDash=DOTTED).encode(alt.Y("all:Q"))
    return titled(layered(whole, *layers), "How many heads does the change need?", subtitle)
