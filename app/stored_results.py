"""Stored sweeps for the pages: their lines, their origin, and whether live results agree with them."""

from dataclasses import replace

import pandas as pd
import streamlit as st

from mechdiff.inputs.prompts import digest
from mechdiff.questions import Question
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.in_words import counted
from mechdiff.questions.shared.mapped import MappedQuestion
from mechdiff.questions.shared.request import map_of
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts
from mechdiff.study.live_vs_stored import DIFFERS, SAME, agreement

FEW = 8  # layers of a sweep that asked about some sites alone
FRESH = 60.0  # seconds until the files are looked at again
FINEST = ("float16", "bfloat16", "float32")  # from the coarsest


@st.cache_data(ttl=FRESH, max_entries=256, show_spinner=False)
def read(place: str, domain: str, folder: str, pair: str, name: str, where: tuple) -> tuple:
    """A table's lines and its manifest, cached for a minute. place: the folder of all sweeps."""
    return artifacts.read(domain, folder, pair, name, dict(where))


def fresh(domain: str, folder: str, pair: str, name: str, where: dict) -> tuple:
    """The same for the folder that is read now."""
    return read(str(artifacts.ARTIFACTS), domain, folder, pair, name, tuple(where.items()))


def lines(run: Question, folder: str, name: str, **where) -> pd.DataFrame:
    """The stored lines of the run's pair, domain and direction that match; an empty table if there are none."""
    return look_up(run, folder, name, **where)[0]


def look_up(run: Question, folder: str, name: str, **where) -> tuple[pd.DataFrame, dict | None]:
    return artifacts.look_up(run, folder, name, fresh, **where)


def stored(selection: Selection) -> bool:
    """Whether any table is stored of a selection's pair on its domain, under its protocol."""
    return bool(artifacts.matching(f"{selection.domain}/rq*/{artifacts.stored_name(selection.pair, selection.protocol)}"))


def missing(run: Question, what: str = "") -> None:
    """A notice that a curve is not stored. what: which part of it, if the rest may be stored."""
    if elsewhere := stored_sites(run):
        st.info(f"Nothing is stored here{what}. Stored for this question: {elsewhere}.")
        return
    st.info(
        f"There is no stored sweep of this pair on this domain{what}.\n\n"
        f"Try:  `python -m mechdiff sweep --pair {run.pair} --domain {run.chosen_domain} --grid full{under(run)}`"
    )


def stored_sites(run: Question) -> str:
    """Where a mapped question is stored at a few sites alone, in words; empty if nothing is stored, or every layer."""
    folders = {"transport": ("rq2", "transport_summary"), "rank": ("rq3", "rank_summary")}
    if run.question not in folders:
        return ""
    lines = look_up(run, *folders[run.question])[0]
    lines = lines[lines["map"] == map_of(run)] if len(lines) else lines
    if lines.empty or lines["layer"].nunique() > FEW:
        return ""
    sites = lines.groupby("stream", sort=False)["layer"].unique()
    return "; ".join(f"{stream} at layer {', '.join(map(str, sorted(layers)))}" for stream, layers in sites.items())


def under(run: Question) -> str:
    """The flag that names the run's protocol, if it is not the pair's own."""
    return f" --protocol {run.chosen_protocol}" if run.chosen_protocol != run.spec.protocol else ""


def origin(run: Question, folder: str, table: pd.DataFrame) -> str:
    """A stored curve's part of a chart's subtitle: the number of prompts and templates, and the number format."""
    if table.empty:
        return ""
    _, about = look_up(run, folder, "manifest")
    if about is None:
        return "stored sweep WITHOUT a manifest: origin unknown"
    if about.get("kind") == "import":
        return f"the study's own numbers: {table['prompts'].iloc[0]:.0f} prompts, means without intervals"
    return f"stored sweep: {counted(*table[['prompts', 'templates']].iloc[0])}, {about['dtype']}"


def row():
    """A row for a badge and its provenance."""
    return st.container(horizontal=True, vertical_alignment="center", gap="small")


def provenance(run: Question, folder: str) -> None:
    """The origin of a stored curve, in a popover."""
    _, about = look_up(run, folder, "manifest")
    if about is None:
        return
    with st.popover("Origin of the stored numbers", icon=":material/history_edu:", type="tertiary", width="content"):
        if about.get("kind") == "import":
            st.markdown(f"{about['about']}\n\n" + "\n".join(f"- {note}" for note in about["notes"]))
            st.caption(f"Source: {about['source']}. Files: {', '.join(file['path'] for file in about['files'][:6])} ...")
            return
        st.code(about["command"], language="bash", wrap_lines=True)
        st.markdown(
            f"{about['prompts']} prompts of {about['domain']}, {about['dtype']}, on {about['device_name']} ({about['device']}), "
            f"finished on {about['finished'][:10]} after {about['seconds']:.0f} s. Seed {about['seed']}. "
            f"Base: {about['base']['source']}; tuned: {about['tuned']['source']}."
        )
        st.caption(", ".join(f"{name} {version}" for name, version in about["versions"].items()))


def badge(run: Question, live: pd.DataFrame, folder: str, name: str, what: str = "", **where) -> None:
    """Show whether one condition's live effects agree with the stored ones. live: a line per prompt. where: its stored lines.

    Shows nothing if the condition is not stored.
    """
    stored, about = look_up(run, folder, name, **where)
    if stored.empty and len(live):
        of_means(look_up(run, folder, f"{name}_summary", **where)[0], live, what)
        return
    if stored.empty or live.empty or about is None or about.get("kind") == "import":
        return
    if other := other_origin(run, about):
        st.badge(f"not compared with the stored sweep: different {other}", icon=":material/help:", color="gray")
        return
    same = digest(prompts_of(run, about["prompts"])) == about["prompts_hash"]
    mine = Identity(run).dtype
    dtype = min(mine, about["dtype"], key=FINEST.index)
    templates = [prompt.template for prompt in run.chosen_prompts]
    result = agreement(live, stored, same, templates, about["templates"], dtype)
    if result is not None:
        good = result.kind != DIFFERS
        icon = ":material/check:" if result.kind == SAME else ":material/compare_arrows:"
        text = f"{what} {result.text}".strip()
        st.badge(text, icon=icon if good else ":material/warning:", color="green" if good else "orange")


def of_means(stored: pd.DataFrame, live: pd.DataFrame, what: str) -> None:
    """The same where only summaries are stored: whether the live mean lies in the stored interval."""
    if len(stored) == 1 and stored["low"].notna().all():
        mean, low, high = float(live["kl"].mean()), stored["low"].iloc[0], stored["high"].iloc[0]
        inside = low <= mean <= high
        place = "within" if inside else "outside"
        text = f"{what} mean {place} the stored interval, {low:.3g} to {high:.3g} (only means are stored)"
        icon = ":material/compare_arrows:" if inside else ":material/warning:"
        st.badge(text.strip(), icon=icon, color="green" if inside else "orange")


def prompts_of(run: Question, count: int) -> list:
    """The first prompts of the run's source, as many as a sweep used."""
    return replace(run, limit=count).chosen_prompts


def other_origin(run: Question, about: dict) -> str | None:
    """What differed when the sweep was made, so that differing values mean nothing; None if nothing did."""
    for side in ("base", "tuned"):
        if about[side]["fingerprint"] != getattr(run.spec, side).fingerprint():
            return "weights"
    mapped = isinstance(run, MappedQuestion) or getattr(run, "map", "none") != "none"
    if mapped and about.get("train_hash") != digest(run.train_prompts):
        return "train prompts"
    return "seed" if mapped and about["seed"] != run.seed else None
