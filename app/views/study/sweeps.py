"""Sweeps: start, watch, stop and resume whole sweeps; and the stored ones with their origin."""

from pathlib import Path

import controls
import session
import streamlit as st
from glossary import say

from mechdiff.common.terms import DTYPES
from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import BLOCK
from mechdiff.questions import Run
from mechdiff.reporting.selection import Selection
from mechdiff.study import artifacts, sweep_plan, sweep_process, sweeps, timings
from views import imports
from views.study import replay, sweep_list

GRIDS = {"quick": "50 prompts, few ranks, single heads", "full": "every prompt, map, rank and set of heads"}
AUTO = "auto"
BUTTONS = {sweep_process.RUNNING: "Stop", sweep_process.STOPPED: "Resume", sweep_process.FAILED: "Try again"}
TABS = ("Stored", "Run", "Import", "Replay")
LOG = 3000  # characters of the end of a log


def page() -> None:
    st.header("Sweeps: answer every question at once", help=say("pair", "domain", "stored", "effect"))
    draw = {"Stored": stored_sweeps, "Run": run_sweep, "Import": imports.section, "Replay": replay.section}
    for name, tab in zip(TABS, st.tabs(TABS, key="tab", bind="query-params")):
        if tab.open:
            with tab:
                session.guard(draw[name])


def stored_sweeps() -> None:
    sweep_list.section(folder())


def run_sweep() -> None:
    section(controls.current(), folder())


def folder() -> Path:
    """The folder to which sweeps are written and from which they are read: the usual one, or a sweep's --out."""
    typed = st.text_input(
        "Folder",
        placeholder=f"Folder of sweeps: {artifacts.ARTIFACTS}",
        key="folder",
        bind="query-params",
        label_visibility="collapsed",
        icon=":material/folder_open:",
    )
    return Path(typed).expanduser() if typed else artifacts.ARTIFACTS


def section(selection: Selection, place: Path) -> None:
    """Start a sweep of the sidebar's pair and domain, and the status of all sweeps."""
    spec = selection.spec
    st.caption(
        f"Compute every question for the pair and domain in the sidebar: **{spec.name}** on **{selection.domain}**, "
        f"under the protocol **{selection.protocol}**. The sweep "
        "runs in its own process, as on the command line: it continues when this page is closed, and after a stop it resumes."
    )
    left, right = st.columns([2, 1])
    grid = left.radio("Grid", list(GRIDS), captions=list(GRIDS.values()), key="grid", bind="query-params", horizontal=True)
    chosen = right.selectbox("Number format", [AUTO, *DTYPES], key="dtype", bind="query-params")
    out = None if place == artifacts.ARTIFACTS else str(place)
    named = None if selection.protocol == selection.spec.protocol else selection.protocol
    common = {"protocol": named, "min_shared_ratio": selection.min_shared_ratio or None, "out": out}
    request = sweep_process.SweepRequest(selection.pair, selection.domain, grid, None if chosen == AUTO else chosen, **common)
    if session.ready(spec):
        offer(request, spec.name, selection.domain, place)
    watch()


def offer(request: sweep_process.SweepRequest, name: str, domain: str, place: Path) -> None:
    """The time the sweep will take, what it replaces, and the button that starts it."""
    total, left = extent(request)
    known = f", {total - left:,} of them cached" if total > left else ""
    text = f"**{total:,} cells** (one prompt under one condition){known}: {takes(request, name, domain, left)}."
    stored = artifacts.stored_name(name, request.protocol or read_pair(request.pair).protocol)
    if before := artifacts.manifest_of(place / domain / "rq1" / stored):
        text += (
            f" The stored sweep, {before['grid']} grid on {before['prompts']} prompts, took "
            f"{timings.in_words(before['seconds'])} on {before['device_name']}; **the new tables will replace it**."
        )
    st.markdown(text)
    at = sweep_process.find(name, domain)
    busy = at is not None and at.state == sweep_process.RUNNING
    button, command = st.columns([1, 5], vertical_alignment="center")
    command.code(f"python -m mechdiff {' '.join(request.arguments)}", language="bash", wrap_lines=True)
    if button.button(
        "Start", type="primary", disabled=busy, key="start", width="stretch", help="One sweep at a time per pair and domain."
    ):
        sweep_process.start(request)
        st.rerun()


