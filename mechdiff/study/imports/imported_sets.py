"""Imported sets on this machine: tables and a manifest, in the cache. A new import replaces the old one entirely."""

import io
import json
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from mechdiff.common import paths
from mechdiff.common.errors import UserError, one_of
from mechdiff.study.imports.layout import folder_of, layout
from mechdiff.study.imports.reading import TABLES, StudyFiles, read_study

KIND = "import"  # the manifest's own kind
NONE = "none"  # not allowed as a name: it means that no import is shown
MANIFEST = "manifest.json"


def place() -> Path:
    """The folder of imported sets."""
    return paths.CACHE / "imports"


def import_folder(
    source: Path | io.BytesIO, name: str = "", domain: str | None = None, out: Path | None = None, called: str = ""
) -> StudyFiles:
    """Import a folder or .zip: read it, and store its tables under a name.

    name: default: the source's own. domain: of its top level; default: the study's. out: another folder of imports than the
    cache's. called: what messages and the manifest call the source; default: its path.
    Raises UserError for a source with nothing to read, a bad name, or a folder that cannot be written.
    """
    called = called or str(source)
    name = checked_name(name) if name else name_after(Path(called))
    contents = read_study(source, called, domain)
    write(contents, name, domain, (out or place()) / name)
    return contents


def checked_name(name: str) -> str:
    if name == NONE or not re.fullmatch(r"\w[\w.-]{0,60}", name):
        raise UserError(f"'{name}' cannot name an import: letters, digits, - . _ only, and not '{NONE}'.\nTry:  --name study")
    return name


def name_after(source: Path) -> str:
    """An import's name from that of its folder or .zip."""
    path = source.resolve()
    name = re.sub(r"[^\w.-]+", "-", path.stem if path.suffix == ".zip" else path.name).strip("-.")
    return checked_name(name[:60] or "study")


def write(contents: StudyFiles, name: str, domain: str | None, folder: Path) -> None:
    """Write the tables and their manifest next to the old ones, then swap the folders."""
    partial = folder.with_name(f".{name}.{os.getpid()}.partial")
    try:
        if folder.exists() and read_manifest(folder) is None:
            raise UserError(f"{folder} exists and is not an import.\nTry:  another --name, or another --out")
        shutil.rmtree(partial, ignore_errors=True)
        for (of, table), lines in contents.tables.items():
            path = partial / of / TABLES[table][0] / f"{table}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines.to_parquet(path, index=False)
        (partial / MANIFEST).write_text(json.dumps(manifest(contents, name, domain), indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            old = folder.replace(partial.with_suffix(".old"))
            partial.replace(folder)
            shutil.rmtree(old)
        else:
            partial.replace(folder)
    except OSError as error:
        raise UserError(f"The import cannot be written to {folder}: {error.strerror}.\nTry:  --out another-folder") from None


def manifest(contents: StudyFiles, name: str, domain: str | None) -> dict:
    return {
        "kind": KIND,
        "name": name,
        "source": contents.source,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "top_domain": domain or layout()["top"],
        "layers": layout()["layers"],
        "heads": layout()["heads"],
        "lacks": contents.lacks(),
        "tables": {f"{of}/{TABLES[table][0]}/{table}": len(lines) for (of, table), lines in sorted(contents.tables.items())},
        "read": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.bytes, "domain": file.domain, "lines": file.lines}
            for file in contents.read
        ],
        "skipped": [{"path": file.path, "reason": file.reason, "bytes": file.bytes} for file in contents.skipped],
    }


def read_manifest(folder: Path) -> dict | None:
    """An import's manifest; None if there is none."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and content.get("kind") == KIND else None


def names() -> list[str]:
    """What is imported on this machine."""
    return sorted(path.parent.name for path in place().glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def manifest_of(name: str) -> dict:
    """The manifest of an import. Raises UserError for a name that does not exist."""
    content = read_manifest(place() / name) if name in names() else None
    if content is None:
        raise one_of("Import", name, names() or [NONE])
    return content


def stamp(name: str) -> float:
    """When a set was imported (s, epoch); 0 if it does not exist."""
    path = place() / name / MANIFEST
    return path.stat().st_mtime if path.exists() else 0.0


def read(name: str, domain: str, table: str) -> pd.DataFrame:
    """An imported table; empty if there is none. domain: as imported, or that of the study's own prompts."""
    paths = [place() / name / at / TABLES[table][0] / f"{table}.parquet" for at in (domain, folder_of(domain))]
    path = next((path for path in paths if path.exists()), None)
    return pd.DataFrame() if path is None else pd.read_parquet(path)


def remove(name: str) -> None:
    """Delete an import; its source folder is not touched."""
    manifest_of(name)
    shutil.rmtree(place() / name)
