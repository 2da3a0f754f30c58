"""Widgets to typed values: one selection, shared by every page and saved in the URL.

Every linked widget is drawn on every page, in its own place above it, and hidden on pages that do not use it. Its value
therefore stays, the URL contains the whole selection, and the browser's back button also restores it. (A widget that moves
from place to place loses its binding to the URL.)
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import cast
from urllib.parse import urlencode

import altair as alt
import own_pair
import page_record
import streamlit as st
from glossary import TERMS, say
from streamlit.delta_generator import DeltaGenerator

from mechdiff.common.errors import UserError
from mechdiff.common.terms import ALPHAS, BASES, COMPLEMENTS, COUNTS, DIRECTIONS, MAPS, RANKS, WHITENED
from mechdiff.inputs import prompts, protocols
from mechdiff.inputs.pair_file import Pair, pair_names, read_pair
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.selection import (
    DEFAULTS,
    FORMAT,
    OWN,
    STREAM_ORDER,
    VERSION,
    Selection,
    default_layer,
    defaults,
    protocol_of,
    tokenizers_differ,
)
from mechdiff.study.imports import imported_sets

HOME = "home"
STREAM_HELP = f"""{say("stream", "decision token")}

- `resid_post`, `resid_pre`: the residual stream after and before the layer
- `attn_out`, `mlp_out`: what the attention or MLP module returns
- `heads`: all heads' outputs, before the output projection"""
MAP_HELP = f"""{say("map")}

- `none`: nothing
- `zscore`: each dimension gets the recipient's mean and scale on train prompts; the reference for *drop*
- `ridge`: the linear map with the least error on train prompts, its penalty chosen by cross-validation
- `procrustes`: a rotation and one scale
- `procrustes_scaled`: the same between whitened states, then rescaled to the recipient's spread
- `procrustes_full`: the same with a rotation of all dimensions, as in the original study; beyond the train states it is arbitrary

Before a map can be fitted, both models must read the train prompts: a minute or more on a CPU, once per pair and domain."""
ALPHA_HELP = f"""{TERMS["alpha"]} `auto`: the median ratio of the recipient's norm to the mapped norm, on train prompts on
which the map was not fitted."""
COMPLEMENT_HELP = f"""{TERMS["complement"]}

- `mean`: the recipient's train mean. This deletes the rest, so a low rank also does damage. Rank 0 is mean ablation.
- `own`: the recipient's own state. Rank 0 changes nothing, so there is no drop.
- `whitened`: nothing is filled. As in the original study, the map itself is cut, between whitened states, and its scale shrinks
with the rank: a low rank puts in nearly the mean."""
PLACES = (
    "basis",
    "fit",
    "stream",
    "map",
    "layer",
    "alpha",
    "rank",
    "complement",
    "heads",
    "blend",
    "prompt",
)  # the widgets above a page


def places() -> None:
    """Start a page: a place for every linked widget that is not in the sidebar."""
    line = st.container(horizontal=True, gap="medium", key="places")
    st.session_state["_places"] = {key: line.container(key=f"place-{key}") for key in PLACES}


def linked(widget: Callable, label: str, *args, key: str, mend: Callable | None = None, **details):
    """Draw a widget whose value is in the URL. mend: turns a value from another pair into one that this widget can show."""
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
    return {key: st.session_state.get(key, default) for key, default in defaults(chosen_protocol()).items()}


def link(page: str, values: dict) -> str:
    """The address that opens a page with a selection. Values that are the default are left out."""
    own = defaults(protocol_of(read_pair(values.get("pair", DEFAULTS["pair"])), values.get("protocol", OWN)))
    named = {key: "" if value == [] else value for key, value in values.items() if value != own[key]}
    named |= {VERSION: FORMAT} if named else {}
    return f"{'./' if page == HOME else page}?{urlencode(named, doseq=True)}"


def others(selection: Selection) -> None:
    """End a page: draw the linked widgets that it does not use, hidden."""
    used = [f".st-key-places > div:has(.st-key-place-{key})" for key in PLACES if key in drawn()]
    unknown = {"layer", "heads"} if selection.spec.depth is None else set()  # what the pair's files do not say here
    for key, draw in WIDGETS.items():
        if key in drawn() | unknown:
            continue
        try:
            draw(selection)
        except UserError:
            if key != "prompt":  # a domain that is not here has a stored sweep, and no prompts to choose from
                raise
    if used:
        st.html(f"<style>.st-key-places, {', '.join(used)} {{display: flex !important}}</style>")


