"""Imported artifacts of the original study: brought in and taken away, and beside our numbers on every page."""

import io
from pathlib import Path

import controls
import pandas as pd
import session
import streamlit as st

from mechdiff.inputs import prompts
from mechdiff.reporting import charts
from mechdiff.reporting.charts.base import KL
from mechdiff.reporting.selection import Selection
from mechdiff.study.imports import imported_sets, marks
from mechdiff.study.imports.layout import layout
from mechdiff.study.imports.reading import StudyFiles

STUDY = "as in the study"
ABOUT = """The study's folder `mechdiff/artifacts`: JSON and CSV of its questions rq1 to rq4, in its old and new names. They hold
**means without intervals**; in places a file's name is all that says what was measured. No file is dropped without a word."""
COVERAGE = "Coverage: share of all heads' effect, %"
PAGES = {  # the charts of a page's expander: kind, x, the y axis, and the question
    "drift": [("drift", "layer", "Linear CKA (plain)", "Where do representations part?")],
    "patching": [("effect", "layer", KL, "Which layers' states move the next token?")],
    "transport": [
        ("mapped", "layer", KL, "Does a linear map explain the change?"),
        ("drop", "layer", "Drop against zscore, %", "How much of the zscore effect goes?"),
    ],
    "rank": [
        ("cut", "rank", KL, "How many dimensions does the change need?"),
        ("rank", "rank", "Drop against zscore, %", "What does each rank remove?"),
    ],
    "heads": [("coverage", "size", COVERAGE, "How many heads does the change need?")],
}
EXTRA = {"drift": ["behaviour", "refusals"], "transport": ["maps"]}  # tables without a chart of their own


def shown() -> str | None:
    """The import that the sidebar shows; None for none."""
    name = st.session_state.get("imported", imported_sets.NONE)
    return name if name != imported_sets.NONE and name in imported_sets.names() else None


def on(figure, kind: str, selection: Selection, **where):
    """A page's chart with the imported marks, where they belong on it: the same domain, and an axis that means the same.

    where: the values that columns of the import have. Ratios over ranks are shown beside a model of any depth, of the layer
    nearest to the page's.
    """
    name, pair = shown(), selection.spec
    if name is None or selection.domain != pair.domain:
        return figure
    alike = (pair.layers, pair.heads) == (layout()["layers"], layout()["heads"])
    if kind != "rank" and not alike:
        return figure
    layer = where.pop("layer", None)
    found = marks.points(name, kind, selection.domain, selection.direction, **where)
    if layer is not None:
        found = marks.nearest(found, layer / (pair.layers - 1))
    return charts.with_imported(figure, found)


@session.panel
def numbers(page: str, selection: Selection) -> None:
    """The imported numbers of a page's question, over the study's own layers, and their tables with all that they lack."""
    name, pair = shown(), selection.spec
    if name is None:
        return
    with st.expander(f"Imported numbers: {name}, means only", expanded=pair.missing() is not None):
        if selection.domain != pair.domain:
            st.caption("An import holds each domain's own pair; here the domain is another one, so it is not compared.")
        drawn = 0
        columns = st.columns(len(PAGES[page]), gap="medium")
        for column, (kind, x, y, title) in zip(columns, PAGES[page]):
            found = marks.points(name, kind, selection.domain, selection.direction)
            if len(found):
                drawn += 1
                told = f"{selection.domain}, over the study's {layout()['layers']} layers; point at a square for its file"
                figure = charts.means_only(found, x, y, title, told)
                controls.draw(figure, f"imported-{page}-{kind}", column)
        names = dict.fromkeys(marks.CHARTS[kind].table for kind, *_ in PAGES[page])
        found = {table: imported_sets.read(name, selection.domain, table) for table in [*names, *EXTRA.get(page, [])]}
        tables(found, f"{page}-{name}")
        if not any(map(len, found.values())):
            others = sorted({path.partition("/")[0] for path in imported_sets.manifest_of(name)["tables"]})
            st.caption(f"{name} holds nothing of this question on {selection.domain}. It has: {', '.join(others)}.")


