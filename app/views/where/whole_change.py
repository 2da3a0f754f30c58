"""A section of the Patching page: recovery over layers, stored, and on request what a sweep reads, on the page's own prompts."""

import controls
import numpy as np
import pandas as pd
import rates
import session
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.errors import UserError
from mechdiff.maths import recovery_curves
from mechdiff.maths.intervals import Ends
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import Selection, tokenizers_differ
from mechdiff.study.readings import curve, depth_of, over_ranks, share_of_shift
from mechdiff.study.stored_sweep import STREAM
from views import metrics, readings

ABOUT = (
    "Recovery through the states of all tokens: every eighth layer first, then those between. At the chosen layer: over 8 tokens "
    "of the donor's answer, and by the mean shift of neutral prompts. Stored sweeps have all three, at a layer chosen on train."
)


def section(selection: Selection, token: pd.DataFrame) -> bool:
    """Draw the recoveries that there are. Returns whether there are any.

    token: the live summary of the last token's patches, whose recoveries are drawn next to those of all tokens.
    """
    sweep, layer, place = readings.sweep_of(selection), selection.chosen_layer, st.container()
    live, table = {}, pd.DataFrame()
    if len(token) and selection.stream == STREAM and selection.map == "none":
        live[charts.LAST_TOKEN] = token[token["control"] == "none"]
    if not session.stored_only() and not tokenizers_differ(selection.spec):  # else only the last token is the same in both
        try:
            table = computed(selection)
        except UserError as error:  # such as a neutral prompt that is too long for the model: the rest of the page is still drawn
            session.show_error(error)
    if len(table):
        live[charts.ALL_TOKENS] = metrics.summary(view_requests.everywhere(selection)[-1], table)
    with place:
        return readings.recoveries(sweep, layer, "pick_recovery", controls.choose, live)


def computed(selection: Selection) -> pd.DataFrame:
    """The lines of all tokens, if they were asked for, and a button for what was not: moving a slider starts nothing."""
    everywhere, others = view_requests.everywhere(selection), view_requests.at_the_layer(selection)
    asked, wanted = st.session_state.setdefault("_asked", set()), {everywhere[-1], *others}
    if not wanted <= asked:
        takes = rates.estimate(*(run for run in (everywhere[-1], *others) if run not in asked))
        if st.button(f"Compute where the whole change lies, on these prompts ({takes})", key="everywhere", help=ABOUT):
            asked |= wanted
    table = layers(everywhere) if everywhere[-1] in asked else pd.DataFrame()
    numbers(selection, table, *(session.answer(run, patience=0.05) if run in asked else pd.DataFrame() for run in others))
    if len(table):
        session.provenance(everywhere[-1], table)
    return table


def layers(requests: list) -> pd.DataFrame:
    """The lines of the finest request that has any, as far as they are computed: each has all layers of the one before."""
    table = pd.DataFrame()
    for run in requests:
        lines = session.answer(run, patience=0.05)
        table = lines if len(lines) >= len(table) else table
        if run in session.pending() or run in session.stopped():
            break
    return table


def numbers(selection: Selection, table: pd.DataFrame, answered: pd.DataFrame, shifted: pd.DataFrame | None = None) -> None:
    """Where the change lies, once all layers are known, and the readings of the chosen layer."""
    every, layer = curve(table, "layer"), selection.chosen_layer
    if every is not None and every.to_donor.shape[1] == selection.spec.layers + 1:
        where = recovery_curves.depth(every.templates, every.clean, every.to_donor.to_numpy(float))
        st.markdown(depth_of(every, where).sentence)
    row = metrics.numbers()
    if answered.empty:
        return
    if (written := curve(own(answered), "layer")) is not None:
        share(row, f"Recovery over 8 tokens, layer {layer}", written.recovery([layer]), TERMS["recovery over 8 tokens"])
    if shifted is not None and (neutral := over_ranks(own(shifted))) is not None and np.inf in neutral.to_donor:
        share(row, f"Format share, layer {layer}", share_of_shift(neutral), TERMS["format share"])
    st.caption("You chose the layer: none was chosen on train for these prompts.", help=say("recovery"))


def own(table: pd.DataFrame) -> pd.DataFrame:
    """The lines without controls."""
    return table[table["control"] == "none"] if len(table) else table


def share(row, label: str, ends: Ends, about: str) -> None:
    """A share with its interval."""
    value, low, high = (float(np.ravel(part)[0]) for part in ends)
    text = "—" if value != value else f"{100 * value:z.0f} %"
    row.metric(label, text, help=about, **metrics.quiet(metrics.interval(100 * low, 100 * high, "z.0f", " %")))
