"""Full sweeps into artifacts: tidy tables with a manifest that says where every number comes from."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from mechdiff import experiments
from mechdiff.errors import UserError
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.request import Run
from mechdiff.experiments.task import Task
from mechdiff.paths import ARTIFACTS
from mechdiff.prompts import digest
from mechdiff.terms import DIRECTIONS, STREAMS

GRIDS = {"quick": ("resid_post",), "full": STREAMS}
LIBRARIES = ("mechdiff", "torch", "transformers", "peft", "numpy")


def plan(pair: str, domain: str | None, grid: str) -> dict[str, dict[str, list[Run]]]:
    """Folder -> table -> the requests that the table joins. quick: RQ1 on the residual stream; full: all streams, and heads."""
    common, streams = {"pair": pair, "domain": domain}, GRIDS[grid]
    patch = [Run("patch", streams=streams, direction=d, controls=("self",), **common) for d in DIRECTIONS]
    folders = {"rq1": {"drift": [Run("drift", streams=streams, **common)], "patch": patch}}
    if grid == "full":
        heads = [Run("heads", direction=d, controls=("self",), **common) for d in DIRECTIONS]
        folders["rq4"] = {"heads": heads}
    return folders


def sweep(pair: str, domain: str | None, grid: str, out: Path | None, command: list[str]) -> Iterator[tuple[Task, str]]:
    """Yields each task to be followed, with a label, and writes a folder's tables and manifest when its tasks are done.

    Resumable: what a stopped sweep finished is in the cache.
    """
    for folder, tables in plan(pair, domain, grid).items():
        start, written = time.monotonic(), {}
        for name, requests in tables.items():
            parts = []
            for request in requests:
                task = experiments.task(request)
                yield task, f"{folder} {name} {request.direction}"
                parts.append(task.table())
            written[name] = pd.concat(parts, ignore_index=True)
        request = next(iter(tables.values()))[0]
        place = (out or ARTIFACTS) / request.chosen_domain / folder / request.spec.name
        save(place, written, manifest(request, tables, grid, command, time.monotonic() - start))


def save(folder: Path, tables: dict[str, pd.DataFrame], about: dict) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
        (folder / "manifest.json").write_text(json.dumps(about, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"The tables cannot be written to {folder}: {error}. They are in the cache; give --out.") from None


def manifest(request: Run, tables: dict[str, list[Run]], grid: str, command: list[str], seconds: float) -> dict:
    """Everything a reader needs to trust or remake the tables."""
    identity, spec = Identity(request), request.spec
    return {
        "pair": spec.name,
        "domain": request.chosen_domain,
        "base": {"source": spec.base.describe(), "fingerprint": spec.base.fingerprint()},
        "tuned": {"source": spec.tuned.describe(), "fingerprint": spec.tuned.fingerprint()},
        **identity.numerics,
        "prompts": len(request.chosen_prompts),
        "prompts_hash": digest(request.chosen_prompts),
        "templates": [prompt.template for prompt in request.chosen_prompts],
        "seed": request.seed,
        "grid": grid,
        "requests": {name: [asdict(r) for r in requests] for name, requests in tables.items()},
        "versions": {name: version(name) for name in LIBRARIES},
        "command": " ".join(["python -m mechdiff", *command]),
        "seconds": round(seconds, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def read(domain: str, folder: str, pair: str, table: str) -> tuple[pd.DataFrame | None, dict | None]:
    """A stored table and its manifest; None for what is not there. Needs no torch."""
    place = ARTIFACTS / domain / folder / pair
    path, about = place / f"{table}.parquet", place / "manifest.json"
    found = pd.read_parquet(path) if path.exists() else None
    return found, json.loads(about.read_text()) if about.exists() else None
