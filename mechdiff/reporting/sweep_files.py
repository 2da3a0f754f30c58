"""A stored sweep as files for a paper: every table as CSV, every chart of its report as PNG and SVG, by domain and question."""

import re
from pathlib import Path

import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.reporting import figures, html_report
from mechdiff.study import artifacts
from mechdiff.study.stored_sweep import StoredSweep


def export(sweep: StoredSweep, place: Path) -> list[Path]:
    """Write a sweep's files below a folder: DOMAIN/FOLDER/PAIR-TABLE.csv, and a picture for every chart. Returns their paths.

    Raises UserError, with the command that stores it, if there is no sweep.
    """
    folders = [
        folder
        for folder in artifacts.sweep_folders(*(sweep.roots or artifacts.places()))
        if (folder.pair, folder.domain) == (sweep.pair, sweep.domain)
    ]
    if not folders:
        raise UserError(f"No sweep of {sweep.label} is stored.\nTry:  {sweep.command}")
    files = []
    for folder in folders:
        for name, path in folder.files.items():
            files.append(target(place, sweep, folder.folder, f"{name}.csv"))
            pd.read_parquet(path).to_csv(files[-1], index=False)
    for anchor, chart in html_report.drawn(sweep):
        for ending, draw in {"png": figures.png, "svg": figures.svg}.items():
            files.append(target(place, sweep, anchor, f"{slug(figures.title(chart))}.{ending}"))
            files[-1].write_bytes(draw(chart))
    return files


def target(place: Path, sweep: StoredSweep, folder: str, name: str) -> Path:
    path = place / sweep.domain / folder / f"{sweep.pair}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def slug(text: str) -> str:
    return re.sub(r"\W+", "-", text.lower()).strip("-")
