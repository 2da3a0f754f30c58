"""Drift: where do the two models' representations part?"""

import charts
import controls
import session
import streamlit as st

from mechdiff.terms import STREAMS


def page() -> None:
    st.header("Drift: where do representations part?")
    st.caption(
        "**Linear CKA** says how alike base and tuned model place the same prompts, whatever the rotation and scale: 1 is the "
        "same geometry. Plain CKA is biased upward with fewer prompts than dimensions; the **debiased** estimate is not."
    )
    shared = st.session_state["_shared"]
    if session.ready(controls.read_pair(shared["pair"])):
        curve(shared)


@session.panel
def curve(shared: dict) -> None:
    left, right = st.columns([2, 1])
    with left:
        stream = controls.stream(("resid_post", *(s for s in STREAMS if s != "resid_post")))
    with right:
        layer = controls.layer(controls.read_pair(shared["pair"]))
    run = controls.request("drift", shared, streams=(stream,))
    table = session.answer(run)
    if table.empty:
        session.waiting("The curve appears when both models have read the prompts.")
        return
    n = int(table["n"].iloc[0])
    st.altair_chart(charts.drift_curve(table, layer, f"{n} prompts; band: 95 % jackknife over templates"), width="stretch")
    here, lowest = table.set_index("layer").loc[layer], table.loc[table["cka_debiased"].idxmin()]
    one, two, three = st.columns(3)
    one.metric(f"Debiased CKA at layer {layer}", f"{here.cka_debiased:.3f}", help="The similarity with its bias removed.")
    two.metric("Its 95 % interval", f"{here.low:.3f} to {here.high:.3f}", help="Delete-d jackknife over prompt templates.")
    three.metric("Lowest", f"{lowest.cka_debiased:.3f} at layer {int(lowest.layer)}", help="Where the two models differ most.")
    session.provenance(run, table)
