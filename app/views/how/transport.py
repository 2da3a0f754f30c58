"""Transport: is the change a linear map between states?"""

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
from views import imports, metrics

LONGER = "Every layer on the chosen prompts: as points beside the stored curve, or where there is none, with controls."


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Transport: is the change a linear map?",
        say("map", "zscore", "drop", "effect", "donor", "recipient", "controls"),
        f"The **{donor}** model's state, mapped to the **{recipient}** model's by a fitted map, takes its place. A **low "
        "effect** and a **high drop** say that the map explains the change.",
    )
    if session.ready(selection.spec):
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
    """The stored effect and drop over layers, and the live ones as points: the chosen layer's, or when asked every layer's."""
    kept, live = view_requests.stored_over_layers(run, stored_results.lines), metrics.live(line)
    every, about = view_requests.transport_curve(selection, len(kept) > 0), stored_results.origin(run, "rq2", kept)
    if kept.empty:
        stored_results.missing(run, f" at alpha {run.alpha[0]}" if run.alpha != ("auto",) else "")
    place, origins = st.container(), stored_results.row()
    if controls.compute("curve", LONGER, rates.estimate(every)):
        found = session.answer(every, patience=0.05)
        if kept.empty:
            kept, about = metrics.summary(every, metrics.with_reference(found)), "computed on these prompts"
        else:
            found = metrics.summary(every, found)
            live = metrics.live(found[found["control"] == "none"]) if len(found) else live
    if len(kept) or len(live):
        with place:
            effect_and_drop(run, kept, live, about or "nothing stored")
    (layer,), (stream,), (alpha,) = run.layers, run.streams, run.alpha
    with origins:
        stored_results.badge(run, here, "rq2", "transport", layer=layer, stream=stream, map=run.map, alpha=alpha, control="none")
        stored_results.provenance(run, "rq2")


def effect_and_drop(run, kept: pd.DataFrame, live: pd.DataFrame, about: str) -> None:
    (layer,) = run.layers
    selection, where = controls.current(), {"stream": run.streams[0], "control": "none"}
    shown = chart_tables.join(chart_tables.named(kept) if len(kept) else kept, live)
    about = f"alpha {run.alpha[0]}; {about}; bands, bars: 95 %; click a layer"
    left, right = st.columns([3, 2])
    with left:
        figure = charts.transport_curve(shown, layer, run.map, about)
        controls.clickable(imports.on(figure, "mapped", selection, **where), "pick_transport")
    drop = kept[(kept["map"] == run.map) & (kept["control"] == "none")].assign(shown="drop") if len(kept) else kept
    drop = chart_tables.join(drop, live)
    with right:
        blank = "blank where the zscore effect is at the floor; click a layer"
        figure = charts.drop_curve(chart_tables.share(drop, "drop"), layer, blank)
        controls.clickable(imports.on(figure, "drop", selection, **where), "pick_drop")
