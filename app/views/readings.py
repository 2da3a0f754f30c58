"""What the stored sweep says of a page's question: one sentence each, and how to read it."""

import controls
import pandas as pd
import streamlit as st

from mechdiff.reporting import chart_tables, charts
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts, readings
from mechdiff.study.stored_sweep import STREAM, StoredSweep


def sweep_of(selection: Selection) -> StoredSweep:
    """The stored sweep of a selection's pair on its domain."""
    return StoredSweep(artifacts.stored_name(selection.pair, selection.protocol), selection.domain, selection.direction)


@st.cache_data(max_entries=64, show_spinner=False)
def of_sweep(place: str, sweep: StoredSweep, stamp: float) -> list[readings.Reading]:
    """A sweep's readings, until its files change. place: the folder of all sweeps."""
    return list(readings.readings(sweep))


def stored(sweep: StoredSweep) -> list[readings.Reading]:
    return of_sweep(str(artifacts.ARTIFACTS), sweep, sweep.stamp())


def sentence(sweep: StoredSweep, key: str) -> str:
    """One reading's sentence; empty if it is not stored."""
    return next((reading.sentence for reading in stored(sweep) if reading.key == key), "")


def show(selection: Selection, *keys: str) -> None:
    """The readings of these keys that are stored, or that no layer was chosen on train."""
    sweep = sweep_of(selection)
    chosen = [reading for reading in stored(sweep) if reading.key in keys]
    if not chosen:
        st.caption("Nothing is stored that chose a layer on train: the layer is your own choice.")
        return
    for reading in chosen:
        st.markdown(reading.sentence)
    with st.expander("How to read this"):
        for reading in chosen:
            st.markdown(f"**{reading.sentence}**\n\n{reading.estimand}\n\n{reading.control} {reading.chosen}")
        st.caption(f"From the stored sweep: {sweep.origin()}. Intervals are over prompts, not over other fine-tunes.")


def recoveries(sweep: StoredSweep, layer: int | None, key: str, take=None, live: dict[str, pd.DataFrame] | None = None) -> bool:
    """The recovery over layers, of all tokens' states and of the last one's, stored and live. Returns whether it is drawn.

    take: what a click does; None: nothing. live: summaries by series; drawn if the stored ones are, or all tokens' are there.
    """
    tables = {
        charts.ALL_TOKENS: sweep.read("rq1", "patch_all_summary", control="none"),
        charts.LAST_TOKEN: sweep.read("rq1", "patch_summary", stream=STREAM, control="none"),
    }
    stored, live = {name: part for name, part in tables.items() if part is not None}, live or {}
    if charts.ALL_TOKENS not in stored:
        stored = {}
    if not stored and charts.ALL_TOKENS not in live:
        return False
    table = chart_tables.join(chart_tables.recoveries(stored), chart_tables.recoveries(live).assign(live=True))
    about = sweep.origin() if stored else "computed on these prompts"
    figure = charts.recovery_curve(table, layer, f"{about}{chart_tables.ends(table)}")
    if take is None:
        controls.draw(figure, key)
    else:
        controls.clickable(figure, key, take=take)
    return True
