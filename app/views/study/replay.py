"""A part of the Sweeps page: a finding bundle opened, as it was seen, and re-checked value by value on this machine."""

import hashlib
import tempfile
from pathlib import Path

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

LOOKS = {  # a verdict's colour and icon
    SAME: ("green", "check"),
    ROUNDING: ("green", "check"),
    DIFFERS: ("red", "close"),
    OTHER: ("gray", "help"),
    UNCHECKED: ("gray", "help"),
}
ABOUT = (
    "A bundle is what **Take it away** gives. It opens as it was seen; **Re-check** computes every request of it anew on this "
    "machine, from an empty store, and compares value by value. The same without the app: `python -m mechdiff replay BUNDLE`."
)


def section() -> None:
    """Upload a bundle, see it, and re-check it."""
    st.caption(ABOUT)
    file = st.file_uploader("Finding bundle", type=["zip"], key="bundle")
    if file is None:
        return
    content = file.getvalue()
    finding = opened(content)
    head(finding)
    recheck(finding, hashlib.sha256(content).hexdigest())
    figures(finding)
    with st.expander("Its requests, and where it was made"):
        for entry in finding.entries:
            st.code(entry.command or entry.name, language="bash", wrap_lines=True)
        st.json(finding.manifest, expanded=1)


@st.cache_data(max_entries=8, show_spinner=False)
def opened(content: bytes) -> Finding:
    """A bundle, with the prompts that it brings kept here, so that its link works too."""
    finding = bundle_reader.read(content)
    bundle_reader.keep_texts(finding)
    return finding


def head(finding: Finding) -> None:
    """The headline, and the link that opens the view."""
    left, right = st.columns([1, 2], vertical_alignment="center")
    if (told := finding.headline) is not None:
        left.metric(told.asked, f"{told.value:.4g} {told.unit}", told.of, delta_color="off", delta_arrow="off")
    with right:
        page = finding.link.partition("?")[0].strip("./") or "home"
        about = f"made {finding.made[:16].replace('T', ' ')} with mechdiff {finding.version}"
        links.draw([links.Link(finding.link, f"Open the view on the page {page.capitalize()}", about)], "bundle_link", cards=True)


def recheck(finding: Finding, name: str) -> None:
    """The button, the progress, and the verdicts."""
    asked = st.session_state.setdefault("_rechecks", {})
    identity = ("replay", name)
    if st.button("Re-check", type="primary", icon=":material/fact_check:", key="recheck"):
        session.stopped().discard(identity)
        asked[name] = None
    if name not in asked:
        return
    if asked[name] is None and identity not in session.stopped():
        job = jobs.start(identity, lambda: begin(finding))
        if job.future.done():
            jobs.finish(identity)
            asked[name] = job.task
        else:
            session.pending()[identity] = job
        return verdicts(job.task)
    if asked[name] is None:
        st.info("Stopped. Re-check begins anew.")
    else:
        verdicts(asked[name])


def begin(finding: Finding) -> tuple:
    """A job that re-checks, with a store of its own that ends with it."""
    folder = tempfile.TemporaryDirectory(prefix="mechdiff-replay-", ignore_cleanup_errors=True)
    task = ReplayTask(finding, Store(Path(folder.name) / "results"))
    job = jobs.Job("Re-checking", "", 0, task.total, task)

    def work() -> None:
        with folder:
            job.work()

    return job, work


def verdicts(task: ReplayTask) -> None:
    """What became of every table so far; first what is not the same here, so that nothing follows from it."""
    for one in sorted(task.verdicts, key=lambda one: one.kind != OTHER):
        verdict(one)
    told = task.finding.headline
    if task.headline is not None:
        st.metric(f"{told.asked}, here", f"{task.headline:.4g} {told.unit}", f"{told.value:.4g} in the bundle", **QUIET)


QUIET = {"delta_color": "off", "delta_arrow": "off", "help": TERMS["live"]}


def verdict(one: TableVerdict) -> None:
    colour, icon = LOOKS[one.kind]
    row = st.container(horizontal=True, vertical_alignment="center", gap="small")
    row.badge(f"{one.name}: {one.kind}", icon=f":material/{icon}:", color=colour)
    numbers = f" {one.values:,} values; largest difference {one.absolute:.3g}, relative {one.relative:.3g}." if one.values else ""
    row.caption(f"{one.text}.{numbers}")


def figures(finding: Finding) -> None:
    """The figures as they were, two a row."""
    columns = st.columns(2, gap="medium")
    for number, content in enumerate(finding.figures.values()):
        columns[number % 2].image(content, width="stretch")
