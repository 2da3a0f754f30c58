"""A tab of the Sweeps page: open a finding bundle as it was exported, and re-check it value by value on this machine."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs
import links
import session
import streamlit as st
from glossary import TERMS

from mechdiff.common.cache import Store
from mechdiff.reporting import bundle_reader
from mechdiff.reporting.bundle import Finding
from mechdiff.reporting.replay import OTHER, ROUNDING, UNCHECKED, ReplayTask, TableVerdict
from mechdiff.study.live_vs_stored import DIFFERS, SAME

LOOKS: dict[str, tuple[Any, str]] = {  # a verdict's colour and icon
    SAME: ("green", "check"),
    ROUNDING: ("green", "check"),
    DIFFERS: ("red", "close"),
    OTHER: ("gray", "help"),
    UNCHECKED: ("gray", "help"),
}
ABOUT = (
    "Open a bundle made with **Export & share**. **Re-check** recomputes every request on this machine, from an empty cache, and "
    "compares value by value. On the command line: `python -m mechdiff replay BUNDLE`."
)


def section() -> None:
    """Upload a bundle, view it, and re-check it."""
    st.caption(ABOUT)
    file = st.file_uploader("Finding bundle", type=["zip"], key="bundle")
    if file is None:
        return
    content = file.getvalue()
    finding = opened(content)
    head(finding)
    recheck(finding, hashlib.sha256(content).hexdigest())
    figures(finding)
    with st.expander("Requests and origin"):
        for entry in finding.entries:
            st.code(entry.command or entry.name, language="bash", wrap_lines=True)
        st.json(finding.manifest, expanded=1)


@st.cache_data(max_entries=8, show_spinner=False)
def opened(content: bytes) -> Finding:
    """A bundle; its prompts are stored here, so that its link works too."""
    finding = bundle_reader.read(content)
    bundle_reader.keep_texts(finding)
    return finding


def head(finding: Finding) -> None:
    """The headline, and the link that opens the view."""
    left, right = st.columns([1, 2], vertical_alignment="center")
    if (headline := finding.headline) is not None:
        left.metric(headline.asked, f"{headline.value:.4g} {headline.unit}", headline.of, delta_color="off", delta_arrow="off")
    with right:
        page = finding.link.partition("?")[0].strip("./") or "home"
        about = f"made on {finding.made[:16].replace('T', ' ')} with mechdiff {finding.version}"
        links.draw(
            [links.Link(finding.link, f"Open this view on the {page.capitalize()} page", about)], "bundle_link", cards=True
        )


def recheck(finding: Finding, name: str) -> None:
    """The button, the progress, and the verdicts."""
    checks = st.session_state.setdefault("_rechecks", {})
    identity = ("replay", name)
    if st.button("Re-check", type="primary", icon=":material/fact_check:", key="recheck"):
        session.stopped().discard(identity)
        checks[name] = None
    if name not in checks:
        return
    if checks[name] is None and identity not in session.stopped():
        job = jobs.start(identity, lambda: begin(finding))
        if job.ended:
            jobs.finish(identity)
            checks[name] = job.task
        else:
            session.pending()[identity] = job
        assert isinstance(job.task, ReplayTask)
        return verdicts(job.task)
    if checks[name] is None:
        st.info("Cancelled. Re-check starts again from the beginning.")
    else:
        verdicts(checks[name])


def begin(finding: Finding) -> tuple[jobs.TaskJob, Callable[[], None]]:
    """A job that re-checks, with a temporary cache of its own."""
    folder = tempfile.TemporaryDirectory(prefix="mechdiff-replay-", ignore_cleanup_errors=True)
    task = ReplayTask(finding, Store(Path(folder.name) / "results"))
    job = jobs.TaskJob("Re-checking", "", 0, task.total, task=task)

    def work() -> None:
        with folder:
            job.work()

    return job, work


def verdicts(task: ReplayTask) -> None:
    """The verdict on every table so far; first those whose inputs differ here, since their values cannot be compared."""
    for check in sorted(task.verdicts, key=lambda check: check.kind != OTHER):
        verdict(check)
    headline = task.finding.headline
    if headline is not None and task.headline is not None:
        here, there = f"{task.headline:.4g} {headline.unit}", f"{headline.value:.4g} in the bundle"
        st.metric(f"{headline.asked}, here", here, there, delta_color="off", delta_arrow="off", help=TERMS["live"])


def verdict(check: TableVerdict) -> None:
    colour, icon = LOOKS[check.kind]
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    row.badge(f"{check.name}: {check.kind}", icon=f":material/{icon}:", color=colour)
    sizes = f"largest difference {check.absolute:.3g}, relative {check.relative:.3g}"
    numbers = f" {check.values:,} values; {sizes}." if check.values else ""
    row.caption(f"{check.text}.{numbers}")


def figures(finding: Finding) -> None:
    """The bundle's figures, two per row."""
    columns = st.columns(2, gap="medium")
    for number, content in enumerate(finding.figures.values()):
        columns[number % 2].image(content, width="stretch")
