"""A section of the Lab page: several interventions together and each alone, and the next tokens that follow."""

from types import ModuleType

import controls
import history
import pandas as pd
import session
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.engine.intervention_text import label
from mechdiff.maths.intervals import FEWEST, floor_of
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.shared.in_words import counted
from mechdiff.questions.stack import StackedPatch
from mechdiff.reporting import charts
from views.lab import chips

TOP = 5  # tokens shown of each model
HORIZONS = [1, 4, 8, 16]
HORIZON_HELP = "The effect is averaged over this many next tokens of the donor's greedy answer. 1: the next token only."
EMPTY = "No interventions yet. Click a cell in the maps below, or press **Add**."


def section(study) -> tuple[StackedPatch | None, bool]:
    """The stack and its effect. Returns its request (None without a valid stack), and whether it is answered."""
    pair = study.run("patch").spec
    chips.chips(pair)
    if not chips.texts():
        st.info(EMPTY, icon=":material/layers:")
        return None, False
    above = st.container()  # the result; its horizon is drawn below it
    note, choice = st.columns([2.5, 1], vertical_alignment="center")
    with choice:
        horizon = controls.linked(
            st.selectbox, "Next tokens", HORIZONS, key="horizon", persist_state="session", help=HORIZON_HELP
        )
    run = study.run("stack", every=True, stack=st.session_state["stack"], horizon=horizon, controls=("self",))
    assert isinstance(run, StackedPatch)
    try:
        with above:
            table = result(run, note)
    except UserError as error:
        session.show_error(error)
        return None, False
    if table is not None:
        session.provenance(run, table)
    return run, table is not None


def result(run: StackedPatch, note) -> pd.DataFrame | None:
    """The whole stack and each of its parts, with the floor. note: the place for its caption. Returns its table, once there."""
    table, parts = session.answer(run), [chips.short(label(part), run.spec) for part in run.chosen_stack]
    names = [f"all {len(parts)} together", *parts] if len(parts) > 1 else parts
    summary = run.summary(table) if len(table) else pd.DataFrame()
    if len(summary) <= len(names):  # all of them, and the floor
        session.waiting("Computing the stack...", session.NUMBERS)
        return None
    floor = floor_of(table.loc[table["control"] == "self", "kl"].to_numpy(float))
    lines = summary[summary["control"] == "none"]
    bars(lines.assign(name=names, kind=["whole", *["part"] * (len(names) - 1)]), floor)
    note.caption(basis(run, lines, floor))
    whole = table[(table["control"] == "none") & (table["stack"] == lines["stack"].iloc[0])].sort_values("prompt")
    if len(whole) == len(run.chosen_prompts):
        line = {"stack": lines["stack"].iloc[0], "control": "none"}
        history.note(run, " + ".join(parts), whole["kl"].mean(), effects=whole["kl"], **line)
    return table


def basis(run: StackedPatch, lines: pd.DataFrame, floor: float) -> str:
    """What the stack's numbers are based on."""
    count, templates = lines[["prompts", "templates"]].iloc[0]
    intervals = ", with 95 % intervals" if templates >= FEWEST else ""
    over = f"Mean over {counted(count, templates)}{intervals}. " if count > 1 else ""
    later = f"Averaged over {run.horizon} next tokens of the donor's answer. " if run.horizon > 1 else ""
    place = f"Replaced {run.back} tokens before the decision token. " if run.back else ""
    return f"{over}{later}{place}Dashed: the floor, {floor:.1g} nats."


def bars(lines: pd.DataFrame, floor: float) -> None:
    left, right = st.columns([1.6, 1])
    effect = lines.assign(text=[f"{value:.3g}" for value in lines["mean"]], floor=floor)
    draw(charts.stack_bars(effect, "What does the stack do?", "Effect, nats", True), left)
    recovery = lines.drop(columns=["mean", "low", "high"])
    recovery = recovery.rename(columns={"recovery": "mean", "recovery_low": "low", "recovery_high": "high"})
    if "mean" not in recovery or recovery["mean"].isna().any():
        right.caption("No recovery: the two models do not differ here.")
    else:
        recovery = recovery.assign(text=[f"{value:z.0%}" for value in recovery["mean"]], floor=0.0)
        draw(charts.stack_bars(recovery, "Recovery", "Share of the difference", False, format="%"), right)


def draw(figure, place: DeltaGenerator | ModuleType = st) -> None:
    controls.draw(figure, place=place)


def next_tokens(study, reading: pd.DataFrame, patched: pd.DataFrame) -> None:
    """What the base and tuned models expect after the chosen token; with the patched one at the end of the prompt."""
    here = reading[reading["back"] == study.back].sort_values("probability", ascending=False)
    here = here[here["next"].isin(here.loc[here["rank"] < TOP, "next"])]
    text, kl = here[["text", "kl"]].iloc[0]
    about = f"KL(tuned || base) {kl:.3g} nats{over(here)}"
    if len(patched) and not study.back:
        figure = charts.next_bars(patched, "What comes next, with the stack?", about)
    else:
        tokens = here[["next", "model", "probability"]].rename(columns={"next": "token"})
        figure = charts.next_bars(tokens, f"What comes after ‘{text}’?" if study.back else "What comes next?", about)
    draw(figure)


def over(reading: pd.DataFrame) -> str:
    """The vocabulary, if it is not the whole one."""
    return f", over {reading['vocabulary'].iloc[0]}" if "vocabulary" in reading else ""


def patched_tokens(study, run: StackedPatch | None, answered: bool) -> pd.DataFrame:
    """The chosen prompt's next tokens with the stack, base and tuned; empty without a stack, or before it is computed."""
    if run is None or not answered:
        return pd.DataFrame()
    parts = run.chosen_stack
    condition: Condition | Stack = parts[0] if len(parts) == 1 else Stack(parts)
    tokens = session.answer(NextTokens(study.run("patch"), condition, 0, TOP))
    if len(tokens) and study.back:
        draw(charts.next_bars(tokens, "What comes next, with the stack?", "After the whole prompt"))
    return tokens
