"""Drift: where do the two models' representations diverge?"""

import controls
import history
import session
import stored_results
from glossary import TERMS, say

from mechdiff.inputs.protocols import STUDY
from mechdiff.questions.drift import OVER_TEMPLATES, similarity_of
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics


def page() -> None:
    session.heading(
        "Drift: where do representations diverge?",
        say("CKA", OVER_TEMPLATES, "jackknife", "decision token"),
        f"{TERMS['CKA']} Look for the layer where it starts to fall.",
    )
    selection = controls.current()
    if session.available(selection):
        curve(selection)
    imports.numbers("drift", selection)


@session.panel
def curve(selection: Selection) -> None:
    selection = controls.widgets(selection, "stream", "layer")
    run, stream, layer = view_requests.drift(selection), selection.stream, selection.chosen_layer
    table = session.answer(run)
    stored = stored_results.lines(run, "rq1", "drift", stream=stream)
    numbers(run, table, stored, stream, layer)
    if stored.empty:
        stored_results.missing(run)
    rows = chart_tables.join(stored, table.assign(live=True))
    if len(rows):
        counts = [
            f"{name}: {part['n'].iloc[0]:.0f} prompts" if part["n"].notna().any() else "the study's own numbers, plain CKA"
            for name, part in (("stored", stored), ("live", table))
            if len(part)
        ]
        about = f"{'; '.join(counts)}{chart_tables.ends(rows)}; click a layer"
        figure = charts.drift_curve(rows, layer, about, plain=selection.protocol == STUDY)
        figure = imports.on(figure, "drift", selection, stream=stream)
        controls.clickable(figure, "pick_drift")
    stored_results.provenance(run, "rq1")
    if len(table):
        session.provenance(run, table)


def numbers(run, table, stored, stream: str, layer: int) -> None:
    """The similarity at the chosen layer, live and stored, and its lowest value."""
    if table.empty:
        session.waiting("Reading the prompts with both models...", session.NUMBERS)
        return
    table = similarity_of(table)
    if table["mean"].isna().all():
        return  # a notice gives the reason
    here, lowest = table[table["layer"] == layer].iloc[0], table.iloc[int(table["mean"].argmin())]
    row = metrics.numbers()
    interval = metrics.interval(here.low, here.high, ".3f")
    name, about = here.similarity[0].upper() + here.similarity[1:], say(here.similarity, "jackknife")
    row.metric(f"{name} at layer {layer}", f"{here['mean']:.3f}", help=about, **metrics.quiet(interval))
    if len(stored):
        then = similarity_of(stored[stored["layer"] == layer]).iloc[0]
        interval = metrics.interval(then.low, then.high, ".3f")
        row.metric(f"Stored ({int(then.n)} prompts)", f"{then['mean']:.3f}", help=TERMS["stored"], **metrics.quiet(interval))
    where = f"at layer {int(lowest.layer)}"
    row.metric(
        "Lowest CKA", f"{lowest['mean']:.3f}", help="The layer at which the two models differ most.", **metrics.quiet(where)
    )
    column = "cka_templates" if here.similarity == OVER_TEMPLATES else "cka_debiased"
    history.note(run, f"{stream} · L{layer}", here["mean"], "CKA", column=column, layer=layer)
