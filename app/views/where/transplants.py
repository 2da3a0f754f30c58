"""A part of the Patching page: what did each module's own weights change?"""

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import TERMS

from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import metrics

LONGER = "Both modules of every layer, and the chosen layer's heads, on the chosen prompts: as points beside the stored curve."


def section(selection: Selection) -> None:
    """Transplants by layer, and single heads' at the chosen layer: stored, and when asked live."""
    st.subheader("What did each module's own weights change?", help=TERMS["transplant"])
    st.caption(
        "Patching a state shows everything upstream of it. A **transplant** runs the donor's attention or MLP *weights* on the "
        "recipient's own input: what that one module's weights changed, and exactly zero where the weights agree."
    )
    layer, (modules, heads) = selection.chosen_layer, view_requests.transplants(selection)
    kept = stored_results.lines(modules, "rq1", "transplant_summary")
    if kept.empty:
        stored_results.missing(modules)
    place, origins, live = st.container(), stored_results.row(), kept.iloc[:0]
    if controls.compute("transplants", LONGER, rates.estimate(modules)):
        table, singles = (session.answer(run, patience=0.05) for run in (modules, heads))
        live = chart_tables.join(metrics.summary(modules, table), metrics.summary(heads, singles))
        for stream in view_requests.MODULES:
            here = table[(table["layer"] == layer) & (table["stream"] == stream) & (table["control"] == "none")]
            at = {"layer": layer, "stream": stream, "control": "none"}
            with origins:
                stored_results.badge(modules, here, "rq1", "transplant", f"{stream} at layer {layer}", **at)
        if len(table):
            session.provenance(modules, table)
        else:
            session.waiting("The first layers appear in a moment.", session.NUMBERS)
    if len(kept) or len(live):
        with place:
            draw(kept, live, layer, stored_results.origin(modules, "rq1", kept) or "nothing stored")
    with origins:
        stored_results.provenance(modules, "rq1")


def draw(kept: pd.DataFrame, live: pd.DataFrame, layer: int, about: str) -> None:
    left, right = st.columns([3, 2])
    shown = chart_tables.join(chart_tables.by_module(kept), chart_tables.by_module(live, live=True, floor=kept.empty))
    if len(shown):
        about = f"{about}; bands, bars: 95 %; click a layer"
        with left:
            controls.clickable(charts.transplant_curve(shown, layer, about), "pick_transplant")
    singles = chart_tables.join(one_by_one(kept, layer, False), one_by_one(live, layer, True))
    if len(singles):
        chosen = st.session_state.get("heads") or []
        about = "each head's own weights; whiskers: 95 %; click a head"
        with right:
            bars = charts.transplant_bars(singles, layer, chosen, about)
            controls.clickable(bars, "pick_transplanted_head", controls.toggle_head)


def one_by_one(lines: pd.DataFrame, layer: int, live: bool) -> pd.DataFrame:
    """Single heads' lines at one layer."""
    if lines.empty:
        return lines
    here = lines[(lines["layer"] == layer) & (lines["stream"] == "heads") & (lines["control"] == "none")]
    return here.assign(live=live, head=here["heads"].astype(int))
