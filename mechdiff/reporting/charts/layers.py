"""Curves over layers. A click on a point gives its layer, where one is chosen."""

import altair as alt
import pandas as pd

from mechdiff.reporting.charts.base import (
    BLUE,
    CONTROL_NAMES,
    CONTROLS,
    DASHED,
    GREEN,
    GREY,
    KL,
    LIVE,
    NARROW,
    ORANGE,
    PLUM,
    SOLID,
    chosen_layer,
    curves,
    layer_axis,
    nought,
    percent,
    room,
    titled,
)

MUTED = {name: (GREY, dash, False) for name, dash in CONTROLS.items()}
POINT = {LIVE: (ORANGE, SOLID, False)}
PATCHED = "patched"


def by_layer(table: pd.DataFrame, looks: dict, y: str, layer: int | None, **scale) -> list[alt.Chart]:
    """A chart's curves over layers, and the chosen layer, if there is one."""
    layers = curves(table, layer_axis(), looks, y, now=layer, **scale)
    return layers if layer is None else [chosen_layer(layer), *layers]


def drift_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "", live: bool = False) -> alt.LayerChart:
    """Similarity of the two models by layer: debiased CKA with its 95 % interval, and plain CKA dashed; live points on top.

    table: a row per layer, with columns layer, cka, cka_debiased, low, high, n, and perhaps shown (LIVE for live rows).
    """
    shown = table["shown"] if "shown" in table else pd.Series("", index=table.index)
    debiased = table.assign(mean=table["cka_debiased"], shown=shown.where(shown == LIVE, "debiased CKA"))
    plain = table.assign(mean=table["cka"], shown="plain CKA")[shown != LIVE]
    both = pd.concat([debiased, plain], ignore_index=True).rename(columns={"n": "prompts"})
    looks = {"debiased CKA": (BLUE, SOLID, True), "plain CKA": (BLUE, DASHED, False)} | POINT
    layers = by_layer(both, looks, "Linear CKA, base against tuned", layer)
    return titled(alt.layer(*layers), "Where do representations part?", subtitle)


def layer_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Effect of patching each layer, with its 95 % interval over prompts; controls in grey; live points on top.

    table: a row per layer and shown (PATCHED, a control's name, LIVE), with columns mean, low, high (nats), prompts, templates.
    """
    layers = by_layer(table, {PATCHED: (BLUE, SOLID, True)} | MUTED | POINT, KL, layer)
    return titled(alt.layer(*layers), "Which layers' states move the next token?", subtitle)


def transport_curve(table: pd.DataFrame, layer: int, name: str, subtitle: str = "") -> alt.LayerChart:
    """Effect of the mapped state by layer, beside the zscore reference and the controls; live points on top.

    table: columns layer, shown (name, `zscore`, a control's name or LIVE), mean, low, high (nats), prompts, templates.
    """
    looks = {name: (BLUE, SOLID, True), "zscore": (GREEN, DASHED, name != "zscore")} | MUTED | POINT
    if name == "zscore":
        looks["zscore"] = (BLUE, SOLID, True)
    scale, told = room(table)
    layers = by_layer(table, looks, KL, layer, **scale)
    return titled(alt.layer(*layers), "Does a linear map explain the change?", [subtitle, told] if told else subtitle)


def drop_curve(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """How much less the mapped state does than the zscore one, by layer; blank where that is at the floor.

    table: columns layer, shown (`drop` or LIVE), mean, low, high (per cent).
    """
    layers = by_layer(table, {"drop": (BLUE, SOLID, True)} | POINT, "Drop against zscore, %", layer, domain=percent(table))
    return titled(alt.layer(nought(), *layers), "How much of the zscore effect goes?", subtitle, NARROW)


def transplant_curve(table: pd.DataFrame, layer: int, subtitle: str = "") -> alt.LayerChart:
    """Effect of each module's own weights by layer.

    table: columns layer, shown (attn_out, mlp_out, the floor), mean, low, high (nats), prompts, templates.
    """
    floor = CONTROL_NAMES["self"]
    looks = {"attn_out": (BLUE, SOLID, True), "mlp_out": (GREEN, DASHED, True), floor: MUTED[floor]}
    looks |= {"attn_out, live": (ORANGE, SOLID, False), "mlp_out, live": (PLUM, DASHED, False)}
    return titled(alt.layer(*by_layer(table, looks, KL, layer)), "Which modules' own weights matter?", subtitle)
