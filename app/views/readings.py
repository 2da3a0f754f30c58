"""What the stored sweep says of a page's question: one sentence each, and how to read it."""

import controls
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


def recoveries(sweep: StoredSweep, layer: int | None, key: str, take=None) -> bool:
    """The stored recovery over layers, of all tokens' states and of the last one's. Returns whether it is stored.

    take: what a click does; None: nothing.
    """
    tables = {
        charts.ALL_TOKENS: sweep.read("rq1", "patch_all_summary", control="none"),
        charts.LAST_TOKEN: sweep.read("rq1", "patch_summary", stream=STREAM, control="none"),
    }
    if tables[charts.ALL_TOKENS] is None:
        return False
    table = chart_tables.recoveries({name: part for name, part in tables.items() if part is not None})
    figure = charts.recovery_curve(table, layer, f"{sweep.origin()}; bands: 95 %, for all layers together")
    if take is None:
        controls.draw(figure, key)
    else:
        controls.clickable(figure, key, take=take)
    return True
