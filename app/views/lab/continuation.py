"""A section of the Lab page: the base, tuned and patched models continue the prompt, side by side, live."""

import html
import time

import jobs
import pandas as pd
import session
import streamlit as st

from mechdiff import questions
from mechdiff.questions.prompt.continuation import Continuation
from mechdiff.questions.stack import StackedPatch
from mechdiff.reporting import charts

LENGTHS = [20, 40, 80, 160]
EVERY = 0.3  # seconds between redraws while the models generate
STYLE = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; border-left: 4px solid {colour}; padding-left: .7rem"
MARK = "<mark style='background: rgba(224, 123, 57, .45); color: inherit; border-radius: .2em'>{word}</mark>"


def section(study, run: StackedPatch | None) -> None:
    """run: the stack's request, if there is one."""
    st.subheader(
        "How would each model continue?", help="Each model continues the prompt. The stack acts while the prompt is read."
    )
    request = settings(study, run)
    job, task = running().get(request), questions.task(request)
    whole, writing = task.done >= task.total, job is not None and not job.ended
    if writing:
        st.button("Stop", icon=":material/stop:", on_click=stop, args=(job,), key="stop")
    elif not whole:
        st.button("Generate", icon=":material/edit:", type="primary", on_click=begin, args=(request,), key="write")
    if whole:
        columns(task.table())
    elif job is not None:
        st.fragment(follow, run_every=EVERY if writing else None)(request, job, writing)


def settings(study, run: StackedPatch | None) -> Continuation:
    left, middle, right = st.columns([1.3, 1.3, 1])
    with left:
        tokens = st.select_slider("Maximum tokens", LENGTHS, value=40, key="tokens")
    with middle:
        about = "0: always the most likely token."
        heat = st.slider("Temperature", 0.0, 2.0, value=0.0, step=0.1, key="temperature", help=about)
    with right:
        seed = st.number_input("Seed", 0, value=0, key="seed", disabled=not heat)
    seeded = {"seed": int(seed)} if heat else {}
    stacked = study.run("patch", **seeded) if run is None else study.run("stack", stack=run.stack, **seeded)
    return Continuation(stacked, 0, tokens, heat)


def running() -> dict:
    """This session's continuations, by request."""
    return st.session_state.setdefault("_writing", {})


def begin(request: Continuation) -> None:
    for job in running().values():
        job.cancelled = True
    running().clear()
    running()[request] = jobs.start(request, lambda: jobs.new_job(request, questions.task(request)))


def stop(job) -> None:
    job.cancelled = True


def follow(request: Continuation, job, writing: bool) -> None:
    """The text so far. When it is complete, the page is redrawn. writing: whether it was incomplete when the page was drawn."""
    job.touched = time.monotonic()
    ended = job.ended
    columns(job.task.table())
    if not ended:
        st.caption(f":material/edit: {job.task.stage} …")
    elif writing:
        session.guard(jobs.finish, request)
        st.rerun()
    else:
        session.guard(job.future.result)
        if job.cancelled:
            st.caption("Stopped. The text stays until you generate another.")


def columns(table: pd.DataFrame) -> None:
    """The texts side by side; the first word in which they differ is marked."""
    if table.empty:
        return
    difference = first_difference([text.split() for text in table["text"]])
    for column, (_, line) in zip(st.columns(len(table)), table.iterrows()):
        with column:
            st.caption(f"**{line['model']}** · {line['tokens']} tokens{', ended' if line['ended'] else ''}")
            style = STYLE.format(colour=charts.MODELS[line["model"]])
            st.html(f"<div style='{style}'>{marked(line['text'], difference)}</div>")


def first_difference(texts: list[list[str]]) -> int:
    """The number of the first word in which the texts differ; their common length while none differs."""
    length = min(map(len, texts))
    return next((i for i in range(length) if len({words[i] for words in texts}) > 1), length)


def marked(text: str, number: int) -> str:
    """A text as HTML with one of its words marked, if it has that many."""
    start, words = 0, text.split()
    for word in words[:number]:
        start = text.index(word, start) + len(word)
    if number >= len(words):
        return html.escape(text)
    start = text.index(words[number], start)
    stop = start + len(words[number])
    return html.escape(text[:start]) + MARK.format(word=html.escape(text[start:stop])) + html.escape(text[stop:])
