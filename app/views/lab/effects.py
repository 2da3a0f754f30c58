"""A part of the Lab page: what each single state and head does at the studied token. A click adds it to the stack."""

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
MEASURE_HELP = f"""What a cell's colour says of the state replaced there.

- `effect`: {TERMS["effect"]}
- `recovery`: how much of the difference between the two models goes away; blank where they do not differ
- `target`: how much likelier a token of your choice becomes, against a foil if you name one: the change in log-probability, or in
  the difference of both"""


def section(study, reading: pd.DataFrame) -> None:
    st.subheader("What moves one model towards the other?", help=MEASURE_HELP)
    measure, asked = measured(reading)
    if asked is None:
        st.info("Name a token to follow, often with a leading space.", icon=":material/target:")
        return
    of_heads = study.run("heads", head_sets="each", controls=("self",), **asked)
    of_sites = study.run("patch", streams=ORDER, **asked)
    heads, sites = session.answer(of_heads), session.answer(of_sites)
    pair, stack = study.run("patch").spec, chips.texts()
    floor = floor_of(heads.loc[heads["control"] == "self", "kl"].to_numpy(float)) if len(heads) else 0.0
    left, right = st.columns(2, gap="medium")
    with left:
        about = "A state replaced at one layer and stream. Click a cell: into the stack, or out of it"
        figure(sites, "stream", measure, floor, "Which single states?", about, pair, stack)
        session.provenance(of_sites, sites)
    with right:
        singles = heads[(heads["control"] == "none") & (heads["heads"] != "all")]
        singles = singles.assign(head=pd.to_numeric(singles["heads"]))
        figure(singles, "head", measure, floor, "Which single heads?", "One head's output replaced. Click a cell", pair, stack)
        session.provenance(of_heads, heads)


def measured(reading: pd.DataFrame) -> tuple[str, dict | None]:
    """The measure, and the fields of a Run that it needs; None while no target is named."""
    one, two, three = st.columns([1.6, 1, 1], vertical_alignment="bottom")
    with one:
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
    with two:
        target = token("target", f"as base's likeliest, '{at_end['base']}'")
    with three:
        foil = token("foil", f"as tuned's likeliest, '{at_end['tuned']}'")
    return measure, {"target": target, "foil": foil or None} if target else None


def token(key: str, placeholder: str) -> str:
    about = "One token, often with a leading space. What each model expects stands in the chart of next tokens."
    return controls.linked(st.text_input, key.capitalize(), key=key, persist_state="session", placeholder=placeholder, help=about)


def figure(table: pd.DataFrame, y: str, measure: str, floor: float, title: str, about: str, pair, stack: list[str]) -> None:
    if table.empty:
        session.waiting("The map fills in as layers are computed.", 270)
        return
    shown = table[["layer", y, "kl"]].assign(value=values(table, measure, floor))
    shown["chosen"] = chosen(shown, y, pair, stack)
    if measure == "recovery" and shown["value"].isna().all():
        about = "Blank: the two models do not differ here"
    controls.clickable(charts.site_map(shown, y, measure, stack, title, about), f"pick_{y}", partial(chips.toggle, pair=pair))


def values(table: pd.DataFrame, measure: str, floor: float) -> pd.Series:
    """What the map shows of each line. floor: up to here the difference between the models is rounding (nats)."""
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
        there = {(part.layer, part.stream) for part in parts if part.heads is None or len(part.heads) == pair.heads}
    else:
        there = {(part.layer, head) for part in parts for head in part.heads or ()}
    return [site in there for site in zip(table["layer"], table[y])]
