"""Sweeps: full sweeps started, watched, stopped and gone on with; and what is stored, with where it comes from."""

from pathlib import Path

import controls
import session
import streamlit as st
from glossary import say

from mechdiff.common.terms import DTYPES
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import BLOCK
from mechdiff.questions import Run
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts, sweep_process, sweeps, timings
from views import imports
from views.study import replay, sweep_list

OFFERED = {"quick": "50 prompts, few ranks, single heads", "full": "every prompt, map, rank and set of heads"}
AUTO = "the machine's own"
BUTTONS = {sweep_process.RUNNING: "Stop", sweep_process.STOPPED: "Resume", sweep_process.FAILED: "Try again"}
TABS = ("Stored", "Run", "Import", "Replay")
LOG = 3000  # letters of a log's end


def page() -> None:
    st.header("Sweeps: every question at once", help=say("pair", "domain", "stored", "effect"))
    drawn = {"Stored": on_shelf, "Run": begin, "Import": imports.section, "Replay": replay.section}
    for name, tab in zip(TABS, st.tabs(TABS, key="tab", bind="query-params")):
        if tab.open:
            with tab:
                session.guard(drawn[name])


def on_shelf() -> None:
    sweep_list.section(folder())


def begin() -> None:
    section(controls.current(), folder())


def folder() -> Path:
    """Where sweeps are looked for and written: mechdiff/artifacts, or what a sweep was given as --out."""
    typed = st.text_input(
        "Folder",
        placeholder=f"Folder of the sweeps: {artifacts.ARTIFACTS}",
        key="folder",
        bind="query-params",
        label_visibility="collapsed",
        icon=":material/folder_open:",
    )
    return Path(typed).expanduser() if typed else artifacts.ARTIFACTS


def section(selection: Selection, place: Path) -> None:
    """A sweep of the sidebar's pair and domain, and all that are known of."""
    spec = selection.spec
    st.caption(
        f"Every question of the sidebar's pair and domain: **{spec.name}** on **{selection.domain}**. It runs in "
        "a process of its own, as on the command line: closing this page does not stop it, and stopping it loses nothing."
    )
    left, right = st.columns([2, 1])
    grid = left.radio("Grid", list(OFFERED), captions=list(OFFERED.values()), key="grid", bind="query-params", horizontal=True)
    chosen = right.selectbox("Number format", [AUTO, *DTYPES], key="dtype", bind="query-params")
    out = None if place == artifacts.ARTIFACTS else str(place)
    asked = sweep_process.SweepRequest(selection.pair, selection.domain, grid, None if chosen == AUTO else chosen, out=out)
    if session.ready(spec):
        offer(asked, spec.name, place)
    watch()


def offer(asked: sweep_process.SweepRequest, name: str, place: Path) -> None:
    """What the sweep will take, what it replaces, and the button that begins it."""
    total, left = extent(asked)
    known = f", {total - left:,} of them known" if total > left else ""
    text = f"**{total:,} cells** (a prompt under a condition){known}: {takes(asked, name, left)}."
    if before := artifacts.manifest_of(place / asked.domain / "rq1" / name):
        text += (
            f" The stored sweep, {before['grid']} grid on {before['prompts']} prompts, took "
            f"{timings.in_words(before['seconds'])} on {before['device_name']}; **the new tables replace it**."
        )
    st.markdown(text)
    at = sweep_process.find(name, asked.domain)
    busy = at is not None and at.state == sweep_process.RUNNING
    button, command = st.columns([1, 5], vertical_alignment="center")
    command.code(f"python -m mechdiff {' '.join(asked.arguments)}", language="bash", wrap_lines=True)
    if button.button(
        "Start", type="primary", disabled=busy, key="start", width="stretch", help="One at a time of a pair on a domain."
    ):
        sweep_process.start(asked)
        st.rerun()


