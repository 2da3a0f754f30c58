"""Widgets to typed values, bound to the URL: a link reopens the same view."""

import shlex
from dataclasses import fields

import streamlit as st

from mechdiff import prompts
from mechdiff.experiments import Run
from mechdiff.pairs import Pair, read_pair, shipped
from mechdiff.terms import COMPLEMENTS, DIRECTIONS, MAPS

OWN = "own"
COUNTS = [8, 16, 32, 64, 150]
STREAM_HELP = """The state that is compared or replaced, at the decision token: the prompt's last token that is not special.

- `resid_post`, `resid_pre`: the residual stream after and before the layer
- `attn_out`, `mlp_out`: what the attention or MLP module returns
- `heads`: all heads' outputs, before the output projection"""
MAP_HELP = """What is done to the donor's state first.

- `none`: nothing
- `zscore`: each dimension gets the mean and scale that the recipient has on the train split; the reference of *drop*
- `ridge`: the linear map with the least error on the train split, penalised as cross-validation asks
- `procrustes`: a rotation and one scale
- `procrustes_scaled`: the same between whitened states, then the recipient's own spread

A fitted map has to read the train split with both models first: a minute or more on a CPU, once for every pair and domain."""
MAPPED = ("resid_post", "attn_out", "mlp_out")
ALPHAS = ("auto", "0.3", "0.5", "0.8", "1.0", "1.2")
ALPHA_HELP = """The mapped state is multiplied by this. `auto`: the median of the recipient's size over the mapped size, on train
prompts that the map was not fitted on."""
RANKS = [*map(str, (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)), "full"]
COMPLEMENT_HELP = """What fills the dimensions that the cut leaves out.

- `mean`: the recipient's train mean. The rest is deleted, so a low rank also does damage; rank 0 is mean ablation.
- `own`: the recipient's own state. Rank 0 changes nothing, so no drop is shown."""
ALWAYS = ("pair", "domain", "limit")  # flags that a shown command has even where they are the default


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


def fitted_map(options: tuple[str, ...] = MAPS) -> str:
    """The map of the pages that are about maps: their default is the study's own."""
    return st.selectbox("Map", options, index=options.index("procrustes_scaled"), key="fit", bind="query-params", help=MAP_HELP)


def alpha() -> str:
    return st.selectbox("Scale alpha", ALPHAS, key="alpha", bind="query-params", help=ALPHA_HELP)


def rank() -> str:
    return st.select_slider(
        "Rank",
        RANKS,
        value="8",
        key="rank",
        bind="query-params",
        help="How many of the map's leading directions are kept; full is the uncut map.",
    )


def complement() -> str:
    return st.radio("Complement", COMPLEMENTS, key="complement", bind="query-params", horizontal=True, help=COMPLEMENT_HELP)


def compute(key: str, text: str) -> bool:
    """Whether something that takes longer is to be computed on the page's own prompts."""
    return st.toggle("Compute on these prompts", key=key, bind="query-params", help=text)


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
    """The command line that gives the same numbers: what is not the default, and always pair, domain and limit."""
    parts, plain = [f"python -m mechdiff run {run.question}"], Run(run.question)
    for spec in fields(Run):
        value = getattr(run, spec.name)
        if value is None or spec.name == "question" or (spec.name not in ALWAYS and value == getattr(plain, spec.name)):
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        parts.append(f"--{spec.name.replace('_', '-')} {shlex.quote(text)}")
    return " ".join(parts)
