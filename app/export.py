"""Take it away: what a page shows, as files, a link, a command, Python, and one bundle that others can replay.

It is a fragment with a popover: while that is closed, nothing of it is drawn, and files are made when they are asked for.
"""

from functools import partial
from urllib.parse import urlencode, urljoin

import controls
import page_record
import streamlit as st
from page_record import PageRecord

from mechdiff.inputs import prompts
from mechdiff.questions import Question
from mechdiff.reporting import bundle, figures, notebooks
from mechdiff.study.compare_sweeps import Comparison

TABS = ("Figures", "Link and code", "Finding bundle")
ALWAYS = {"compare": ("a_pair", "a_domain", "b_pair", "b_domain")}  # else what is not said depends on what is stored
NO_VIEW = ("talk", "step")  # of the address, but not of the view
FORMATS = {  # of a chart and its table: what makes the file, and its type
    "PNG": (figures.png, "image/png"),
    "SVG": (figures.svg, "image/svg+xml"),
    "CSV": (lambda spec: figures.numbers(spec).to_csv(index=False).encode(), "text/csv"),
    "Parquet": (lambda spec: figures.numbers(spec).to_parquet(index=False), "application/vnd.apache.parquet"),
}
# Beside the heading, on the right, so that nothing on the page is pushed down.
STYLE = """<style>
div:has(> .st-key-export) {position: absolute; top: .35rem; right: 0; width: auto !important; z-index: 9}
.st-key-export {width: auto !important}
[data-testid="stMainBlockContainer"] > div {position: relative}
@media (max-width: 900px) {div:has(> .st-key-export) {position: static}}
</style>"""
BUNDLE = "The link, the requests, their tables, the figures and a manifest, in one .zip. It opens under Sweeps, Replay, and with "
OWN = "Your own prompts are named by their hash, so the link and the code work on this machine alone."
NAMED = "The prompt is named by its hash, so these lines work on this machine alone; the Python below has its text."


@st.fragment
def draw(page: str) -> None:
    """The popover with all that can be taken from a page; page: its name in the address."""
    st.html(STYLE)
    found = page_record.current()
    if not found.charts and not found.answers:
        return
    opened = st.popover("Take it away", icon=":material/ios_share:", key="take", on_change="rerun")
    if not opened.open:
        return
    with opened:
        link = address(page or controls.HOME)
        for tab, part in zip(st.tabs(TABS), (pictures, code, whole)):
            with tab:
                part(found, link)


def address(page: str) -> str:
    """The link that opens the view: the shared selection, and what the address holds of the page's own widgets."""
    shared, given = controls.link(page, controls.state()), st.query_params
    own = {key: given.get_all(key) for key in given if key not in controls.DEFAULTS and key not in NO_VIEW}
    own |= {key: st.session_state[key] for key in ALWAYS.get(page, ()) if key in st.session_state}
    return shared + ("&" if not shared.endswith("?") else "") * bool(own) + urlencode(own, doseq=True)


def specification(figure) -> dict:
    return figure if isinstance(figure, dict) else figure.to_dict(validate=False)


def pictures(found: PageRecord, link: str) -> None:
    """Every chart for print, and its numbers."""
    st.caption("PNG at 300 dots an inch and SVG: on white, 20 cm wide. CSV and Parquet: the numbers that the chart draws.")
    for number, figure in enumerate(found.charts):
        spec = specification(figure)
        title = figures.title(spec)
        row = st.container(horizontal=True, vertical_alignment="center", gap="medium")
        row.markdown(title, width="stretch")
        row = row.container(horizontal=True, gap="medium", width="content")
        for name, (make, mime) in FORMATS.items():
            file = f"{bundle.slug(title)}.{name.lower()}"
            download(name, partial(make, spec), file, mime, f"take-{number}-{name}", row)


def download(label: str, make, file: str, mime: str, key: str, place=st, **looks) -> None:
    """A button for a file that is made when it is clicked."""
    looks = {"type": "tertiary"} | looks
    place.download_button(label, make, file, mime, key=key, on_click="ignore", **looks)


def main_request(found: PageRecord):
    """What the page's number comes from; where it has none, the first request that a line of code answers."""
    answers = list(found.answers.values())
    if found.headline is not None:
        return answers[found.headline.answer].request
    return next((one.request for one in answers if isinstance(one.request, Question | Comparison)), None)


def commands(found: PageRecord) -> list[str]:
    """The command lines of what is shown."""
    return [command for one in found.answers.values() if (command := command_of(one))]


def command_of(one: bundle.Answer) -> str:
    return one.command or (controls.command(one.request) if isinstance(one.request, Question) else "")


def has_own(found: PageRecord) -> bool:
    """Whether something rests on prompts that are nobody else's."""
    kept = {name: some for one in found.answers.values() for name, some in bundle.prompts_by_hash(one.request).items()}
    return not all(map(prompts.public, kept.values()))


def code(found: PageRecord, link: str) -> None:
    """The view as a link, as command lines, as Python, and as a notebook."""
    st.caption("The view as a link")
    st.code(urljoin(st.context.url or "", link), language=None, wrap_lines=True)
    own = has_own(found)
    if own:
        st.caption(OWN)
    if lines := commands(found):
        hint = f". {NAMED}" if not own and any(prompts.OWN in line for line in lines) else ""
        st.caption(f"The same numbers on the command line{hint}")
        st.code("\n".join(lines), language="bash", wrap_lines=True)
    request = main_request(found)
    if request is None:
        return
    st.caption("The number on the screen in Python")
    st.code(notebooks.snippet(request, found.headline), language="python", wrap_lines=True)
    made = partial(notebooks.notebook, request, found.headline, link, command_of(found.answers[request]))
    looks = {"icon": ":material/book:", "type": "secondary"}
    download("Notebook", made, "finding.ipynb", "application/x-ipynb+json", "take-notebook", **looks)


def whole(found: PageRecord, link: str) -> None:
    """One zip with everything, which others can replay."""
    if not found.answers:
        st.caption("Nothing here was computed live, so that there is nothing to replay.")
        return
    st.markdown(BUNDLE + "`python -m mechdiff replay BUNDLE`, which computes everything anew and compares every value.")
    texts = has_own(found) and st.checkbox(
        "with my prompts' texts", key="take-texts", help="Without them a replay elsewhere cannot re-check what rests on them."
    )
    answers = [bundle.Answer(one.request, one.table, command_of(one)) for one in found.answers.values()]
    specs = [specification(figure) for figure in found.charts]
    made = partial(bundle.write, answers, specs, link, found.headline, texts)
    name = bundle.slug(found.headline.asked if found.headline else link.partition("?")[0])
    looks = {"icon": ":material/folder_zip:", "type": "primary"}
    download("Finding bundle", made, f"finding-{name}.zip", "application/zip", "take-bundle", **looks)
