"""The page of a question that has none of its own: a form from its fields, its table, and a chart of the first number in it."""

from functools import partial

import controls
import rates
import session
import stored_results
import streamlit as st
from question_form import form, own_fields

from mechdiff import questions
from mechdiff.questions import EffectQuestion, Question, kind_of
from mechdiff.questions.shared.command import command
from mechdiff.questions.shared.in_words import counted
from mechdiff.questions.shared.request import about
from mechdiff.reporting import charts, view_requests
from mechdiff.reporting.charts.base import KL
from mechdiff.reporting.selection import Selection


def page(name: str) -> None:
    kind, selection = kind_of(name), controls.current()
    title = f"{kind.title[:1].lower()}{kind.title[1:]}"
    session.heading(f"{name.replace('_', ' ').capitalize()}: {title}", options(kind), about(kind))
    if session.ready(selection.spec):
        body(kind, selection)


def options(kind: type[Question]) -> str:
    """What each of the question's own fields means."""
    return "  \n".join(f"**{spec.name.replace('_', ' ')}**: {spec.metadata['help']}" for spec in own_fields(kind))


@session.panel
def body(kind: type[Question], selection: Selection) -> None:
    run = view_requests.question(selection, kind.question, form(kind))
    if not wanted(run):
        if shown_from_sweep(run):
            return
        st.info("No results yet. Choose the options above and switch **Compute** on.", icon=":material/play_circle:")
        st.code(command(run), language="bash", wrap_lines=True)
        return
    table = session.answer(run)
    if table.empty:
        session.waiting("The first results appear in a moment.")
        return
    lines = run.summary(table)
    draw(run, lines)
    if run.averages:
        st.dataframe(lines, hide_index=True)
    session.provenance(run, table, expanded=not run.averages)


def wanted(run: Question) -> bool:
    """Whether to show the answer: it is known, or it was asked for."""
    task = questions.task(run)
    about = "Computed in the background; what is finished is kept."
    return controls.compute(f"{run.question}_compute", about, partial(rates.estimate, run)) or (
        task.total > 0 and task.done >= task.total
    )


def shown_from_sweep(run: Question) -> bool:
    """Show the stored sweep's answer, if there is one."""
    folder, effects = f"rq-{run.question}", isinstance(run, EffectQuestion)
    name, where = (f"{run.question}_summary", {"direction": run.direction}) if effects else (run.question, {})
    lines, _ = stored_results.fresh(run.chosen_domain, folder, run.spec.name, name, where)
    if lines is None or lines.empty:
        return False
    draw(run, lines, stored_results.origin(run, folder, lines) if effects else "stored sweep")
    st.dataframe(lines, hide_index=True)
    stored_results.provenance(run, folder)
    return True


def draw(run: Question, lines, origin: str = "") -> None:
    """The default chart, where there is something to draw. A click on a layer chooses it on every page."""
    over = counted(*lines[["prompts", "templates"]].iloc[0]) if "templates" in lines else ""
    note = f"{origin or over}; bands, bars: 95 %" if run.averages and over else origin
    layer = controls.chosen_layer(run.spec.layers - 1) if "layer" in lines else None
    figure = charts.question_chart(lines, run.title, layer, KL if isinstance(run, EffectQuestion) else "", note, run.columns)
    if figure is None:
        st.caption("This table has no number that a chart could show.")
    elif layer is None or lines["layer"].nunique() < 2:
        controls.draw(figure, f"{run.question}_chart")
    else:
        controls.clickable(figure, f"{run.question}_chart")
