"""Imported sets on this machine: tables beside a manifest, outside of what git tracks. A new import replaces the old whole."""

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
from mechdiff.study.imports.layout import layout
from mechdiff.study.imports.reading import TABLES, Found, look

KIND = "import"  # what the manifest calls itself
NONE = "none"  # the name that no import may have: it means that none is shown
MANIFEST = "manifest.json"


def place() -> Path:
    """The folder of imported sets."""
    return paths.CACHE / "imports"


def take(
    source: Path | io.BytesIO, name: str = "", domain: str | None = None, out: Path | None = None, called: str = ""
) -> Found:
    """Import a folder or .zip: read it, and keep its tables under a name.

    name: default: the source's own. domain: of its top level; default: the study's. out: another folder of imports than the
    cache's. called: what messages and the manifest call the source; default: its path.
    Raises UserError for a source of which nothing can be read, a bad name, and a folder that cannot be written.
    """
    called = called or str(source)
    name = checked(name) if name else named_after(Path(called))
    found = look(source, called, domain)
    keep(found, name, domain, (out or place()) / name)
    return found


def checked(name: str) -> str:
    if name == NONE or not re.fullmatch(r"\w[\w.-]{0,60}", name):
        raise UserError(f"'{name}' cannot name an import: letters, digits, - . _ only, and not '{NONE}'.\nTry:  --name study")
    return name


def named_after(source: Path) -> str:
    """A folder's or .zip's name as an import's."""
    own = source.resolve()
    name = re.sub(r"[^\w.-]+", "-", own.stem if own.suffix == ".zip" else own.name).strip("-.")
    return checked(name[:60] or "study")


def keep(found: Found, name: str, domain: str | None, folder: Path) -> None:
    """Write the tables and their manifest beside the old ones, then put them in their place."""
    partial = folder.with_name(f".{name}.{os.getpid()}.partial")
    try:
        if folder.exists() and about(folder) is None:
            raise UserError(f"{folder} is there and is no import.\nTry:  another --name, or another --out")
        shutil.rmtree(partial, ignore_errors=True)
        for (of, table), lines in found.tables.items():
            path = partial / of / TABLES[table][0] / f"{table}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            lines.to_parquet(path, index=False)
        (partial / MANIFEST).write_text(json.dumps(manifest(found, name, domain), indent=2) + "\n", encoding="utf-8")
        if folder.exists():
            old = folder.replace(partial.with_suffix(".old"))
            partial.replace(folder)
            shutil.rmtree(old)
        else:
            partial.replace(folder)
    except OSError as error:
        raise UserError(f"The import cannot be kept in {folder}: {error.strerror}.\nTry:  --out another-folder") from None


def manifest(found: Found, name: str, domain: str | None) -> dict:
    return {
        "kind": KIND,
        "name": name,
        "source": found.source,
        "imported": datetime.now(UTC).isoformat(timespec="seconds"),
        "top_domain": domain or layout()["top"],
        "layers": layout()["layers"],
        "heads": layout()["heads"],
        "lacks": found.lacks(),
        "tables": {f"{of}/{TABLES[table][0]}/{table}": len(lines) for (of, table), lines in sorted(found.tables.items())},
        "read": [
            {"path": file.path, "sha256": file.sha256, "bytes": file.bytes, "domain": file.domain, "lines": file.lines}
            for file in found.read
        ],
        "skipped": [{"path": file.path, "reason": file.reason, "bytes": file.bytes} for file in found.skipped],
    }


def about(folder: Path) -> dict | None:
    """An import's manifest; None where there is none."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("kind") == KIND else None


def names() -> list[str]:
    """What is imported on this machine."""
    return sorted(path.parent.name for path in place().glob(f"*/{MANIFEST}") if not path.parent.name.startswith("."))


def of(name: str) -> dict:
    """The manifest of an import. Raises UserError for a name that is not there."""
    found = about(place() / name) if name in names() else None
    if found is None:
        raise one_of("Import", name, names() or [NONE])
    return found


def stamp(name: str) -> float:
    """When a set was imported; nought if it is not there."""
    path = place() / name / MANIFEST
    return path.stat().st_mtime if path.exists() else 0.0


def read(name: str, domain: str, table: str) -> pd.DataFrame:
    """An imported table; empty if there is none."""
    path = place() / name / domain / TABLES[table][0] / f"{table}.parquet"
    return pd.read_parquet(path) if path.exists() else pd.DataFrame()


def remove(name: str) -> None:
    """Forget an import; the folder that it was read from stays as it is."""
    of(name)
    shutil.rmtree(place() / name)
