"""Stored sweeps beside live results: what a view needs of them, and whether both agree."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from mechdiff.inputs.prompts import digest
from mechdiff.questions import Question
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.mapped import MappedQuestion
from mechdiff.study import artifacts
from mechdiff.study.live_vs_stored import DIFFERS, SAME, agreement

FRESH = 60.0  # seconds until the files are looked at again
FINEST = ("float16", "bfloat16", "float32")  # from the coarsest


@st.cache_data(ttl=FRESH, max_entries=256, show_spinner=False)
def read(place: str, domain: str, folder: str, pair: str, name: str, where: tuple) -> tuple:
    """A table's lines and its manifest, remembered for a while. place: the folder of all sweeps."""
    return artifacts.read(domain, folder, pair, name, dict(where))


def fresh(domain: str, folder: str, pair: str, name: str, where: dict) -> tuple:
    """The same for the folder that is read now."""
    return read(str(artifacts.ARTIFACTS), domain, folder, pair, name, tuple(where.items()))


def lines(run: Question, folder: str, name: str, **where) -> pd.DataFrame:
    """The stored lines of the run's pair, domain and direction, as far as they match; an empty table if there are none."""
    return look_up(run, folder, name, **where)[0]


def look_up(run: Question, folder: str, name: str, **where) -> tuple[pd.DataFrame, dict | None]:
    return artifacts.look_up(run, folder, name, fresh, **where)


def missing(run: Question, what: str = "") -> None:
    """What stands in place of a stored curve that is not there. what: which of its parts, if the rest may be."""
    st.info(
        f"No stored sweep of this pair on these prompts{what}.\n\n"
        f"Try:  `python -m mechdiff sweep --pair {run.pair} --domain {run.chosen_domain} --grid full`"
    )


def origin(run: Question, folder: str, table: pd.DataFrame) -> str:
    """A stored curve's part of a chart's subtitle: on how much it rests."""
    if table.empty:
        return ""
    _, about = look_up(run, folder, "manifest")
    if about is None:
        return "stored sweep WITHOUT a manifest: where its numbers come from is unknown"
    return f"stored sweep: {table['prompts'].iloc[0]} prompts, {table['templates'].iloc[0]} templates, {about['dtype']}"


def row():
    """Where a badge and its provenance stand side by side."""
    return st.container(horizontal=True, vertical_alignment="center", gap="small")


def provenance(run: Question, folder: str) -> None:
    """Where a stored curve comes from, for those who ask."""
    _, about = look_up(run, folder, "manifest")
    if about is None:
        return
    with st.popover("Where the stored numbers come from", icon=":material/history_edu:", type="tertiary", width="content"):
        st.code(about["command"], language="bash", wrap_lines=True)
        st.markdown(
            f"{about['prompts']} prompts of {about['domain']}, {about['dtype']}, on {about['device_name']} ({about['device']}), "
            f"finished {about['finished'][:10]} after {about['seconds']:.0f} s. Seed {about['seed']}. "
            f"Base: {about['base']['source']}; tuned: {about['tuned']['source']}."
        )
        st.caption(", ".join(f"{name} {version}" for name, version in about["versions"].items()))


def badge(run: Question, live: pd.DataFrame, folder: str, name: str, what: str = "", **where) -> None:
    """Whether one condition's live effects are the stored ones. live: a line per prompt. where: the condition's stored lines.

    Says nothing where the condition is not stored.
    """
    kept, about = look_up(run, folder, name, **where)
    if kept.empty or live.empty or about is None:
        return
    if other := other_origin(run, about):
        st.badge(f"not compared with the stored sweep: it has other {other}", icon=":material/help:", color="gray")
        return
    here = run.chosen_prompts
    same = digest(prompts_of(run, about["prompts"])) == about["prompts_hash"]
    mine = Identity(run).dtype
    dtype = min(mine, about["dtype"], key=FINEST.index)
    result = agreement(live, kept, same, [prompt.template for prompt in here], about["templates"], dtype)
    if result is not None:
        good = result.kind != DIFFERS
        icon = ":material/check:" if result.kind == SAME else ":material/compare_arrows:"
        text = f"{what} {result.text}".strip()
        st.badge(text, icon=icon if good else ":material/warning:", color="green" if good else "orange")


def prompts_of(run: Question, count: int) -> list:
    """The first prompts of the run's source, as many as a sweep took."""
    return replace(run, limit=count).chosen_prompts


def other_origin(run: Question, about: dict) -> str | None:
    """What was not the same when the sweep was made, so that nothing follows from a difference; None if nothing."""
    for side in ("base", "tuned"):
        if about[side]["fingerprint"] != getattr(run.spec, side).fingerprint():
            return "weights"
    mapped = isinstance(run, MappedQuestion) or getattr(run, "map", "none") != "none"
    if mapped and about.get("train_hash") != digest(run.train_prompts):
        return "train prompts"
    return "seed" if mapped and about["seed"] != run.seed else None
