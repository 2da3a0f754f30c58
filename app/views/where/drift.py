"""Drift: where do the two models' representations diverge?"""

import controls
import history
import session
import stored_results
from glossary import TERMS, say

from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics


def page() -> None:
    session.heading(
        "Drift: where do representations diverge?",
        say("CKA", "debiased", "jackknife", "decision token"),
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
        figure = imports.on(charts.drift_curve(rows, layer, about), "drift", selection, stream=stream)
        controls.clickable(figure, "pick_drift")
    stored_results.provenance(run, "rq1")
    if len(table):
        session.provenance(run, table)


def numbers(run, table, stored, stream: str, layer: int) -> None:
    """The similarity at the chosen layer, live and stored, and its lowest value."""
    if table.empty:
        session.waiting("Reading the prompts with both models...", session.NUMBERS)
        return
    if table["cka_debiased"].isna().all():
        return  # a notice gives the reason
    here, lowest = table.set_index("layer").loc[layer], table.loc[table["cka_debiased"].idxmin()]
    row = metrics.numbers()
    interval = metrics.interval(here.low, here.high, ".3f")
    row.metric(
        f"Debiased CKA at layer {layer}", f"{here.cka_debiased:.3f}", help=say("debiased", "jackknife"), **metrics.quiet(interval)
    )
    if len(stored):
        then = stored.set_index("layer").loc[layer]
        interval = metrics.interval(then.low, then.high, ".3f")
        row.metric(f"Stored ({int(then.n)} prompts)", f"{then.cka_debiased:.3f}", help=TERMS["stored"], **metrics.quiet(interval))
    where = f"at layer {int(lowest.layer)}"
    row.metric(
        "Lowest CKA", f"{lowest.cka_debiased:.3f}", help="The layer at which the two models differ most.", **metrics.quiet(where)
    )
    history.note(run, f"{stream} · L{layer}", here.cka_debiased, "CKA", column="cka_debiased", layer=layer)
