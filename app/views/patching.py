"""Patching: where does the difference matter?"""

import archive
import charts
import controls
import numpy as np
import session
import streamlit as st

from mechdiff.conditions import Condition
from mechdiff.experiments import NextTokens
from mechdiff.stats import bootstrap_weights, ratio, summarise
from mechdiff.terms import sides
from views import transplants

PATCHED = ("resid_post", "resid_pre", "attn_out", "mlp_out", "heads")


def page() -> None:
    st.header("Patching: where does the difference matter?")
    shared = st.session_state["_shared"]
    donor, recipient = sides(shared["direction"])
    st.caption(
        f"At one layer, the **{recipient}** model's state at the decision token is replaced by the **{donor}** model's. The "
        "**effect** is how far that moves the next token's distribution. Patching the model's own state gives the **floor**: "
        "rounding alone."
    )
    if session.ready(controls.read_pair(shared["pair"])):
        layers(shared)


@session.panel
def layers(shared: dict) -> None:
    pair = controls.read_pair(shared["pair"])
    one, two, three = st.columns([2, 1.4, 2])
    with one:
        stream = controls.stream(PATCHED)
    with two:
        chosen_map = controls.donor_map()
    with three:
        layer = controls.layer(pair)
    run = controls.request("patch", shared, streams=(stream,), map=chosen_map, controls=("self",))
    table = session.answer(run)
    if table.empty:
        session.waiting("The first layers appear in a moment.")
        return
    clusters = [prompt.template for prompt in run.chosen_prompts]
    summary = summarise(table, ["layer", "control"], clusters)
    if summary.empty:
        session.waiting("The first layers appear in a moment.")
        return
    prompts, templates = summary[["prompts", "templates"]].iloc[0]
    st.altair_chart(
        charts.layer_curve(
            summary, layer, f"Mean over {prompts} prompts from {templates} templates; band: 95 % bootstrap interval"
        ),
        width="stretch",
    )
    here = table[(table["layer"] == layer) & (table["control"] == "none")]
    mean = summary[(summary["layer"] == layer) & (summary["control"] == "none")]
    if not here.empty and not mean.empty:
        one_layer(run, Condition(layer, stream, chosen_map, heads=heads(stream, pair)), here, mean.iloc[0])
    session.provenance(run, table)
    transplants.section(shared, layer)


def heads(stream: str, pair) -> tuple[int, ...] | None:
    return tuple(range(pair.heads)) if stream == "heads" else None


def one_layer(run, condition: Condition, here, mean) -> None:
    """The chosen layer: its spread over prompts, and one prompt's next tokens."""
    share = st.columns(3)
    share[0].metric(f"Mean effect at layer {condition.layer}", f"{mean['mean']:.4f} nats", help="KL(patched || clean)")
    share[1].metric(
        "95 % interval over prompts", f"{mean.low:.4f} to {mean.high:.4f}", help="It speaks of prompts, not of other fine-tunes."
    )
    show_recovery(share[2], here, [run.chosen_prompts[i].template for i in here["prompt"]])
    site = {"layer": condition.layer, "stream": condition.stream, "map": condition.map, "control": "none"}
    archive.badge(run, here, "rq1", "patch", **site)
    left, right = st.columns(2)
    with right:
        picked = controls.prompt(len(run.chosen_prompts))
        text = run.chosen_prompts[picked].text
        st.markdown(f"> {text[:400].replace(chr(10), '  ' + chr(10) + '> ')}{' …' if len(text) > 400 else ''}")
        tokens = session.answer(NextTokens(run, condition, picked)) if condition.map == "none" else None
        if tokens is None:
            st.caption("Next tokens are shown for the donor's state as it is.")
        elif tokens.empty:
            session.waiting("The next tokens appear in a moment.")
        else:
            st.altair_chart(charts.token_bars(tokens, condition.layer), width="stretch")
    with left:
        texts = here.assign(text=[run.chosen_prompts[i].text[:120] for i in here["prompt"]])[["prompt", "kl", "text"]]
        spread = charts.prompt_spread(texts, mean["mean"], mean.low, mean.high, condition.layer, picked)
        st.altair_chart(spread, width="stretch")


def show_recovery(column, here, clusters: list[str]) -> None:
    """One minus a ratio of means, with the interval of both means resampled together; blank where the models do not differ."""
    left, between = (here[name].to_numpy(float) for name in ("kl_to_donor", "kl_donor_clean"))
    recovered, high, low = 1 - np.array(ratio(left, between, bootstrap_weights(clusters)))
    shown, interval = f"{recovered:.0%}", f"95 % interval {low:.0%} to {high:.0%}"
    if np.isnan(recovered):
        shown, interval = "—", "the models do not differ here"
    about = "How much of the difference between the two models the patch removes."
    column.metric("Recovery", shown, delta=interval, delta_color="off", delta_arrow="off", help=about)
