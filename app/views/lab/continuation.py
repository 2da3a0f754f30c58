"""A part of the Lab page: base, tuned and patched model write on from the prompt, side by side, as one watches."""

import html
import time

import jobs
import pandas as pd
import session
import streamlit as st

from mechdiff import questions
from mechdiff.questions import Question
from mechdiff.questions.prompt.continuation import Continuation
from mechdiff.reporting import charts

LENGTHS = [20, 40, 80, 160]
EVERY = 0.3  # seconds between redraws while the models write
STYLE = "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.5; border-left: 4px solid {colour}; padding-left: .7rem"
MARK = "<mark style='background: rgba(224, 123, 57, .45); color: inherit; border-radius: .2em'>{word}</mark>"


def section(study, run: Question | None) -> None:
    """run: the stack's request, if there is one."""
    st.subheader("What would it say?", help="Each model writes on from the prompt. The stack acts while the prompt is read.")
    asked = settings(study, run)
    job, known = written().get(asked), questions.task(asked)
    whole, writing = known.done >= known.total, job is not None and not job.future.done()
    if writing:
        st.button("Stop", icon=":material/stop:", on_click=stop, args=(job,), key="stop")
    elif not whole:
        st.button("Write", icon=":material/edit:", type="primary", on_click=begin, args=(asked,), key="write")
    if whole:
        columns(known.table())
    elif job is not None:
        st.fragment(follow, run_every=EVERY if writing else None)(asked, job)


def settings(study, run: Question | None) -> Continuation:
    one, two, three = st.columns([1.3, 1.3, 1])
    with one:
        tokens = st.select_slider("Tokens at most", LENGTHS, value=40, key="tokens")
    with two:
        about = "0: the likeliest token each time."
        heat = st.slider("Temperature", 0.0, 2.0, value=0.0, step=0.1, key="temperature", help=about)
    with three:
        seed = st.number_input("Seed", 0, value=0, key="seed", disabled=not heat)
    seeded = {"seed": int(seed)} if heat else {}
    stacked = study.run("patch", **seeded) if run is None else study.run("stack", stack=run.stack, **seeded)
    return Continuation(stacked, 0, tokens, heat)


def written() -> dict:
    """What this session has had written, by request."""
    return st.session_state.setdefault("_writing", {})


def begin(asked: Continuation) -> None:
    for job in written().values():
        job.cancelled = True
    written().clear()
    written()[asked] = jobs.start(asked, lambda: jobs.new_job(asked, questions.task(asked)))


def stop(job) -> None:
    job.cancelled = True


def follow(asked: Continuation, job) -> None:
    """What is written so far. When the end is there, the page is drawn anew."""
    job.touched = time.monotonic()
    ended = job.future.done()
    columns(job.task.table())
    if not ended:
        st.caption(f":material/edit: {job.task.stage} …")
    elif asked in jobs.background()[1]:
        session.guard(jobs.finish, asked)
        st.rerun()
    else:
        session.guard(job.future.result)
        if job.cancelled:
            st.caption("Stopped. What is written stays until something else is asked for.")


def columns(table: pd.DataFrame) -> None:
    """The texts side by side, with the first word of each marked where they part."""
    if table.empty:
        return
    apart = parting([text.split() for text in table["text"]])
    for column, line in zip(st.columns(len(table)), table.itertuples()):
        with column:
            st.caption(f"**{line.model}** · {line.tokens} tokens{', ended' if line.ended else ''}")
            st.html(f"<div style='{STYLE.format(colour=charts.MODELS[line.model])}'>{marked(line.text, apart)}</div>")


def parting(texts: list[list[str]]) -> int:
    """The number of the first word in which the texts are not all the same; as long as one of them is being written, if there."""
    length = min(map(len, texts))
    return next((i for i in range(length) if len({words[i] for words in texts}) > 1), length)


def marked(text: str, number: int) -> str:
    """A text as HTML with one of its words marked, if it has it."""
    start, words = 0, text.split()
    for word in words[:number]:
        start = text.index(word, start) + len(word)
    if number >= len(words):
        return html.escape(text)
    start = text.index(words[number], start)
    stop = start + len(words[number])
    return html.escape(text[:start]) + MARK.format(word=html.escape(text[start:stop])) + html.escape(text[stop:])