def clickable(figure, key: str, take: Callable[[dict], None] | None = None) -> None:
    """Draw a chart whose marks can be clicked. take: what to do with a clicked mark's values; default: select them."""
    page_record.chart(figure)
    act = partial(clicked, key, take or choose)
    st.altair_chart(unchecked(figure), width="stretch", key=key, on_select=act, selection_mode=charts.PICK)


def draw(figure, key: str | None = None, place: DeltaGenerator | ModuleType = st) -> None:
    """Draw a chart without clicks. key: identifies it on a slide."""
    page_record.chart(figure)
    place = place.container(key=key) if key else place
    place.altair_chart(unchecked(figure), width="stretch")


def unchecked(figure) -> alt.LayerChart:
    """The chart as Streamlit takes it, which only calls its `to_dict`."""
    return cast(alt.LayerChart, charts.Unchecked(figure))


def clicked(key: str, take: Callable[[dict], None]) -> None:
    """Runs before the page is drawn again. A click outside all marks picks nothing."""
    picked = st.session_state.get(key, {}).get("selection", {}).get(charts.PICK) or []
    if picked:
        take(picked[0])


def choose(picked: dict) -> None:
    """Set the widgets of the same names to a clicked mark's values."""
    for key in DEFAULTS.keys() & picked.keys():
        st.session_state[key] = picked[key]


def toggle_head(picked: dict) -> None:
    """Add or remove a clicked head; a head of another layer starts a new set there."""
    layer, head = int(picked["layer"]), int(picked["head"])
    same = st.session_state.get("layer") == layer
    before = set(st.session_state.get("heads") or []) if same else set()
    st.session_state["layer"], st.session_state["heads"] = layer, sorted(before ^ {head}) or [head]


def pair() -> Pair:
    about = f"{TERMS['pair']} Your own pairs are last in the list."
    name = linked(st.sidebar.selectbox, "Pair", pair_names(), key="pair", help=about)
    return read_pair(name)


def protocol(chosen: Pair) -> str:
    """The protocol's name. With another protocol, the widgets that it sets begin with its values."""
    refresh_default("protocol", chosen.protocol)
    about = "Whose definitions the numbers follow.\n\n" + "\n".join(f"- `{n}`: {protocols.about(n)}" for n in protocols.NAMES)
    picked = linked(
        st.sidebar.selectbox,
        "Protocol",
        [OWN, *protocols.NAMES],
        key="protocol",
        format_func=partial(default_label, default=chosen.protocol),
        help=about,
    )
    name = protocol_of(chosen, picked)
    before = defaults(st.session_state.get("_protocol", name))
    for key, value in defaults(name).items():
        if value != before[key] and st.session_state.get(key) == before[key]:
            st.session_state[key] = value
    st.session_state["_protocol"] = name
    return name


def chosen_protocol() -> str:
    """The protocol of this page run."""
    return st.session_state.get("_protocol", protocols.DEFAULT)


def domain(chosen: Pair) -> str:
    refresh_default("domain", chosen.domain)
    picked = linked(
        st.sidebar.selectbox,
        "Domain",
        [OWN, *prompts.domains()],
        key="domain",
        format_func=partial(default_label, default=chosen.domain),
        help=f"{TERMS['domain']} Any domain other than the default is a control.",
    )
    return chosen.domain if picked == OWN else picked


def default_label(value: str, default: str) -> str:
    """A domain or protocol in a list. default: the pair's own."""
    return f"default ({default})" if value == OWN else value


def refresh_default(key: str, default: str) -> None:
    """Before a list with OWN is drawn for another pair: make the browser show the new pair's default, not the last one's."""
    if st.session_state.get(key) == OWN and st.session_state.get(f"_default_{key}") != default:
        st.session_state[key] = OWN
    st.session_state[f"_default_{key}"] = default


def direction() -> str:
    about = "Which model's state goes into which model. `base-to-tuned`: the tuned model runs with the base model's state."
    about = f"{about}  \n{say('donor', 'recipient')}"
    return linked(st.sidebar.radio, "Direction", DIRECTIONS, key="direction", help=about)


def count() -> int:
    return linked(
        st.sidebar.select_slider,
        "Prompts",
        COUNTS,
        value=DEFAULTS["prompts"],
        key="prompts",
        help="How many of the domain's 150 validation prompts to use. More give narrower intervals, and take longer once.",
    )


def shared_ratio(chosen: Pair) -> float | None:
    """The smallest shared ratio, which can be chosen only if the tokenizers may differ."""
    if not tokenizers_differ(chosen):
        return None
    value = defaults(chosen_protocol())["shared"]
    about = (
        "Use only prompts (validation and train) of which either tokenizer shares at least this fraction of tokens. Where the "
        "tokenizers differ, next-token distributions are compared over the tokens that both have."
    )
    return linked(st.sidebar.slider, "Minimum share of common tokens", 0.0, 1.0, value=value, step=0.05, key="shared", help=about)


