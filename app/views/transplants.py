"""A part of the Patching page: what did each module's own weights change?"""

import archive
import charts
import controls
import pandas as pd
import session
import streamlit as st

from views import mapped

MODULES = ("attn_out", "mlp_out")


def section(shared: dict, layer: int) -> None:
    """Transplants by layer, and single heads' at the chosen layer: stored, or on the page's own prompts when asked."""
    st.subheader("What did each module's own weights change?")
    st.caption(
        "Patching a state shows everything upstream of it. A **transplant** runs the donor's attention or MLP *weights* on the "
        "recipient's own input: what that one module's weights changed, and exactly zero where the weights agree."
    )
    live = controls.compute("transplants", "Both modules of every layer, and the chosen layer's heads, on the chosen prompts.")
    modules = controls.request("transplant", shared, streams=MODULES, controls=("self",))
    heads = controls.request("transplant", shared, streams=("heads",), layers=(layer,), controls=("self",))
    if live:
        table = session.answer(modules, patience=0.05)
        singles = session.answer(heads, patience=0.05)
        by_layer, by_head = mapped.summary(modules, table), mapped.summary(heads, singles)
        if by_layer.empty:
            session.waiting("The first layers appear in a moment.")
            return
        about = f"Computed on {by_layer['prompts'].iloc[0]} prompts"
    else:
        by_layer = archive.lines(modules, "rq1", "transplant_summary")
        if by_layer.empty:
            archive.missing(modules)
            return
        by_head = by_layer[(by_layer["layer"] == layer) & (by_layer["stream"] == "heads")]
        about = archive.origin(modules, "rq1", by_layer)
    draw(by_layer, by_head, layer, about)
    if live:
        for stream in MODULES:
            here = table[(table["layer"] == layer) & (table["stream"] == stream) & (table["control"] == "none")]
            at = {"layer": layer, "stream": stream, "control": "none"}
            archive.badge(modules, here, "rq1", "transplant", f"{stream} at layer {layer}", **at)
        session.provenance(modules, table)


def draw(by_layer: pd.DataFrame, by_head: pd.DataFrame, layer: int, about: str) -> None:
    left, right = st.columns([3, 2])
    shown = by_layer[by_layer["stream"].isin(MODULES)]
    floor = shown["control"].map(charts.CONTROL_NAMES)
    shown = shown.assign(shown=floor.fillna(shown["stream"]))
    shown = shown[(shown["control"] == "none") | (shown["stream"] == MODULES[0])]  # one floor is enough
    left.altair_chart(charts.transplant_curve(shown, layer, f"{about}; bands: 95 %"), width="stretch")
    singles = by_head[by_head["control"] == "none"]
    if not singles.empty:
        right.altair_chart(charts.transplant_bars(singles, layer, "Each head's own weights; whiskers: 95 %"), width="stretch")
