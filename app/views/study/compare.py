"""Compare: two choices of pair and domain side by side, from stored sweeps only. Needs no torch and no weights."""

from functools import partial

import controls
import page_record
import pandas as pd
import session
import streamlit as st
from glossary import say

from mechdiff.inputs import prompts
from mechdiff.reporting import charts
from mechdiff.study import artifacts, compare_sweeps, estimates, published, quantities, stored_sweep
from mechdiff.study.imports import imported_sets
from mechdiff.study.imports import marks as imported
from mechdiff.study.stored_sweep import MODULES, StoredSweep
from views import behaviour, imports

CHOSEN = "layer chosen on train"
DEPTHS = [CHOSEN, *(f"{tenth / 10:.1f}" for tenth in range(11))]
WEIGHTS = dict(zip(MODULES, ("attention", "MLP")))
SETS = {"greedy": "greedy", "topk": "top k"}
CURVES = {  # curves over depth: how to read them, and how to draw them
    "recovery": (StoredSweep.recovery, charts.compared_recovery),
    "drift": (StoredSweep.drift, charts.compared_drift),
    "beyond": (StoredSweep.beyond, charts.compared_beyond),
    "effect": (StoredSweep.effect, charts.compared_effect),
    "drop": (StoredSweep.drop, charts.compared_drop),
}
AT_A_LAYER = ("directions", "rank")  # curves over the directions that are kept at one layer
MAIN, REST = (("recovery", "drift"), ("directions", "beyond")), (("effect", "drop"), MODULES, ("rank",), tuple(SETS))
SIDES = {"A": "blue", "B": "orange"}  # their colours in text, as in the charts
DEFAULTS = {"A": "demo-cultural", "B": "demo-cognitive"}  # in the study's order, not alphabetical


def page() -> None:
    st.header("Compare: how do two fine-tunes differ?", help=say("stored", "CKA", "effect", "transplant", "drop", "coverage"))
    st.caption(
        "Choose two pairs, or one pair on two domains. This page uses **stored sweeps** only, and only the direction from the "
        "sidebar. Click a point to select its pair, domain and layer on every page."
    )
    body(controls.current().direction)


def body(direction: str) -> None:
    columns = st.columns(2, gap="medium")
    chosen = {side: choice(side, direction, column) for side, column in zip(SIDES, columns)}
    left, middle, right = st.columns([1.2, 1, 1], vertical_alignment="bottom")
    with left:
        at = st.selectbox(
            "Cuts and maps at relative depth",
            DEPTHS,
            key="rank_at",
            bind="query-params",
            help="The layer at which cuts and maps are compared: each choice's own, the first from which the last token's state "
            "recovers half, chosen on train (older sweeps: the most affected layer); or the layer nearest to a relative depth (0 "
            "first, 1 last).",
        )
    with middle:
        marked = st.toggle(
            "Published numbers",
            value=True,
            key="published",
            bind="query-params",
            help="Hollow marks: what the original study published of the same pair, on the same prompts, by the same definitions "
            f"(protocol study). Means without intervals. Source: {published.facts()['source']}.",
        )
    depth = None if at == CHOSEN else float(at)
    a, b = (f"{sweep.pair}@{sweep.domain}" for sweep in chosen.values())
    comparison = compare_sweeps.Comparison(a, b, direction, depth)
    judge(chosen, comparison, right)
    draw(chosen, depth, marked)
    behaviour.compared(chosen, SIDES)
    st.code(comparison.command, language="bash", wrap_lines=True)


def choice(side: str, direction: str, column) -> StoredSweep:
    """The widgets of one choice; by default, a pair on its own domain."""
    pairs = stored_sweep.stored_pairs()
    with column.container(border=True):
        left, right = st.columns([1.4, 1])
        pair = left.selectbox(
            f":{SIDES[side]}[**{side}**] Pair",
            pairs,
            index=pairs.index(DEFAULTS[side]) if DEFAULTS[side] in pairs else 0,
            key=f"{side.lower()}_pair",
            bind="query-params",
        )
        own = stored_sweep.own_domain(pair)
        controls.refresh_default(f"{side.lower()}_domain", own)
        domain = right.selectbox(
            f":{SIDES[side]}[**{side}**] Domain",
            [controls.OWN, *prompts.domains()],
            key=f"{side.lower()}_domain",
            bind="query-params",
            format_func=partial(controls.default_label, default=own),
            help="Any domain other than the default is a control.",
        )
        chosen = StoredSweep(pair, own if domain == controls.OWN else domain, direction)
        st.caption(f"On {chosen.domain}: {chosen.origin()}")
    return chosen


