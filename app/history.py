"""The views of this session: each answered request as a link that restores its page and widgets. One can be pinned."""

from dataclasses import dataclass, field, replace

import controls
import links
import numpy as np
import page_record
import streamlit as st
from glossary import TERMS

from mechdiff.inputs.prompts import digest
from mechdiff.maths.intervals import Templates
from mechdiff.questions import Question
from mechdiff.questions.shared.in_words import bracketed

LONGEST = 30  # views in the history
LETTERS = 32  # of a prompt's text, as its name
NATS = "nats"


@dataclass(frozen=True)
class View:
    """One answer: its page and its headline number.

    state: the widgets' values. question: what was asked; of: of which pair and prompts. effects: the value on each prompt, [n],
    if it is a mean. texts: the prompts' hash.
    """

    page: str
    state: dict
    question: str
    of: str
    value: float
    unit: str
    texts: str
    effects: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def lines(self) -> tuple[str, str]:
        """The question; and what it was asked of, with the answer."""
        return self.question, f"{self.of} · {number(self.value)}{' ' + self.unit if self.unit == NATS else ''}"


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def views() -> list[View]:
    """Newest first."""
    return st.session_state.setdefault("_views", [])


def note(run: Question, what: str, value: float, unit: str = NATS, effects=None, column: str = "mean", **line) -> None:
    """Store an answer, and show its difference from the pinned one.

    what: the question without pair and domain, as `L26 · k=8`. effects: the value on each prompt, in order. column, line: its
    place in the run's summary.
    """
    question, of = f"{run.question} · {what}", f"{run.spec.name} on {source(run)}"
    effects = None if effects is None else np.asarray(effects, float)
    view = View(st.session_state.get("_page", ""), {}, question, of, float(value), unit, digest(run.chosen_prompts), effects)
    st.session_state["_answered"] = view
    of_domain = f"{run.spec.name} on {run.chosen_domain}"  # without texts of prompts
    page_record.headline(run, question, of_domain, float(value), unit, column, line)
    compare(view, [prompt.template for prompt in run.chosen_prompts])


def source(run: Question) -> str:
    """The name of the prompts: the domain, or for one's own the first words or their number."""
    own = run.chosen_prompts if run.prompts else []
    if len(own) == 1:
        text = " ".join(own[0].text.split())
        return f"“{text[:LETTERS]}{'…' * (len(text) > LETTERS)}”"
    return f"{len(own)} own prompts" if own else run.chosen_domain


def keep() -> None:
    """End a page run: store the page's answer with the selection, now that every widget is drawn."""
    answered = st.session_state.pop("_answered", None)
    if answered is not None:
        view = replace(answered, state=controls.state())
        views()[:] = [view, *(old for old in views() if (old.page, old.state) != (view.page, view.state))][:LONGEST]


def compare(view: View, templates: list[str]) -> None:
    """Show the difference between the view's number and the pinned one's, if both have the same unit."""
    pinned = st.session_state.get("_pinned")
    if pinned is None or pinned.unit != view.unit or (pinned.lines, pinned.texts) == (view.lines, view.texts):
        return
    st.caption(
        f":material/keep: **{difference(view, pinned, templates)}** compared with the pinned {' · '.join(pinned.lines)}",
        help=TERMS["pinned"],
    )


def difference(view: View, pinned: View, templates: list[str]) -> str:
    """How much larger the view's number is, with its 95 % interval, paired by prompt if both use the same prompts."""
    change, unit = view.value - pinned.value, f" {view.unit}" if view.unit == NATS else ""
    if view.effects is None or pinned.effects is None:
        return f"{change:+.3g}{unit}"
    if view.texts != pinned.texts or len(view.effects) != len(pinned.effects):
        return f"{change:+.3g}{unit} (different prompts, so not paired)"
    _, low, high = Templates(templates).mean(view.effects - pinned.effects)
    over = "95 %, paired" if low == low else "paired"
    return f"{change:+.3g}{unit}{bracketed(low, high, '+.3g')} ({over} over {len(templates)} prompts)"


def rail() -> None:
    """The sidebar's history: a link and a pin for each view."""
    with st.sidebar.expander("History", expanded=True, icon=":material/history:"):
        if not views():
            st.caption("Results appear here. Click to reopen, pin to compare.")
            return
        pinned = st.session_state.get("_pinned")
        entries = ([pinned] if pinned else []) + views()
        rows = [link_of(view, pinned) for view in entries]
        links.draw(rows, "history", lambda index: pin(entries[index]))


def link_of(view: View, pinned: View | None) -> links.Link:
    text, about = view.lines
    return links.Link(controls.link(view.page, view.state), text, about, "unpin" if view is pinned else "pin")


def pin(view: View) -> None:
    """Pin a view as the reference for the others, or unpin it."""
    st.session_state["_pinned"] = None if view is st.session_state.get("_pinned") else view
