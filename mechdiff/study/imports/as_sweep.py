"""The original study's files as stored sweeps of its own pairs, so that every page shows them. Needs no torch.

Means alone: the study has no intervals. What it published without a result file stands beside them, and is listed as such.
"""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from mechdiff.common.errors import UserError
from mechdiff.common.terms import STUDYS_MAP, WHITENED
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import read_pair
from mechdiff.study import artifacts, published
from mechdiff.study.imports.layout import layout
from mechdiff.study.imports.reading import StudyFiles

PROTOCOL = "study"
INTERVALS = {"low": np.nan, "high": np.nan}
RATIOS = ("drop", "coverage")
MODULE = "mlp_out"  # whose mapped state stood in the residual stream: another intervention, so not a curve of ours
SITE = ["direction", "layer", "stream", "map", "rank", "complement", "alpha", "control"]
ABOUT = (
    "The original study's own result files: means over its prompts, without intervals, since the files hold no values by prompt. "
    "Its definitions are the protocol `study`."
)


def store(contents: StudyFiles, out: Path | None = None) -> list[Path]:
    """Write the files of a study as stored sweeps, one for each domain that it names. Returns their folders."""
    folders = []
    for of, place in layout()["sweeps"].items():
        tables = {name: table for (domain, name), table in contents.tables.items() if domain == of}
        if not tables:
            continue
        values = published.of_pair(place["pair"], place["domain"])
        for folder, (files, notes) in sweep_tables(tables, values).items():
            target = (out or artifacts.ARTIFACTS) / place["domain"] / folder / artifacts.stored_name(place["pair"], PROTOCOL)
            artifacts.save(target, files, manifest(contents, of, place, notes))
            folders.append(target)
    if not folders:
        raise UserError(f"Nothing in {contents.source} is of the study's domains: {', '.join(layout()['sweeps'])}.")
    return folders


def sweep_tables(tables: dict, values: pd.DataFrame) -> dict[str, tuple[dict[str, pd.DataFrame], list[str]]]:
    """The tables of each folder, and notes on what is not from a result file, or not what it says."""
    rest = values[~values["stored"].astype(bool)]
    invalid = [f"{published.described(line)}: {line['reason']}." for line in values[~values["valid"]].to_dict("records")]
    mapped = effects(tables, rest)
    several = (mapped["rank"] + mapped["alpha"]).groupby([mapped["layer"], mapped["stream"]]).transform("nunique") > 1
    cut = mapped["rank"].ne("full") | (several & mapped["control"].eq("none"))
    folders = {
        "rq1": {name: read(tables[name]) for name, read in {"drift": drift, "patch_summary": patches}.items() if name in tables},
        "rq2": {"transport_summary": with_zscore(mapped[mapped["rank"] == "full"])},
        "rq3": {"rank_summary": cuts(mapped[cut])},
        "rq4": dict.fromkeys(("heads_summary", "coverage_summary"), heads(tables.get("heads_summary"), rest)),
    }
    notes = {
        "rq1": [],
        "rq2": unfiled(rest, "drop", "rank", "full"),
        "rq3": unfiled(rest[rest["rank"] != "full"], "drop"),
        "rq4": unfiled(rest, "coverage"),
    }
    for folder, word in {"rq2": "rank full", "rq3": "rank 1", "rq4": "Coverage"}.items():
        notes[folder] += [text for text in invalid if word in text]
    return {
        folder: ({name: table for name, table in files.items() if len(table)}, list(dict.fromkeys(notes[folder])))
        for folder, files in folders.items()
        if any(map(len, files.values()))
    }


def unfiled(values: pd.DataFrame, quantity: str, column: str = "", value: str = "") -> list[str]:
    """A note that numbers of a quantity are as published, without a result file; nothing if there are none."""
    lines = values[values["quantity"] == quantity]
    lines = lines[lines["valid"] & (lines[column] == value)] if column else lines[lines["valid"]]
    where = ", ".join(dict.fromkeys(f"L{line.layer:.0f} {line.stream}" for line in lines.itertuples()))
    return [f"As published, without a result file: {quantity} at {where}."] if len(lines) else []


def drift(table: pd.DataFrame) -> pd.DataFrame:
    lines = table.drop_duplicates(["layer", "stream"])[["layer", "stream", "cka"]].sort_values("layer")
    empty = dict.fromkeys(("cka_debiased", "low", "high", "low_plain", "high_plain", "n"), np.nan)
    return lines.assign(**empty).astype({"layer": int})


def patches(table: pd.DataFrame) -> pd.DataFrame:
    lines = table.sort_values("prompts").drop_duplicates(["direction", "layer", "stream"])  # without a count last
    lines = lines[["direction", "layer", "stream", "map", "control", "mean", "prompts"]].sort_values(["direction", "layer"])
    return finished(lines.assign(heads="", blend=1.0))