@st.cache_data(max_entries=64, show_spinner=False)
def estimate(place: str, sweep: StoredSweep, depth: float | None, seed: int, stamp: float) -> dict:
    """A choice's part of the verdict. place, stamp: the folder of all sweeps, and when this sweep last changed."""
    return estimates.estimates(sweep, depth, seed)


def judge(chosen: dict[str, StoredSweep], comparison: compare_sweeps.Comparison, corner) -> None:
    """The verdict table, a glossary of its words, and what is not stored."""
    seeds = dict(zip(chosen, compare_sweeps.bootstrap_seeds(*chosen.values())))
    place = str(artifacts.ARTIFACTS)
    parts = {side: estimate(place, sweep, comparison.depth, seeds[side], sweep.stamp()) for side, sweep in chosen.items()}
    lines = compare_sweeps.tabulate(*parts.values())
    page_record.answer(comparison, lines, comparison.command)
    if lines.empty:
        return gaps(chosen, parts)
    cells = {"": lines["quantity"]}
    for side, sweep in chosen.items():
        name = side.lower()
        words = lines[f"{name}_word"].map(lambda text: f" — **{text}**" if text else "")
        cells[f":{SIDES[side]}[**{side}: {sweep.label}**]"] = lines[name] + words
    differences = [f"**{text}**" if clear else text for text, clear in zip(lines["difference"], lines["clear"])]
    place = st.container(key="verdict")
    place.table(pd.DataFrame(cells | {"B − A": differences}), border="horizontal", hide_index=True)
    paired = " Both choices use the same prompts, so their resamples are paired." if seeds["A"] == seeds["B"] else ""
    st.caption(f"{quantities.INTERVALS}{paired} Bold: the 95 % CI of the difference excludes zero.")
    with corner.popover("Glossary", icon=":material/help:"):
        for quantity in quantities.QUANTITIES.values():
            words = quantities.scale(quantity)
            st.markdown(f"**{quantity.name}.** {quantity.about}" + (f"  \n{words}." if words else ""))
        st.caption("If an interval covers more than one word, the words at both ends are given.")
    gaps(chosen, parts)


def gaps(chosen: dict[str, StoredSweep], estimates: dict[str, dict]) -> None:
    """What is not stored, and which sweeps have no manifest; once for a sweep that is compared with itself."""
    sides = {sweep: [side for side in chosen if chosen[side] == sweep] for sweep in chosen.values()}
    for sweep, names in sides.items():
        own, other = (estimates[side] for side in (SIDES if names[0] == "A" else reversed(SIDES)))
        if note := compare_sweeps.missing(sweep, own, other):
            text, _, command = note.rpartition("Try:  ")
            st.info(f"**{' and '.join(names)}**: {text}\n\nTry:  `{command}`")
        if sweep.stamp() and sweep.manifest("rq1") is None:
            about = f"the stored sweep of {sweep.label} has no manifest, so the origin of its numbers is unknown."
            st.warning(f"{' and '.join(names)}: {about}")


def draw(chosen: dict[str, StoredSweep], depth: float | None, marked: bool) -> None:
    """The curves behind the verdict, one question per chart. Charts that neither choice has are left out."""
    place, name, state = str(artifacts.ARTIFACTS), imports.selected(), controls.state()
    rules = {side: at for side, sweep in chosen.items() if (at := chosen_depth(sweep, state)) is not None}
    take, now = partial(choose, chosen), (state["pair"], state["domain"], state["rank"], rules)
    stamps = (*(sweep.stamp() for sweep in chosen.values()), imported_sets.stamp(name) if name else 0.0)

    def drawn(rows: tuple) -> bool:
        """Draw these kinds as far as they are stored. Returns whether more than one is."""
        count = 0
        for row in rows:
            for kind, column in zip(row, st.columns(2, gap="medium")):
                at = depth if kind in AT_A_LAYER else None
                if figure := specification(place, kind, chosen["A"], chosen["B"], at, marked, name, stamps):
                    count += 1
                    page_record.chart(figure)
                    figure = charts.staged(charts.chosen_now(figure, now, rules))
                    key = f"pick-compared-{kind}"
                    clicks = {"key": key, "on_select": partial(controls.clicked, key, take), "selection_mode": charts.PICK}
                    column.container(key=f"compared-{kind}").vega_lite_chart(figure, width="stretch", **clicks)
        return count > 1

    with session.more("More curves") if drawn(MAIN) else st.container():
        drawn(REST)


