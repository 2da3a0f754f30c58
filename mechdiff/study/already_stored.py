"""Whether a sweep is stored already: the same requests, of the same models, on the same prompts."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.study import artifacts, sweep_plan, sweeps

SAME = ("dtype", "kernel", "template", "quantization", "seed", "prompts_hash", "train_hash")  # of a manifest
FREE = {"pair", "domain", "device", "dtype", "offload", "protocol"}  # of a request: the manifest has what they stood for
FREE |= {"controls"}  # older sweeps have fewer, and the same curves
UNUSED = {("transport", "ranks")}  # older requests had every field, whether or not their question read it


def stored_at(pair: str, domain: str, grid: str, out: Path | None, **settings) -> str | None:
    """When exactly this sweep was stored; None if it is not, or not all of it. Needs the models' files.

    out: the folder that it would be stored in, if not the usual one. settings: as of `sweeps.sweep`.
    """
    tables = sweep_plan.plan(pair, domain, sweep_plan.GRIDS[grid], **settings)
    name, finished = sweeps.first_question(tables).spec.name, []
    for folder in dict.fromkeys(table.folder for table in tables):
        here = [table for table in tables if table.folder == folder]
        stored = artifacts.stored_name(name, sweeps.first_question(tables).chosen_protocol)
        manifest = artifacts.manifest_of(artifacts.folder_of(domain, folder, stored, (out,) if out else ()))
        if manifest is None or not is_of(manifest, here):
            return None
        finished.append(manifest.get("finished", ""))
    return max(finished)


def is_of(manifest: dict[str, Any], tables: list[sweep_plan.Table]) -> bool:
    """Whether a manifest is what these tables would have now."""
    wanted = sweeps.manifest(tables, "", [], 0.0)
    models = all(manifest.get(side, {}).get("fingerprint") == wanted[side]["fingerprint"] for side in ("base", "tuned"))
    if not models or any(manifest.get(name) != wanted.get(name) for name in SAME):
        return False
    stored = manifest.get("requests", {})
    return all(
        len(stored.get(table.name, ())) == len(table.runs) and all(map(is_request, stored[table.name], table.runs))
        for table in tables
    )


def is_request(stored: dict[str, Any], wanted: sweep_plan.Request) -> bool:
    """Whether a manifest's request is this one. A field that it lacks, since it is older than the field, had its default."""
    if isinstance(wanted, Diagnostics):
        return is_request(stored.get("run", {}), wanted.run)
    values, absent = json.loads(json.dumps([asdict(wanted), wanted.defaults], default=str))
    return stored.get("question") == wanted.question and all(
        stored.get(name, absent[name]) == value
        for name, value in values.items()
        if name not in FREE and (wanted.question, name) not in UNUSED
    )
