"""Drift: where do the two models' representations part?"""

import controls
import history
import session
import stored_results
from glossary import TERMS, say

from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics


def page() -> None:
    session.heading("Drift: where do representations part?", say("CKA", "debiased", "jackknife", "decision token"), TERMS["CKA"])
    selection = controls.current()
    if session.ready(selection.spec):
        curve(selection)
    imports.numbers("drift", selection)


@session.panel
def curve(selection: Selection) -> None:
    selection = controls.widgets(selection, "stream", "layer")
    run, stream, layer = view_requests.drift(selection), selection.stream, selection.chosen_layer
    table = session.answer(run)
    kept = stored_results.lines(run, "rq1", "drift", stream=stream)
    numbers(run, table, kept, stream, layer)
    if kept.empty:
        stored_results.missing(run)
    shown = chart_tables.join(kept, table.assign(live=True))
    if len(shown):
        told = [f"{name}: {int(part['n'].iloc[0])} prompts" for name, part in (("stored", kept), ("live", table)) if len(part)]
        about = f"{'; '.join(told)}; bands, bars: 95 % jackknife; click a layer"
        figure = imports.on(charts.drift_curve(shown, layer, about), "drift", selection, stream=stream)
        controls.clickable(figure, "pick_drift")
    stored_results.provenance(run, "rq1")
    if len(table):
        session.provenance(run, table)


def numbers(run, table, kept, stream: str, layer: int) -> None:
    """The chosen layer's similarity, live and stored, and where it is lowest."""
    if table.empty:
        session.waiting("The numbers appear when both models have read the prompts.", session.NUMBERS)
        return
    if table["cka_debiased"].isna().all():
        return  # a notice says why
    here, lowest = table.set_index("layer").loc[layer], table.loc[table["cka_debiased"].idxmin()]
    row = metrics.numbers()
    interval = f"95 % interval {here.low:.3f} to {here.high:.3f}"
    row.metric(
        f"Debiased CKA at layer {layer}", f"{here.cka_debiased:.3f}", help=say("debiased", "jackknife"), **metrics.quiet(interval)
    )
    if len(kept):
        then = kept.set_index("layer").loc[layer]
        interval = f"95 % interval {then.low:.3f} to {then.high:.3f}"
        row.metric(
            f"Stored, on {int(then.n)} prompts", f"{then.cka_debiased:.3f}", help=TERMS["stored"], **metrics.quiet(interval)
        )
    where = f"at layer {int(lowest.layer)}"
    row.metric("Lowest", f"{lowest.cka_debiased:.3f}", help="Where the two models differ most.", **metrics.quiet(where))
    history.note(run, f"{stream} · L{layer}", here.cka_debiased, "CKA", column="cka_debiased", layer=layer)
