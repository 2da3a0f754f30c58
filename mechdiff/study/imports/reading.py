"""A folder or .zip of the study's artifacts: every file becomes lines of tables, or is listed with the reason why not."""

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pandas as pd

from mechdiff.common.errors import UserError, one_of
from mechdiff.inputs import prompts
from mechdiff.study.imports import heads, layers_and_maps
from mechdiff.study.imports.fields import Unread
from mechdiff.study.imports.layout import domain_of, layout

KINDS = [  # file name pattern -> parser; the first match counts
    (r"rq1_cka.*\.json", layers_and_maps.drift),
    (r"cka_boot.*\.json", layers_and_maps.drift),
    (r"(patch_kl|rq1_patch).*\.json", layers_and_maps.layer_patch),
    (r"rq1_behaviou?r.*\.json", layers_and_maps.behaviour),
    (r"rq1_refusals.*\.csv", layers_and_maps.refusals),
    (r"rq2_clt.*\.json", layers_and_maps.clt),
    (r"mapped_patch_.*\.json", layers_and_maps.mapped_patch),
    (r"rq3_.*\.csv", layers_and_maps.combined),
    (r"head_mask_L.*\.json", heads.head_mask),
    (r"single_head_L.*\.json", heads.singles),
    (r"single_head_details.*\.csv", heads.details),
    (r"rq4_results.*\.json", heads.results),
]
TABLES = {  # table -> its folder, and the columns that define a condition (not the map, which the combined table lacks)
    "drift": ("rq1", ["layer", "stream"]),
    "patch_summary": ("rq1", ["direction", "layer", "stream", "map"]),
    "behaviour": ("rq1", ["measure", "direction", "layer"]),
    "refusals": ("rq1", ["prompt"]),
    "maps": ("rq2", ["layer", "stream", "map", "rank", "subspace", "positions"]),
    "transport_summary": ("rq2", ["direction", "layer", "stream", "rank", "alpha", "control"]),
    "rank_summary": ("rq3", ["direction", "layer", "stream", "rank", "alpha", "control"]),
    "heads_summary": ("rq4", ["direction", "layer", "heads", "blend"]),
}
REASONS = {  # why files of these kinds are not read
    ".pt": "a fitted map: weights that only loading code could read; refit it with run transport",
    ".png": "a figure, not numbers",
    ".pdf": "a figure, not numbers",
    ".txt": "a summary in words; only JSON and CSV are read",
    ".md": "a text; only JSON and CSV are read",
}
LARGEST = 16 << 20  # bytes; the study's largest file has seven thousand
MOST = 20_000  # files
FLAT = "the same number at every rank: the cut was not applied"


@dataclass(frozen=True)
class File:
    """A file of the folder. path: relative to it. reason: why it was not read; lines: how many it gave, if it was."""

    path: str
    bytes: int
    domain: str
    sha256: str = ""
    lines: int = 0
    reason: str = ""


@dataclass(frozen=True)
class StudyFiles:
    """The contents of a folder. tables: (domain, table name) -> lines."""

    source: str
    tables: dict[tuple[str, str], pd.DataFrame]
    files: list[File] = field(default_factory=list)

    @property
    def read(self) -> list[File]:
        return [file for file in self.files if not file.reason]

    @property
    def skipped(self) -> list[File]:
        return [file for file in self.files if file.reason]

    def doubled(self) -> int:
        """How many conditions more than one file claims to hold."""
        claimed = [(name, table[table["claims"] > 1]) for (_, name), table in self.tables.items()]
        return sum(len(lines.drop_duplicates(condition_of(name, lines))) for name, lines in claimed)

    def lacks(self) -> list[str]:
        """Everything that some line lacks."""
        texts = {text for table in self.tables.values() for text in table["lacks"]}
        return sorted({what for text in texts for what in text.split(", ") if what})


def read_study(source: Path | io.BytesIO, name: str, domain: str | None = None) -> StudyFiles:
    """Read a folder or a .zip. name: for messages. domain: of the files at its top level; default: the study's.

    Raises UserError for what cannot be opened, and if no file at all can be read.
    """
    if domain is not None and domain not in prompts.domains():
        raise one_of("Domain", domain, prompts.domains())
    lines, files = {}, []
    for path, size, read in every_file(source, name):
        file, tables = parse_file(path, size, read, domain or layout()["top"])
        files.append(file)
        for table, rows in tables.items():
            lines.setdefault((file.domain, table), []).extend(row | {"source": file.path} for row in rows)
    contents = StudyFiles(name, {key: tidy(key[1], rows) for key, rows in lines.items() if rows}, files)
    if not contents.read:
        why = "; ".join(dict.fromkeys(file.reason for file in files[:3]))
        raise UserError(
            f"Nothing in {name} belongs to the study: read 0, skipped {len(files)}{f' ({why})' if why else ' (it is empty)'}.\n"
            "Try:  the study's folder mechdiff/artifacts, with rq1, rq2, rq3, rq4 in it"
        )
    return contents