@st.cache_data(ttl=60, max_entries=16, show_spinner="Counting cells...")
def extent(request: sweep_process.SweepRequest) -> tuple[int, int]:
    """The number of cells of a sweep, and of those still to compute."""
    total, done = map(sum, zip(*sweeps.extent(request.pair, request.domain, request.grid, **request.settings).values()))
    return total, total - done


def takes(request: sweep_process.SweepRequest, name: str, domain: str, left: int) -> str:
    """How long it will take here, from the last sweep's pace, or from how fast the pages were answered."""
    if not left:
        return "all cached, only the tables are written"
    if (pace := sweep_process.pace(request, name)) is not None:
        return f"about {timings.in_words(pace * left)} here, at the pace of the last sweep"
    run, known = Run("patch", request.pair, request.domain, dtype=request.dtype), timings.known()
    if (cell := known.get(timings.cell_of(run))) is None:
        return "no time estimate yet"
    val = prompts.read_domain(domain, "val")[: sweep_plan.GRIDS[request.grid].limit]
    blocks = 2 * -(-len(val) // BLOCK) + -(-len(run.train_prompts) // BLOCK)
    seconds = left * cell + blocks * known.get(timings.read_of(run), 0.0)
    return f"about {timings.in_words(seconds)} here, at the pace of the live pages"


@st.fragment(run_every=sweep_process.EVERY)
def watch() -> None:
    """The status of all sweeps that use this cache folder, wherever started. Redraws the page when one starts or ends."""
    session.guard(statuses)


def statuses() -> None:
    known = sweep_process.statuses()
    now = {status.id: (status.pid, status.state) for status in known}
    if st.session_state.setdefault("_sweeps", now) != now:
        st.session_state["_sweeps"] = now
        st.rerun()
    if not known:
        st.caption("No sweep has been started yet, here or on the command line.")
    for status in known:
        with st.container(border=True):
            progress(status)


def progress(status: sweep_process.Status) -> None:
    """One sweep: its progress, and a button to stop or resume it."""
    text, button = st.columns([6, 1], vertical_alignment="center")
    with text:
        describe(status)
    stopping = st.session_state.setdefault("_stopping", set())
    label = BUTTONS.get(status.state)
    waiting = status.state == sweep_process.RUNNING and status.pid in stopping
    if label and button.button("Stopping" if waiting else label, key=f"{label}-{status.id}", disabled=waiting, width="stretch"):
        if status.state == sweep_process.RUNNING:
            stopping.add(status.pid)
            sweep_process.stop(status)
        else:
            sweep_process.start(status.request)
        st.rerun(scope="fragment")
    if status.state != sweep_process.FINISHED and (printed := status.printed(LOG)):
        with st.expander("Output"):
            st.code(printed, language=None, wrap_lines=True)


def describe(status: sweep_process.Status) -> None:
    what = f"**{status.name}** on **{status.domain}**, {status.request.grid} grid"
    took = timings.in_words(status.updated - status.started)
    if status.state == sweep_process.RUNNING:
        left = status.seconds_left()
        so_far = f"{status.done:,} of {status.total:,} cells" if status.total else "0 cells"
        remaining = f", about {timings.in_words(left)} left" if left is not None else ""
        st.progress(status.share, text=f"{what}: {100 * status.share:.0f} %, {so_far}{remaining}  \n{status.stage}")
    elif status.state == sweep_process.FINISHED:
        where = status.request.out or artifacts.ARTIFACTS
        st.markdown(f":material/check: {what}: finished on {sweep_list.moment(status.updated)} after {took}; tables in `{where}`")
    elif status.state == sweep_process.STOPPED:
        at = f"{sweep_list.moment(status.updated)} at {100 * status.share:.0f} %"
        st.markdown(f":material/pause: {what}: stopped on {at}. {status.error}")
    else:
        st.error(f"{what}: failed on {sweep_list.moment(status.updated)}.\n\n" + status.error.replace("\n", "\n\n"))
