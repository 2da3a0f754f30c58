"""Transport: is the change a linear map between states?"""

from functools import partial

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import say

from mechdiff.common.terms import sides
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics, readings

LONGER = "Every layer, as points on the stored curve; without a stored curve, with controls."


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Transport: is the change a linear map?",
        say("map", "zscore", "drop", "effect", "donor", "recipient", "controls"),
        f"The **{recipient}** model's state is replaced by a linear map of the **{donor}** model's. A **low effect** and a "
        "large part of the **shift's effect removed** mean that the map explains the change, if it also beats the controls.",
    )
    readings.show(selection, "map")
    if session.available(selection):
        site(selection)
    imports.numbers("transport", selection)


@session.panel
def site(selection: Selection) -> None:
    selection = controls.widgets(selection, "fit", "stream", "layer", "alpha")
    run, layer, stream = view_requests.transport(selection), selection.chosen_layer, selection.stream
    line, table = metrics.answer(run, f"Effect at layer {layer}", f"{stream} · L{layer} · {run.map}")
    curves(run, selection, line, table[table["control"] == "none"])
    metrics.diagnostics(run, layer, stream)
    if line is not None:
        session.provenance(run, table)


def curves(run, selection: Selection, line, here: pd.DataFrame) -> None:
    """The stored effect and drop over layers, and the live ones as points: the chosen layer, or on request every layer."""
    stored, live = view_requests.stored_over_layers(run, stored_results.lines), metrics.live(line)
    every, about = view_requests.transport_curve(selection, len(stored) > 0), stored_results.origin(run, "rq2", stored)
    if stored.empty:
        stored_results.missing(run, f" at alpha {run.alpha[0]}" if run.alpha != ("auto",) else "")
    place, origins = st.container(), stored_results.row()
    if controls.compute("curve", LONGER, partial(rates.estimate, every)):
        table = session.answer(every, patience=0.05)
        if stored.empty:
            stored, about = metrics.summary(every, metrics.with_reference(table)), "computed on these prompts"
        else:
            lines = metrics.summary(every, table)
            live = metrics.live(lines[lines["control"] == "none"]) if len(lines) else live
    if len(stored) or len(live):
        with place:
            effect_and_drop(run, stored, live, about or "not stored")
    (layer,), (stream,), (alpha,) = run.layers, run.streams, run.alpha
    with origins:
        stored_results.badge(run, here, "rq2", "transport", layer=layer, stream=stream, map=run.map, alpha=alpha, control="none")
        stored_results.provenance(run, "rq2")


def effect_and_drop(run, stored: pd.DataFrame, live: pd.DataFrame, about: str) -> None:
    (layer,) = run.layers
    selection, where = controls.current(), {"stream": run.streams[0], "control": "none"}
    every = chart_tables.join(chart_tables.named(stored) if len(stored) else stored, live)
    rows = chart_tables.judged(every, run.map)
    about = f"alpha {run.alpha[0]}; {about}{chart_tables.ends(rows)}; click a layer"
    left, right = st.columns([3, 2])
    with left:
        figure = charts.transport_curve(rows, layer, run.map, about)
        controls.clickable(imports.on(figure, "mapped", selection, **where), "pick_transport")
    mapped = stored[(stored["map"] == run.map) & (stored["control"] == "none")] if len(stored) else stored
    with right:
        about = "no value where that effect is rounding error; click a layer"
        figure = charts.drop_curve(chart_tables.removed(mapped, live), layer, about)
        controls.clickable(imports.on(figure, "drop", selection, **where), "pick_drop")
    if len(every) > len(rows):
        with session.more("More: all controls and streams"):
            rest(run, every)


def rest(run, every: pd.DataFrame) -> None:
    """The map against all of its controls, and its drop in every stream."""
    (layer,), (alpha,) = run.layers, run.alpha
    about, title = f"alpha {alpha}; click a layer", "Does the map beat its controls?"
    controls.clickable(charts.transport_curve(every, layer, run.map, about, title), "pick_control")
    best = chart_tables.best_drops(
        stored_results.lines(run, "rq2", "transport_summary", map=run.map, alpha=alpha, control="none")
    )
    if len(best) > 1:
        about = f"{run.map}, alpha {alpha}; the best layer of each, so somewhat too good; bars: 95 % CI"
        controls.draw(charts.stream_bars(best, about))
