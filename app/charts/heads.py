"""Charts of attention heads."""

import altair as alt
import pandas as pd

from charts.base import BLUE, DASHED, DOTTED, GREEN, GREY, KL, ORANGE, SOLID, curves, numbers, titled


def heads_map(table: pd.DataFrame, layer: int, chosen: list[int]) -> alt.LayerChart:
    """Effect of every single head of every layer; a click selects a head.

    table: a row per layer and head, with columns layer, head, mean (nats), share (of all heads' effect at that layer).
    """
    tip = ["layer", "head", alt.Tooltip("mean:Q", format=".5f", title="KL, nats"), alt.Tooltip("share:Q", format=".0%")]
    pick = alt.selection_point(name="cell", fields=["layer", "head"], on="click", clear=False)
    cells = (
        alt.Chart(table)
        .mark_rect()
        .encode(
            alt.X("layer:O").title("Layer").axis(labelAngle=0),
            alt.Y("head:O").title("Head"),
            alt.Color("mean:Q").title("KL, nats").scale(scheme="blues").legend(orient="right", gradientLength=180),
            tooltip=tip,
        )
    )
    marked = table[(table["layer"] == layer) & table["head"].isin(chosen)]
    frame = alt.Chart(marked).mark_rect(fill=None, stroke=ORANGE, strokeWidth=2.5).encode(alt.X("layer:O"), alt.Y("head:O"))
    column = alt.Chart(table[table["layer"] == layer]).mark_rect(fill=None, stroke=ORANGE, strokeWidth=0.6)
    column = column.encode(alt.X("layer:O"), alt.Y("head:O"))
    subtitle = "Each cell: one head's output replaced by the other model's. Click a cell to add or drop that head."
    return titled(cells.add_params(pick) + column + frame, "Which single heads carry the change?", subtitle)


def head_bars(table: pd.DataFrame, layer: int) -> alt.LayerChart:
    """Effects at one layer: each head alone, the chosen set, and all heads together, with 95 % intervals.

    table: columns label, kind (single, chosen, all), mean, low, high (nats), in the order to show.
    """
    kinds, colours = ["single", "chosen", "all"], [BLUE, ORANGE, GREY]
    order = list(table["label"])
    base = alt.Chart(table).encode(alt.X("label:N").title(f"Heads replaced at layer {layer}").sort(order).axis(labelAngle=0))
    colour = alt.Color("kind:N").title(None).scale(domain=kinds, range=colours).legend(orient="bottom")
    tip = ["label", *(alt.Tooltip(f"{name}:Q", format=".5f") for name in ("mean", "low", "high"))]
    bars = base.mark_bar().encode(alt.Y("mean:Q").title(KL), colour, tooltip=tip)
    whiskers = base.mark_rule(size=1.5, color=GREY).encode(alt.Y("low:Q").title(KL), alt.Y2("high:Q"))
    return titled(
        bars + whiskers, "How much do the chosen heads carry, beside each alone?", "Whiskers: 95 % interval over prompts"
    )


def transplant_bars(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """Effect of each head's own weights at one layer. table: columns heads (a number as text), mean, low, high (nats)."""
    base = alt.Chart(table).encode(alt.X("heads:N").title("Head").sort(list(table["heads"])).axis(labelAngle=0))
    tip = ["heads", *numbers("mean", "low", "high")]
    bars = base.mark_bar(color=BLUE).encode(alt.Y("mean:Q").title(KL), tooltip=tip)
    whiskers = base.mark_rule(size=1.5, color=GREY).encode(alt.Y("low:Q").title(KL), alt.Y2("high:Q"))
    return titled(bars + whiskers, f"Which heads' own weights, at layer {layer}?", subtitle)


def coverage_curve(table: pd.DataFrame, sets: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """Coverage over the number of heads: chosen sets with intervals over prompts, random sets as a band over sets.

    table: columns size, shown (`top k`, `greedy`), mean, low, high (per cent). sets: the same of random sets: their median, and
    the 2.5 and 97.5 % quantiles over sets.
    """
    looks = {
        "greedy": (GREEN, SOLID, True),
        "top k": (BLUE, SOLID, True),
        "random sets": (GREY, DASHED, True),
    }
    both = pd.concat([part for part in (table, sets) if len(part)], ignore_index=True)
    x = alt.X("size:Q").title(f"Number of heads replaced at layer {layer}").axis(tickMinStep=1, grid=False)
    layers = curves(both, x.scale(nice=False), looks, "Coverage: share of all heads' effect, %")
    whole = alt.Chart(pd.DataFrame({"all": [100.0]})).mark_rule(color=GREY, strokeDash=DOTTED).encode(alt.Y("all:Q"))
    return titled(alt.layer(*layers, whole), "How many heads does the change need?", subtitle)
