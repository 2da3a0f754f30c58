"""Curves over layers."""

import altair as alt
import pandas as pd

from charts.base import (
    BLUE,
    CONTROL_NAMES,
    CONTROLS,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    KL,
    LIVE,
    ORANGE,
    SOLID,
    chosen_layer,
    curves,
    layer_axis,
    nought,
    percent,
    room,
    titled,
)

MUTED = {name: (colour, DASHED, False) for name, colour in CONTROLS.items()}
POINT = {LIVE: (ORANGE, SOLID, False)}


def drift_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Similarity of the two models by layer: debiased CKA with its 95 % interval, and plain CKA dashed.

    table: a row per layer and stream, with columns layer, stream, cka, cka_debiased, low, high, n.
    """
    names = {"cka_debiased": "debiased", "cka": "plain"}
    long = table.melt(["layer", "stream", "low", "high", "n"], list(names), "estimator", "similarity")
    long["estimator"] = long["estimator"].map(names)
    base = alt.Chart(long).encode(layer_axis())
    colour = alt.Color("stream:N").title("Stream").legend(None if table["stream"].nunique() == 1 else alt.Legend(orient="bottom"))
    dash = alt.StrokeDash("estimator:N").scale(domain=["debiased", "plain"], range=[[1, 0], [4, 3]]).legend(None)
    tip = ["stream", "layer", "estimator", alt.Tooltip("similarity:Q", format=".3f"), "n"]
    similarity = alt.Y("similarity:Q").title("Linear CKA, base against tuned").scale(zero=True)
    band = base.transform_filter("datum.estimator == 'debiased'").mark_area(opacity=0.18)
    band = band.encode(alt.Y("low:Q").title("Linear CKA, base against tuned"), alt.Y2("high:Q"), colour)
    line = base.mark_line(point={"size": 24}).encode(
        similarity,
        colour,
        dash,
        tooltip=tip,
    )
    layers = [band, line] if layer is None else [band, line, chosen_layer(layer)]
    about = f"Solid: debiased CKA; dashed: plain. {subtitle}"
    return titled(alt.layer(*layers), "Where do the two models' representations part?", about)


def layer_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Effect of patching each layer, with its 95 % interval over prompts; controls in grey.

    table: a row per layer and control, with columns layer, control, mean, low, high (nats), prompts, templates.
    """
    table = table.assign(shown=table["control"].map(CONTROL_NAMES).fillna("patched"))
    layers = curves(table, layer_axis(), {"patched": (BLUE, SOLID, True)} | MUTED, KL)
    layers += [] if layer is None else [chosen_layer(layer)]
    return titled(alt.layer(*layers), "Which layers' states move the next token?", subtitle)


def transport_curve(table: pd.DataFrame, layer: int, name: str, subtitle: str = "") -> alt.LayerChart:
    """Effect of the mapped state by layer, beside the zscore reference and the controls; the live point on top.

    table: columns layer, shown (name, `zscore`, a control's name or LIVE), mean, low, high (nats), prompts, templates.
    """
    looks = {name: (BLUE, SOLID, True), "zscore": (GREEN, SOLID, name != "zscore")} | MUTED | POINT
    if name == "zscore":
        looks["zscore"] = (BLUE, SOLID, True)
    scale, told = room(table)
    layers = [*curves(table, layer_axis(), looks, KL, **scale), chosen_layer(layer)]
    return titled(alt.layer(*layers), "Does a linear map explain the change?", [subtitle, told] if told else subtitle)


def drop_curve(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """How much less the mapped state does than the zscore one, by layer; blank where that is at the floor.

    table: columns layer, shown (`drop` or LIVE), mean, low, high (per cent).
    """
    looks = {"drop": (BLUE, SOLID, True)} | POINT
    layers = [
        *curves(table, layer_axis(), looks, "Drop against zscore, %", domain=percent(table)),
        nought(),
        chosen_layer(layer),
    ]
    return titled(alt.layer(*layers), "How much of the zscore effect does the map take away?", subtitle)


def transplant_curve(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """Effect of each module's own weights by layer.

    table: columns layer, shown (attn_out, mlp_out), mean, low, high (nats), prompts, templates.
    """
    looks = {"attn_out": (BLUE, SOLID, True), "mlp_out": (GREEN, SOLID, True), "self (floor)": (GREY, DOTTED, False)}
    layers = [*curves(table, layer_axis(), looks, KL), chosen_layer(layer)]
    return titled(alt.layer(*layers), "Which module's own weights move the next token?", subtitle)
