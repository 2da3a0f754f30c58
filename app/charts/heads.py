"""Charts of attention heads. A click on a cell or a bar gives its head."""

import altair as alt
import pandas as pd

from charts.base import (
    BLUE,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    KL,
    LIVE,
    NARROW,
    ORANGE,
    PLUM,
    SOLID,
    clickable,
    curves,
    numbers,
    titled,
)

STORED = "stored sweep"


def heads_map(table: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effect of every single head of every layer; a click selects a head.

    table: a row per layer and head, with columns layer, head, mean (nats), share (of all heads' effect at that layer), and
    stored (nats) where a sweep is.
    """
    tip = ["layer", "head", alt.Tooltip("mean:Q", format=".5f", title="KL, nats"), alt.Tooltip("share:Q", format=".0%")]
    tip += [alt.Tooltip("stored:Q", format=".5f", title="stored, nats")] if "stored" in table else []
    x, y = alt.X("layer:O").title("Layer").axis(labelAngle=0, labelOverlap=True), alt.Y("head:O").title("Head")
    colour = alt.Color("mean:Q").title("KL, nats").scale(scheme="blues").legend(orient="right", gradientLength=180)
    cells = alt.Chart(table).mark_rect().encode(x, y, colour, tooltip=tip)
    cells = clickable(cells, f"{layer} {chosen}", "layer", "head", nearest=False)
    marked = table[(table["layer"] == layer) & table["head"].isin(chosen)]
    frame = alt.Chart(marked).mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(alt.X("layer:O"), alt.Y("head:O"))
    column = alt.Chart(table[table["layer"] == layer]).mark_rect(fill=None, stroke=ORANGE, strokeWidth=0.6)
    column = column.encode(alt.X("layer:O"), alt.Y("head:O"))
    return titled(cells + column + frame, "Which single heads carry the change?", subtitle)


def head_bars(table: pd.DataFrame, stored: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effects at one layer: each head alone, the chosen set, and all heads together, with 95 % intervals.

    table: columns label, kind (single, chosen, all), head (a single one's number, -1 for a set), mean, low, high (nats), in the
    order to show. stored: the same of a sweep, as far as it is there; it is drawn as a mark beside each bar.
    """
    kinds = {"single": BLUE, "chosen": ORANGE, "all": GREY}
    x = alt.X("label:N").title(f"Heads replaced at layer {layer}").sort(list(table["label"])).axis(labelAngle=0)
    colour = alt.Color("kind:N").title(None).scale(domain=[*kinds, STORED], range=[*kinds.values(), PLUM])
    colour = colour.legend(orient="bottom", labelFontSize=13)
    tip = ["label", *numbers("mean", "low", "high")]
    low, high = alt.Y("low:Q").title(KL), alt.Y2("high:Q")
    base = alt.Chart(table).encode(x)
    bars = base.mark_bar().encode(alt.Y("mean:Q").title(KL), colour, tooltip=tip)
    bars = clickable(bars, f"{layer} {chosen}", "layer", "head", nearest=False)
    layers = [bars, base.mark_rule(size=1.5, color=GREY).encode(low, high)]
    if len(stored):
        kept = alt.Chart(stored.assign(kind=STORED)).encode(x, colour, xOffset=alt.value(8))
        layers.append(kept.mark_rule(size=1.5, strokeDash=[3, 2]).encode(low, high))
        layers.append(kept.mark_point(shape="diamond", size=80, filled=True, opacity=1).encode(alt.Y("mean:Q"), tooltip=tip))
    return titled(alt.layer(*layers), "How much do the chosen heads carry?", subtitle, NARROW)


def transplant_bars(table: pd.DataFrame, layer: int, chosen: list[int], subtitle: str = "") -> alt.LayerChart:
    """Effect of each head's own weights at one layer.

    table: columns layer, head, kind (STORED or LIVE), mean, low, high (nats).
    """
    x = alt.X("head:O").title("Head").axis(labelAngle=0)
    colour = alt.Color("kind:N").title(None).scale(domain=[STORED, LIVE], range=[BLUE, ORANGE])
    base = alt.Chart(table).encode(x, colour.legend(orient="bottom", labelFontSize=13))
    low, high = alt.Y("low:Q").title(KL), alt.Y2("high:Q")
    kept, live = (base.transform_filter(f"datum.kind == '{kind}'") for kind in (STORED, LIVE))
    tip = ["head", alt.Tooltip("kind:N").title("what"), *numbers("mean", "low", "high")]
    bars = clickable(kept.mark_bar(), f"{layer} {chosen}", "layer", "head", nearest=False)
    layers = [
        bars.encode(alt.Y("mean:Q").title(KL), tooltip=tip),
        base.mark_rule(size=1.5).encode(low, high, color=alt.value(GREY)),
    ]
    layers.append(live.mark_point(size=110, filled=True, opacity=1).encode(alt.Y("mean:Q"), tooltip=tip))
    return titled(alt.layer(*layers), f"Which heads' own weights, at layer {layer}?", subtitle, NARROW)


def coverage_curve(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """Coverage over the number of heads: chosen sets with intervals over prompts, random sets as a band over sets.

    table: columns size, shown (`top k`, `greedy`, and either as `top k, live`), mean, low, high (per cent). Of `random sets`
    mean is the median over sets, low and high their 2.5 and 97.5 % quantiles.
    """
    looks = {
        "greedy": (GREEN, SOLID, True),
        "top k": (BLUE, DASHED, True),
        "random sets": (GREY, DOTTED, True),
        "greedy, live": (ORANGE, SOLID, False),
        "top k, live": (PLUM, DASHED, False),
        "random sets, live": (GREY, SOLID, False),
    }
    x = alt.X("size:Q").title(f"Number of heads replaced at layer {layer}").axis(tickMinStep=1, grid=False)
    layers = curves(table, x.scale(nice=False), looks, "Coverage: share of all heads' effect, %")
    whole = alt.Chart(pd.DataFrame({"all": [100.0]})).mark_rule(color=GREY, strokeDash=DOTTED).encode(alt.Y("all:Q"))
    return titled(alt.layer(whole, *layers), "How many heads does the change need?", subtitle)
