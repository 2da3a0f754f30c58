"""A section of the Lab page: the effect of each single state and head at the chosen token. A click adds it to the stack."""

from functools import partial

import controls
import numpy as np
import pandas as pd
import session
import streamlit as st
from glossary import TERMS

from mechdiff.engine.intervention_text import ORDER
from mechdiff.maths.intervals import floor_of
from mechdiff.reporting import charts
from views.lab import chips

MEASURES = ["effect", "recovery", "target"]
MEASURE_HELP = f"""What the colour of a cell shows, when the state there is replaced.

- `effect`: {TERMS["effect"]}
- `recovery`: the share of the two models' difference that this removes; no value where they do not differ
- `target`: the change in log-probability (nats) of a token that you choose; with a foil, the change in the difference of the two
  log-probabilities"""


def section(study, reading: pd.DataFrame) -> None:
    st.subheader("What moves one model towards the other?", help=MEASURE_HELP)
    measure, options = measured(reading)
    if options is None:
        st.info("Type a target token below. It often starts with a space.", icon=":material/target:")
        return
    of_heads = study.run("heads", head_sets="each", controls=("self",), **options)
    of_sites = study.run("patch", streams=ORDER, **options)
    heads, sites = session.answer(of_heads), session.answer(of_sites)
    pair, stack = study.run("patch").spec, chips.texts()
    floor = floor_of(heads.loc[heads["control"] == "self", "kl"].to_numpy(float)) if len(heads) else 0.0
    left, right = st.columns(2, gap="medium")
    with left:
        about = "One state replaced. Click a cell to add it to the stack, or to remove it"
        figure(sites, "stream", measure, floor, "Which single states?", about, pair, stack)
        session.provenance(of_sites, sites)
    with right:
        singles = heads[(heads["control"] == "none") & (heads["heads"] != "all")]
        singles = singles.assign(head=pd.to_numeric(singles["heads"]))
        figure(
            singles,
            "head",
            measure,
            floor,
            "Which single heads?",
            "One head's output replaced. Click a cell to add or remove it",
            pair,
            stack,
        )
        session.provenance(of_heads, heads)


def measured(reading: pd.DataFrame) -> tuple[str, dict | None]:
    """The measure, and the fields of a Run that it needs; None while no target is typed."""
    left, middle, right = st.columns([1.6, 1, 1], vertical_alignment="bottom")
    with left:
        measure = controls.linked(
            st.segmented_control,
            "Measure",
            MEASURES,
            default=MEASURES[0],
            required=True,
            key="measure",
            persist_state="session",
            label_visibility="collapsed",
        )
    if measure != "target":
        return measure, {}
    at_end = reading[(reading["back"] == 0) & (reading["rank"] == 0)].set_index("model")["next"].str.replace("␣", " ")
    with middle:
        target = token("target", f"base expects '{at_end['base']}'")
    with right:
        foil = token("foil", f"tuned expects '{at_end['tuned']}'")
    return measure, {"target": target, "foil": foil or None} if target else None


def token(key: str, placeholder: str) -> str:
    about = "One token; it often starts with a space. The chart of next tokens shows what each model expects."
    return controls.linked(st.text_input, key.capitalize(), key=key, persist_state="session", placeholder=placeholder, help=about)


def figure(table: pd.DataFrame, y: str, measure: str, floor: float, title: str, about: str, pair, stack: list[str]) -> None:
    if table.empty:
        session.waiting("Computing layer by layer...", 270)
        return
    cells = table[["layer", y, "kl"]].assign(value=values(table, measure, floor))
    cells["chosen"] = chosen(cells, y, pair, stack)
    if measure == "recovery" and cells["value"].isna().all():
        about = "No values: the two models do not differ here"
    controls.clickable(charts.site_map(cells, y, measure, stack, title, about), f"pick_{y}", partial(chips.toggle, pair=pair))


def values(table: pd.DataFrame, measure: str, floor: float) -> pd.Series:
    """The value that the map shows for each line. floor (nats): a smaller difference between the models is rounding error."""
    if measure == "effect":
        return table["kl"]
    if measure == "recovery":
        between = table["kl_donor_clean"].where(table["kl_donor_clean"] > floor, np.nan)
        return 1 - table["kl_to_donor"] / between
    name = "logit_difference" if "logit_difference" in table else "target_logprob"
    return table[name] - table[f"{name}_clean"]


def chosen(table: pd.DataFrame, y: str, pair, stack: list[str]) -> list[bool]:
    """Which lines are in the stack."""
    parts = [part for text in stack if (part := chips.parsed(text, pair)) is not None]
    if y == "stream":
        sites = {(part.layer, part.stream) for part in parts if part.heads is None or len(part.heads) == pair.heads}
    else:
        sites = {(part.layer, head) for part in parts for head in part.heads or ()}
    return [site in sites for site in zip(table["layer"], table[y])]
