"""Widgets to typed values, bound to the URL: a link reopens the same view."""

import streamlit as st

from mechdiff import prompts
from mechdiff.experiments import Run
from mechdiff.pairs import Pair, read_pair, shipped
from mechdiff.terms import DIRECTIONS

OWN = "own"
COUNTS = [8, 16, 32, 64, 150]
STREAM_NAMES = {
    "resid_post": "residual stream, after the layer",
    "resid_pre": "residual stream, before the layer",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "heads": "all heads (attention's input to its output projection)",
}
DIRECTION_NAMES = {"base-to-tuned": "base → tuned", "tuned-to-base": "tuned → base"}
STREAM_HELP = "The state that is compared or replaced, at the decision token: the last token of the prompt before the answer."


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
    def show(option: str) -> str:
        return f"{chosen.domain} (the pair's own)" if option == OWN else option

    picked = st.sidebar.selectbox(
        "Domain",
        [OWN, *prompts.domains()],
        format_func=show,
        key="domain",
        bind="query-params",
        help="The curated prompts to study the pair on. Another domain than its own is a control.",
    )
    return chosen.domain if picked == OWN else picked


def direction() -> str:
    picked = st.sidebar.segmented_control(
        "Direction",
        DIRECTIONS,
        format_func=DIRECTION_NAMES.get,
        default=DIRECTIONS[0],
        key="direction",
        bind="query-params",
        required=True,
        help="Whose state goes into whom. base → tuned: the tuned model runs with the base model's state.",
    )
    return picked or DIRECTIONS[0]


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
    return st.selectbox(
        "Stream", options, format_func=lambda s: STREAM_NAMES[s], key="stream", bind="query-params", help=STREAM_HELP
    )


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
