"""Lab: try your own prompt. Two models read it; its states can be swapped, one by one or several at once."""

from dataclasses import dataclass

import controls
import pandas as pd
import session
import streamlit as st
import token_strip
from glossary import say

from mechdiff.questions import Question
from mechdiff.questions.prompt.reading import Reading
from mechdiff.reporting.selection import Selection
from views.lab import continuation, effects, interventions, positions, prompts

READ_S = 1.5  # seconds to wait for a new prompt: a short one is read in that time, and everything below needs it
WINDOW = 400  # tokens shown together


@dataclass(frozen=True)
class Study:
    """What the page studies. selection: the sidebar's. single, every: the name of the chosen prompt, and of all of them."""

    selection: Selection
    single: str
    every: str
    back: int = 0

    def run(self, question: str, every: bool = False, **details) -> Question:
        names = {"prompts": self.every if every else self.single, "back": self.back, "min_shared_ratio": 0.0}
        return self.selection.run(question, **{"limit": None} | names | details)


def page() -> None:
    selection = controls.current()
    st.header("Lab: try your own prompt", help=say("stack", "effect", "recovery", "floor", "donor", "recipient"))
    if session.ready(selection.spec):
        everything(selection)


@session.panel
def everything(selection: Selection) -> None:
    left, right = st.columns([2, 3], gap="medium")
    with left:
        names = prompts.choose(selection)
    if names is None:
        return
    with right:
        study, reading = Study(selection, *names), None
        reading = session.answer(Reading(study.run("patch", back=0)), patience=READ_S)
        if reading.empty:
            session.waiting("Reading the prompt with both models...", 170)
            return
        study = Study(selection, *names, back=tokens(reading))
    left, right = st.columns([2, 3], gap="medium")
    with right:
        stack, answered = interventions.section(study)
        patched = interventions.patched_tokens(study, stack, answered)
    with left:
        interventions.next_tokens(study, reading, patched)
    effects.section(study, reading)
    continuation.section(study, stack)
    positions.section(study, reading)


def tokens(reading: pd.DataFrame) -> int:
    """The prompt as shaded text. Returns how many tokens before the decision token the chosen token is."""
    every = reading.drop_duplicates("token")
    last = len(every) - 1
    text = st.container()  # drawn above the chosen token's number, but needs it
    note, place = st.columns([3, 1.3], vertical_alignment="center")
    with place:
        back = studied(last)
    top = every.loc[every["own"] | (every["token"] == last), "kl"].max()
    if last:
        about = (
            f"Shade: KL(tuned || base) of the next token, up to {top:.2g} nats. Small: chat template. Click a token to study it."
        )
    else:
        about = "The two tokenizers differ, so only the decision token is at the same place in both."
    note.caption(about)
    with text:
        tokens = [strip_token(line, top, last) for line in window(every, last - back).itertuples()]
        token_strip.draw(tokens, last - back, "strip", lambda token: study_token(last - token))
    return back


def studied(last: int) -> int:
    return controls.linked(
        st.number_input,
        "Tokens back",
        0,
        last,
        key="back",
        mend=lambda value: min(max(value, 0), last),
        persist_state="session",
        help="How many tokens before the decision token states are replaced. The effect is read at the decision token.",
    )


def study_token(back: int) -> None:
    st.session_state["back"] = back


def window(every: pd.DataFrame, chosen: int) -> pd.DataFrame:
    """The tokens to show: of a long prompt one part, by default the part with the chosen token."""
    if len(every) <= WINDOW:
        return every
    first = len(every) % WINDOW  # the last part is whole
    starts = [0] * (first > 0) + [*range(first, len(every), WINDOW)]
    if st.session_state.get("_studied") != chosen or st.session_state.get("part") not in starts:
        st.session_state["_studied"] = chosen
        st.session_state["part"] = max(start for start in starts if start <= chosen)
    ends = dict(zip(starts, [*starts[1:], len(every)]))
    start = st.selectbox(
        f"Tokens shown (of {len(every)})", starts, key="part", format_func=lambda start: f"{start} to {ends[start] - 1}"
    )
    return every.iloc[start : ends[start]]


def strip_token(line, top: float, last: int) -> dict:
    """A token of the reading, as the strip draws it."""
    text = line.text.replace("␣", " ").replace("\\n", "↵").replace("\\t", "⇥")
    text = "▯" if text.startswith("<") and not text.isascii() else text  # a part of a letter
    place = f"{last - line.token} tokens before the decision token" if line.token < last else "the decision token"
    shade = min(1.0, line.kl / top) if top and top == top else 0.0
    about = f"{line.text}\ntoken {line.token}, {place}\nKL(tuned || base) {line.kl:.4g} nats"
    return {"token": int(line.token), "text": text, "about": about, "shade": round(float(shade), 3), "own": bool(line.own)}
