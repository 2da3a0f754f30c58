"""The pre-flight card of the chosen pair: what it is, what can be asked, what that costs. Loads weights only when told to."""

import pandas as pd
import session
import streamlit as st

from mechdiff.common.errors import UserError
from mechdiff.inputs.pair_file import Pair
from mechdiff.questions import Run
from mechdiff.questions.diagnostics.parity_check import Parity
from mechdiff.reporting.selection import Selection
from mechdiff.study import cost_estimate
from mechdiff.study.cost_estimate import Card, in_bytes
from mechdiff.study.timings import in_words
from views import metrics

WIDTHS = {name: st.column_config.Column(width=w) for name, w in {"": 150, "base": 300, "tuned": 300, "same?": 60}.items()}
PARITY_HELP = "Four cells on two prompts, by the row engine and by plain forward hooks, in the pair's own number format."


def section(selection: Selection) -> None:
    """A line that says whether the pair is here, and the card for those who ask."""
    pair = selection.spec
    with st.container(gap=None):
        here = pair.missing() is None
        told = "its weights are on this machine" if here else "its weights are not on this machine"
        line, switch = st.columns([4, 1.3], vertical_alignment="center")
        icon = ":green[:material/check_circle:]" if here else ":orange[:material/cloud_off:]"
        line.caption(f"{icon} **{pair.name}**: {pair.base.describe()} → {pair.tuned.describe()}; {told}.")
        if switch.toggle(
            "Pre-flight card", key="card", help="What the models are, what can be asked of them, and what it costs."
        ):
            whole(pair, selection)


@session.panel
def whole(pair: Pair, selection: Selection) -> None:
    found = read(pair, selection.domain)
    for fault in dict.fromkeys(found.faults):
        if fault == pair.missing():
            st.info(fault.replace("\n", "\n\n"))
        else:
            session.show_error(UserError(fault))
    if not found.lines:
        return
    numbers(found)
    questions(found)
    for note in found.notes:
        st.caption(f":material/info: {note}")
    table = found.table()
    shown = table.style.apply(lambda row: ["font-weight: 600" if row["same?"] else ""] * len(row), axis=1)
    st.dataframe(shown, hide_index=True, width="stretch", height=35 * len(table) + 38, column_config=WIDTHS)
    if not found.faults and found.questions["patch"] is None:
        parity(found, selection)


@st.cache_resource(ttl=30, max_entries=8, show_spinner="Reading the pair's files")
def read(pair: Pair, domain: str) -> Card:
    return cost_estimate.preflight_card(pair, domain)


def numbers(found: Card) -> None:
    row = metrics.numbers()
    if found.memory:
        parts = "  \n".join(f"{name}: {in_bytes(size)}" for name, size in found.memory.items())
        free = f"of {in_bytes(found.free)} free"
        row.metric("Memory needed, about", in_bytes(found.needed), help=parts, **metrics.quiet(free))
    row.metric("Number format", found.dtype, **metrics.quiet(f"on {found.device}"))
    if found.cells:
        total, left = found.cells
        takes = "known already" if not left else "not known yet" if found.seconds is None else f"about {in_words(found.seconds)}"
        about = found.basis or "run the check below to know"
        row.metric(
            "A quick sweep here",
            takes,
            help=f"{left:,} cells to compute. {about}",
            **metrics.quiet(f"{left:,} of {total:,} cells"),
        )


def questions(found: Card) -> None:
    marks = [f":green-badge[{name}]" if why is None else f":gray-badge[~~{name}~~]" for name, why in found.questions.items()]
    st.markdown(f"Can be asked: {' '.join(marks)}")
    for why in dict.fromkeys(filter(None, found.questions.values())):
        if why not in "".join(found.faults):
            st.warning(why, icon=":material/block:")


def parity(found: Card, selection: Selection) -> None:
    """The check of rows against plain hooks: on request, since it loads the models."""
    asked = st.session_state.setdefault("_parity", set())
    request = Parity(Run("patch", selection.pair, selection.domain))
    if request not in asked:
        if not st.button("Check rows against plain hooks", key="parity", help=PARITY_HELP, icon=":material/rule:"):
            return
        asked.add(request)
    table = session.answer(request)
    if table.empty:
        session.waiting("The models are loaded and compared with plain hooks.", session.NUMBERS)
        return
    row = metrics.numbers()
    for _, line in table.iterrows():
        about = f"limit {line['limit']:g}: it runs by {line['runs by']}"
        row.metric(f"{line['model']}, rows against hooks", f"{line['difference']:.2g}", help=PARITY_HELP, **metrics.quiet(about))
    if found.seconds is None and pd.notna(table["seconds a cell"]).all():
        read.clear()  # the time is known now
        st.rerun()
