"""Curves over layers. A click on a point returns its layer, where one is chosen."""

import altair as alt
import numpy as np
import pandas as pd

from mechdiff.questions.drift import DEBIASED, OVER_TEMPLATES, similarity_of
from mechdiff.reporting.charts.base import (
    BLUE,
    CONTROL_NAMES,
    CONTROLS,
    DASHED,
    GREEN,
    GREY,
    KL,
    LIVE_LOOK,
    NARROW,
    PATCHED,
    PLUM,
    SOLID,
    chosen_layer,
    curves,
    is_live,
    layer_axis,
    layered,
    percent,
    room,
    titled,
    with_long_legend,
    zero_line,
)

NULL = "templates shuffled"
MUTED = {name: (GREY, dash, False) for name, dash in CONTROLS.items()}


def by_layer(table: pd.DataFrame, looks: dict, y: str, layer: int | None, live_looks: dict | None = None, **scale) -> list:
    """A chart's curves over layers, and the chosen layer, if there is one."""
    layers = curves(table, layer_axis(), looks, y, now=layer, live_looks=live_looks, **scale)
    return layers if layer is None else [chosen_layer(layer), *layers]


def drift_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "", plain: bool = False) -> alt.LayerChart:
    """Similarity of the two models by layer, with its 95 % interval, and its null in grey; live points on top.

    It is CKA over templates, or the debiased or the plain one where a table has no other.
    table: a row per layer, as `drift` returns them, and perhaps live (bool). plain: whether the plain one stands beside it, as
    the original study defined drift.
    """
    lines, live = similarity_of(table), is_live(table)
    judged = lines.assign(shown=lines["similarity"]).dropna(subset=["mean"])
    null = lines.assign(mean=lines["cka_null"], low=np.nan, high=np.nan, shown=NULL)[~live].dropna(subset=["mean"])
    studys = lines.assign(mean=lines["cka"], low=lines["low_plain"], high=lines["high_plain"], shown="plain CKA")
    studys = studys[(lines["mean"].isna() | plain) & ~live].dropna(subset=["mean"])
    every = pd.concat([judged, null, studys], ignore_index=True).rename(columns={"n": "prompts"})
    looks = dict.fromkeys((OVER_TEMPLATES, DEBIASED), (BLUE, SOLID, True)) | {"plain CKA": (BLUE, DASHED, False)}
    looks = {name: look for name, look in looks.items() if name in set(every["shown"])} | {NULL: (GREY, DASHED, False)}
    layers = by_layer(every, looks, "Linear CKA, base vs tuned", layer)
    return titled(layered(*layers), "Where do representations diverge?", subtitle)


def layer_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Effect of patching each layer, with its 95 % interval over prompts; controls in grey; live points on top.

    table: a row per layer and series (shown: PATCHED or a control's name), with columns mean, low, high (nats), prompts,
    templates, and perhaps live (bool).
    """
    layers = by_layer(table, {PATCHED: (BLUE, SOLID, True)} | MUTED, KL, layer)
    return titled(layered(*layers), "Which layers' states move the next token?", subtitle)


ALL_TOKENS, LAST_TOKEN = "states of all tokens", "state of the last token"


def recovery_curve(table: pd.DataFrame, layer: int | None = None, subtitle: str = "") -> alt.LayerChart:
    """Recovery by layer, through the states of all tokens and through the last token's alone.

    table: columns layer, shown (ALL_TOKENS, LAST_TOKEN), mean, low, high (1: the whole difference), prompts, templates, and
    perhaps live (bool).
    """
    looks = {ALL_TOKENS: (BLUE, SOLID, True), LAST_TOKEN: (GREEN, DASHED, True)}
    layers = by_layer(table, looks, "Recovery", layer, {ALL_TOKENS: LIVE_LOOK, LAST_TOKEN: (PLUM, DASHED, False)})
    return titled(layered(zero_line(), *layers), "Where in the depth does the change lie?", subtitle)


def transport_curve(
    table: pd.DataFrame, layer: int | None, name: str, subtitle: str = "", title: str = "Does a linear map explain the change?"
) -> alt.LayerChart:
    """Effect of the mapped state by layer, with one constant shift, z-score and the controls; live points on top.

    table: columns layer, shown (name, `shift`, `zscore` or a control's name), mean, low, high (nats), prompts, templates, perhaps
    live.
    """
    looks = {name: (BLUE, SOLID, True), "shift": (GREEN, DASHED, False), "zscore": (PLUM, DASHED, False)} | MUTED
    looks[name] = (BLUE, SOLID, True)
    scale, note = room(table)
    layers = by_layer(table, looks, KL, layer, **scale)
    return titled(layered(*layers), title, [subtitle, note] if note else subtitle)


BEYOND, DROP = "of the shift's effect", "of the z-score effect"


def drop_curve(table: pd.DataFrame, layer: int | None, subtitle: str = "") -> alt.LayerChart:
    """How much smaller the mapped state's effect is than that of one constant shift, and than the z-score one, by layer.

    table: columns layer, shown (BEYOND, DROP), mean, low, high (per cent), perhaps live (bool).
    """
    looks = {BEYOND: (BLUE, SOLID, True), DROP: (GREEN, DASHED, False)}
    looks = {name: look for name, look in looks.items() if name in set(table["shown"])} if len(table) else looks
    live_looks = {BEYOND: LIVE_LOOK, DROP: (PLUM, DASHED, False)}
    layers = by_layer(table, looks, "Removed by the map, %", layer, live_looks, domain=percent(table))
    title = "How much does the map remove?"
    return titled(layered(zero_line(), *map(with_long_legend, layers)), title, subtitle, NARROW)


def transplant_curve(table: pd.DataFrame, layer: int | None, subtitle: str = "") -> alt.LayerChart:
    """Effect of each module's own weights by layer.

    table: columns layer, shown (attn_out, mlp_out, the floor), mean, low, high (nats), prompts, templates, perhaps live (bool).
    """
    floor = CONTROL_NAMES["self"]
    looks = {"attn_out": (BLUE, SOLID, True), "mlp_out": (GREEN, DASHED, True), floor: MUTED[floor]}
    live_looks = {"attn_out": LIVE_LOOK, "mlp_out": (PLUM, DASHED, False)}
    return titled(layered(*by_layer(table, looks, KL, layer, live_looks)), "Which modules' own weights matter?", subtitle)
