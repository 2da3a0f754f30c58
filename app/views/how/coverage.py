"""A part of the Heads page: how many heads does the change need?"""

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

LONGER = "Heads are first chosen on the train split: on a CPU minutes for top k, and many for greedy, once a layer."


def section(selection: Selection) -> None:
    """Coverage over the number of heads at the chosen layer: stored, and when asked live."""
    st.subheader("Coverage by sets of heads", help=TERMS["coverage"])
    st.caption(
        "**top k**: the k heads with the largest single effects. **greedy**: one head after another, always the one that adds "
        "most. Both are chosen on the train split and scored on these prompts. The grey band holds 95 % of **random sets**."
    )
    layer, blend, runs = selection.chosen_layer, selection.blend, view_requests.coverage(selection)
    kept = stored_results.lines(runs[0], "rq4", "coverage_summary", layer=layer) if blend == 1 else pd.DataFrame()
    if blend != 1:
        st.info("The stored curve is for blend 1. Compute this one on these prompts, or set the blend to 1.")
    elif kept.empty:
        stored_results.missing(runs[0])
    place, live = st.container(), pd.DataFrame()
    if controls.compute("coverage", LONGER, rates.estimate(*runs)):
        live = computed(runs)
        if live.empty:
            session.waiting("The live points appear when the heads are chosen and the sets scored.", session.NUMBERS)
    if len(kept) or len(live):
        with place:
            draw(kept, live, runs[0].spec.heads, layer, stored_results.origin(runs[0], "rq4", kept) or "nothing stored")
    stored_results.provenance(runs[0], "rq4")


def computed(runs: list) -> pd.DataFrame:
    """What is there of the runs; each is begun when the one before it is whole."""
    parts = []
    for run in runs:
        table = session.answer(run, patience=0.05)
        if run in session.pending():
            break
        parts.append(metrics.summary(run, table))
    return chart_tables.join(*parts)


def draw(kept: pd.DataFrame, live: pd.DataFrame, count: int, layer: int, about: str) -> None:
    shown = chart_tables.join(chart_tables.by_size(kept, count), chart_tables.by_size(live, count, live=True, random=kept.empty))
    if shown["mean"].isna().all():
        st.info(f"At layer {layer} replacing all heads changes nothing beyond rounding.")
        return
    about = f"{about}; 95 % CI over prompts (random sets: over sets); click a set"
    curve = charts.coverage_curve(shown, layer, about, st.session_state.get("heads") or [])
    figure = imports.on(curve, "coverage", controls.current(), layer=layer)
    controls.clickable(figure, "coverage_curve", partial(take_set, count=count))


def take_set(picked: dict, count: int) -> None:
    """Choose a clicked set's heads. The band of random sets is no one set."""
    text = picked.get("heads")
    if isinstance(text, str):
        st.session_state["heads"] = list(range(count)) if text == "all" else sorted(map(int, text.split("-")))
