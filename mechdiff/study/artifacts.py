"""Files of stored sweeps: tidy tables, and a manifest that says where every number comes from. Reading needs no torch."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.paths import ARTIFACTS, SHIPPED_SWEEPS
from mechdiff.common.terms import SIDES
from mechdiff.inputs import protocols
from mechdiff.questions import Question

BITS = 12  # of a stored value's mantissa: about three and a half digits
ELSEWHERE = () if ARTIFACTS == SHIPPED_SWEEPS else (SHIPPED_SWEEPS,)  # where sweeps are read, but never stored


def places() -> tuple[Path, ...]:
    """The folders that sweeps are read from: where they are stored, then those that came with an installed mechdiff."""
    return (ARTIFACTS, *ELSEWHERE)


def stored_name(pair: str, protocol: str) -> str:
    """The name of a sweep's folders: the pair's, and the protocol's if it is not the default."""
    return pair if protocol == protocols.DEFAULT else f"{pair}@{protocol}"


def folder_of(domain: str, folder: str, pair: str, roots: Sequence[Path] = ()) -> Path:
    """A folder of a sweep, in the first place that has it. roots: the places, if others."""
    folders = [place / domain / folder / pair for place in roots or places()]
    return next((path for path in folders if path.is_dir()), folders[0])


def matching(pattern: str, roots: Sequence[Path] = ()) -> list[Path]:
    """The folders DOMAIN/FOLDER/PAIR that match a pattern, each in the first place that has it. roots: the places, if others."""
    folders = {path.relative_to(place): path for place in reversed(roots or places()) for path in place.glob(pattern)}
    return list(folders.values())


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 values with BITS bits of mantissa: a relative error of at most 2^-12, and bytes that compress."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(mantissa * (1 << BITS)) / (1 << BITS), exponent).astype(np.float32)


def save(folder: Path, tables: dict[str, pd.DataFrame], manifest: dict) -> None:
    """Write tables and their manifest, the manifest last. Raises UserError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for name, table in tables.items():
            write(table, folder / f"{name}.parquet")
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        problem = f"Cannot write the tables to {folder}: {error}. Their cells are in the cache."
        raise UserError(f"{problem}\nTry:  --out /some/folder") from None


def write(table: pd.DataFrame, path: Path) -> None:
    numbers = [str(name) for name in table if table[name].dtype.kind == "f"]
    table = table.assign(**{name: rounded(table[name].to_numpy()) for name in numbers})
    others = [name for name in table if name not in numbers]
    table.to_parquet(
        path, index=False, compression="zstd", compression_level=19, use_dictionary=others, use_byte_stream_split=numbers
    )


def read(
    domain: str, folder: str, pair: str, table: str, where: dict | None = None, roots: Sequence[Path] = ()
) -> tuple[pd.DataFrame | None, dict | None]:
    """A stored table and its manifest; None for each that does not exist.

    where: column -> value, to select lines. roots: the places to look in, if others.
    """
    place = folder_of(domain, folder, pair, roots)
    path, manifest = place / f"{table}.parquet", place / "manifest.json"
    filters = [(column, "==", value) for column, value in where.items()] if where else None
    lines = pd.read_parquet(path, filters=filters) if path.exists() else None
    return lines, json.loads(manifest.read_text()) if manifest.exists() else None


def look_up(run: Question, folder: str, name: str, read: Callable = read, **where) -> tuple[pd.DataFrame, dict | None]:
    """The stored lines of a request's pair, domain and direction, and their manifest. No line is an empty table.

    where: column -> value, to select lines. read: what reads the files, as `read` above.
    """
    where = where if run.question == "drift" else {"direction": run.direction} | where  # drift has no direction
    lines, manifest = read(run.chosen_domain, folder, stored_name(run.spec.name, run.chosen_protocol), name, where)
    return pd.DataFrame() if lines is None else lines, manifest


def stored_lines(run: Question, folder: str, name: str, **where) -> pd.DataFrame:
    """The lines alone."""
    return look_up(run, folder, name, **where)[0]


@dataclass(frozen=True)
class SweepFolder:
    """One folder of a stored sweep. files: its tables, by name. manifest: None if it is missing or unreadable."""

    domain: str
    folder: str
    pair: str
    files: dict[str, Path]
    manifest: dict | None

    @property
    def size(self) -> int:
        """Bytes of its tables."""
        return sum(path.stat().st_size for path in self.files.values())


def sweep_folders(*roots: Path) -> list[SweepFolder]:
    """Every folder below the roots that holds tables, sorted by pair, domain and folder; each from the first root that has it."""
    folders: dict[tuple[str, ...], SweepFolder] = {}
    for path in (path for root in roots for path in root.glob("*/rq*/*")):
        pair, domain, folder = name = path.name, path.parents[1].name, path.parent.name
        if name not in folders and (files := {file.stem: file for file in sorted(path.glob("*.parquet"))}):
            folders[name] = SweepFolder(domain, folder, pair, files, manifest_of(path))
    return [folders[name] for name in sorted(folders)]


def manifest_of(path: Path) -> dict | None:
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def facts(manifest: dict) -> dict[str, str]:
    """What a manifest says, without its lists, by name; missing entries are left out."""
    facts = {"prompts": f"{manifest.get('prompts', '—')}, from {len(set(manifest.get('templates', ())))} templates"}
    for side in SIDES:
        if side in manifest:
            facts[side] = manifest[side]["source"]
            facts[f"{side}, fingerprint"] = manifest[side]["fingerprint"]
    names = (
        "protocol",
        "min_shared_ratio",
        "dtype",
        "device",
        "device_name",
        "kernel",
        "seed",
        "grid",
        "seconds",
        "finished",
        "cells_from_cache",
    )
    names += ("prompts_hash", "train_hash")
    facts |= {name.replace("_", " "): str(manifest[name]) for name in names if name in manifest}
    facts |= {"vocabulary": manifest["vocabulary"]["told"]} if "vocabulary" in manifest else {}
    return facts | {"versions": ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())}
