"""The pre-flight card of the chosen pair: the models, the questions, the cost. Loads weights only on request."""

import pandas as pd
import session
import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.common.sizes import in_bytes
from mechdiff.inputs.pair_file import Pair
from mechdiff.questions import Run
from mechdiff.questions.diagnostics.parity_check import Parity
from mechdiff.reporting.selection import Selection
from mechdiff.study import cost_estimate
from mechdiff.study.cost_estimate import Card
from mechdiff.study.timings import in_words
from views import metrics

WIDTHS = {name: st.column_config.Column(width=w) for name, w in {"": 150, "base": 300, "tuned": 300, "same?": 60}.items()}
PARITY_HELP = "Computes four cells on two prompts with the row engine and with plain forward hooks, in the pair's number format."


def section(selection: Selection) -> None:
    """A line that says whether the pair's weights are here, and the card on request."""
    pair = selection.spec
    with st.container(gap=None):
        here = pair.missing() is None
        place = "weights are on this machine" if here else "weights are not on this machine"
        line, switch = st.columns([4, 1.3], vertical_alignment="center")
        icon = ":green[:material/check_circle:]" if here else ":orange[:material/cloud_off:]"
        line.caption(f"{icon} **{pair.name}**: {pair.base.describe()} → {pair.tuned.describe()}; {place}.")
        if switch.toggle(
            "Pre-flight card", key="card", help="The two models, the questions they can answer, and what that costs."
        ):
            whole(pair, selection)


@session.panel
def whole(pair: Pair, selection: Selection) -> None:
    card = read(pair, selection.domain)
    for fault in dict.fromkeys(card.faults):
        if fault == pair.missing():
            st.info(fault.replace("\n", "\n\n"))
        else:
            session.show_error(UserError(fault))
    if not card.lines:
        return
    numbers(card)
    questions(card)
    for note in card.notes:
        st.caption(f":material/info: {note}")
    table = card.table()
    styled = table.style.apply(lambda row: ["font-weight: 600" if row["same?"] else ""] * len(row), axis=1)
    st.dataframe(styled, hide_index=True, width="stretch", height=35 * len(table) + 38, column_config=WIDTHS)
    if not card.faults and card.questions["patch"] is None:
        parity(card, selection)


@st.cache_resource(ttl=30, max_entries=8, show_spinner="Reading the pair's files")
def read(pair: Pair, domain: str) -> Card:
    return cost_estimate.preflight_card(pair, domain)


def numbers(card: Card) -> None:
    row = metrics.numbers()
    if card.memory:
        parts = "  \n".join(f"{name}: {in_bytes(size)}" for name, size in card.memory.items())
        free = f"of {in_bytes(card.free)} free"
        row.metric("Memory needed (estimate)", in_bytes(card.needed), help=parts, **metrics.quiet(free))
    row.metric("Number format", card.dtype, **metrics.quiet(f"on {card.device}"))
    if card.cells:
        total, left = card.cells
        takes = "cached" if not left else "no estimate yet" if card.seconds is None else f"about {in_words(card.seconds)}"
        about = card.basis or "run the check below for an estimate"
        row.metric(
            "Quick sweep",
            takes,
            help=f"{left:,} cells to compute. {about}",
            **metrics.quiet(f"{left:,} of {total:,} cells"),
        )


def questions(card: Card) -> None:
    marks = [f":green-badge[{name}]" if why is None else f":gray-badge[~~{name}~~]" for name, why in card.questions.items()]
    st.markdown(f"Questions for this pair: {' '.join(marks)}")
    for why in dict.fromkeys(filter(None, card.questions.values())):
        if why not in "".join(card.faults):
            st.warning(why, icon=":material/block:")


def parity(card: Card, selection: Selection) -> None:
    """The check of rows against plain hooks, on request, since it loads the models."""
    requested = st.session_state.setdefault("_parity", set())
    request = Parity(Run("patch", selection.pair, selection.domain))
    if request not in requested:
        if not st.button("Check rows against plain hooks", key="parity", help=PARITY_HELP, icon=":material/rule:"):
            return
        requested.add(request)
    table = session.answer(request)
    if table.empty:
        session.waiting("Loading the models and comparing with plain hooks...", session.NUMBERS)
        return
    row = metrics.numbers()
    for _, line in table.iterrows():
        about = f"limit {line['limit']:g}; it runs with {line['runs by']}"
        row.metric(f"{line['model']}: rows vs hooks", f"{line['difference']:.2g}", help=PARITY_HELP, **metrics.quiet(about))
    if card.seconds is None and pd.notna(table["seconds a cell"]).all():
        read.clear()  # the card now has a time estimate
        st.rerun()
