"""Widgets to typed values: one selection, the same on every page, and held by the link.

Every linked widget is drawn on every page, in a place of its own above it, and those that a page does not use are hidden there.
So its value stays, the address holds the whole selection, and going back in the browser goes back in it too. (A widget that
moves from place to place loses its binding to the address.)
"""

import shlex
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, replace
from functools import partial
from urllib.parse import urlencode

import own_pair
import page_record
import streamlit as st
from glossary import TERMS, say

from mechdiff.common.terms import ALPHAS, COMPLEMENTS, COUNTS, DIRECTIONS, MAPS, RANKS
from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import Pair, pair_names, read_pair
from mechdiff.questions import Question
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import DEFAULTS, OWN, STREAM_ORDER, Selection, default_layer, tokenizers_differ
from mechdiff.study.imports import imported_sets

HOME = "home"
STREAM_HELP = f"""{say("stream", "decision token")}

- `resid_post`, `resid_pre`: the residual stream after and before the layer
- `attn_out`, `mlp_out`: what the attention or MLP module returns
- `heads`: all heads' outputs, before the output projection"""
MAP_HELP = f"""{say("map")}

- `none`: nothing
- `zscore`: each dimension gets the mean and scale that the recipient has on the train split; the reference of *drop*
- `ridge`: the linear map with the least error on the train split, penalised as cross-validation asks
- `procrustes`: a rotation and one scale
- `procrustes_scaled`: the same between whitened states, then the recipient's own spread

A fitted map has to read the train split with both models first: a minute or more on a CPU, once for every pair and domain."""
ALPHA_HELP = f"""{TERMS["alpha"]} `auto`: the median of the recipient's size over the mapped size, on train prompts that the map
was not fitted on."""
COMPLEMENT_HELP = f"""{TERMS["complement"]}

- `mean`: the recipient's train mean. The rest is deleted, so a low rank also does damage; rank 0 is mean ablation.
- `own`: the recipient's own state. Rank 0 changes nothing, so no drop is shown."""
PLACES = ("fit", "stream", "map", "layer", "alpha", "rank", "complement", "heads", "blend", "prompt")  # those above a page
ALWAYS = ("pair", "domain", "limit", "stack")  # flags that a shown command has even where they are the default


def places() -> None:
    """Begin a page: a place for every linked widget that is not in the sidebar."""
    line = st.container(horizontal=True, gap="medium", key="places")
    st.session_state["_places"] = {key: line.container(key=f"place-{key}") for key in PLACES}


def linked(widget: Callable, label: str, *args, key: str, mend: Callable | None = None, **details):
    """Draw a widget that the link holds. mend: makes of a value from another pair one that this widget can show."""
    if mend and key in st.session_state and mend(st.session_state[key]) != st.session_state[key]:
        st.session_state[key] = mend(st.session_state[key])
    with st.session_state.get("_places", {}).get(key) or nullcontext():
        value = widget(label, *args, key=key, bind="query-params", **details)
    drawn().add(key)
    return value


def drawn() -> set[str]:
    """The linked widgets of this page run."""
    return st.session_state.setdefault("_linked", set())


def state() -> dict:
    """The selection: every linked widget's value."""
    return {key: st.session_state.get(key, default) for key, default in DEFAULTS.items()}


def link(page: str, values: dict) -> str:
    """A page with a selection, as the address that opens it. What is not named has its default there."""
    named = {key: "" if value == [] else value for key, value in values.items() if value != DEFAULTS[key]}
    return f"{'./' if page == HOME else page}?{urlencode(named, doseq=True)}"


def others(selection: Selection) -> None:
    """End a page: the linked widgets that it does not use, hidden."""
    used = [f".st-key-places > div:has(.st-key-place-{key})" for key in PLACES if key in drawn()]
    present = selection.spec.missing() is None
    for key, draw in WIDGETS.items():
        if key not in drawn() and (present or key not in ("layer", "heads")):
            draw(selection)
    if used:
        st.html(f"<style>.st-key-places, {', '.join(used)} {{display: flex !important}}</style>")


