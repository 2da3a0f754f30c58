"""Transport: is the change a linear map between states?"""

import archive
import charts
import controls
import pandas as pd
import session
import streamlit as st

from mechdiff.terms import sides
from views import mapped


def page() -> None:
    st.header("Transport: is the change a linear map?")
    shared = st.session_state["_shared"]
    donor, recipient = sides(shared["direction"])
    st.caption(
        f"The **{donor}** model's state is mapped to the **{recipient}** model's by a map fitted on the train split, and put in "
        "its place. If the map explains the change, little happens: a **low effect**. The reference is `zscore`, which only "
        "matches every dimension's mean and scale; **drop** is how much of its effect the map takes away."
    )
    if session.ready(controls.read_pair(shared["pair"])):
        site(shared)


@session.panel
def site(shared: dict) -> None:
    name, stream, layer, alpha = mapped.site(shared)
    asked = {"map": name, "streams": (stream,), "alpha": (alpha,), "controls": ("self",)}
    run = controls.request("transport", shared, layers=(layer,), **asked)
    table = session.answer(run)
    line = mapped.asked(mapped.summary(run, table))
    if line is None:
        session.waiting("The live effect appears when the train split is read, the map fitted and the prompts patched.")
    else:
        here = table[table["control"] == "none"]
        mapped.metrics(here, line, f"Effect at layer {layer}")
        archive.badge(run, here, "rq2", "transport", layer=layer, stream=stream, map=name, alpha=alpha, control="none")
    every = {**asked, "controls": ("self", "mean")}
    curves(run, controls.request("transport", shared, **every), line)
    mapped.diagnostics(run, layer, stream)
    if line is not None:
        session.provenance(run, table)


def curves(run, every, line) -> None:
    """Effect and drop over layers: stored, or computed on the page's own prompts, with the live point on top."""
    if controls.compute("curve", "Every layer on the chosen prompts, in place of the stored curve. It takes longer."):
        found = mapped.summary(every, mapped.with_reference(session.answer(every, patience=0.05)))
        about = "computed on these prompts"
    else:
        found = stored_curves(run)
        about = archive.origin(run, "rq2", found)
        if found.empty:
            archive.missing(run, f" at alpha {run.alpha[0]}" if run.alpha != ("auto",) else "")
    if found.empty:
        return
    name, (layer,), point = run.map, run.layers, mapped.point(line)
    about = f"Alpha {run.alpha[0]}; {about}; bands: 95 %"
    left, right = st.columns(2)
    effects = charts.transport_curve(mapped.join(mapped.named(found), point), layer, name, about)
    left.altair_chart(effects, width="stretch")
    drop = found[(found["map"] == name) & (found["control"] == "none")].assign(shown="drop")
    if len(drop):
        drop = mapped.share(mapped.join(drop, point), "drop")
        right.altair_chart(charts.drop_curve(drop, layer, "Blank where the zscore effect is at the floor"), width="stretch")


def stored_curves(run) -> pd.DataFrame:
    """The stored lines over layers at the run's stream: its map at its alpha, zscore, and the controls that belong to them."""
    stream, alpha = run.streams[0], run.alpha[0]
    every = archive.lines(run, "rq2", "transport_summary", stream=stream)
    if every.empty:
        return every
    fixed = every["control"].isin(["self", "mean"])
    mine = every[(every["map"] == run.map) & ~fixed]
    if alpha != "auto":
        mine = archive.lines(run, "rq2", "alpha_summary", stream=stream, map=run.map, alpha=alpha)
    if mine.empty:
        return mine
    reference = every[(every["map"] == "zscore") & (run.map != "zscore")]
    return mapped.join(mine, reference, every[fixed])
