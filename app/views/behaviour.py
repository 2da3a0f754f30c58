"""A section of Home and of Compare: what do both models say? Agreement, refusals, right answers and style, with intervals."""

from functools import partial

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.questions.behaviour import Behaviour
from mechdiff.questions.shared.behaviour_summary import NAMES, STYLE, in_words, style
from mechdiff.questions.shared.in_words import counted
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts
from mechdiff.study.stored_sweep import StoredSweep
from mechdiff.study.sweep_plan import SPOKEN
from views import metrics

METRICS = ("agrees_base", "kl_from_base", "refusal_logprob", "soft_refusal", "refused", "exact", "choice_right", STYLE)
HELP = {
    "agrees_base": "agreement",
    "refusal_logprob": "soft refusal",
    "soft_refusal": "refusals against neutral phrases",
    "refused": "refusals",
    "exact": "exact match",
    "choice_right": "right choice",
    STYLE: "style",
}
LONGEST = 6  # answers shown side by side


@session.panel
def block(selection: Selection) -> None:
    """The chosen pair's behaviour on its prompts: from the stored sweep, or computed on request."""
    run = view_requests.behaviour(selection)
    st.subheader(f"What do both models say? {run.spec.name} on {run.chosen_domain}", help=say("agreement", "refusals", "style"))
    stored = stored_results.lines(run, SPOKEN, "behaviour_summary")
    live = run.spec.missing() is None and controls.compute(
        "behaviour",
        f"Both models generate {run.new_tokens} tokens after each of {run.limit} prompts.",
        partial(rates.estimate, run),
    )
    if live:
        table = session.answer(run)
        if not {f"clean {side}" for side in ("base", "tuned")} <= set(table["condition"]):
            session.waiting("Generating the first answers with both models...", session.NUMBERS)
            return
        draw(run.summary(table), "Live")
        answers(table, run)
        session.provenance(run, table.drop(columns=["text", "next"]))
    elif len(stored):
        draw(stored, "Stored sweep" if stored_results.look_up(run, SPOKEN, "manifest")[1] else "Stored WITHOUT a manifest")
        stored_results.provenance(run, SPOKEN)
    else:
        st.caption(f"Not stored yet. To store it: `python -m mechdiff sweep --pair {run.pair} --grid behaviour`")


def draw(lines: pd.DataFrame, origin: str) -> None:
    """The numbers in a row that wraps, and the marks of style."""
    words, counts = in_words(lines), lines.iloc[0]
    left, right = st.columns([1, 1], gap="large")
    with left:
        row = metrics.numbers()
        for measure in (name for name in METRICS if name in words.index):
            metric(row, row_of(words, measure), measure)
        about = "few worked solutions get to their result" if "exact" in words.index else "exact match needs known answers"
        st.caption(
            f"{origin}: {counted(counts['prompts'], counts['templates'])}; [..]: 95 % CI over prompts. Greedy answers of at most "
            f"{Behaviour.new_tokens} tokens ({about})."
        )
    with right:
        controls.draw(charts.style_marks(style(lines)), "style")


def metric(row, words: pd.Series, measure: str) -> None:
    """One measure: of both models together, or base → tuned with the change and its interval."""
    about = TERMS[HELP[measure]] if measure in HELP else "In nats, at the decision token."
    if words["both"]:
        value, _, interval = words["both"].partition(" [")
        row.metric(words["name"], value, help=about, **metrics.quiet(f"95 % CI [{interval}" if interval else metrics.FEW))
        return
    base, tuned = (words[side].partition(" [")[0] for side in ("base", "tuned"))
    row.metric(words["name"], f"{bare(base)} → {tuned}", help=about, **metrics.quiet(words["change"]))


def row_of(words: pd.DataFrame, measure: str) -> pd.Series:
    """A measure's row; the table has one for each."""
    row = words.loc[measure]
    assert isinstance(row, pd.Series)
    return row


def bare(text: str) -> str:
    """A number without its unit, for a pair of numbers whose second has it."""
    return text.partition(" ")[0]


def answers(table: pd.DataFrame, run: Behaviour) -> None:
    """The first answers, side by side."""
    texts = [prompt.text for prompt in run.chosen_prompts]
    sides = {side: table[table["condition"] == f"clean {side}"].set_index("prompt")["text"] for side in ("base", "tuned")}
    table = pd.DataFrame(sides).head(LONGEST)
    table.insert(0, "prompt", [texts[number] for number in table.index])
    with st.expander("Their answers"):
        st.table(table.rename(columns=str).reset_index(drop=True), hide_index=True, border="horizontal")


def compared(chosen: dict[str, StoredSweep], colours: dict[str, str]) -> None:
    """Both choices' stored behaviour side by side; nothing if neither has any."""
    stored = {side: artifacts.read(sweep.domain, SPOKEN, sweep.pair, "behaviour_summary")[0] for side, sweep in chosen.items()}
    stored = {side: lines for side, lines in stored.items() if lines is not None}
    if not stored:
        return
    st.subheader("What do the models say?", help=say("agreement", "soft refusal", "refusals", "exact match", "style"))
    words = {side: in_words(lines) for side, lines in stored.items()}
    names = {measure: name for measure, name in NAMES.items() if any(measure in part.index for part in words.values())}
    left, right = st.columns([1.25, 1], gap="medium")
    rows = pd.DataFrame({"": list(names.values())})
    for side, part in words.items():
        rows[f":{colours[side]}[**{side}**] base → tuned (change)"] = [cell(part, measure) for measure in names]
    left.container(key="behaviours").table(rows, border="horizontal", hide_index=True)
    left.caption(
        f"Stored; [..]: 95 % CI over prompts. Marks of style: per 100 tokens of answers of at most {Behaviour.new_tokens}."
    )
    lines = [style(part).assign(choice=f"{side}: {chosen[side].label}") for side, part in stored.items()]
    figure = charts.style_marks(pd.concat(lines, ignore_index=True), compared=True)
    with right:
        controls.draw(figure, "compared-style")
    for side in chosen.keys() - stored.keys():
        command = f"python -m mechdiff sweep --pair {chosen[side].pair} --domain {chosen[side].domain} --grid behaviour"
        st.info(f"**{side}**: behaviour is not stored.\n\nTry:  `{command}`")


def cell(words: pd.DataFrame, measure: str) -> str:
    """A measure of one choice, for the table."""
    if measure not in words.index:
        return "—"
    line = row_of(words, measure)
    base, tuned = (line[side].partition(" [")[0] for side in ("base", "tuned"))
    return str(line["both"]) or f"{bare(base)} → {tuned} ({line['change']})"
