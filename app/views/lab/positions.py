"""A section of the Lab page, on request: every token of the prompt, at every few layers, replaced one at a time."""

from dataclasses import replace

import controls
import pandas as pd
import session
import streamlit as st

from mechdiff import questions
from mechdiff.questions.prompt.position_map import MapTime, PositionMap
from mechdiff.reporting import charts
from mechdiff.study import timings

STEPS = [1, 2, 3, 5, 10]


def section(study, reading: pd.DataFrame) -> None:
    title = "Where in the prompt? Every token, layer by layer"
    opened = st.expander(title, key="positions", icon=":material/map:", on_change="rerun")
    if opened.open:
        with opened:
            session.guard(inside, study, reading)


def inside(study, reading: pd.DataFrame) -> None:
    left, middle, right = st.columns([1.3, 1, 1.4], vertical_alignment="bottom")
    with left:
        stream = st.selectbox("Stream replaced", controls.STREAM_ORDER, key="map_stream", help=controls.STREAM_HELP)
    with middle:
        step = st.selectbox("Layer step", STEPS, index=2, key="step")
    run = study.run("patch", streams=(stream,), layers=tuple(range(0, study.run("patch").spec.layers, step)), back=0)
    request = PositionMap(run)
    known = questions.task(request)
    if known.done < known.total and request not in requested():
        with right:
            offer(request, MapTime(run))
        return
    table = session.answer(request, patience=0.05)
    if table.empty:
        session.waiting("Computing the map from the last token backwards...")
        return
    words = list(reading.drop_duplicates("token")["text"])
    figure = charts.position_map(table, words, st.session_state.get("layer", -1), study.back)
    controls.clickable(figure, "pick_position", go)
    session.provenance(replace(run, back=study.back), table[table["back"] == study.back])


def requested() -> set:
    """The maps that this session has requested."""
    return st.session_state.setdefault("_mapped", set())


def offer(request: PositionMap, time: MapTime) -> None:
    """The button that starts the map, and how long it will take, from one column timed here."""
    timing = session.answer(time)
    st.button("Compute the map", type="primary", on_click=requested().add, args=(request,), key="map_positions")
    if len(timing):
        seconds, columns = timing.iloc[0]
        st.caption(f"About {timings.in_words(seconds)} (one of {columns:.0f} columns was timed just now).")
    else:
        st.caption("Timing one column for an estimate...")


def go(picked: dict) -> None:
    """A clicked cell: choose its token and its layer."""
    layer = int(picked["layer"])
    st.session_state.update(back=int(picked["back"]), layer=layer, add_layer=layer)