@st.cache_data(ttl=60, max_entries=16, show_spinner="Counting the cells ...")
def extent(asked: sweep_process.SweepRequest) -> tuple[int, int]:
    """Cells of a sweep, and those that are still to be computed."""
    settings = {"device": asked.device, "dtype": asked.dtype, "seed": asked.seed}
    total, done = map(sum, zip(*sweeps.extent(asked.pair, asked.domain, asked.grid, **settings).values()))
    return total, total - done


def takes(asked: sweep_process.SweepRequest, name: str, left: int) -> str:
    """How long it will take here: by the last sweep's pace, else by how fast the pages' own answers came."""
    if not left:
        return "known already, only the tables have to be written"
    if (pace := sweep_process.pace(asked, name)) is not None:
        return f"about {timings.in_words(pace * left)} here, as fast as the last sweep"
    run, known = Run("patch", asked.pair, asked.domain, dtype=asked.dtype), timings.known()
    if (cell := known.get(timings.cell_of(run))) is None:
        return "how long is not known here yet"
    val = prompts.read_domain(asked.domain, "val")[: sweeps.GRIDS[asked.grid].limit]
    blocks = 2 * -(-len(val) // BLOCK) + -(-len(run.train_prompts) // BLOCK)
    return (
        f"about {timings.in_words(left * cell + blocks * known.get(timings.read_of(run), 0.0))} here, as fast as the live pages"
    )


@st.fragment(run_every=sweep_process.EVERY)
def watch() -> None:
    """All sweeps that the cache folder knows of, whoever started them. The page is drawn anew when one begins or ends."""
    session.guard(statuses)


def statuses() -> None:
    found = sweep_process.statuses()
    now = {status.id: (status.pid, status.state) for status in found}
    if st.session_state.setdefault("_sweeps", now) != now:
        st.session_state["_sweeps"] = now
        st.rerun()
    if not found:
        st.caption("No sweep has been started here yet, neither by this page nor on the command line.")
    for status in found:
        with st.container(border=True):
            one(status)


def one(status: sweep_process.Status) -> None:
    """A sweep: how far it is, and what can be done about it."""
    text, button = st.columns([6, 1], vertical_alignment="center")
    with text:
        describe(status)
    stopping = st.session_state.setdefault("_stopping", set())
    label = BUTTONS.get(status.state)
    waits = status.state == sweep_process.RUNNING and status.pid in stopping
    if label and button.button("Stopping" if waits else label, key=f"{label}-{status.id}", disabled=waits, width="stretch"):
        if status.state == sweep_process.RUNNING:
            stopping.add(status.pid)
            sweep_process.stop(status)
        else:
            sweep_process.start(status.request)
        st.rerun(scope="fragment")
    if status.state != sweep_process.FINISHED and (printed := status.printed(LOG)):
        with st.expander("What it printed"):
            st.code(printed, language=None, wrap_lines=True)


def describe(status: sweep_process.Status) -> None:
    what = f"**{status.name}** on **{status.domain}**, {status.request.grid} grid"
    took = timings.in_words(status.updated - status.started)
    if status.state == sweep_process.RUNNING:
        left = status.seconds_left()
        so_far = f"{status.done:,} of {status.total:,} cells" if status.total else "0 cells"
        told = f", about {timings.in_words(left)} left" if left is not None else ""
        st.progress(status.share, text=f"{what}: {status.share:.0%}, {so_far}{told}  \n{status.stage}")
    elif status.state == sweep_process.FINISHED:
        where = status.request.out or artifacts.ARTIFACTS
        st.markdown(f":material/check: {what}: finished {sweep_list.moment(status.updated)} after {took}, in `{where}`")
    elif status.state == sweep_process.STOPPED:
        st.markdown(f":material/pause: {what}: stopped {sweep_list.moment(status.updated)} at {status.share:.0%}. {status.error}")
    else:
        st.error(f"{what}: failed {sweep_list.moment(status.updated)}.\n\n" + status.error.replace("\n", "\n\n"))
