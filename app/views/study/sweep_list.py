"""A part of the Sweeps page: every stored sweep, where it comes from, and its tables."""

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

PREVIEW = 200  # lines
UNKNOWN = "no manifest: where its numbers come from is unknown"
FACTS = {"prompts": "Prompts", "grid": "Grid", "dtype": "Format", "device_name": "Device"}


def section(place: Path) -> None:
    """A line a sweep; the manifest and the tables of the chosen one."""
    found = [list(group) for _, group in groupby(artifacts.sweep_folders(place), key=lambda kept: (kept.pair, kept.domain))]
    if not found:
        st.info(f"No sweep is stored in {place}.\n\nTry:  `python -m mechdiff sweep --pair {shipped_pairs()[0]} --grid quick`")
        return
    table = pd.DataFrame(map(line, found))
    picked = st.dataframe(
        table,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row-required",
        key="kept",
        height="content" if len(found) < 8 else 320,
        column_config={"MB": st.column_config.NumberColumn(format="%.1f")},
    )
    rows = picked["selection"]["rows"]
    chosen = found[rows[0] if rows and rows[0] < len(found) else 0]
    detail(chosen, place == artifacts.ARTIFACTS)


def line(folders: list[SweepFolder]) -> dict:
    """A sweep's line: what its first manifest says, and which of its folders have none."""
    known = [kept for kept in folders if kept.manifest]
    about = known[0].manifest if known else {}
    missing = ", ".join(kept.folder for kept in folders if not kept.manifest)
    shown = {"Pair": folders[0].pair, "Domain": folders[0].domain, "Questions": ", ".join(kept.folder for kept in folders)}
    shown |= {name: str(about.get(key, "—")) for key, name in FACTS.items()}
    shown |= {"Finished": str(about.get("finished", "—"))[:16].replace("T", " ")}
    shown |= {"Took": timings.in_words(about["seconds"]) if "seconds" in about else "—"}
    return shown | {"MB": sum(kept.size for kept in folders) / 1e6, "Manifest": f"missing in {missing}" if missing else "there"}


def detail(folders: list[SweepFolder], ours: bool) -> None:
    """ours: whether the pages show it too, which read one folder of sweeps alone."""
    pair, domain = folders[0].pair, folders[0].domain
    names = [kept.folder for kept in folders]
    title, which, download = st.columns([3, 2, 1.2], vertical_alignment="bottom")
    title.subheader(f"{pair} on {domain}")
    name = which.segmented_control(
        "Folder", names, default=names[0], required=True, key=f"folder-{pair}-{domain}", label_visibility="collapsed"
    )
    if ours:
        with download:
            take_report(StoredSweep(pair, domain, controls.current().direction))
        leads_to(pair, domain)
    kept = next(kept for kept in folders if kept.folder == name)
    left, right = st.columns([2, 3], gap="large")
    with left:
        manifest(kept)
    with right:
        tables(kept)


def take_report(choice: StoredSweep) -> None:
    """A button whose file is made when it is clicked."""
    st.download_button(
        "Report (HTML)",
        partial(html_report.build, choice),
        html_report.file_name(choice),
        "text/html",
        key="report",
        on_click="ignore",
        icon=":material/description:",
        width="stretch",
        help=f"The four answers with charts and controls in one file, {choice.direction}: to attach to a model card.",
    )


def leads_to(pair: str, domain: str) -> None:
    """Links to the pages that show it."""
    compare = urlencode({"a_pair": pair, "a_domain": domain})
    shown = [links.Link(f"compare?{compare}", "Open in Compare", "its verdict, beside another sweep's")]
    if pair in pair_names() and domain in prompts.domains():
        there = controls.link("patching", {"pair": pair, "domain": domain})
        shown.insert(0, links.Link(there, "Open in Patching", "its curves, beside live results"))
    links.draw(shown, "kept_links", cards=True)


def manifest(kept: SweepFolder) -> None:
    """Where a folder's numbers come from, in readable form."""
    about = kept.manifest
    if about is None:
        st.warning(f"{kept.folder} has {UNKNOWN}.")
        return
    if "command" in about:
        st.code(about["command"], language="bash", wrap_lines=True)
    hashes = [what for what in artifacts.facts(about) if what.endswith(("hash", "fingerprint"))]
    shown = {what: f"`{text}`" if what in hashes else text for what, text in artifacts.facts(about).items()}
    st.table(
        pd.DataFrame({"what": shown.keys(), "value": shown.values()}), border="horizontal", hide_index=True, hide_header=True
    )
    with st.expander("The whole manifest"):
        st.json(about, expanded=1)


def tables(kept: SweepFolder) -> None:
    """A folder's tables, and the first lines of one of them."""
    name = st.selectbox("Table", list(kept.files), key=f"table-{kept.pair}-{kept.domain}-{kept.folder}")
    file = pq.ParquetFile(kept.files[name])
    first = next(file.iter_batches(PREVIEW), None)
    st.dataframe(first.to_pandas() if first is not None else pd.DataFrame(), hide_index=True, height=380)
    count = file.metadata.num_rows
    shown = f"the first {PREVIEW} of " if count > PREVIEW else ""
    size = kept.files[name].stat().st_size
    st.caption(f"{shown}{count:,} lines, {file.metadata.num_columns} columns, {size / 1e6:.2f} MB: `{kept.files[name]}`")


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
