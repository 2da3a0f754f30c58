"""Compare: two choices of pair and domain side by side, from stored sweeps alone. Needs no torch and no weights."""

from functools import partial

import controls
import page_record
import pandas as pd
import streamlit as st
from glossary import say

from mechdiff.inputs import prompts
from mechdiff.reporting import charts
from mechdiff.study import artifacts, compare_sweeps, estimates, published, quantities, stored_sweep
from mechdiff.study.imports import imported_sets
from mechdiff.study.imports import marks as imported
from mechdiff.study.stored_sweep import MODULES, StoredSweep
from views import behaviour, imports

AFFECTED = "most affected layer"
DEPTHS = [AFFECTED, *(f"{tenth / 10:.1f}" for tenth in range(11))]
WEIGHTS = dict(zip(MODULES, ("attention", "MLP")))
SETS = {"greedy": "greedy", "topk": "top k"}
CURVES = {  # curves over depth: how a choice reads them, and how they are drawn
    "drift": (StoredSweep.drift, charts.compared_drift),
    "effect": (StoredSweep.effect, charts.compared_effect),
    "drop": (StoredSweep.drop, charts.compared_drop),
}
SIDES = {"A": "blue", "B": "orange"}  # their colours in text, those of the charts
DEFAULTS = {"A": 1, "B": 0}  # which of the stored pairs: in the study's order, not the alphabet's


def page() -> None:
    st.header("Compare: how do two fine-tunes differ?", help=say("stored", "CKA", "effect", "transplant", "drop", "coverage"))
    st.caption(
        "Two choices of pair and domain, from **stored sweeps** alone. Of the sidebar only the direction counts here. "
        "A click on a point chooses its pair, domain and layer on every page."
    )
    body(controls.current().direction)


def body(direction: str) -> None:
    columns = st.columns(2, gap="medium")
    chosen = {side: choice(side, direction, column) for side, column in zip(SIDES, columns)}
    one, two, three = st.columns([1.2, 1, 1], vertical_alignment="bottom")
    with one:
        at = st.selectbox(
            "Rank cuts at relative depth",
            DEPTHS,
            key="rank_at",
            bind="query-params",
            help="Where rank cuts are read: at each choice's most affected layer (the largest effect of patching resid_post, on "
            "the same prompts), or at the layer nearest to one depth.",
        )
    with two:
        marked = st.toggle(
            "Published 8B numbers",
            value=True,
            key="published",
            bind="query-params",
            help=f"Hollow marks: what the original study reports for its 8B pairs on their own domains, means without "
            f"intervals. Source: {published.facts()['source']}. In part of its runs the requested rank was not used.",
        )
    depth = None if at == AFFECTED else float(at)
    named = (f"{one.pair}@{one.domain}" for one in chosen.values())
    asked = compare_sweeps.Comparison(*named, direction, depth)
    judge(chosen, asked, three)
    draw(chosen, depth, marked)
    behaviour.compared(chosen, SIDES)
    st.code(asked.command, language="bash", wrap_lines=True)  # how to get the same numbers elsewhere


def choice(side: str, direction: str, column) -> StoredSweep:
    """The widgets of one choice. Default: each pair on its own domain."""
    pairs = stored_sweep.stored_pairs()
    with column.container(border=True):
        left, right = st.columns([1.4, 1])
        pair = left.selectbox(
            f":{SIDES[side]}[**{side}**] pair",
            pairs,
            index=min(DEFAULTS[side], len(pairs) - 1),
            key=f"{side.lower()}_pair",
            bind="query-params",
        )
        own = stored_sweep.own_domain(pair)
        domain = right.selectbox(
            "on domain",
            [controls.OWN, *prompts.domains()],
            key=f"{side.lower()}_domain",
            bind="query-params",
            help=f"own: {own}. Another domain than its own is a control.",
        )
        chosen = StoredSweep(pair, own if domain == controls.OWN else domain, direction)
        st.caption(f"On {chosen.domain}: {chosen.origin()}")
    return chosen


@st.cache_data(max_entries=64, show_spinner=False)
def estimate(place: str, one: StoredSweep, depth: float | None, seed: int, stamp: float) -> dict:
    """A choice's part of the verdict. place, stamp: the folder of all sweeps, and when the choice's own last changed."""
    return estimates.estimates(one, depth, seed)


def judge(chosen: dict[str, StoredSweep], asked: compare_sweeps.Comparison, corner) -> None:
    """The verdict table, what its words mean, and what is not stored."""
    seeds = dict(zip(chosen, compare_sweeps.bootstrap_seeds(*chosen.values())))
    place = str(artifacts.ARTIFACTS)
    found = {side: estimate(place, one, asked.depth, seeds[side], one.stamp()) for side, one in chosen.items()}
    lines = compare_sweeps.tabulate(*found.values())
    page_record.answer(asked, lines, asked.command)
    cells = {"": lines["quantity"]}
    for side, one in chosen.items():
        name = side.lower()
        words = lines[f"{name}_word"].map(lambda text: f" — **{text}**" if text else "")
        cells[f":{SIDES[side]}[**{side}: {one.label}**]"] = lines[name] + words
    apart = [f"**{text}**" if clear else text for text, clear in zip(lines["difference"], lines["clear"])]
    place = st.container(key="verdict")
    place.table(pd.DataFrame(cells | {"B − A": apart}), border="horizontal", hide_index=True)
    paired = " Both choices have the same prompts, so their resamples are paired." if seeds["A"] == seeds["B"] else ""
    st.caption(f"{quantities.INTERVALS}{paired} Bold differences: their interval leaves nought out.")
    with corner.popover("What the words mean", icon=":material/help:"):
        for quantity in quantities.QUANTITIES.values():
            st.markdown(f"**{quantity.name}.** {quantity.about}  \n{quantities.scale(quantity)}.")
        st.caption("Where an interval reaches over more than one word, the words at both its ends are given.")
    tell_missing(chosen, found)


