"""A part of the Lab page: several interventions made together, beside each of them alone, and the next tokens they lead to."""

import charts
import history
import pandas as pd
import session
import streamlit as st

from mechdiff.conditions import Condition, Stack
from mechdiff.errors import UserError
from mechdiff.experiments import NextTokens, Run
from mechdiff.experiments.summary import summarise, wide
from mechdiff.stacks import label
from mechdiff.stats import floor_of
from views import lab_chips

TOP = 5  # tokens that are shown of each model
NOTHING = "Nothing is replaced yet. Click a cell of the maps below, or **Add** an intervention."


def section(study) -> tuple[Run | None, bool]:
    """The stack and what it does. Returns its request, None if there is no stack that can be, and whether it is answered."""
    pair = study.run("patch").spec
    horizon = lab_chips.chips(pair)
    text = st.session_state["stack"]
    if not lab_chips.texts():
        st.info(NOTHING, icon=":material/layers:")
        return None, False
    try:
        run = study.run("stack", every=True, stack=text, horizon=horizon, controls=("self",))
        return (run, result(run)) if run.chosen_stack else (None, False)
    except UserError as error:
        session.show_error(error)
        return None, False


def result(run: Run) -> bool:
    """The whole stack beside its parts, with the floor. Returns whether that is there."""
    table, parts = session.answer(run), [lab_chips.short(label(part), run.spec) for part in run.chosen_stack]
    names = [f"all {len(parts)} together", *parts] if len(parts) > 1 else parts
    summary = summarise(wide(table), [prompt.template for prompt in run.chosen_prompts]) if len(table) else pd.DataFrame()
    if len(summary) <= len(names):  # each of them, and the floor
        session.waiting("The stack's effect appears in a moment.", session.NUMBERS)
        return False
    floor = floor_of(table.loc[table["control"] == "self", "kl"].to_numpy(float))
    lines = summary[summary["control"] == "none"]
    bars(run, lines.assign(name=names, kind=["whole", *["part"] * (len(names) - 1)]), floor)
    whole = table[(table["control"] == "none") & (table["stack"] == lines["stack"].iloc[0])].sort_values("prompt")
    if len(whole) == len(run.chosen_prompts):
        history.note(run, " + ".join(parts), whole["kl"].mean(), effects=whole["kl"])
    session.provenance(run, table)
    return True


def bars(run: Run, lines: pd.DataFrame, floor: float) -> None:
    left, right = st.columns([1.6, 1])
    effect = lines.assign(text=[f"{value:.3g}" for value in lines["mean"]], floor=floor)
    left.altair_chart(charts.stack_bars(effect, "What does the stack do?", "Effect, nats", True), width="stretch")
    recovery = lines.drop(columns=["mean", "low", "high"])
    recovery = recovery.rename(columns={"recovery": "mean", "recovery_low": "low", "recovery_high": "high"})
    if "mean" not in recovery or recovery["mean"].isna().any():
        right.caption("No recovery: the two models do not differ here, or share no vocabulary.")
    else:
        recovery = recovery.assign(text=[f"{value:.0%}" for value in recovery["mean"]], floor=0.0)
        right.altair_chart(charts.stack_bars(recovery, "Recovery", "Of the difference", False, format="%"), width="stretch")
    count, templates = lines[["prompts", "templates"]].iloc[0]
    over = f"Mean over {count} prompts ({templates} templates), with 95 % intervals. " if count > 1 else ""
    later = f"Over {run.horizon} next tokens of the donor's answer. " if run.horizon > 1 else ""
    place = f"Replaced {run.back} before the decision token. " if run.back else ""
    st.caption(f"{over}{later}{place}Dashed: the floor, {floor:.1g} nats.")


def next_tokens(study, reading: pd.DataFrame, run: Run | None, answered: bool) -> None:
    """What base and tuned model expect after the studied token, and what the stack makes of the prompt's next token."""
    here = reading[(reading["back"] == study.back) & (reading["rank"] < TOP)]
    text, apart = here[["text", "kl"]].iloc[0]
    about = f"KL(tuned || base) {apart:.3g} nats" if apart == apart else "Two vocabularies, so no KL"
    patched = pd.DataFrame()
    if run is not None and answered:
        parts = run.chosen_stack
        condition: Condition | Stack = Stack(parts) if len(parts) > 1 else parts[0]
        patched = session.answer(NextTokens(study.run("patch"), condition, 0, TOP), patience=session.PATIENCE)
    if patched.empty or study.back:
        shown = here.rename(columns={"next": "token", "token": "place"}).sort_values(["rank", "model"])
        after = "What comes next?" if study.back == 0 else f"What comes after ‘{text}’?"
        shown = shown.sort_values("probability", ascending=False)
        st.altair_chart(charts.next_bars(shown, after, about), width="stretch")
    if len(patched):
        title = "What comes next, with the stack?"
        st.altair_chart(charts.next_bars(patched, title, about if study.back == 0 else "After the whole prompt"), width="stretch")