def every_file(source: Path | io.BytesIO, name: str) -> list[tuple[PurePosixPath, int, Callable[[], bytes]]]:
    """The files of a folder or .zip, in order: path, size, and what reads it."""
    if isinstance(source, Path) and source.is_dir():
        paths = []
        for path in source.rglob("*"):
            paths += [path] if path.is_file() else []
            if len(paths) > MOST:
                raise too_many(name)
        return [(PurePosixPath(p.relative_to(source).as_posix()), p.stat().st_size, p.read_bytes) for p in sorted(paths)]
    if isinstance(source, Path) and not source.exists():
        raise UserError(f"{name} does not exist.\nTry:  ls {source.parent}")
    try:
        archive = zipfile.ZipFile(source)
    except zipfile.BadZipFile:
        raise UserError(f"{name} is neither a folder nor a .zip.\nTry:  python -m mechdiff import {Path(name).parent}") from None
    infos = sorted((info for info in archive.infolist() if not info.is_dir()), key=lambda info: info.filename)
    if len(infos) > MOST:
        raise too_many(name)
    return [(PurePosixPath(i.filename), i.file_size, lambda i=i: archive.read(i)) for i in infos]


def too_many(name: str) -> UserError:
    return UserError(f"{name} holds more than {MOST:,} files.\nTry:  the study's folder mechdiff/artifacts itself")


def parse_file(path: PurePosixPath, size: int, read: Callable[[], bytes], top: str) -> tuple[File, layers_and_maps.Lines]:
    """A file, and its lines by table; if it cannot be read, the reason and no lines."""
    domain, sha256 = domain_of(path, top), ""
    try:
        parse = parser_of(path)
        if size > LARGEST:
            raise Unread(f"has {size / 1e6:.0f} MB; the study's files of this kind have a few thousand bytes")
        content = read()
        sha256 = hashlib.sha256(content).hexdigest()
        tables = parse(decoded(content, path), path)
        check_layers(tables)
    except Unread as error:
        return File(str(path), size, domain, sha256, reason=str(error)), {}
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # unreadable, damaged, or encrypted
        return File(str(path), size, domain, reason=f"cannot be read: {error}"), {}
    return File(str(path), size, domain, sha256, sum(map(len, tables.values()))), tables


def parser_of(path: PurePosixPath) -> Callable:
    for pattern, parse in KINDS:
        if re.fullmatch(pattern, path.name):
            return parse
    ending = path.suffix.lower()
    raise Unread(REASONS.get(ending, "not a name that the study's runners give"))


def decoded(content: bytes, path: PurePosixPath) -> object:
    """A JSON value, or the lines of a CSV as dicts."""
    if not content.strip():
        raise Unread("is empty")
    try:
        text = content.decode("utf-8-sig")
        if path.suffix == ".json":
            return json.loads(text)
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except UnicodeDecodeError:
        raise Unread("is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise Unread(f"is not JSON: {error.msg}, line {error.lineno}") from None
    except RecursionError:
        raise Unread("is not JSON: nested too deeply") from None
    except csv.Error as error:
        raise Unread(f"is not CSV: {error}") from None
    if not rows:
        raise Unread("holds a header and no lines")
    if any(None in row or None in row.values() for row in rows):
        raise Unread("is not CSV: a line does not have the header's number of fields")
    return rows


def check_layers(tables: layers_and_maps.Lines) -> None:
    for row in (row for rows in tables.values() for row in rows):
        layer = row.get("layer")
        if layer is not None and layer >= layout()["layers"]:
            raise Unread(f"layer {layer} is beyond the study's {layout()['layers']} layers")


def tidy(name: str, rows: list[dict]) -> pd.DataFrame:
    """Lines as a table. claims: how many files claim the line's condition."""
    table = pd.DataFrame(rows)
    if "layer" in table:
        table["layer"] = table["layer"].astype("Int64")
    texts = ("stream", "map", "rank", "alpha", "measure", "direction", "chosen")
    table = table.assign(**{column: table[column].fillna("").astype(str) for column in texts if column in table})
    if name == "rank_summary":
        table = flat_noted(table)
    return table.assign(claims=table.groupby(condition_of(name, table), dropna=False)["source"].transform("nunique"))


def condition_of(name: str, table: pd.DataFrame) -> list[str]:
    """The columns of a table that define a condition."""
    return [column for column in TABLES[name][1] if column in table]


def flat_noted(table: pd.DataFrame) -> pd.DataFrame:
    """Note where a file's or folder's runs hold one number at every rank: some of the study's runs ignored the truncation."""
    place = table["source"].str.rpartition("/")[0].where(~table["source"].str.endswith(".csv"), table["source"])
    # A run without a rank in its name is not a cut, and may use another map.
    cuts = table[table["note"].str.contains("rank only in the name")]
    groups = cuts.groupby([place[cuts.index], "layer", "stream", "alpha"], dropna=False)
    flat = groups["mean"].transform("nunique").eq(1) & groups["rank"].transform("nunique").gt(1)
    notes = table.loc[flat[flat].index, "note"] + f"; {FLAT}"
    table.loc[notes.index, "note"] = notes
    return table
