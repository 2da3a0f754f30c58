"""Between the pages and the instrument: requests answered in the background, and what is shown in the meantime.

A cached request is answered at once. Any other becomes a job in a thread: the page waits for it briefly, then shows the
results so far, and a small poller redraws the page as more arrive.
"""

import functools
import os
import time

import controls
import export
import history
import jobs
import links
import page_record
import pandas as pd
import stored_results
import streamlit as st
import talk

from mechdiff import questions
from mechdiff.common.cache import default
from mechdiff.common.errors import UserError
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.models.registry import resolve_device
from mechdiff.questions.shared.command import command
from mechdiff.questions.shared.task import Task
from mechdiff.reporting import charts

PATIENCE = 0.6  # seconds that a page waits for a job before it shows progress
CHART, NUMBERS = 400, 104  # heights in pixels: of a chart with title and legend, and of a row of numbers
ANSWER = ("prompt", "layer", "stream", "map", "rank", "complement", "alpha", "heads", "control", "kl", "kl_reference")
NOTHING = pd.DataFrame(columns=pd.Index((*ANSWER, "cka_debiased", "n")))  # what pages read of an answer, without lines
REDRAW = 1.5, 6.0  # seconds between redraws while results arrive: the shortest and the longest pause
DRAWING = 0.1  # a processor's share for drawing meanwhile, within these pauses: the rest computes
# Little space around a page, so that its main chart is visible at once; the progress covers the foot, so that nothing jumps.
STYLE = """<style>
[data-testid="stMainBlockContainer"] {padding: 2.25rem 2.5rem 5rem}
[data-testid="stHeader"] {background: transparent}
.st-key-places, .st-key-places > div {display: none}
.st-key-places > div {flex: 1 1 7rem; min-width: 7rem}
.st-key-places > div:has(.st-key-place-layer, .st-key-place-rank) {flex: 2 1 7.5rem}
.st-key-places > div:has(.st-key-place-heads) {flex: 3 1 20rem}
.st-key-format {display: none}
.st-key-places > div:has(.st-key-place-fit) {flex: 1.3 1 10.5rem}
.st-key-places > div:has(.st-key-place-alpha) {flex: .7 1 5rem; min-width: 5rem}
.st-key-places > div:has(.st-key-place-complement) {flex: 1 1 8.5rem}
@media (max-width: 640px) {[data-testid="stMainBlockContainer"] {padding: 3.5rem 1rem 6rem}}
div:has(> .st-key-progress) {position: sticky; bottom: 0; z-index: 99; padding: .25rem 0; backdrop-filter: blur(14px)}
</style>"""


def answer(request, patience: float | None = None) -> pd.DataFrame:
    """The request's table: whole if it is cached or quickly computed, otherwise the part so far, with a progress bar.

    patience: seconds to wait for a job before showing partial results; default PATIENCE.
    Without the pair's models nothing can be computed: the table is empty. Raises UserError for an impossible request.
    """
    if stored_only():
        return NOTHING
    started = time.perf_counter()
    task = questions.task(request)
    if task.done >= task.total:
        note_time(started)
        show_notices(task)
        table = task.table()
        page_record.answer(request, table)
        return table
    if request in stopped() and not resumed(request):
        return task.table()
    job = jobs.start(request, lambda: jobs.new_job(request, task))
    deadline = time.monotonic() + (PATIENCE if patience is None else patience)
    while not job.ended and time.monotonic() < deadline:
        job.touched = time.monotonic()
        time.sleep(0.01)
    if job.ended:
        jobs.finish(request)
        if not job.cancelled:
            note_time(started)
            page_record.answer(request, job.task.table())
        show_notices(job.task)
    else:
        pending()[request] = job
    return job.task.table()


def show_notices(task: Task) -> None:
    """What a reader should know about an answer; each sentence once per page."""
    for notice in task.notices:
        if notice not in st.session_state.setdefault("_noticed", []):
            st.session_state["_noticed"].append(notice)
            st.info(notice)


def note_time(started: float) -> None:
    """Store how long the answer took, for the page's foot."""
    st.session_state.setdefault("_times", []).append(time.perf_counter() - started)