def choose(chosen: dict[str, StoredSweep], picked: dict) -> None:
    """Select a clicked point's pair, domain, layer and rank for every page."""
    sweep = chosen[picked["shown"][0]]
    controls.choose(picked | {"pair": sweep.pair, "domain": sweep.domain})


def chosen_depth(sweep: StoredSweep, state: dict) -> float | None:
    """The relative depth of the chosen layer, if the sweep is of the chosen pair and domain."""
    domain = stored_sweep.own_domain(sweep.pair) if state["domain"] == controls.OWN else state["domain"]
    if (sweep.pair, sweep.domain) != (state["pair"], domain) or (table := sweep.effect()) is None:
        return None
    return controls.chosen_layer(last := int(table["layer"].max())) / last


@st.cache_data(max_entries=256, show_spinner=False)
def specification(
    place: str, kind: str, a: StoredSweep, b: StoredSweep, depth: float | None, marked: bool, name: str | None, stamps: tuple
) -> dict | None:
    """A chart, cached as a specification, since building charts is the slowest part of the page. name: of an import."""
    chosen = {f"{side}: {sweep.label}": sweep for side, sweep in zip(SIDES, (a, b))}
    tables = {name: table for name, sweep in chosen.items() if (table := curve(sweep, kind, depth)) is not None}
    if not tables:
        return None
    own = {side: sweep for side, sweep in chosen.items() if sweep.domain == stored_sweep.own_domain(sweep.pair)}
    near = (1.0 if depth is None else depth) if kind == "rank" else None  # the published layer nearest to ours
    chart = "coverage" if kind in SETS else kind
    marks = {side: marks_of(chart, sweep, near, marked, name) for side, sweep in own.items()}
    layers = ", ".join(f"{name[0]}: layer {table['layer'].iloc[0]}" for name, table in tables.items())
    if kind == "directions":
        figure = charts.compared_directions(tables, f"{layers}; bands: 95 % CI")
    elif kind in MODULES:
        figure = charts.compared_transplants(tables, WEIGHTS[kind])
    elif kind in SETS:
        strongest = {name: layer for name, sweep in chosen.items() if (layer := sweep.strongest()) is not None}
        sets = {name: band for name, layer in strongest.items() if (band := chosen[name].random_sets(layer)) is not None}
        figure = charts.compared_coverage(tables, sets, marks, SETS[kind], f"{layers}; pale: 95 % of random sets")
    elif kind == "rank":
        figure = charts.compared_ranks(tables, marks, f"{layers}; bands: 95 % CI")
    else:
        figure = CURVES[kind][1](tables, marks)
    return figure.to_dict()


def marks_of(chart: str, sweep: StoredSweep, near: float | None, marked: bool, name: str | None) -> pd.DataFrame:
    """The published marks for a sweep, if they are switched on, and those of the chosen import."""
    parts = [published.marks(chart, sweep, near)] if marked else []
    parts += [imported.compared(name, chart, sweep.domain, sweep.direction, near)] if name else []
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)


def curve(sweep: StoredSweep, kind: str, depth: float | None) -> pd.DataFrame | None:
    """One curve of a sweep; None if it is not stored."""
    if kind in CURVES:
        return CURVES[kind][0](sweep)
    if kind in MODULES:
        return sweep.transplants(kind)
    if kind == "directions":
        layer = sweep.half() if depth is None else sweep.layer(depth)
        return None if layer is None else sweep.directions(layer)
    layer = sweep.layer(depth) if kind == "rank" else sweep.strongest()
    if layer is None:
        return None
    return sweep.drop_by_rank(layer) if kind == "rank" else sweep.coverage(layer, kind)
