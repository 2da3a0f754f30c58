"""Transport: is the change a linear map between states?"""

from dataclasses import replace

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import say

from mechdiff.common.terms import sides
from mechdiff.reporting import chart_tables, charts
from views import imports, metrics

LONGER = "Every layer on the chosen prompts: as points beside the stored curve, or where there is none, with controls."


def page() -> None:
    shared = st.session_state["_shared"]
    donor, recipient = sides(shared["direction"])
    session.heading(
        "Transport: is the change a linear map?",
        say("map", "zscore", "drop", "effect", "donor", "recipient", "controls"),
        f"The **{donor}** model's state, mapped to the **{recipient}** model's by a fitted map, takes its place. A **low "
        "effect** and a **high drop** say that the map explains the change.",
    )
    if session.ready(controls.read_pair(shared["pair"])):
        site(shared)
    imports.numbers("transport", shared)


@session.panel
def site(shared: dict) -> None:
    name, stream, layer, alpha = metrics.site(shared)
    asked = {"map": name, "streams": (stream,), "alpha": (alpha,), "controls": ("self",)}
    run = controls.request("transport", shared, layers=(layer,), **asked)
    line, table = metrics.answer(run, f"Effect at layer {layer}", f"{stream} · L{layer} · {name}")
    curves(run, controls.request("transport", shared, **asked), line, table[table["control"] == "none"])
    metrics.diagnostics(run, layer, stream)
    if line is not None:
        session.provenance(run, table)


def curves(run, every, line, here: pd.DataFrame) -> None:
    """The stored effect and drop over layers, and the live ones as points: the chosen layer's, or when asked every layer's."""
    kept, live = stored_curves(run), metrics.live(line)
    about = stored_results.origin(run, "rq2", kept)
    if kept.empty:
        stored_results.missing(run, f" at alpha {run.alpha[0]}" if run.alpha != ("auto",) else "")
        every = replace(every, controls=("self", "mean"))
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
    shared, where = st.session_state["_shared"], {"stream": run.streams[0], "control": "none"}
    shown = chart_tables.join(chart_tables.named(kept) if len(kept) else kept, live)
    about = f"alpha {run.alpha[0]}; {about}; bands, bars: 95 %; click a layer"
    left, right = st.columns([3, 2])
    with left:
        figure = charts.transport_curve(shown, layer, run.map, about)
        controls.clickable(imports.on(figure, "mapped", shared, **where), "pick_transport")
    drop = kept[(kept["map"] == run.map) & (kept["control"] == "none")].assign(shown="drop") if len(kept) else kept
    drop = chart_tables.join(drop, live)
    with right:
        blank = "blank where the zscore effect is at the floor; click a layer"
        figure = charts.drop_curve(chart_tables.share(drop, "drop"), layer, blank)
        controls.clickable(imports.on(figure, "drop", shared, **where), "pick_drop")


def stored_curves(run) -> pd.DataFrame:
    """The stored lines over layers at the run's stream: its map at its alpha, zscore, and the controls that belong to them."""
    stream, alpha = run.streams[0], run.alpha[0]
    every = stored_results.lines(run, "rq2", "transport_summary", stream=stream)
    scaled = stored_results.lines(run, "rq2", "alpha_summary", stream=stream, map=run.map, alpha=alpha)
    return chart_tables.of_uncut(every, scaled, run.map, alpha)