def clickable(figure, key: str, take: Callable[[dict], None] | None = None) -> None:
    """Draw a chart whose marks can be clicked. take: what to do with a clicked mark's values; default: choose them."""
    page_record.chart(figure)
    act = partial(clicked, key, take or choose)
    st.altair_chart(charts.Unchecked(figure), width="stretch", key=key, on_select=act, selection_mode=charts.PICK)


def draw(figure, key: str | None = None, place=st) -> None:
    """Draw a chart to be looked at alone. key: what a slide finds it by."""
    page_record.chart(figure)
    place = place.container(key=key) if key else place
    place.altair_chart(charts.Unchecked(figure), width="stretch")


def clicked(key: str, take: Callable[[dict], None]) -> None:
    """Runs before the page is drawn again. A click beside all marks picks nothing."""
    picked = st.session_state.get(key, {}).get("selection", {}).get(charts.PICK) or []
    if picked:
        take(picked[0])


def choose(picked: dict) -> None:
    """Give a clicked mark's values to the widgets of the same names."""
    for key in DEFAULTS.keys() & picked.keys():
        st.session_state[key] = picked[key]


def toggle_head(picked: dict) -> None:
    """Add or drop a clicked head; one of another layer starts a new set there."""
    layer, head = int(picked["layer"]), int(picked["head"])
    same = st.session_state.get("layer") == layer
    before = set(st.session_state.get("heads") or []) if same else set()
    st.session_state["layer"], st.session_state["heads"] = layer, sorted(before ^ {head}) or [head]


def pair() -> Pair:
    name = linked(st.sidebar.selectbox, "Pair", pair_names(), key="pair", help=f"{TERMS['pair']} Those added here come last.")
    return read_pair(name)


def domain(chosen: Pair) -> str:
    picked = linked(
        st.sidebar.selectbox,
        "Domain",
        [OWN, *prompts.domains()],
        key="domain",
        help=f"{TERMS['domain']} own: {chosen.domain}. Another domain than its own is a control.",
    )
    return chosen.domain if picked == OWN else picked


def direction() -> str:
    about = (
        f"Whose state goes into whom. `base-to-tuned`: the tuned model runs with the base's state.  \n{say('donor', 'recipient')}"
    )
    return linked(st.sidebar.radio, "Direction", DIRECTIONS, key="direction", help=about)


def count() -> int:
    return linked(
        st.sidebar.select_slider,
        "Prompts",
        COUNTS,
        value=DEFAULTS["prompts"],
        key="prompts",
        help="How many of the domain's 150 validation prompts. More make narrower intervals, and take longer the first time.",
    )


def shared_ratio(chosen: Pair) -> float:
    """The least shared ratio, which can be chosen only where two tokenizers may differ."""
    if not tokenizers_differ(chosen):
        return 0.0
    about = (
        "Only prompts, of validation and train, of whose tokens both tokenizers have at least this share. Where the two "
        "tokenizers differ, next-token distributions are compared over the token strings that both have."
    )
    return linked(st.sidebar.slider, "Shared tokens, at least", 0.0, 1.0, value=0.0, step=0.05, key="shared", help=about)


def stream() -> str:
    return linked(st.selectbox, "Stream", STREAM_ORDER, key="stream", help=STREAM_HELP)


def donor_map() -> str:
    return linked(st.selectbox, "Map", MAPS, key="map", help=MAP_HELP)


def fitted_map() -> str:
    """The map of the pages that are about maps: their default is the study's own."""
    return linked(st.selectbox, "Fitted map", MAPS, index=MAPS.index(DEFAULTS["fit"]), key="fit", help=MAP_HELP)


def alpha() -> str:
    return linked(st.selectbox, "Alpha", ALPHAS, key="alpha", help=ALPHA_HELP)


def rank() -> str:
    return linked(st.select_slider, "Rank", RANKS, value=DEFAULTS["rank"], key="rank", help=TERMS["rank"])


