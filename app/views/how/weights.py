"""Weights: which matrices changed, over how many directions, and are these the directions that a map carries over?"""

from dataclasses import replace

import controls
import history
import pandas as pd
import session
import streamlit as st
from glossary import TERMS, say

from mechdiff import questions
from mechdiff.common.terms import FITTED
from mechdiff.questions import Question
from mechdiff.questions.diagnostics.weight_overlap import SIZES
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import Selection
from views import metrics

MEASURES = ("relative_norm", "participation_ratio", "stable_rank", "rank_90")
SINGULAR = "singular_"


def page() -> None:
    session.heading(
        "Weights: what did fine-tuning write?",
        say("relative norm", "participation ratio", "stable rank", "rank 90", "pair"),
        "Each matrix's difference, tuned minus base, read from the files: no prompt and no forward pass.",
    )
    selection = controls.current()
    if session.ready(selection.spec):
        matrices(selection)


@session.panel
def matrices(selection: Selection) -> None:
    selection = controls.widgets(selection, "layer")
    run, layer, row = view_requests.weights(selection), selection.chosen_layer, metrics.numbers()
    table = session.answer(run)
    if table.empty:
        session.waiting("The map fills in as matrices are compared.")
        return
    modules = list(dict.fromkeys(table["module"]))
    choice, measured = st.columns([1, 1.6], vertical_alignment="bottom")
    with choice:
        module = st.selectbox("Matrix", modules, key="module", bind="query-params")
    with measured:
        looks = {"key": "shown", "bind": "query-params", "format_func": lambda name: name.replace("_", " ")}
        measure = st.pills("Shown", MEASURES, default=MEASURES[0], required=True, **looks)
    here = table[(table["layer"] == layer) & (table["module"] == module)]
    left, right = st.columns([3, 2])
    with left:
        about = "tuned minus base; click a matrix"
        controls.clickable(charts.weights_map(table, measure, layer, module, about), "pick_matrix", take)
    if len(here):
        (line,) = here.to_dict("records")
        numbers(run, row, line)
        with right:
            values = [value for name, value in line.items() if name.startswith(SINGULAR)]
            rest = 1 - sum(value**2 for value in values) / line["norm"] ** 2 if line["norm"] else 0.0
            told = f"{len(values)} leading; {max(0.0, rest):.1%} of the square lies beyond"
            controls.draw(charts.singular_bars(values, f"L{layer} {module}", told))
    session.provenance(run, table)
    subspace(replace(selection, fit=controls.elsewhere("fit")))


def take(picked: dict) -> None:
    st.session_state["layer"], st.session_state["module"] = int(picked["layer"]), picked["module"]


def numbers(run: Question, row, line: dict) -> None:
    """The chosen matrix's size and ranks."""
    name, shape = f"L{line['layer']} {line['module']}", f"{line['outputs']} × {line['inputs']}"
    row.metric(f"{name}, of the base's norm", f"{line['relative_norm']:.2%}", help=TERMS["relative norm"], **metrics.quiet(shape))
    for key in ("participation_ratio", "stable_rank"):
        label = key.replace("_", " ")
        row.metric(label.capitalize(), f"{line[key]:.3g}", help=TERMS[label], **metrics.quiet("directions"))
    found = f"{line['rank_90']:.0f}" if line["rank_90"] == line["rank_90"] else "over 128"
    row.metric("Rank 90", found, help=TERMS["rank 90"], **metrics.quiet("directions"))
    where = {key: line[key] for key in ("layer", "module")}
    history.note(run, name, line["relative_norm"], "of the base's norm", column="relative_norm", **where)


@session.panel
def subspace(selection: Selection) -> None:
    """The changes' output directions against those of the map on the Rank page."""
    st.subheader("Low-rank in activations, low-rank in weights?", help=say("map", "rank", "overlap"))
    fit, layer = selection.fit, selection.chosen_layer
    if fit not in FITTED:
        st.info(f"The map `{fit}` is not fitted, so it has no leading directions.\n\nTry:  {', '.join(FITTED)} on the Rank page")
        return
    asked = view_requests.overlap(selection)
    task = questions.task(asked)
    takes = "known already, shown at once" if task.done >= task.total else "the train split is read first"
    if not controls.compute(
        "overlap", f"Against the `{fit}` map's output directions at layer {layer}, as on the Rank page.", takes
    ):
        return
    table = session.answer(asked)
    if table.empty:
        session.waiting("The overlap appears when the map is fitted and the matrices are factorised.")
        return
    k = st.select_slider("Directions compared", SIZES, value=8, key="overlap_k")
    shown = table[table["k"] == k]
    if shown.empty:
        st.info(f"No change of these layers has {k} directions.")
        return
    told = f"the first {k} output directions of each change and of {fit}; dashed: chance"
    controls.draw(charts.weight_overlap(shown, layer, told))
    st.caption(verdict(shown, k))
    with st.expander("The numbers"):
        st.dataframe(table, height=220, hide_index=True)


def verdict(shown: pd.DataFrame, k: int) -> str:
    """What the overlap says, in words. It has no interval: it is one fine-tune, and no mean over prompts."""
    most, chance = shown.loc[shown["overlap"].idxmax()], shown["chance"].iloc[0]
    return (
        f"Mean {shown['overlap'].mean():.1%}, chance {chance:.1%}; the largest is {most.overlap:.1%}, {most.module} of layer "
        f"{most.written}. The k = {k} leading directions are compared; this has no interval, for it is no mean over prompts."
    )
