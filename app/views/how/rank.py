"""Rank: how many directions of the difference, or of a map, carry the change?"""

from functools import partial

import controls
import pandas as pd
import rates
import session
import stored_results
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.terms import DIFFERENCE, FITTED, sides
from mechdiff.questions.shared.request import FULL
from mechdiff.reporting import chart_tables, charts, view_requests
from mechdiff.reporting.selection import Selection
from views import imports, metrics, readings

LONGER = "Nine ranks, as points on the stored curve; without a stored curve, with all controls."


def page() -> None:
    selection = controls.current()
    donor, recipient = sides(selection.direction)
    session.heading(
        "Rank: how many directions carry the change?",
        say("rank", "complement", "map", "effect", "recovery", "drop", "alpha", "controls", "split-half overlap"),
        f"Drag the rank: the **{recipient}** model's state takes the mean difference to the **{donor}** model's, and k "
        "directions of what is left of it. Rank 0 is one constant shift for all prompts; full is the whole patch.",
    )
    readings.show(selection, "rank", "format")
    if session.available(selection):
        directions(selection)
    imports.numbers("rank", selection)


@session.panel
def directions(selection: Selection) -> None:
    selection = controls.widgets(selection, "basis")
    if selection.basis == DIFFERENCE:
        of_difference(selection)
    else:
        of_map(selection)


def of_difference(selection: Selection) -> None:
    """The chosen rank, live, on the stored curve over ranks."""
    selection = controls.widgets(selection, "stream", "layer", "rank")
    run, rank, layer = view_requests.rank(selection), selection.rank, selection.chosen_layer
    what = f"{selection.stream} · L{layer} · shift + {rank}" if rank != FULL else f"{selection.stream} · L{layer} · whole patch"
    line, table = metrics.answer(run, f"Effect at rank {rank}", what, rank=rank)
    stored = view_requests.stored_difference(run, stored_results.lines)
    if stored.empty:
        stored_results.missing(run)
    live, about = metrics.live(line), stored_results.origin(run, "rq3", stored)
    every, place, origins = view_requests.rank_curve(selection, len(stored) > 0), st.container(), stored_results.row()
    if controls.compute("ranks", LONGER, partial(rates.estimate, every)):
        more = metrics.summary(every, session.answer(every, patience=0.05))
        stored, about = (stored, about) if len(stored) else (more, "computed on these prompts")
        live = metrics.live(more[more["control"] == "none"]) if len(more) and len(stored) and stored is not more else live
    parts = [chart_tables.of_difference(stored)] if len(stored) else []
    if len(live):
        parts.append(chart_tables.share(live[live["rank"] != FULL], "recovery", shown=charts.OWN_DIRECTIONS))
    rows = chart_tables.join(*parts)
    if len(rows):
        with place:
            about = f"layer {layer}; directions of the observed difference on these prompts; {about}{chart_tables.ends(rows)}"
            controls.clickable(charts.difference_curve(rows, rank, f"{about}; click a rank"), "pick_rank")
    with origins:
        here = table[(table["control"] == "none") & (table["rank"] == rank)]
        where = {"layer": layer, "stream": selection.stream, "rank": rank, "control": "none"}
        stored_results.badge(run, here, "rq3", "difference", **where)
        stored_results.provenance(run, "rq3")
    if line is not None:
        session.provenance(run, table)


def of_map(selection: Selection) -> None:
    selection = controls.widgets(selection, "fit", "stream", "layer", "alpha", "rank", "complement")
    if selection.fit not in FITTED:
        st.info(f"The map `{selection.fit}` is not fitted, so it has no leading directions.\n\nTry:  {', '.join(FITTED)}")
        return
    run, rank = view_requests.rank(selection), selection.rank
    what = f"{selection.stream} · L{selection.chosen_layer} · k={rank} · {selection.complement}"
    line, table = metrics.answer(run, f"Effect at rank {rank}", what)
    curves(run, selection, line, table[table["control"] == "none"])
    if line is not None:
        session.provenance(run, table)


def stored_as(run) -> dict:
    """The stored columns of the run's condition. Rank 0 with complement mean is the control `mean`."""
    if run.ranks == ("0",) and run.complement == ("mean",):
        return {"control": "mean"}
    return {"map": run.map, "rank": run.ranks[0], "complement": run.complements[0], "alpha": run.alpha[0], "control": "none"}