def pending() -> dict:
    """The jobs for which this page run is waiting."""
    return st.session_state.setdefault("_pending", {})


def stopped() -> set:
    """Requests that the user cancelled."""
    return st.session_state.setdefault("_stopped", set())


def resumed(request) -> bool:
    """Say that a request was cancelled, and offer to resume it."""
    note, button = st.columns([6, 1], vertical_alignment="center")
    note.info("Cancelled. Finished results are in the cache.")
    if not button.button("Resume", key=f"resume-{hash(request)}"):
        return False
    stopped().discard(request)
    return True


def frame(page, name: str = "") -> None:
    """What surrounds every page: the shared selection, the page, the history, the progress bar, the foot.

    name: the page's name in the address.
    """
    st.html(STYLE)
    st.session_state["_page"], st.session_state["_drawn"], began = name, time.monotonic(), time.thread_time()
    pending().clear()
    st.session_state["_stored_only"] = False
    st.session_state.pop("_answered", None)
    st.session_state.pop("_noticed", None)
    controls.drawn().clear()
    page_record.begin()
    requested = links.first_address()
    selection = st.session_state["_selection"] = controls.selection()
    export_place, notice = st.container(key="export"), st.container()
    st.session_state["_top"] = st.container()
    slide = talk.begin()
    controls.places()
    with charts.stage(slide):
        guard(page)
    under_protocol(selection)
    guard(controls.others, selection)
    show_rejected(requested, notice)
    if old := st.session_state.get("_old_link"):
        notice.caption(old)
    links.mark()
    history.keep()
    history.rail()
    if not slide:
        with export_place:
            export.draw(name)
    st.session_state["_pause"] = min(max(REDRAW[0], (time.thread_time() - began) / DRAWING), REDRAW[1])
    if pending():
        with st.container(key="progress"):
            poll()
    foot()


def show_rejected(requested: dict, place) -> None:
    """Say which parts of the address are not used, since another selection's numbers look like any others.

    The notice stays until the selection changes.
    """
    if rejected := links.rejected(requested):
        st.session_state["_rejected_link"] = ", ".join(f"`{part}`" for part in rejected), controls.state()
    parts, state = st.session_state.get("_rejected_link", ("", None))
    if parts and state == controls.state():
        place.warning(f"This link's {parts} is not available here. Using the default instead.", icon=":material/link_off:")


def more(label: str = "More"):
    """Where the rest of a page's charts goes: folded up, but on a slide, which shows its parts alone."""
    return st.container() if talk.TALK in st.query_params else st.expander(label)


def heading(title: str, about: str, caption: str) -> None:
    """A page's question, above its widgets. about: the terms it uses, for the help text."""
    with st.session_state["_top"]:
        st.header(title, help=about)
        st.caption(caption)
        st.session_state["_under"] = st.empty()


def under_protocol(selection) -> None:
    """The sentence that says under which protocol the page's numbers stand, once its requests are known."""
    place = st.session_state.pop("_under", None)
    labels = dict.fromkeys(run.protocol_label for run in page_record.current().answers if isinstance(run, questions.Question))
    if place is not None:
        text = "; ".join(f"**{label}**" for label in labels) or f"**{selection.protocol}**"
        place.caption(f"Protocol: {text}.", help=f"{protocols.about(selection.protocol)}.")


def guard(draw, *args, **kwargs) -> None:
    """Draw a part of a page; a UserError becomes a notice instead."""
    try:
        draw(*args, **kwargs)
    except UserError as error:
        show_error(error)


def show_error(error: UserError) -> None:
    st.error(str(error).replace("\n", "\n\n"), icon=":material/error:")


