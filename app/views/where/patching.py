"""Patching: where does the difference matter?"""

import controls
import history
import numpy as np
import pandas as pd
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.terms import sides
from mechdiff.maths.intervals import bootstrap_weights, ratio, summarise
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics
from views.where import transplants


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Patching: where does the difference matter?",
        say("effect", "donor", "recipient", "decision token", "floor", "controls"),
        f"At one layer, the **{recipient}** model runs with the **{donor}** model's state at the decision token. The **effect** "
        "is how far that moves the next token.",
    )
    if session.ready(selection.spec):
        layers(selection)
    imports.numbers("patching", selection)


@session.panel
def layers(selection: Selection) -> None:
    selection = controls.widgets(selection, "stream", "map", "layer")
    run, layer = view_requests.patch(selection), selection.chosen_layer
    table = session.answer(run)
    summary = summarise(table, ["layer", "control"], [prompt.template for prompt in run.chosen_prompts])
    mean = summary[(summary["layer"] == layer) & (summary["control"] == "none")]
    here = table[(table["layer"] == layer) & (table["control"] == "none")]
    if mean.empty:
        session.waiting("The first layers appear in a moment.", session.NUMBERS)
    else:
        numbers(run, here, mean.iloc[0], layer)
    curve(run, summary, layer)
    with stored_results.row():
        stored_results.badge(run, here, "rq1", "patch", layer=layer, stream=selection.stream, map=selection.map, control="none")
        stored_results.provenance(run, "rq1")
    if not mean.empty:
        one_layer(run, selection, here, mean.iloc[0])
        session.provenance(run, table)
    transplants.section(selection)


def numbers(run, here: pd.DataFrame, mean: pd.Series, layer: int) -> None:
    """The chosen layer's effect and recovery, and whether they are the stored sweep's."""
    row = metrics.numbers()
    interval = f"95 % interval {mean.low:.4f} to {mean.high:.4f}"
    help = say("effect", "interval")
    row.metric(f"Mean effect at layer {layer}", f"{mean['mean']:.4f} nats", help=help, **metrics.quiet(interval))
    show_recovery(row, here, [run.chosen_prompts[i].template for i in here["prompt"]])
    what = f"{run.streams[0]} · L{layer}" + (f" · {run.map}" if run.map != "none" else "")
    history.note(run, what, mean["mean"], effects=here.sort_values("prompt")["kl"], layer=mean["layer"], control="none")


def curve(run, summary: pd.DataFrame, layer: int) -> None:
    """The stored sweep's effects over layers, with its controls, and the live ones as points."""
    kept = stored_results.lines(run, "rq1", "patch_summary", stream=run.streams[0], map=run.map)
    floor = summary[summary["control"] == "self"] if kept.empty else summary.iloc[:0]
    live = summary[summary["control"] == "none"].assign(shown=charts.PATCHED, live=True)
    shown = chart_tables.join(kept, floor)
    if len(shown):
        shown = chart_tables.patched(shown)
    if kept.empty:
        stored_results.missing(run, f" with map {run.map}" if run.map != "none" else "")
    shown = chart_tables.join(shown, live)
    if shown.empty:
        session.waiting("The first layers appear in a moment.")
        return
    told = [stored_results.origin(run, "rq1", kept)] if len(kept) else []
    told += [f"live: {live['prompts'].iloc[0]} prompts, {live['templates'].iloc[0]} templates"] if len(live) else []
    about = f"{'; '.join(told)}; bands, bars: 95 %; click a layer"
    figure = charts.layer_curve(shown, layer, about)
    controls.clickable(imports.on(figure, "effect", controls.current(), stream=run.streams[0]), "pick_layer")


def one_layer(run, selection: Selection, here: pd.DataFrame, mean: pd.Series) -> None:
    """The chosen layer: its spread over prompts, and one prompt's next tokens."""
    left, right = st.columns(2)
    with right:
        selection = controls.widgets(selection, "prompt")
        picked, request = selection.prompt, view_requests.next_tokens(selection)
        text = run.chosen_prompts[picked].text
        st.markdown(f"> {text[:400].replace(chr(10), '  ' + chr(10) + '> ')}{' …' if len(text) > 400 else ''}")
        tokens = None if request is None else session.answer(request)
        if tokens is None:
            st.caption("Next tokens are shown for the donor's state as it is.")
        elif tokens.empty:
            session.waiting("The next tokens appear in a moment.")
        else:
            controls.draw(charts.token_bars(tokens), "tokens")
    with left:
        texts = here.assign(text=[run.chosen_prompts[i].text[:120] for i in here["prompt"]])[["prompt", "kl", "text"]]
        spread = charts.prompt_spread(texts, mean["mean"], mean.low, mean.high, selection.chosen_layer, picked)
        controls.clickable(spread, "pick_prompt")


def show_recovery(row, here: pd.DataFrame, clusters: list[str]) -> None:
    """One minus a ratio of means, with the interval of both means resampled together; blank where the models do not differ."""
    left, between = (here[name].to_numpy(float) for name in ("kl_to_donor", "kl_donor_clean"))
    recovered, high, low = 1 - np.array(ratio(left, between, bootstrap_weights(clusters)))
    shown, interval = f"{recovered:.0%}", f"95 % interval {low:.0%} to {high:.0%}"
    if np.isnan(recovered):
        shown, interval = "—", "the models do not differ here"
    row.metric("Recovery", shown, help=TERMS["recovery"], **metrics.quiet(interval))