def complement() -> str:
    return linked(st.radio, "Complement", COMPLEMENTS, key="complement", horizontal=True, help=COMPLEMENT_HELP)


def compute(key: str, text: str, takes: str) -> bool:
    """Whether something that takes longer is to be computed on the page's own prompts. takes: how long."""
    return st.toggle(f"Compute on these prompts: {takes}", key=key, bind="query-params", help=text)


def layer(chosen: Pair) -> int:
    last = chosen.layers - 1
    return linked(
        st.slider,
        "Layer",
        0,
        last,
        value=default_layer(chosen.layers),
        key="layer",
        mend=lambda value: min(max(value, 0), last),
        help=f"0 to {last}, from the input. Or click a layer on a chart.",
    )


def chosen_layer(last: int) -> int:
    """The chosen layer on a page without its widget, where last is the last one."""
    value = str(elsewhere("layer"))
    return min(int(value), last) if value.isdigit() else default_layer(last + 1)


def elsewhere(key: str):
    """A linked value on a page without its widget: the address holds it until the widget is drawn, hidden, below the page."""
    return st.session_state.get(key, st.query_params.get(key, DEFAULTS[key]))


def heads(chosen: Pair) -> list[int]:
    picked = linked(
        st.pills,
        "Heads to replace together",
        list(range(chosen.heads)),
        selection_mode="multi",
        default=DEFAULTS["heads"],
        key="heads",
        mend=lambda value: [head for head in value or [] if 0 <= head < chosen.heads],
        help=f"{TERMS['heads']} Or click heads on a chart.",
    )
    return sorted(picked or [])


def blend() -> float:
    return linked(st.slider, "Blend", 0.0, 1.0, value=1.0, step=0.05, key="blend", help=TERMS["blend"])


def prompt(total: int) -> int:
    return linked(
        st.number_input,
        "Prompt",
        0,
        total - 1,
        value=0,
        key="prompt",
        mend=lambda value: min(max(value, 0), total - 1),
        help=f"Which of the {total} prompts to look at, from 0. Or click a prompt's mark on the chart.",
    )


def imported() -> None:
    """Which imported set the charts show beside ours; there only when something is imported."""
    if names := imported_sets.names():
        about = "Another study's numbers as hollow squares: means without intervals, on its own domain."
        linked(st.sidebar.selectbox, "Imported", [imported_sets.NONE, *names], key="imported", help=about)


WIDGETS: dict[str, Callable[[Selection], object]] = {  # those above a page, by their place in a selection
    "fit": lambda _: fitted_map(),
    "stream": lambda _: stream(),
    "map": lambda _: donor_map(),
    "alpha": lambda _: alpha(),
    "rank": lambda _: rank(),
    "complement": lambda _: complement(),
    "blend": lambda _: blend(),
    "prompt": lambda selection: prompt(len(view_requests.patch(selection).chosen_prompts)),
    "layer": lambda selection: layer(selection.spec),
    "heads": lambda selection: tuple(heads(selection.spec)),
}


def selection() -> Selection:
    """The sidebar: what every page shares."""
    chosen = pair()
    if not st.query_params.get("talk"):
        own_pair.form()
    selection = Selection(chosen.name, domain(chosen), direction(), count(), shared_ratio(chosen))
    imported()
    return selection


def current() -> Selection:
    """The selection that this page run began with: the sidebar's."""
    return st.session_state["_selection"]


def widgets(selection: Selection, *names: str) -> Selection:
    """Draw widgets above the page. Returns the selection with their values."""
    return replace(selection, **{name: WIDGETS[name](selection) for name in names})


def command(run: Question) -> str:
    """The command line that gives the same numbers: what is not the default, and always pair, domain and limit."""
    parts = [f"python -m mechdiff run {run.question}"]
    for spec in fields(run):
        value = getattr(run, spec.name)
        if value is None or (spec.name not in ALWAYS and value == spec.default):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"--{spec.name.replace('_', '-')} {shlex.quote(text)}")
    return " ".join(parts)