def ready(pair: Pair) -> bool:
    """Whether the pair's weights are on this machine. If mechdiff can fetch them itself, it starts to, with a progress bar."""
    missing = pair.missing()
    if missing is None:
        return True
    source = next((source.weights for source in (pair.base, pair.tuned) if source.convertible), None)
    if source is None or not (source.wheel or asked_to_convert(source, missing)):
        if source is None:
            st.info(missing.replace("\n", "\n\n"))
        return False

    def make():
        job = jobs.Job("Preparing the demo model" if source.wheel else f"Converting {source.describe()}")
        return job, lambda: job.prepare(source)

    job = jobs.start(source, make)
    if job.ended:
        st.session_state.get("_convert", set()).discard(source)
        jobs.finish(source)
        return ready(pair)
    pending()[source] = job
    return False


def available(selection) -> bool:
    """Whether a page has something to show: the pair's models, or its stored sweep, which needs neither them nor prompts."""
    st.session_state["_stored_only"] = False
    spec = selection.spec
    obtainable = any(source.weights.convertible for source in (spec.base, spec.tuned))
    if spec.missing() is None or obtainable or spec.depth is None or not stored_results.stored(selection):
        return ready(spec)
    st.session_state["_stored_only"] = True
    st.info(f"Only the stored sweep is shown. Live results need the models:  `python -m mechdiff study --pair {spec.argument}`")
    return True


def stored_only() -> bool:
    """Whether the page shows stored numbers alone."""
    return st.session_state.get("_stored_only", False)


def asked_to_convert(source: Source, missing: str) -> bool:
    """Whether to convert a user's GGUF now: it takes disk space, so it waits for a click."""
    wanted = st.session_state.setdefault("_convert", set())
    if source not in wanted:
        st.info(missing.replace("\n", "\n\n"))
        if not st.button(f"Convert {source.describe()} now", key="convert"):
            return False
        wanted.add(source)
    return True


@st.fragment(run_every=0.5)
def poll() -> None:
    """The progress of the page's jobs; redraws the page as results arrive."""
    waited = pending()
    for identity, job in waited.items():
        job.touched = time.monotonic()
        bar, cancel = st.columns([6, 1], vertical_alignment="center")
        share = min(1.0, job.done / max(1, job.total))
        stage = f", {job.stage}" if job.stage else ""
        bar.progress(share, text=f"{job.label}: {100 * share:.0f} %{stage}{job.time_left()}")
        if isinstance(job, jobs.TaskJob) and cancel.button("Cancel", key=f"cancel-{hash(identity)}"):
            job.cancelled = True
            stopped().add(identity)
            st.rerun()
    ended = any(job.ended for job in waited.values())
    computing = any(isinstance(job, jobs.TaskJob) for job in waited.values())
    if ended or (computing and time.monotonic() - st.session_state["_drawn"] > st.session_state["_pause"]):
        st.rerun()


def waiting(text: str, height: int = CHART) -> None:
    """A placeholder until a chart's first numbers arrive, of the same height, so that nothing jumps."""
    if stored_only():
        return
    st.container(height=height, border=True, vertical_alignment="center").caption(f":material/hourglass_top: {text}")


def provenance(run, table: pd.DataFrame, expanded: bool = False) -> None:
    """The command that gives the same numbers elsewhere, and the numbers."""
    with st.expander("Numbers and command", expanded=expanded):
        st.code(command(run), language="bash", wrap_lines=True)
        st.dataframe(table, height=220, hide_index=True)


def foot() -> None:
    """The sidebar's foot: the device, the size of the cache, and how long the last answers took."""
    store, times = default(), st.session_state.pop("_times", [])
    took = f"  \nLast answer: {1000 * sum(times):.0f} ms" if times and not pending() else ""
    st.sidebar.caption(
        f"Device: **{device_name()}**  \nCache: {store.size / 1e6:.0f} MB of {store.size_limit / 1e9:.0f} GB, "
        f"oldest dropped first{took}"
    )


@st.cache_resource
def device_name() -> str:
    if resolve_device("auto") == "cpu":
        return f"CPU, {os.cpu_count()} threads"
    import torch

    return torch.cuda.get_device_name()


def panel(draw):
    """A part of a page in which a UserError becomes a notice and the rest of the page is still drawn."""

    @functools.wraps(draw)
    def guarded(*args, **kwargs):
        guard(draw, *args, **kwargs)

    return guarded
