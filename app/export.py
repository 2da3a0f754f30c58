"""Export & share: a page's results as files, a link, a command, Python code, and a bundle that others can replay.

It is a fragment with a popover: while that is closed nothing is drawn, and a file is made only when it is downloaded.
"""

from functools import partial
from types import ModuleType
from typing import Literal
from urllib.parse import urlencode, urljoin

import controls
import page_record
import streamlit as st
from page_record import PageRecord
from streamlit.delta_generator import DeltaGenerator

from mechdiff.inputs import prompts
from mechdiff.questions import Question
from mechdiff.questions.shared.command import command
from mechdiff.reporting import bundle, figures, notebooks
from mechdiff.reporting.selection import VERSION
from mechdiff.study.compare_sweeps import Comparison

Kind = Literal["primary", "secondary", "tertiary"]  # of a button
TABS = ("Figures", "Link and code", "Finding bundle")
ALWAYS = {"compare": ("a_pair", "a_domain", "b_pair", "b_domain")}  # otherwise the link depends on which sweeps are stored
NO_VIEW = ("talk", "step")  # in the URL, but not part of the view
FORMATS = {  # of a chart and its table: what makes the file, and its type
    "PNG": (figures.png, "image/png"),
    "SVG": (figures.svg, "image/svg+xml"),
    "CSV": (lambda spec: figures.numbers(spec).to_csv(index=False).encode(), "text/csv"),
    "Parquet": (lambda spec: figures.numbers(spec).to_parquet(index=False), "application/vnd.apache.parquet"),
}
# To the right of the heading, so that nothing on the page is pushed down.
STYLE = """<style>
div:has(> .st-key-export) {position: absolute; top: .35rem; right: 0; width: auto !important; z-index: 9}
.st-key-export {width: auto !important}
[data-testid="stMainBlockContainer"] > div {position: relative}
@media (max-width: 900px) {div:has(> .st-key-export) {position: static}}
</style>"""
BUNDLE = "One .zip with the link, requests, tables, figures and a manifest. Open it under Sweeps > Replay, or run "
OWN = "Your own prompts are identified by their hash, so the link and the code work only on this machine."
NAMED = "The prompt is identified by its hash, so these work only on this machine. The Python code below contains its text."


@st.fragment
def draw(page: str) -> None:
    """The popover with everything that can be exported from a page. page: its name in the URL."""
    st.html(STYLE)
    record = page_record.current()
    if not record.charts and not record.answers:
        return
    popover = st.popover("Export & share", icon=":material/ios_share:", key="take", on_change="rerun")
    if not popover.open:
        return
    with popover:
        link = address(page or controls.HOME)
        for tab, part in zip(st.tabs(TABS), (pictures, code, full_bundle)):
            with tab:
                part(record, link)


def address(page: str) -> str:
    """The link that opens the view: the shared selection, and the page's own widgets that are in the URL."""
    shared, query = controls.link(page, controls.state()), st.query_params
    own = {key: query.get_all(key) for key in query if key not in controls.DEFAULTS and key not in (*NO_VIEW, VERSION)}
    own |= {key: st.session_state[key] for key in ALWAYS.get(page, ()) if key in st.session_state}
    return shared + ("&" if not shared.endswith("?") else "") * bool(own) + urlencode(own, doseq=True)


def specification(figure) -> dict:
    return figure if isinstance(figure, dict) else figure.to_dict(validate=False)


def pictures(record: PageRecord, link: str) -> None:
    """Every chart for print, and its numbers."""
    st.caption("PNG (300 dpi) and SVG are 20 cm wide, on white. CSV and Parquet contain the numbers in the chart.")
    for number, figure in enumerate(record.charts):
        spec = specification(figure)
        title = figures.title(spec)
        row = st.container(horizontal=True, vertical_alignment="center", gap="medium")
        row.markdown(title, width="stretch")
        row = row.container(horizontal=True, gap="medium", width="content")
        for name, (make, mime) in FORMATS.items():
            file = f"{bundle.slug(title)}.{name.lower()}"
            download(name, partial(make, spec), file, mime, f"take-{number}-{name}", row)


def download(
    label: str,
    make,
    file: str,
    mime: str,
    key: str,
    place: DeltaGenerator | ModuleType = st,
    kind: Kind = "tertiary",
    icon: str | None = None,
) -> None:
    """A button for a file that is made when the button is clicked."""
    place.download_button(label, make, file, mime, key=key, on_click="ignore", type=kind, icon=icon)


def main_request(record: PageRecord):
    """The request of the page's headline number; without one, the first request that a line of code can answer."""
    answers = list(record.answers.values())
    if record.headline is not None:
        return answers[record.headline.answer].request
    return next((answer.request for answer in answers if isinstance(answer.request, Question | Comparison)), None)


def commands(record: PageRecord) -> list[str]:
    """The command lines of the page's answers."""
    return [command for answer in record.answers.values() if (command := command_of(answer))]


def command_of(answer: bundle.Answer) -> str:
    return answer.command or (command(answer.request) if isinstance(answer.request, Question) else "")


def has_own(record: PageRecord) -> bool:
    """Whether any answer depends on the user's own prompts."""
    sets = {name: texts for answer in record.answers.values() for name, texts in bundle.prompts_by_hash(answer.request).items()}
    return not all(map(prompts.public, sets.values()))


def code(record: PageRecord, link: str) -> None:
    """The view as a link, as command lines, as Python, and as a notebook."""
    st.caption("Link to this view")
    st.code(urljoin(st.context.url or "", link), language=None, wrap_lines=True)
    own = has_own(record)
    if own:
        st.caption(OWN)
    if lines := commands(record):
        hint = f". {NAMED}" if not own and any(prompts.OWN in line for line in lines) else ""
        st.caption(f"Same numbers on the command line{hint}")
        st.code("\n".join(lines), language="bash", wrap_lines=True)
    request = main_request(record)
    if request is None:
        return
    st.caption("The headline number in Python")
    st.code(notebooks.snippet(request, record.headline), language="python", wrap_lines=True)
    made = partial(notebooks.notebook, request, record.headline, link, command_of(record.answers[request]))
    mime, icon = "application/x-ipynb+json", ":material/book:"
    download("Notebook", made, "finding.ipynb", mime, "take-notebook", kind="secondary", icon=icon)


def full_bundle(record: PageRecord, link: str) -> None:
    """One zip with everything, which others can replay."""
    if not record.answers:
        st.caption("Nothing on this page was computed live, so there is nothing to replay.")
        return
    st.markdown(BUNDLE + "`python -m mechdiff replay BUNDLE`: both recompute everything and compare every value.")
    texts = has_own(record) and st.checkbox(
        "with my prompts' texts", key="take-texts", help="Without them, a replay elsewhere cannot check results that need them."
    )
    answers = [bundle.Answer(answer.request, answer.table, command_of(answer)) for answer in record.answers.values()]
    specs = [specification(figure) for figure in record.charts]
    made = partial(bundle.write, answers, specs, link, record.headline, texts)
    name = bundle.slug(record.headline.asked if record.headline else link.partition("?")[0])
    file, icon = f"finding-{name}.zip", ":material/folder_zip:"
    download("Finding bundle", made, file, "application/zip", "take-bundle", kind="primary", icon=icon)
