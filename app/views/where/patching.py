"""Patching: where does the difference change the next token?"""

import controls
import history
import pandas as pd
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.terms import sides
from mechdiff.questions.shared.in_words import counted
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics, readings
from views.where import transplants, whole_change


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Patching: where does the difference change the next token?",
        say("effect", "donor", "recipient", "decision token", "floor", "controls"),
        f"Choose a layer: there, the **{recipient}** model runs with the **{donor}** model's state at the decision token. The "
        "**effect** is how far this moves the next-token distribution, in nats.",
    )
    readings.show(selection, "depth", "token", "answer")
    if session.available(selection):
        layers(selection)
    imports.numbers("patching", selection)


@session.panel
def layers(selection: Selection) -> None:
    selection = controls.widgets(selection, "stream", "map", "layer")
    run, layer = view_requests.patch(selection), selection.chosen_layer
    table = session.answer(run)
    summary = metrics.summary(run, table)
    line = metrics.single_line(summary[summary["layer"] == layer]) if len(summary) else None
    here = table[(table["layer"] == layer) & (table["control"] == "none")]
    if line is None:
        session.waiting("Computing the first layers...", session.NUMBERS)
    else:
        numbers(run, here, line, layer)
    folded = whole_change.section(selection, summary)
    with session.more("More: the effect in nats, with its controls") if folded else st.container():
        curve(run, summary, layer)
    with stored_results.row():
        stored_results.badge(run, here, "rq1", "patch", layer=layer, stream=selection.stream, map=selection.map, control="none")
        stored_results.provenance(run, "rq1")
    if line is not None:
        one_layer(run, selection, here, line)
        session.provenance(run, table)
    if not session.stored_only():
        transplants.section(selection)


def numbers(run, here: pd.DataFrame, line: pd.Series, layer: int) -> None:
    """The chosen layer's effect and recovery. here: its lines, one per prompt. line: their summary."""
    row = metrics.numbers()
    interval = metrics.interval(line["low"], line["high"], ".4f")
    row.metric(
        f"Mean effect at layer {layer}", f"{line['mean']:.4f} nats", help=say("effect", "interval"), **metrics.quiet(interval)
    )
    metrics.ratio(row, "Recovery", line, "recovery", 100, TERMS["recovery"])
    what = f"{run.streams[0]} · L{layer}" + (f" · {run.map}" if run.map != "none" else "")
    history.note(run, what, line["mean"], effects=here.sort_values("prompt")["kl"], layer=line["layer"], control="none")


def curve(run, summary: pd.DataFrame, layer: int) -> None:
    """The stored effects over layers, with their controls, and the live ones as points."""
    stored = stored_results.lines(run, "rq1", "patch_summary", stream=run.streams[0], map=run.map)
    if stored.empty:
        stored_results.missing(run, f" with map {run.map}" if run.map != "none" else "")
    if len(summary):
        live = chart_tables.as_live(summary[summary["control"] == "none"], charts.PATCHED)
        floor = summary[summary["control"] == "self"] if stored.empty else summary.iloc[:0]
    else:
        live = floor = summary
    table = chart_tables.join(stored, floor)
    if len(table):
        table = chart_tables.patched(table)
    table = chart_tables.join(table, live)
    if table.empty:
        session.waiting("Computing the first layers...")
        return
    origins = [stored_results.origin(run, "rq1", stored)] if len(stored) else []
    origins += [f"live: {counted(*live[['prompts', 'templates']].iloc[0])}"] if len(live) else []
    about = f"{'; '.join(origins)}{chart_tables.ends(table)}; click a layer"
    figure = charts.layer_curve(table, layer, about)
    controls.clickable(imports.on(figure, "effect", controls.current(), stream=run.streams[0]), "pick_layer")


def one_layer(run, selection: Selection, here: pd.DataFrame, line: pd.Series) -> None:
    """The chosen layer: the effect on each prompt, and one prompt's next tokens."""
    left, right = st.columns(2)
    with right:
        selection = controls.widgets(selection, "prompt")
        picked, request = selection.prompt, view_requests.next_tokens(selection)
        text = run.chosen_prompts[picked].text
        st.markdown(f"> {text[:400].replace(chr(10), '  ' + chr(10) + '> ')}{' …' if len(text) > 400 else ''}")
        tokens = None if request is None else session.answer(request)
        if tokens is None:
            st.caption("Next tokens are available for map `none` only.")
        elif tokens.empty:
            session.waiting("Computing the next tokens...")
        else:
            controls.draw(charts.token_bars(tokens), "tokens")
    with left:
        texts = here.assign(text=[run.chosen_prompts[i].text[:120] for i in here["prompt"]])[["prompt", "kl", "text"]]
        spread = charts.prompt_spread(texts, line["mean"], line["low"], line["high"], selection.chosen_layer, picked)
        controls.clickable(spread, "pick_prompt")
