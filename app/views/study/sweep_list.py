"""A tab of the Sweeps page: every stored sweep, its origin, and its tables."""

import time
from functools import partial
from itertools import groupby
from pathlib import Path
from urllib.parse import urlencode

import controls
import links
import pandas as pd
import pyarrow.parquet as pq
import streamlit as st

from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import pair_names, shipped_pairs
from mechdiff.reporting import html_report
from mechdiff.study import artifacts, timings
from mechdiff.study.artifacts import SweepFolder
from mechdiff.study.stored_sweep import StoredSweep
from mechdiff.study.sweep_plan import SPOKEN

PREVIEW = 200  # lines
UNKNOWN = "no manifest, so the origin of its numbers is unknown"
TITLES = {"rq1": "Where", "rq2": "Map", "rq3": "Rank", "rq4": "Heads", SPOKEN: "Behaviour"}  # a folder -> its question
QUESTIONS = "Where: RQ1 (drift, patching, transplants). Map: RQ2. Rank: RQ3. Heads: RQ4."
FACTS = {"prompts": "Prompts", "grid": "Grid", "dtype": "Format", "device_name": "Device"}


def section(place: Path) -> None:
    """A line per sweep; the manifest and the tables of the chosen one. place: where sweeps are stored, or another folder."""
    ours = place == artifacts.ARTIFACTS
    folders = artifacts.sweep_folders(*(artifacts.places() if ours else [place]))
    groups = [list(group) for _, group in groupby(folders, key=lambda folder: (folder.pair, folder.domain))]
    if not groups:
        st.info(f"There are no sweeps in {place}.\n\nTry:  `python -m mechdiff sweep --pair {shipped_pairs()[0]} --grid quick`")
        return
    table = pd.DataFrame(map(line, groups))
    picked = st.dataframe(
        table,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row-required",
        key="kept",
        height="content" if len(groups) < 8 else 320,
        column_config={"MB": st.column_config.NumberColumn(format="%.1f"), "Questions": st.column_config.Column(help=QUESTIONS)},
    )
    rows = picked["selection"]["rows"]
    chosen = groups[rows[0] if rows and rows[0] < len(groups) else 0]
    detail(chosen, ours)


def line(folders: list[SweepFolder]) -> dict:
    """A sweep's line: from its first manifest; and which of its folders have no manifest."""
    about = next((folder.manifest for folder in folders if folder.manifest), {})
    missing = ", ".join(title(folder.folder) for folder in folders if not folder.manifest)
    parts = ", ".join(title(folder.folder) for folder in folders)
    cells = {"Pair": folders[0].pair, "Domain": folders[0].domain, "Questions": parts}
    cells |= {name: str(about.get(key, "—")) for key, name in FACTS.items()}
    cells |= {"Finished": str(about.get("finished", "—"))[:16].replace("T", " ")}
    cells |= {"Took": timings.in_words(about["seconds"]) if "seconds" in about else "—"}
    size = sum(folder.size for folder in folders) / 1e6
    return cells | {"MB": size, "Manifest": f"missing for {missing}" if missing else "complete"}


def title(folder: str) -> str:
    """The name of a folder of a sweep, for a reader."""
    return TITLES.get(folder, folder.capitalize())


def detail(folders: list[SweepFolder], ours: bool) -> None:
    """One sweep. ours: whether the other pages read it too."""
    pair, domain = folders[0].pair, folders[0].domain
    names = [folder.folder for folder in folders]
    heading, which, download = st.columns([2, 2.6, 1.1], vertical_alignment="bottom")
    heading.subheader(f"{pair} on {domain}")
    name = which.segmented_control(
        "Question",
        names,
        default=names[0],
        required=True,
        key=f"folder-{pair}-{domain}",
        format_func=title,
        label_visibility="collapsed",
    )
    if ours:
        with download:
            report_button(StoredSweep(pair, domain, controls.current().direction))
        page_links(pair, domain)
    folder = next(folder for folder in folders if folder.folder == name)
    left, right = st.columns([1, 1], gap="medium")
    with left:
        manifest(folder)
    with right:
        tables(folder)


def report_button(choice: StoredSweep) -> None:
    """A button whose report is made when it is clicked."""
    st.download_button(
        "Report (HTML)",
        partial(html_report.build, choice),
        html_report.file_name(choice),
        "text/html",
        key="report",
        on_click="ignore",
        icon=":material/description:",
        width="stretch",
        help=f"One file with the answers to the four questions, charts and controls ({choice.direction}), for a model card.",
    )


def page_links(pair: str, domain: str) -> None:
    """Links to the pages that show the sweep."""
    compare = urlencode({"a_pair": pair, "a_domain": domain})
    rows = [links.Link(f"compare?{compare}", "Open in Compare", "its verdict, next to another sweep's")]
    if pair in pair_names() and domain in prompts.domains():
        there = controls.link("patching", {"pair": pair, "domain": domain})
        rows.insert(0, links.Link(there, "Open in Patching", "its curves, next to live results"))
    links.draw(rows, "kept_links", cards=True)


def manifest(folder: SweepFolder) -> None:
    """The origin of a folder's numbers, in readable form."""
    about = folder.manifest
    if about is None:
        st.warning(f"{title(folder.folder)} has {UNKNOWN}.")
        return
    if "command" in about:
        st.code(about["command"], language="bash", wrap_lines=True)
    hashes = [what for what in artifacts.facts(about) if what.endswith(("hash", "fingerprint"))]
    facts = {what: f"`{text}`" if what in hashes else text for what, text in artifacts.facts(about).items()}
    st.table(
        pd.DataFrame({"what": facts.keys(), "value": facts.values()}), border="horizontal", hide_index=True, hide_header=True
    )
    with st.expander("Full manifest"):
        st.json(about, expanded=1)


def tables(folder: SweepFolder) -> None:
    """A folder's tables, and the first lines of one of them."""
    name = st.selectbox("Table", list(folder.files), key=f"table-{folder.pair}-{folder.domain}-{folder.folder}")
    file = pq.ParquetFile(folder.files[name])
    first = next(file.iter_batches(PREVIEW), None)
    st.dataframe(first.to_pandas() if first is not None else pd.DataFrame(), hide_index=True, height=380)
    count = file.metadata.num_rows
    part = f"First {PREVIEW} of " if count > PREVIEW else ""
    size = folder.files[name].stat().st_size
    st.caption(f"{part}{count:,} lines, {file.metadata.num_columns} columns, {size / 1e6:.2f} MB: `{folder.files[name]}`")


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