def tell_missing(chosen: dict[str, StoredSweep], estimates: dict[str, dict]) -> None:
    """What is not stored, and which sweeps have no manifest; once for a sweep that is compared with itself."""
    sides = {sweep: [side for side in chosen if chosen[side] == sweep] for sweep in chosen.values()}
    for sweep, names in sides.items():
        if note := compare_sweeps.missing(sweep, estimates[names[0]]):
            text, _, command = note.rpartition("Try:  ")
            st.info(f"**{' and '.join(names)}**: {text}\n\nTry:  `{command}`")
        if sweep.stamp() and sweep.manifest("rq1") is None:
            about = f"the stored sweep of {sweep.label} has no manifest, so where its numbers come from is unknown."
            st.warning(f"{' and '.join(names)}: {about}")


def draw(chosen: dict[str, StoredSweep], depth: float | None, marked: bool) -> None:
    """The curves behind the verdict, a question a chart. What neither choice has is left out."""
    place, name, state = str(artifacts.ARTIFACTS), imports.shown(), controls.state()
    rules = {side: at for side, one in chosen.items() if (at := chosen_depth(one, state)) is not None}
    take, now = partial(choose, chosen), (state["pair"], state["domain"], state["rank"], rules)
    stamps = (*(one.stamp() for one in chosen.values()), imported_sets.stamp(name) if name else 0.0)
    for row in (("drift", "effect"), MODULES, ("drop", "rank"), tuple(SETS)):
        for kind, column in zip(row, st.columns(2, gap="medium")):
            at = depth if kind == "rank" else None
            if drawn := specification(place, kind, *chosen.values(), at, marked, name, stamps):
                page_record.chart(drawn)
                drawn = charts.staged(charts.chosen_now(drawn, now, rules))
                key = f"pick-compared-{kind}"
                clicks = {"key": key, "on_select": partial(controls.clicked, key, take), "selection_mode": charts.PICK}
                column.container(key=f"compared-{kind}").vega_lite_chart(drawn, width="stretch", **clicks)


def choose(chosen: dict[str, StoredSweep], picked: dict) -> None:
    """Give a clicked point's pair, domain, layer and rank to every page."""
    one = chosen[picked["shown"][0]]
    controls.choose(picked | {"pair": one.pair, "domain": one.domain})


def chosen_depth(one: StoredSweep, state: dict) -> float | None:
    """The relative depth of the chosen layer, if the choice is of the chosen pair and domain."""
    domain = stored_sweep.own_domain(one.pair) if state["domain"] == controls.OWN else state["domain"]
    if (one.pair, one.domain) != (state["pair"], domain) or (table := one.effect()) is None:
        return None
    return controls.chosen_layer(last := int(table["layer"].max())) / last


@st.cache_data(max_entries=256, show_spinner=False)
def specification(
    place: str, kind: str, a: StoredSweep, b: StoredSweep, depth: float | None, marked: bool, name: str | None, stamps: tuple
) -> dict | None:
    """A chart, remembered as what the browser gets: to build them takes longer than all else on the page. name: an import's."""
    chosen = {f"{side}: {one.label}": one for side, one in zip(SIDES, (a, b))}
    tables = {name: table for name, one in chosen.items() if (table := curve(one, kind, depth)) is not None}
    if not tables:
        return None
    own = {side: one for side, one in chosen.items() if one.domain == stored_sweep.own_domain(one.pair)}
    near = (1.0 if depth is None else depth) if kind == "rank" else None  # the published layer nearest to ours
    chart = "coverage" if kind in SETS else kind
    marks = {side: marks_of(chart, one, near, marked, name) for side, one in own.items()}
    layers = ", ".join(f"{name[0]}: layer {table['layer'].iloc[0]}" for name, table in tables.items())
    if kind in MODULES:
        drawn = charts.compared_transplants(tables, WEIGHTS[kind])
    elif kind in SETS:
        sets = {name: found for name, one in chosen.items() if (found := one.random_sets(one.strongest())) is not None}
        drawn = charts.compared_coverage(tables, sets, marks, SETS[kind], f"{layers}; pale: 95 % of random sets")
    elif kind == "rank":
        drawn = charts.compared_ranks(tables, marks, f"{layers}; bands: 95 %")
    else:
        drawn = CURVES[kind][1](tables, marks)
    return drawn.to_dict()


def marks_of(chart: str, one: StoredSweep, near: float | None, marked: bool, name: str | None) -> pd.DataFrame:
    """The published marks of a choice, if they are wanted, and those of an import, if one is chosen."""
    parts = [published.marks(chart, one.domain, one.direction, near)] if marked else []
    parts += [imported.compared(name, chart, one.domain, one.direction, near)] if name else []
    return pd.concat([part for part in parts if len(part)] or [pd.DataFrame()], ignore_index=True)


def curve(one: StoredSweep, kind: str, depth: float | None) -> pd.DataFrame | None:
    """What is drawn of a choice; None if it is not stored."""
    if kind in CURVES:
        return CURVES[kind][0](one)
    if kind in MODULES:
        return one.transplants(kind)
    layer = one.layer(depth) if kind == "rank" else one.strongest()
    if layer is None:
        return None
    return one.drop_by_rank(layer) if kind == "rank" else one.coverage(layer, kind)