def effects(tables: dict, rest: pd.DataFrame) -> pd.DataFrame:
    """Every mapped effect, of files and as published, with the z-score effect of its site as reference."""
    parts = [tables[name] for name in ("transport_summary", "rank_summary") if name in tables]
    lines = pd.concat(parts, ignore_index=True)
    whole = (lines["map"] == "procrustes_scaled") | (lines["map"] == "")
    lines = lines[whole & lines["stream"].isin(["resid_post", "attn_out"]) & ~lines["note"].str.contains("residual stream")]
    lines = lines.assign(alpha=lines["alpha"].map(named_alpha), map=STUDYS_MAP)
    extra = rest[(rest["quantity"] == "drop") & (rest["stream"] != MODULE)]
    extra = extra.assign(rank=extra["rank"].where(extra["valid"], "full"), mean=extra["kl"], reference=extra["kl_zscore"])
    extra = extra.assign(drop=extra["value"], prompts=extra["n"], control=extra["control"].replace("", "none"))
    names = [*SITE, "mean", "reference", "drop", "prompts"]
    lines = pd.concat([part.reindex(columns=names) for part in (lines, extra) if len(part)], ignore_index=True)
    lines = lines.assign(complement=np.where(lines["rank"] == "full", "", WHITENED))
    lines = lines.sort_values("prompts").drop_duplicates(SITE).astype({"layer": int})
    return lines.sort_values(["layer", "stream", "rank", "alpha"])


def named_alpha(alpha: object) -> str:
    """Alpha as our tables have it: a fitted one is `auto`, and the older files, which name none, had 1.0."""
    text = str(alpha) or "1.0"
    return text if text in ("0.3", "0.5", "0.7", "0.8", "1.0", "1.2") else "auto"


def with_zscore(lines: pd.DataFrame) -> pd.DataFrame:
    """The uncut map's effects, and the z-score effect of every site."""
    reference = lines.dropna(subset="reference").drop_duplicates(["direction", "layer", "stream"])
    scored = reference.assign(map="zscore", mean=reference["reference"], drop=0.0, alpha="1.0", control="none")
    return finished(pd.concat([scored, lines], ignore_index=True).sort_values(["layer", "stream"], kind="stable"))


def cuts(lines: pd.DataFrame) -> pd.DataFrame:
    return finished(lines.assign(complement=WHITENED))


def heads(table: pd.DataFrame | None, rest: pd.DataFrame) -> pd.DataFrame:
    """Head sets with their coverage: those of files that name their layer, and as published."""
    lines = pd.DataFrame() if table is None else table.dropna(subset="layer")
    extra = rest[(rest["quantity"] == "coverage") & (rest["heads"] != "")]
    extra = extra.assign(coverage=np.where(extra["valid"], extra["value"], 100 - extra["value"]) / 100, prompts=extra["n"])
    whole = lines["reference"].dropna().iloc[0] if len(lines) else np.nan
    extra = extra.assign(mean=extra["coverage"] * whole, stream="heads", control="none")
    site = extra if len(extra) else lines
    every = site.iloc[:1].assign(heads="all", chosen="all", mean=whole, coverage=1.0)
    names = ["direction", "layer", "stream", "heads", "chosen", "control", "mean", "coverage", "prompts"]
    parts = [part.reindex(columns=names) for part in (every, extra, lines) if len(part)]
    if not parts:
        return pd.DataFrame()
    lines = pd.concat(parts, ignore_index=True).drop_duplicates(["direction", "layer", "heads"]).astype({"layer": int})
    best = lines[~lines["heads"].isin(["all"]) & ~lines["heads"].str.contains("-")].nlargest(1, "coverage").index
    lines.loc[best, "chosen"] = lines.loc[best, "chosen"].replace("", "topk")
    chosen = lines["chosen"].fillna("").replace("", "given")
    return finished(lines.assign(chosen=chosen, map="none", blend=1.0))


def finished(lines: pd.DataFrame) -> pd.DataFrame:
    """Lines with the columns that our summaries have: no interval is known, and every prompt is a template of its own."""
    ratios = ["recovery", *(name for name in RATIOS if name in lines)]
    more = {name: np.nan for name in ratios if name not in lines}
    more |= {f"{name}_{end}": np.nan for name in ratios for end in INTERVALS}
    lines = lines.drop(columns="reference", errors="ignore").assign(**INTERVALS, **more, templates=lines["prompts"])
    return lines.reset_index(drop=True)


def manifest(contents: StudyFiles, of: str, place: dict, notes: list[str]) -> dict:
    """Where the numbers come from, and what a reader has to know about them."""
    pair = read_pair(place["pair"])
    files = [{"path": file.path, "sha256": file.sha256} for file in contents.read if file.domain == of]
    return {
        "kind": "import",
        "pair": pair.name,
        "domain": place["domain"],
        "base": {"source": pair.base.describe()},
        "tuned": {"source": pair.tuned.describe()},
        "protocol": PROTOCOL,
        "definitions": protocols.about(PROTOCOL),
        "about": ABOUT,
        "source": published.facts()["source"],
        "notes": notes,
        "files": files,
        "dtype": "unknown",
        "command": "python -m mechdiff import path/to/artifacts --as-sweep",
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
