"""The views of this session: every answered request as a link that brings its page and widgets back; one may be pinned."""

from dataclasses import dataclass, field, replace

import controls
import links
import numpy as np
import page_record
import streamlit as st
from glossary import TERMS

from mechdiff.inputs.prompts import digest
from mechdiff.maths.intervals import bootstrap_weights, interval
from mechdiff.questions import Question

KEPT = 30
SHOWN = 32  # letters of a prompt that stand for it
NATS = "nats"


@dataclass(frozen=True)
class View:
    """One answer: where it was seen, and its headline number.

    state: the widgets' values. effects: the number's parts by prompt, [n], if it is a mean. texts: the prompts' hash.
    """

    page: str
    state: dict
    asked: str
    of: str
    value: float
    unit: str
    texts: str
    effects: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def lines(self) -> tuple[str, str]:
        """What was asked, and of what with which answer."""
        return self.asked, f"{self.of} · {number(self.value)}{' ' + self.unit if self.unit == NATS else ''}"


def number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def views() -> list[View]:
    """Newest first."""
    return st.session_state.setdefault("_views", [])


def note(run: Question, what: str, value: float, unit: str = NATS, effects=None, column: str = "mean", **line) -> None:
    """Keep an answer, and where another one is pinned, say how far they are apart.

    what: what was asked, beside pair and domain, as `L26 · k=8`. effects: the value's parts by prompt, in the prompts' order.
    column, line: where it stands in the run's summary.
    """
    asked, of = f"{run.question} · {what}", f"{run.spec.name} on {source(run)}"
    effects = None if effects is None else np.asarray(effects, float)
    view = View(st.session_state.get("_page", ""), {}, asked, of, float(value), unit, digest(run.chosen_prompts), effects)
    st.session_state["_answered"] = view
    of_domain = f"{run.spec.name} on {run.chosen_domain}"  # no words of prompts
    page_record.headline(run, asked, of_domain, float(value), unit, column, line)
    compare(view, [prompt.template for prompt in run.chosen_prompts])


def source(run: Question) -> str:
    """What the prompts are called: the domain, or one's own by their beginning or number."""
    found = run.chosen_prompts if run.prompts else []
    if len(found) == 1:
        text = " ".join(found[0].text.split())
        return f"“{text[:SHOWN]}{'…' * (len(text) > SHOWN)}”"
    return f"{len(found)} prompts of one's own" if found else run.chosen_domain


def keep() -> None:
    """End a page run: the page's answer is a view of the selection, now that all of it is drawn."""
    answered = st.session_state.pop("_answered", None)
    if answered is not None:
        view = replace(answered, state=controls.state())
        views()[:] = [view, *(old for old in views() if (old.page, old.state) != (view.page, view.state))][:KEPT]


def compare(view: View, templates: list[str]) -> None:
    """The view's number beside the pinned one's, where both are of one kind."""
    pinned = st.session_state.get("_pinned")
    if pinned is None or pinned.unit != view.unit or (pinned.lines, pinned.texts) == (view.lines, view.texts):
        return
    st.caption(
        f":material/keep: **{difference(view, pinned, templates)}** against the pinned {' · '.join(pinned.lines)}",
        help=TERMS["pinned"],
    )


def difference(view: View, pinned: View, templates: list[str]) -> str:
    """How much larger the view's number is, with its 95 % interval, paired by prompt, where both rest on the same prompts."""
    apart, unit = view.value - pinned.value, f" {view.unit}" if view.unit == NATS else ""
    if view.effects is None or pinned.effects is None:
        return f"{apart:+.3g}{unit}"
    if view.texts != pinned.texts or len(view.effects) != len(pinned.effects):
        return f"{apart:+.3g}{unit} (other prompts, so not paired)"
    _, low, high = interval((view.effects - pinned.effects)[:, None], bootstrap_weights(templates))
    return f"{apart:+.3g}{unit} [{low[0]:+.3g}, {high[0]:+.3g}] (95 %, paired over {len(templates)} prompts)"


def rail() -> None:
    """The sidebar's history: a link a view, and a pin."""
    with st.sidebar.expander("History", expanded=True, icon=":material/history:"):
        if not views():
            st.caption("Every answer of this session will stand here: a click brings its view back, a pin compares.")
            return
        pinned = st.session_state.get("_pinned")
        shown = ([pinned] if pinned else []) + views()
        rows = [links.Link(controls.link(v.page, v.state), *v.lines, "unpin" if v is pinned else "pin") for v in shown]
        links.draw(rows, "history", lambda index: pin(shown[index]))


def pin(view: View) -> None:
    """Make a view the reference of the others; or no longer, if it is."""
    st.session_state["_pinned"] = None if view is st.session_state.get("_pinned") else view