def stream() -> str:
    return linked(st.selectbox, "Stream", STREAM_ORDER, key="stream", help=STREAM_HELP)


def donor_map() -> str:
    return linked(st.selectbox, "Map", MAPS, index=index_of("map", MAPS), key="map", help=MAP_HELP)


def fitted_map() -> str:
    """The map on pages about maps; the default is the original study's."""
    return linked(st.selectbox, "Fitted map", MAPS, index=index_of("fit", MAPS), key="fit", help=MAP_HELP)


def alpha() -> str:
    return linked(st.selectbox, "Alpha", ALPHAS, index=index_of("alpha", ALPHAS), key="alpha", help=ALPHA_HELP)


def rank() -> str:
    return linked(st.select_slider, "Rank", RANKS, value=DEFAULTS["rank"], key="rank", help=TERMS["rank"])


def basis() -> str:
    about = (
        "Whose directions are kept: those of the observed difference between the two states, or those of a fitted map's outputs."
    )
    index = index_of("basis", BASES)
    return linked(st.radio, "Directions of", BASES, index=index, key="basis", horizontal=True, help=about)


def complement() -> str:
    options = (*COMPLEMENTS, WHITENED)
    index = index_of("complement", options)
    return linked(st.radio, "Complement", options, index=index, key="complement", horizontal=True, help=COMPLEMENT_HELP)


def index_of(key: str, options: tuple[str, ...]) -> int:
    """The place of a widget's default under the chosen protocol."""
    return options.index(defaults(chosen_protocol())[key])


def compute(key: str, text: str, takes: Callable[[], str]) -> bool:
    """Whether to compute something slower on the page's own prompts. takes: says how long it takes."""
    if st.session_state.get("_stored_only"):
        return False
    return st.toggle(f"Compute on these prompts ({takes()})", key=key, bind="query-params", help=text)


def layer(chosen: Pair) -> int:
    last = chosen.layers - 1
    return linked(
        st.slider,
        "Layer",
        0,
        last,
        value=default_layer(chosen.layers, chosen_protocol(), current().domain),
        key="layer",
        mend=lambda value: min(max(value, 0), last),
        help=f"0 (nearest to the input) to {last}. Or click a layer in a chart.",
    )


def chosen_layer(last: int) -> int:
    """The chosen layer on a page without the layer widget. last: the last layer."""
    value = str(elsewhere("layer"))
    if value.isdigit():
        return min(int(value), last)
    return default_layer(last + 1, chosen_protocol(), current().domain)


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
        help=f"{TERMS['heads']} Or click heads in a chart.",
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
        help=f"Which of the {total} prompts to show, counted from 0. Or click a prompt in the chart.",
    )


def imported() -> None:
    """Which imported set the charts also show; only if something is imported."""
    if names := imported_sets.names():
        about = "Another study's numbers as hollow squares: means without intervals, on the pair's default domain."
        linked(st.sidebar.selectbox, "Imported", [imported_sets.NONE, *names], key="imported", help=about)


WIDGETS: dict[str, Callable[[Selection], object]] = {  # the widgets above a page, by their place in a selection
    "fit": lambda _: fitted_map(),
    "stream": lambda _: stream(),
    "map": lambda _: donor_map(),
    "alpha": lambda _: alpha(),
    "rank": lambda _: rank(),
    "basis": lambda _: basis(),
    "complement": lambda _: complement(),
    "blend": lambda _: blend(),
    "prompt": lambda selection: prompt(len(view_requests.patch(selection).chosen_prompts)),
    "layer": lambda selection: layer(selection.spec),
    "heads": lambda selection: tuple(heads(selection.spec)),
}


def selection() -> Selection:
    """The sidebar: the selection that every page shares."""
    chosen = pair()
    if not st.query_params.get("talk"):
        own_pair.form()
    of = {"domain": domain(chosen), "protocol": protocol(chosen), "direction": direction(), "limit": count()}
    selection = Selection(chosen.name, **of, min_shared_ratio=shared_ratio(chosen))
    imported()
    return selection


def current() -> Selection:
    """The selection that this page run began with: the sidebar's."""
    return st.session_state["_selection"]


def widgets(selection: Selection, *names: str) -> Selection:
    """Draw widgets above the page. Returns the selection with their values."""
    return replace(selection, **{name: WIDGETS[name](selection) for name in names})