def tables(found: dict[str, pd.DataFrame], key: str) -> None:
    """Tables below one another, what they lack and their file first."""
    for table, lines in found.items():
        if len(lines):
            st.caption(
                f"**{table}**: {len(lines)} line{'s' * (len(lines) != 1)}. `claims`: how many files claim the same condition."
            )
            first = [column for column in ("lacks", "note", "source", "claims", "rest") if column in lines]
            st.dataframe(
                lines[[*lines.columns.difference(first, sort=False), *first]], hide_index=True, key=f"table-{key}-{table}"
            )


def section() -> None:
    """Bring an import in; look at those that are here, with every file that was not read; take one away."""
    st.caption(ABOUT)
    with st.form("import", border=True):
        left, right = st.columns(2, gap="medium")
        folder = left.text_input("Folder on this machine", placeholder="path/to/mechdiff/artifacts", key="import_folder")
        upload = right.file_uploader("Or a .zip of it", type="zip", key="import_zip")
        one, two, three = st.columns([2, 2, 1], vertical_alignment="bottom")
        name = one.text_input("Called", placeholder="default: the folder's name", key="import_name")
        domain = two.selectbox(
            "Domain of its top level",
            [STUDY, *prompts.domains()],
            key="import_domain",
            help="A folder named as a domain is that one.",
        )
        if three.form_submit_button("Import", type="primary", width="stretch"):
            session.guard(bring, folder.strip(), upload, name.strip(), None if domain == STUDY else domain)
    if told := st.session_state.pop("_imported", None):
        st.success(told)
    names = imported_sets.names()
    if not names:
        st.caption("Nothing is imported on this machine yet.  \n`python -m mechdiff import DIR` does the same.")
        return
    name = st.selectbox("Imported on this machine", names, key="import_shown") if len(names) > 1 else names[0]
    session.guard(one_import, name)


def bring(folder: str, upload, name: str, domain: str | None) -> None:
    if upload is not None:
        source, called = io.BytesIO(upload.getvalue()), upload.name
    else:
        source = Path(folder or ".").expanduser()
        called = str(source) if folder else ""
        if not folder:
            st.info("Give a folder of this machine, or a .zip.")
            return
    found = imported_sets.import_folder(source, name, domain, called=called)
    st.session_state["_imported"] = told(found)
    st.rerun()


def told(found: StudyFiles) -> str:
    return f"read {len(found.read)}, skipped {len(found.skipped)}. Shown on the pages by **Imported** in the sidebar."


def one_import(name: str) -> None:
    """A set: read and skipped, every skipped file with its reason, its tables, and the button that takes it away."""
    about = imported_sets.manifest_of(name)
    row, button = st.columns([5, 1], vertical_alignment="center")
    row.markdown(
        f"**{name}**: read {len(about['read'])}, skipped {len(about['skipped'])}. From `{about['source']}`, "
        f"{about['imported'][:10]}. Means only; what its lines lack: {', '.join(about['lacks'])}."
    )
    if button.button("Remove", key=f"remove-{name}", width="stretch", help="Takes the tables away; the folder stays as it is."):
        imported_sets.remove(name)
        st.rerun()
    if about["skipped"]:
        st.markdown(f"{len(about['skipped'])} files were not read:")
        st.dataframe(
            pd.DataFrame(about["skipped"]),
            hide_index=True,
            key=f"skipped-{name}",
            height="content" if len(about["skipped"]) < 10 else 320,
        )
    if about["read"]:
        with st.expander("The files that were read, and their hashes"):
            st.dataframe(pd.DataFrame(about["read"]), hide_index=True, key=f"read-{name}")
    paths = sorted(about["tables"])
    path = st.selectbox(
        "Table", paths, format_func=lambda path: f"{path} ({about['tables'][path]} lines)", key=f"import_table-{name}"
    )
    domain, _, table = path.split("/")
    tables({table: imported_sets.read(name, domain, table)}, f"all-{name}-{domain}")
