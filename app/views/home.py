"""Home: what mechdiff does, three first steps, and the two demo pairs side by side from stored sweeps. Needs no torch."""

from functools import partial

import controls
import links
import pandas as pd
import session
import streamlit as st
import talk
from glossary import TERMS, say

from mechdiff.questions.drift import similarity_of
from mechdiff.questions.shared.in_words import counted
from mechdiff.reporting import charts
from mechdiff.study import artifacts, quantities, stored_sweep
from mechdiff.study.compare_sweeps import is_shown
from mechdiff.study.quantities import INTERVALS, QUANTITIES, Estimate
from mechdiff.study.stored_sweep import StoredSweep, half_effect
from views import behaviour, card, readings
from views.study.compare import estimate

DEMO_PAIRS = ("demo-cultural", "demo-cognitive")
STUDYS_PAIRS = ("llama-8b-cultural@study", "llama-8b-cognitive@study")
DIRECTION, STREAM = "base-to-tuned", "resid_post"
CONTRASTS = {
    "centroid": "Late or early?",
    "effect": "Late or early?",
    "directions80": "High or low rank?",
    "rank_mean": "High or low rank?",
    "topk": "Many or few heads?",
    "streams": "Residual or attention?",
}


def page() -> None:
    st.title("mechdiff: where and how did fine-tuning change this model?", help=say("pair", "domain", "decision token", "effect"))
    st.caption(
        "Choose a pair (a base model and its fine-tune) and a domain of prompts in the sidebar. All pages share this selection; "
        "it is saved in the URL; click a chart to change it. Results are computed live, next to precomputed sweeps, by the same "
        "code as the command line."
    )
    steps()
    selection = controls.current()
    card.section(selection)
    for column, name in zip(st.columns(2, gap="large"), DEMO_PAIRS):
        with column:
            pair_curves(name)
    contrasts()
    session.ready(selection.spec)
    if talk.TALK not in st.query_params:
        behaviour.block(selection)


def contrasts() -> None:
    """The contrasts that the original study drew, for its own pairs and the demo pairs, each from its stored sweep."""
    sweeps = [StoredSweep(name, stored_sweep.own_domain(name), DIRECTION) for name in (*DEMO_PAIRS, *STUDYS_PAIRS)]
    sweeps = [sweep for sweep in sweeps if sweep.stamp()]
    if not sweeps or talk.TALK in st.query_params:
        return
    st.subheader("The study's contrasts, and what is left of them", help=say("effect", "rank", "drop", "coverage"))
    place = str(artifacts.ARTIFACTS)
    answers = {sweep.label: estimate(place, sweep, None, 0, sweep.stamp()) for sweep in sweeps}
    shown = [key for key in CONTRASTS if any(is_shown(key, values) for values in answers.values())]
    rows = {"": [f"{CONTRASTS[key]} ({QUANTITIES[key].name.lower()})" for key in shown]}
    for label, values in answers.items():
        rows[label] = [cell(key, values[key]) if is_shown(key, values) else "—" for key in shown]
    st.table(pd.DataFrame(rows), border="horizontal", hide_index=True)
    st.caption(
        f"{INTERVALS} The study's own numbers (`@study`) are means without intervals, under its own definitions; the demo pairs' "
        "are under mechdiff's, on lines of their own where these differ. More, with controls, on Compare."
    )


def cell(key: str, estimate: Estimate) -> str:
    word, text = quantities.word(QUANTITIES[key], estimate), quantities.text(QUANTITIES[key], estimate)
    return f"{text} — **{word}**" if word else text


def steps() -> None:
    """Three links to pages with a selection worth seeing."""
    pair = {"pair": DEMO_PAIRS[0]}
    cards = [
        ("patching", {"layer": 16}, "1. Where does it matter?", "Click a layer: how far does its state move the next token?"),
        (
            "rank",
            {"layer": 26, "rank": "8"},
            "2. How many directions?",
            "One constant shift, and k directions beside it: what is enough?",
        ),
        (
            "heads",
            {"layer": 26, "heads": [0, 3]},
            "3. Which heads?",
            "Click heads: how much of the layer's effect do they carry together?",
        ),
    ]
    rows = [links.Link(controls.link(page, pair | values), text, about) for page, values, text, about in cards]
    links.draw(rows, "steps", cards=True)


def pair_curves(name: str) -> None:
    """A pair's stored curves on its default domain, each with a one-sentence reading."""
    domain = controls.read_pair(name).domain
    st.subheader(f"{domain.capitalize()} fine-tune", help=f"The pair {name} on {domain} prompts. {TERMS['stored']}")
    drift, about = artifacts.read(domain, "rq1", name, "drift", {"stream": STREAM})
    patch, _ = artifacts.read(domain, "rq1", name, "patch_summary", {"stream": STREAM, "direction": DIRECTION})
    if drift is None or patch is None:
        st.info(f"There is no stored sweep of {name}.\n\nTry:  `python -m mechdiff sweep --pair {name} --grid full`")
        return
    if about is None:
        st.warning(f"The stored sweep of {name} has no manifest, so the origin of its numbers is unknown.")
    patch = patch[patch["control"].isin(["none", "self"])]
    patch = patch.assign(shown=patch["control"].map(charts.CONTROL_NAMES).fillna(charts.PATCHED))
    prompts, templates = patch[["prompts", "templates"]].iloc[0]
    over = counted(prompts, templates)
    last = int(patch["layer"].max())
    slide = talk.TALK in st.query_params  # a slide shows the curves alone
    layer = None if slide else controls.chosen_layer(last)
    draw = controls.draw if slide else partial(controls.clickable, take=partial(choose, name))
    sweep = StoredSweep(name, domain, DIRECTION)
    if readings.recoveries(sweep, layer, f"effects-{name}", None if slide else partial(choose, name)):
        st.markdown(readings.sentence(sweep, "depth"))
    else:
        draw(charts.layer_curve(patch, layer, f"{over}; band: 95 % CI"), f"effects-{name}")
        st.markdown(read_patch(patch))
    similarity = charts.drift_curve(drift, layer, f"{prompts} prompts; band: 95 % CI (jackknife)")
    draw(similarity, f"drift-{name}")
    st.markdown(read_drift(drift))
    if about is not None:
        with st.expander("Origin of these numbers"):
            st.code(about["command"], language="bash")
            st.json(about, expanded=False)


def choose(name: str, picked: dict) -> None:
    """Select a clicked layer, and the pair whose curve it is on, for every page."""
    controls.choose(picked | {"pair": name, "domain": controls.OWN})


def read_drift(table: pd.DataFrame) -> str:
    table = similarity_of(table)
    lowest = table.iloc[int(table["mean"].argmin())]
    depth = lowest.layer / table["layer"].max()
    return (
        f"The models differ most at **layer {int(lowest.layer)}** ({depth:.0%} of the depth): "
        f"{lowest.similarity} **{lowest['mean']:.2f}** [{lowest.low:.2f}, {lowest.high:.2f}]."
    )


def read_patch(summary: pd.DataFrame) -> str:
    table = summary[summary["control"] == "none"]
    half, largest = half_effect(table), table["mean"].max()
    return (
        f"The base model's state first reaches half of its largest effect on the tuned model's next token at "
        f"**layer {int(half.layer)}** ({half['mean']:.2f} of {largest:.2f} nats)."
    )
