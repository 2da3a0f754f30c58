"""Stored sweeps: tidy tables beside a manifest that says where every number comes from. Reading them needs no torch."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.paths import ARTIFACTS

BITS = 12  # of a stored value's mantissa: about three and a half digits


def rounded(values: np.ndarray) -> np.ndarray:
    """float32 values with BITS bits of mantissa: a relative error of at most 2^-12, and bytes that compress."""
    mantissa, exponent = np.frexp(values.astype(np.float64))
    return np.ldexp(np.round(mantissa * (1 << BITS)) / (1 << BITS), exponent).astype(np.float32)


def save(folder: Path, tables: dict[str, pd.DataFrame], about: dict) -> None:
    """Write tables and their manifest, the manifest last. Raises UserError if the folder cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").unlink(missing_ok=True)
        for name, table in tables.items():
            write(table, folder / f"{name}.parquet")
        (folder / "manifest.json").write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"The tables cannot be written to {folder}: {error}. They are in the cache; give --out.") from None


def write(table: pd.DataFrame, path: Path) -> None:
    numbers = [name for name in table if table[name].dtype.kind == "f"]
    table = table.assign(**{name: rounded(table[name].to_numpy()) for name in numbers})
    others = [name for name in table if name not in numbers]
    table.to_parquet(
        path, index=False, compression="zstd", compression_level=19, use_dictionary=others, use_byte_stream_split=numbers
    )


def read(domain: str, folder: str, pair: str, table: str, where: dict | None = None) -> tuple[pd.DataFrame | None, dict | None]:
    """A stored table and its manifest; None for what is not there. where: the values that some columns of its lines have."""
    place = ARTIFACTS / domain / folder / pair
    path, about = place / f"{table}.parquet", place / "manifest.json"
    filters = [(column, "==", value) for column, value in where.items()] if where else None
    found = pd.read_parquet(path, filters=filters) if path.exists() else None
    return found, json.loads(about.read_text()) if about.exists() else None


@dataclass(frozen=True)
class Kept:
    """One folder of a stored sweep. files: its tables, by name. about: its manifest, None if there is none to be read."""

    domain: str
    folder: str
    pair: str
    files: dict[str, Path]
    about: dict | None

    @property
    def size(self) -> int:
        """Bytes of its tables."""
        return sum(path.stat().st_size for path in self.files.values())


def listing(place: Path) -> list[Kept]:
    """Every folder below a place that holds tables, in the order of pair, domain and folder."""
    found = []
    for path in place.glob("*/rq*/*"):
        if files := {file.stem: file for file in sorted(path.glob("*.parquet"))}:
            found.append(Kept(path.parents[1].name, path.parent.name, path.name, files, manifest_of(path)))
    return sorted(found, key=lambda kept: (kept.pair, kept.domain, kept.folder))


def manifest_of(path: Path) -> dict | None:
    try:
        return json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def facts(about: dict) -> dict[str, str]:
    """What a manifest says, without its lists; what it does not say is left out."""
    shown = {"prompts": f"{about.get('prompts', '—')}, from {len(set(about.get('templates', ())))} templates"}
    for side in ("base", "tuned"):
        if side in about:
            shown[side] = about[side]["source"]
            shown[f"{side}, fingerprint"] = about[side]["fingerprint"]
    names = ("dtype", "device", "device_name", "kernel", "seed", "grid", "seconds", "finished", "cells_from_cache")
    shown |= {name.replace("_", " "): str(about[name]) for name in (*names, "prompts_hash", "train_hash") if name in about}
    shown |= {"vocabulary": about["vocabulary"]["told"]} if "vocabulary" in about else {}
    return shown | {"versions": ", ".join(f"{name} {number}" for name, number in about.get("versions", {}).items())}
