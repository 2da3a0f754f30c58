"""A section of the Patching page: what do each module's own weights change?"""

from functools import partial

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import TERMS

from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import metrics, readings

LONGER = "Both modules of every layer, and the heads of the chosen layer, as points on the stored curve."


def section(selection: Selection) -> None:
    """Transplants by layer, and of single heads at the chosen layer: stored, and live on request."""
    st.subheader("What do each module's own weights change?", help=TERMS["transplant"])
    st.caption(
        "Patching a state includes everything upstream of it. A **transplant** runs the donor's attention or MLP *weights* on "
        "the recipient's own input, so it shows the effect of that module's weights alone: zero where the weights are equal."
    )
    readings.show(selection, "transplant")
    layer, (modules, heads) = selection.chosen_layer, view_requests.transplants(selection)
    stored = stored_results.lines(modules, "rq1", "transplant_summary")
    if stored.empty:
        stored_results.missing(modules)
    place, origins, live = st.container(), stored_results.row(), stored.iloc[:0]
    if controls.compute("transplants", LONGER, partial(rates.estimate, modules)):
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
            session.waiting("Computing the first layers...", session.NUMBERS)
    if len(stored) or len(live):
        with place:
            draw(stored, live, layer, stored_results.origin(modules, "rq1", stored) or "nothing stored")
    with origins:
        stored_results.provenance(modules, "rq1")


def draw(stored: pd.DataFrame, live: pd.DataFrame, layer: int, about: str) -> None:
    left, right = st.columns([3, 2])
    rows = chart_tables.join(chart_tables.by_module(stored), chart_tables.by_module(live, live=True, floor=stored.empty))
    if len(rows):
        about = f"{about}{chart_tables.ends(rows)}; click a layer"
        with left:
            controls.clickable(charts.transplant_curve(rows, layer, about), "pick_transplant")
    singles = chart_tables.join(one_by_one(stored, layer, False), one_by_one(live, layer, True))
    if len(singles):
        chosen = st.session_state.get("heads") or []
        about = "each head's own weights; whiskers: 95 % CI; click a head"
        with right:
            bars = charts.transplant_bars(singles, layer, chosen, about)
            controls.clickable(bars, "pick_transplanted_head", controls.toggle_head)


def one_by_one(lines: pd.DataFrame, layer: int, live: bool) -> pd.DataFrame:
    """The lines of single heads at one layer."""
    if lines.empty:
        return lines
    here = lines[(lines["layer"] == layer) & (lines["stream"] == "heads") & (lines["control"] == "none")]
    return here.assign(live=live, head=here["heads"].astype(int))