def curves(run, selection: Selection, line, here: pd.DataFrame) -> None:
    """Effect, recovery and drop over rank, and rank by alpha: stored, and live as points (more on request)."""
    (layer,), (stream,), (alpha,), (complement,) = run.layers, run.streams, run.alpha, run.complements
    stored, lines = view_requests.stored_over_ranks(run, stored_results.lines)
    live, about = metrics.live(line), stored_results.origin(run, "rq3", stored)
    every = view_requests.rank_curve(selection, len(stored) > 0)
    if stored.empty:
        stored_results.missing(run, f" with {run.map} at alpha {alpha}")
    place, origins = st.container(), stored_results.row()
    if controls.compute("ranks", LONGER, partial(rates.estimate, every)):
        more = metrics.summary(every, session.answer(every, patience=0.05))
        if stored.empty:
            stored, about = more, "computed on these prompts"
        else:
            rest = more[(more["control"] == "none") & (more["complement"] == complement) & (more["rank"] != run.ranks[0])]
            live = chart_tables.join(metrics.live(rest), live)
    if len(stored) or len(live):
        with place:
            effects_and_shares(run, stored, live, about or "not stored")
    with origins:
        stored_results.badge(run, here, "rq3", "rank", layer=layer, stream=stream, **stored_as(run))
        stored_results.provenance(run, "rq3")
    rank_by_alpha(run, lines, live)


def effects_and_shares(run, stored: pd.DataFrame, live: pd.DataFrame, about: str) -> None:
    (complement,), (layer,), (rank,) = run.complements, run.layers, run.ranks
    about = f"layer {layer}, {run.map}, alpha {run.alpha[0]}; {about}"
    left, right = st.columns([3, 2])
    ranks = {*(stored["rank"] if len(stored) else ()), *(live["rank"] if len(live) else ()), rank}
    with left:
        rows = chart_tables.join(chart_tables.by_rank(stored, complement, ranks), live)
        figure = charts.rank_curve(rows, complement, rank, f"{about}{chart_tables.ends(rows)}; click a rank")
        controls.clickable(with_marks(figure, "cut", run), "pick_rank")
    mine = stored[(stored["control"] == "none") & (stored["complement"] == complement)] if len(stored) else stored
    parts, about = [], "no drop for complement own: keeping everything would count as a drop"
    names = ("recovery",) if complement == "own" else ("recovery", "drop")
    for name, factor in zip(names, (100, 1)):
        parts += [chart_tables.share(part.assign(shown=name), name, factor) for part in (mine, live) if len(part)]
    if complement != "own":
        about = "recovery: of the models' difference; drop: of the z-score effect; click a rank"
    with right:
        figure = charts.share_curve(chart_tables.join(*parts), rank, about)
        controls.clickable(with_marks(figure, "rank", run) if complement != "own" else figure, "pick_share")


def with_marks(figure, kind: str, run):
    """A chart over ranks with the imported marks of the run's stream and, if it is a number, its alpha."""
    where = {"stream": run.streams[0], "control": "none", "layer": run.layers[0]}
    where |= {} if run.alpha == ("auto",) else {"alpha": run.alpha[0]}
    return imports.on(figure, kind, controls.current(), **where)


def rank_by_alpha(run, every: pd.DataFrame, live: pd.DataFrame) -> None:
    """Rank by alpha, stored and live, and the stability of the leading directions."""
    (layer,), (stream,), (complement,), (rank,), (alpha,) = run.layers, run.streams, run.complements, run.ranks, run.alpha
    left, right = st.columns([3, 2])
    if len(every):
        every = every[(every["map"] == run.map) & (every["complement"] == complement) & (every["control"] == "none")]
    cells = chart_tables.join(every.assign(live=False), live.assign(live=True)) if len(every) else every
    if len(cells):
        cells = cells.drop_duplicates(["rank", "alpha"], keep="last")
        about = f"layer {layer}, complement {complement}; frame: chosen; dot: live; click a cell"
        with left:
            controls.clickable(charts.rank_alpha_map(cells, rank, alpha, about), "pick_cell")
    if len(cells) and cells["drop"].notna().any():
        with left:
            about = f"layer {layer}, complement {complement}; dashed: chosen; auto: the fitted scale; bars: 95 % CI"
            controls.draw(charts.alpha_curve(cells.dropna(subset=["drop"]), alpha, about))
    with right:
        spectrum = chart_tables.spectrum(stored_results.lines(run, "rq2", "maps", layer=layer, stream=stream, map=run.map))
        if len(spectrum):
            k = ", ".join(f"{share} % at k = {chart_tables.reached(spectrum, share / 100)}" for share in charts.SHARES)
            controls.draw(charts.spectrum_curve(spectrum, f"whitened cross-covariance, layer {layer}; {k}"))
        overlaps = chart_tables.overlap(stored_results.lines(run, "rq2", "maps", layer=layer, stream=stream, map=run.map))
        if not overlaps.empty:
            figure = charts.overlap_curve(overlaps, TERMS["split-half overlap"])
            controls.draw(figure)
    metrics.diagnostics(run, layer, stream)
