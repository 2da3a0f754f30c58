"""Weights: which matrices changed, over how many directions, and are these the fitted map's directions?"""

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
        "Weights: which matrices changed?",
        say("relative norm", "participation ratio", "stable rank", "rank 90", "pair"),
        "Each matrix's change (tuned minus base), read from the weight files, without prompts or forward passes. Click a matrix.",
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
        session.waiting("Comparing the two models' matrices...")
        return
    modules = list(dict.fromkeys(table["module"]))
    choice, measured = st.columns([1, 1.6], vertical_alignment="bottom")
    with choice:
        module = st.selectbox("Matrix", modules, key="module", bind="query-params")
        assert module is not None, "the table has matrices"
    with measured:
        looks = {"key": "shown", "bind": "query-params", "format_func": lambda name: name.replace("_", " ")}
        measure = st.pills("Measure", MEASURES, default=MEASURES[0], required=True, **looks)
    here = table[(table["layer"] == layer) & (table["module"] == module)]
    left, right = st.columns([3, 2])
    with left:
        about = "tuned minus base; click a matrix"
        controls.clickable(charts.weights_map(table, measure, layer, module, about), "pick_matrix", take)
    if len(here):
        line = {str(name): value for name, value in here.to_dict("records")[0].items()}
        numbers(run, row, line)
        with right:
            values = [value for name, value in line.items() if name.startswith(SINGULAR)]
            rest = 1 - sum(value**2 for value in values) / line["norm"] ** 2 if line["norm"] else 0.0
            about = f"the largest {len(values)}; the others hold {100 * max(0.0, rest):.1f} % of the squared norm"
            controls.draw(charts.singular_bars(values, f"L{layer} {module}", about))
    session.provenance(run, table)
    subspace(replace(selection, fit=controls.elsewhere("fit")))


def take(picked: dict) -> None:
    st.session_state["layer"], st.session_state["module"] = int(picked["layer"]), picked["module"]


def numbers(run: Question, row, line: dict) -> None:
    """The chosen matrix's size and ranks."""
    name, shape = f"L{line['layer']} {line['module']}", f"{line['outputs']} × {line['inputs']}"
    row.metric(
        f"{name}: change relative to base",
        f"{100 * line['relative_norm']:.2f} %",
        help=TERMS["relative norm"],
        **metrics.quiet(shape),
    )
    for key in ("participation_ratio", "stable_rank"):
        label = key.replace("_", " ")
        row.metric(label.capitalize(), f"{line[key]:.3g}", help=TERMS[label], **metrics.quiet("directions"))
    rank = f"{line['rank_90']:.0f}" if line["rank_90"] == line["rank_90"] else "over 128"
    row.metric("Rank 90", rank, help=TERMS["rank 90"], **metrics.quiet("directions"))
    where = {key: line[key] for key in ("layer", "module")}
    history.note(run, name, line["relative_norm"], "of the base's norm", column="relative_norm", **where)


@session.panel
def subspace(selection: Selection) -> None:
    """Overlap of the changes' output directions with those of the map on the Rank page."""
    st.subheader("Do the changes write into the map's directions?", help=say("map", "rank", "overlap"))
    fit, layer = selection.fit, selection.chosen_layer
    if fit not in FITTED:
        st.info(f"The map `{fit}` is not fitted, so it has no leading directions.\n\nTry:  {', '.join(FITTED)} on the Rank page")
        return
    request = view_requests.overlap(selection)

    def takes() -> str:
        task = questions.task(request)
        return "cached, shown at once" if task.done >= task.total else "reads the train prompts first"

    if not controls.compute(
        "overlap", f"Compares with the output directions of the map `{fit}` at layer {layer}, as on the Rank page.", takes
    ):
        return
    table = session.answer(request)
    if table.empty:
        session.waiting("Fitting the map and factorising the matrices...")
        return
    k = st.select_slider("Directions compared", SIZES, value=8, key="overlap_k")
    lines = table[table["k"] == k]
    if lines.empty:
        st.info(f"No matrix change in these layers has {k} directions.")
        return
    about = f"first {k} output directions of each change and of {fit}; dashed: chance"
    controls.draw(charts.weight_overlap(lines, layer, about))
    st.caption(verdict(lines, k))
    with st.expander("Numbers"):
        st.dataframe(table, height=220, hide_index=True)


def verdict(lines: pd.DataFrame, k: int) -> str:
    """The overlap in words. It has no interval, since it is not an average over prompts."""
    most, chance = lines.iloc[int(lines["overlap"].argmax())], 100 * lines["chance"].iloc[0]
    return (
        f"Mean overlap {100 * lines['overlap'].mean():.1f} %, chance {chance:.1f} %; the largest is {100 * most.overlap:.1f} % "
        f"({most.module}, layer {most.written}). Compares the k = {k} leading directions. No CI: not an average over prompts."
    )
