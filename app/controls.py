"""Widgets to typed values, bound to the URL: a link reopens the same view."""

import streamlit as st

from mechdiff import prompts
from mechdiff.experiments import Run
from mechdiff.pairs import Pair, read_pair, shipped
from mechdiff.terms import DIRECTIONS, MAPS

OWN = "own"
COUNTS = [8, 16, 32, 64, 150]
STREAM_HELP = """The state that is compared or replaced, at the decision token: the prompt's last token that is not special.

- `resid_post`, `resid_pre`: the residual stream after and before the layer
- `attn_out`, `mlp_out`: what the attention or MLP module returns
- `heads`: all heads' outputs, before the output projection"""
MAP_HELP = """What is done to the donor's state first.

- `none`: nothing
- `zscore`: each dimension gets the mean and scale that the recipient has on the train split"""


def pair() -> Pair:
    name = st.sidebar.selectbox(
        "Pair",
        shipped(),
        key="pair",
        bind="query-params",
        help="A base model and a fine-tune of it. Add your own as a TOML file.",
    )
    return read_pair(name)


def domain(chosen: Pair) -> str:
    picked = st.sidebar.selectbox(
        "Domain",
        [OWN, *prompts.domains()],
        key="domain",
        bind="query-params",
        help=f"The curated prompts to study the pair on. own: {chosen.domain}. Another domain than its own is a control.",
    )
    return chosen.domain if picked == OWN else picked


def direction() -> str:
    return st.sidebar.radio(
        "Direction",
        DIRECTIONS,
        key="direction",
        bind="query-params",
        help="Whose state goes into whom. `base-to-tuned`: the tuned model runs with the base model's state.",
    )


def count() -> int:
    return st.sidebar.select_slider(
        "Prompts",
        COUNTS,
        value=32,
        key="prompts",
        bind="query-params",
        help="How many of the domain's 150 validation prompts. More make narrower intervals, and take longer the first time.",
    )


def stream(options: tuple[str, ...]) -> str:
    return st.selectbox("Stream", options, key="stream", bind="query-params", help=STREAM_HELP)


def donor_map() -> str:
    return st.selectbox("Map", MAPS, key="map", bind="query-params", help=MAP_HELP)


def layer(chosen: Pair) -> int:
    last = chosen.layers - 1
    return st.slider(
        "Layer", 0, last, value=2 * last // 3, key="layer", bind="query-params", help=f"0 to {last}, from the input."
    )


def heads(chosen: Pair) -> list[int]:
    picked = st.pills(
        "Heads to replace together",
        list(range(chosen.heads)),
        selection_mode="multi",
        default=[0],
        key="heads",
        bind="query-params",
        help="Each head's output at the decision token is replaced by the other model's.",
    )
    return sorted(picked or [])


def blend() -> float:
    return st.slider(
        "Blend",
        0.0,
        1.0,
        value=1.0,
        step=0.05,
        key="blend",
        bind="query-params",
        help="0 keeps the own output, 1 takes the donor's.",
    )


def prompt(total: int) -> int:
    return st.number_input(
        "Prompt",
        0,
        total - 1,
        value=0,
        key="prompt",
        bind="query-params",
        help=f"Which of the {total} prompts to look at, from 0.",
    )


def selection() -> dict:
    """The sidebar: what every page shares. Returns the fields of a Run."""
    chosen = pair()
    return {"pair": chosen.name, "domain": domain(chosen), "direction": direction(), "limit": count()}


def request(question: str, shared: dict, **details) -> Run:
    return Run(question, **shared, **details)


def command(run: Run) -> str:
    """The command line that gives the same numbers."""
    parts = [f"python -m mechdiff run {run.question} --pair {run.pair} --domain {run.domain} --limit {run.limit}"]
    if run.question != "drift":
        parts.append(f"--direction {run.direction}")
    if run.layers is not None:
        parts.append(f"--layers {','.join(map(str, run.layers))}")
    if run.question != "heads":
        parts.append(f"--streams {','.join(run.streams)}")
    if run.map != "none":
        parts.append(f"--map {run.map}")
    if run.question == "heads":
        parts.append(f'--head-sets "{run.head_sets}" --blend {run.blend:g}')
    if run.controls:
        parts.append(f"--controls {','.join(run.controls)}")
    return " ".join(parts)
