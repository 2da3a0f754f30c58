"""Home: what this is, and the two demo pairs side by side from stored sweeps. Needs no torch."""

import charts
import controls
import pandas as pd
import session
import streamlit as st

from mechdiff import stored
from mechdiff.stats import summarise

SHOWN = ("demo-cultural", "demo-cognitive")
DIRECTION, STREAM = "base-to-tuned", "resid_post"


def page() -> None:
    st.title("mechdiff")
    st.markdown(
        "**Where and how did fine-tuning change this language model?** Pick a pair (a base model and its fine-tune) and a domain "
        "of prompts on the left. **Drift** compares the two models' states layer by layer; **Patching** puts one model's state "
        "into the other and measures what that does to the next token; **Transport** asks whether a linear map explains it, and "
        "**Rank** in how many dimensions; **Heads** does it for single attention heads. Everything is computed on this machine, "
        "by the same code as the command line."
    )
    for column, name in zip(st.columns(2, gap="large"), SHOWN):
        with column:
            pair_curves(name)
    session.ready(controls.read_pair(st.session_state["_shared"]["pair"]))


def pair_curves(name: str) -> None:
    """A pair's stored curves on its own domain, with one sentence of reading each."""
    domain = controls.read_pair(name).domain
    st.subheader(f"{domain.capitalize()} fine-tune", help=f"The pair {name} on its own {domain} prompts.")
    drift, about = stored.read(domain, "rq1", name, "drift", {"stream": STREAM})
    patch, _ = stored.read(domain, "rq1", name, "patch", {"stream": STREAM, "direction": DIRECTION})
    if drift is None or patch is None:
        st.info(f"No stored sweep of {name}.\n\nTry:  `python -m mechdiff sweep --pair {name} --grid full`")
        return
    if about is None:
        st.warning(f"The stored sweep of {name} has no manifest, so where its numbers come from is unknown.")
    st.altair_chart(charts.drift_curve(drift, subtitle="Band: 95 % jackknife interval"), width="stretch")
    st.markdown(read_drift(drift))
    summary = patch_summary(patch, about)
    prompts, templates = summary[["prompts", "templates"]].iloc[0]
    st.altair_chart(
        charts.layer_curve(summary, subtitle=f"{prompts} prompts, {templates} templates; band: 95 % bootstrap interval"),
        width="stretch",
    )
    st.markdown(read_patch(summary))
    if about is not None:
        with st.expander("Where these numbers come from"):
            st.code(about["command"], language="bash")
            st.json(about, expanded=False)


@st.cache_data(show_spinner=False)
def patch_summary(patch: pd.DataFrame, about: dict | None) -> pd.DataFrame:
    chosen = patch[patch["control"].isin(["none", "self"])]
    clusters = about["templates"] if about else [str(i) for i in range(chosen["prompt"].max() + 1)]
    return summarise(chosen, ["layer", "control"], clusters)


def read_drift(table: pd.DataFrame) -> str:
    lowest = table.loc[table["cka_debiased"].idxmin()]
    depth = lowest.layer / table["layer"].max()
    return (
        f"The models part most at **layer {int(lowest.layer)}** ({depth:.0%} of the depth): debiased CKA "
        f"**{lowest.cka_debiased:.2f}** [{lowest.low:.2f}, {lowest.high:.2f}]."
    )


def read_patch(summary: pd.DataFrame) -> str:
    table = summary[summary["control"] == "none"]
    last = table.iloc[-1]
    half = table[table["mean"] >= last["mean"] / 2].iloc[0]
    return (
        f"The base model's state moves the tuned model's next token by half of its full effect from **layer {int(half.layer)}** "
        f"on ({half['mean']:.2f} of {last['mean']:.2f} nats)."
    )
