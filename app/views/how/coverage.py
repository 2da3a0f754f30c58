"""A section of the Heads page: how many heads does the change need?"""

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
from views import imports, metrics

LONGER = "Heads are first chosen on train prompts. On a CPU this takes minutes for top k, longer for greedy, once per layer."


def section(selection: Selection) -> None:
    """Coverage by the number of heads at the chosen layer: stored, and live on request."""
    st.subheader("How many heads does the change need?", help=TERMS["coverage"])
    st.caption(
        "**top k**: the k heads with the largest single effects. **greedy**: heads added one at a time, each time the one that "
        "adds most. Both are chosen on train prompts and measured on these prompts. Grey band: 95 % of **random sets**."
    )
    layer, blend, runs = selection.chosen_layer, selection.blend, view_requests.coverage(selection)
    stored = stored_results.lines(runs[0], "rq4", "coverage_summary", layer=layer) if blend == 1 else pd.DataFrame()
    if blend != 1:
        st.info("The stored curve is for blend 1. Switch on the computation below, or set the blend to 1.")
    elif stored.empty:
        stored_results.missing(runs[0])
    place, live = st.container(), pd.DataFrame()
    if controls.compute("coverage", LONGER, partial(rates.estimate, *runs)):
        live = computed(runs)
        if live.empty:
            session.waiting("Choosing heads on train prompts, then measuring the sets...", session.NUMBERS)
    if len(stored) or len(live):
        with place:
            draw(stored, live, runs[0].spec.heads, layer, stored_results.origin(runs[0], "rq4", stored) or "nothing stored")
    stored_results.provenance(runs[0], "rq4")


def computed(runs: list) -> pd.DataFrame:
    """The summaries of the runs so far; each starts when the one before it has finished."""
    parts = []
    for run in runs:
        table = session.answer(run, patience=0.05)
        if run in session.pending():
            break
        parts.append(metrics.summary(run, table))
    return chart_tables.join(*parts)


def draw(stored: pd.DataFrame, live: pd.DataFrame, count: int, layer: int, about: str) -> None:
    rows = chart_tables.join(
        chart_tables.by_size(stored, count), chart_tables.by_size(live, count, live=True, random=stored.empty)
    )
    if rows["mean"].isna().all():
        st.info(f"At layer {layer}, replacing all heads changes nothing beyond rounding.")
        return
    about = f"{about}; 95 % CI over prompts (random sets: over sets); click a set"
    curve = charts.coverage_curve(rows, layer, about, st.session_state.get("heads") or [])
    figure = imports.on(curve, "coverage", controls.current(), layer=layer)
    controls.clickable(figure, "coverage_curve", partial(take_set, count=count))


def take_set(picked: dict, count: int) -> None:
    """Choose the heads of a clicked set. The band of random sets has none."""
    text = picked.get("heads")
    if isinstance(text, str):
        st.session_state["heads"] = list(range(count)) if text == "all" else sorted(map(int, text.split("-")))
