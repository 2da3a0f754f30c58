"""Imported artifacts of the original study: import, removal, and their marks next to our numbers on every page."""

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
ABOUT = """Import the original study's folder `mechdiff/artifacts`: the JSON and CSV files of its questions RQ1 to RQ4, with old
or new names. They contain **means without intervals**. Every file that cannot be read is listed with the reason."""
COVERAGE = "Coverage: share of the effect of all heads, %"
PAGES = {  # the charts of a page's expander: kind, x, the y axis, and the question
    "drift": [("drift", "layer", "Linear CKA (plain)", "Where do representations diverge?")],
    "patching": [("effect", "layer", KL, "Which layers' states move the next token?")],
    "transport": [
        ("mapped", "layer", KL, "Does a linear map explain the change?"),
        ("drop", "layer", "Drop, % of z-score effect", "How much of the z-score effect does the map remove?"),
    ],
    "rank": [
        ("cut", "rank", KL, "How many dimensions does the change need?"),
        ("rank", "rank", "Drop, % of z-score effect", "How much does each rank remove?"),
    ],
    "heads": [("coverage", "size", COVERAGE, "How many heads does the change need?")],
}
EXTRA = {"drift": ["behaviour", "refusals"], "transport": ["maps"]}  # tables without a chart


def selected() -> str | None:
    """The import selected in the sidebar; None for none."""
    name = st.session_state.get("imported", imported_sets.NONE)
    return name if name != imported_sets.NONE and name in imported_sets.names() else None


def on(figure, kind: str, selection: Selection, **where):
    """A page's chart with the imported marks, if domain and axes are the same.

    where: values of the import's columns. Ratios by rank are shown for models of any depth, from the layer nearest in relative
    depth.
    """
    name, pair = selected(), selection.spec
    if name is None or selection.domain != pair.domain:
        return figure
    alike = (pair.layers, pair.heads) == (layout()["layers"], layout()["heads"])
    if kind != "rank" and not alike:
        return figure
    layer = where.pop("layer", None)
    points = marks.points(name, kind, selection.domain, selection.direction, **where)
    if layer is not None:
        points = marks.nearest(points, layer / (pair.layers - 1))
    return charts.with_imported(figure, points)


@session.panel
def numbers(page: str, selection: Selection) -> None:
    """The imported numbers for a page's question, over the study's layers, and their tables with what they lack."""
    name, pair = selected(), selection.spec
    if name is None:
        return
    with st.expander(f"Imported numbers: {name} (means only)", expanded=pair.missing() is not None):
        if selection.domain != pair.domain:
            st.caption("An import contains each pair on its default domain. Set the domain back to the default to compare.")
        columns = st.columns(len(PAGES[page]), gap="medium")
        for column, (kind, x, y, title) in zip(columns, PAGES[page]):
            points = marks.points(name, kind, selection.domain, selection.direction)
            if len(points):
                about = f"{selection.domain}, the study's {layout()['layers']} layers; hover over a square for its file"
                figure = charts.means_only(points, x, y, title, about)
                controls.draw(figure, f"imported-{page}-{kind}", column)
        names = dict.fromkeys(marks.CHARTS[kind].table for kind, *_ in PAGES[page])
        lines = {table: imported_sets.read(name, selection.domain, table) for table in [*names, *EXTRA.get(page, [])]}
        tables(lines, f"{page}-{name}")
        if not any(map(len, lines.values())):
            others = sorted({path.partition("/")[0] for path in imported_sets.manifest_of(name)["tables"]})
            st.caption(f"{name} contains no numbers for this question on {selection.domain}. It contains: {', '.join(others)}.")


def tables(parts: dict[str, pd.DataFrame], key: str) -> None:
    """Tables one below the other; what they lack and their file come last."""
    for table, lines in parts.items():
        if len(lines):
            st.caption(
                f"**{table}**: {len(lines)} line{'s' * (len(lines) != 1)}. `claims`: the number of files with the same condition."
            )
            first = [column for column in ("lacks", "note", "source", "claims", "rest") if column in lines]
            st.dataframe(
                lines[[*lines.columns.difference(first, sort=False), *first]], hide_index=True, key=f"table-{key}-{table}"
            )


def section() -> None:
    """Import a folder; show the imports on this machine with every file that was not read; remove one."""
    st.caption(ABOUT)
    with st.form("import", border=True):
        left, right = st.columns(2, gap="medium")
        folder = left.text_input("Folder on this machine", placeholder="path/to/mechdiff/artifacts", key="import_folder")
        upload = right.file_uploader("Or a .zip of it", type="zip", key="import_zip")
        left, middle, right = st.columns([2, 2, 1], vertical_alignment="bottom")
        name = left.text_input("Name", placeholder="default: the folder's name", key="import_name")
        domain = middle.selectbox(
            "Domain of the top-level files",
            [STUDY, *prompts.domains()],
            key="import_domain",
            help="Files in a folder named after a domain belong to that domain.",
        )
        if right.form_submit_button("Import", type="primary", width="stretch"):
            session.guard(import_files, folder.strip(), upload, name.strip(), None if domain == STUDY else domain)
    if message := st.session_state.pop("_imported", None):
        st.success(message)
    names = imported_sets.names()
    if not names:
        st.caption("Nothing is imported yet. On the command line: `python -m mechdiff import DIR`")
        return
    name = st.selectbox("Imports on this machine", names, key="import_shown") if len(names) > 1 else names[0]
    session.guard(details, name)


def import_files(folder: str, upload, name: str, domain: str | None) -> None:
    if upload is not None:
        source, called = io.BytesIO(upload.getvalue()), upload.name
    else:
        source = Path(folder or ".").expanduser()
        called = str(source) if folder else ""
        if not folder:
            st.info("Choose a folder on this machine, or a .zip.")
            return
    files = imported_sets.import_folder(source, name, domain, called=called)
    st.session_state["_imported"] = outcome(files)
    st.rerun()


def outcome(files: StudyFiles) -> str:
    return (
        f"{len(files.read)} files read, {len(files.skipped)} skipped. To show them on the pages, set **Imported** in the sidebar."
    )


def details(name: str) -> None:
    """One import: the files read and skipped, every skipped file with its reason, its tables, and a button to remove it."""
    about = imported_sets.manifest_of(name)
    row, button = st.columns([5, 1], vertical_alignment="center")
    row.markdown(
        f"**{name}**: {len(about['read'])} files read, {len(about['skipped'])} skipped. From `{about['source']}`, "
        f"{about['imported'][:10]}. Means only; missing in its lines: {', '.join(about['lacks'])}."
    )
    if button.button(
        "Remove", key=f"remove-{name}", width="stretch", help="Removes the imported tables; the folder itself is not changed."
    ):
        imported_sets.remove(name)
        st.rerun()
    if about["skipped"]:
        st.markdown(f"{len(about['skipped'])} skipped files:")
        st.dataframe(
            pd.DataFrame(about["skipped"]),
            hide_index=True,
            key=f"skipped-{name}",
            height="content" if len(about["skipped"]) < 10 else 320,
        )
    if about["read"]:
        with st.expander("Files read, with hashes"):
            st.dataframe(pd.DataFrame(about["read"]), hide_index=True, key=f"read-{name}")
    paths: list[str] = sorted(about["tables"])
    path = st.selectbox(
        "Table", paths, format_func=lambda path: f"{path} ({about['tables'][path]} lines)", key=f"import_table-{name}"
    )
    domain, _, table = path.split("/")
    tables({table: imported_sets.read(name, domain, table)}, f"all-{name}-{domain}")
