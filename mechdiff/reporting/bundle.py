"""A finding in one zip: its link, its requests as plain data, their tables and figures, and a manifest.

A bundle may come from a stranger, so nothing in it is trusted: sizes are bounded, names are checked, its files stay in memory,
and a request is built from fields that exist, of the types they have. Nothing is pickled. A bundle names pairs, and no files of
a machine; one's own prompts are named by their hash, and their texts are in it only where that was asked for.
"""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version

import pandas as pd

from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN, Prompt
from mechdiff.questions import Question
from mechdiff.questions.shared.identity import Identity
from mechdiff.reporting import figures
from mechdiff.study import request_json
from mechdiff.study.compare_sweeps import Comparison
from mechdiff.study.sweeps import LIBRARIES, device_name

FORMAT = 1  # raise it when the meaning of a bundle changes
FINDING = "finding.json"
LINK = re.compile(r"(\./|[a-z]+)(\?[A-Za-z0-9%&=+._~*-]*)?")  # a page of the app and its widgets, nowhere else
NAME = "[a-z0-9-]{1,80}"
FILES = re.compile(rf"finding\.json|tables/{NAME}\.parquet|figures/{NAME}\.(png|svg)|prompts/[0-9a-f]{{16}}\.jsonl")
MOST_FILES, MOST_BYTES, MOST_CELLS, MOST_PIXELS = 200, 128 << 20, 20_000_000, 60_000_000
SPEAKING = {"text", "token", "next"}  # columns that may hold a prompt's words


@dataclass(frozen=True)
class Answer:
    """A request and its whole table. command: the line that gives it, where there is one."""

    request: object
    table: pd.DataFrame = field(compare=False, repr=False)
    command: str = ""


@dataclass(frozen=True)
class Headline:
    """The number that a page shows. asked, of: in words. answer: its request's number among the answers, from 0.

    column, where: the column of that answer's summary, and the values that tell the one line.
    """

    asked: str
    of: str
    value: float
    unit: str
    answer: int
    column: str
    where: dict[str, int | float | str]


@dataclass(frozen=True)
class Entry:
    """One part that can be re-checked. asked: its request as plain data. origin: what its values depend on, by name."""

    name: str
    asked: dict
    command: str
    origin: dict[str, str]


@dataclass(frozen=True)
class Finding:
    """A bundle as it was read. version: of the mechdiff that made it. titles: of the figures.

    tables, figures (PNG), texts (one's own prompts): by name, the last by their hash.
    """

    version: str
    link: str
    made: str
    headline: Headline | None
    entries: tuple[Entry, ...]
    titles: dict[str, str]
    manifest: dict
    tables: dict[str, pd.DataFrame] = field(default_factory=dict, compare=False, repr=False)
    figures: dict[str, bytes] = field(default_factory=dict, compare=False, repr=False)
    texts: dict[str, list[Prompt]] = field(default_factory=dict, compare=False, repr=False)


def write(
    answers: Sequence[Answer], charts: Sequence[dict], link: str, headline: Headline | None = None, texts: bool = False
) -> bytes:
    """A bundle as bytes. charts: Vega-Lite specifications. texts: whether one's own prompts go with it.

    Without them everything that may hold words of one's own prompts is left out: tables of tokens, and charts that name them.
    """
    carried = {name: found for one in answers for name, found in kept_prompts(one.request).items()}
    own = {name for name, found in carried.items() if not prompts.public(found)}
    silent = own and not texts
    chosen = [one for one in answers if not (silent and SPEAKING & set(one.table))]
    if headline is not None:
        headline = replace(headline, value=float(headline.value), answer=chosen.index(answers[headline.answer]))
    files, entries, titles = {}, [], {}
    for one in chosen:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "-", type(one.request).__name__)
        name = f"{len(entries) + 1}-{slug(getattr(one.request, 'question', kind))}"
        entries.append(Entry(name, request_json.plain(portable(one.request)), one.command, origin(one.request)))
        files[f"tables/{name}.parquet"] = one.table.to_parquet(index=False)
    for chart in charts:
        if not (silent and SPEAKING & set(figures.numbers(chart))):
            name = f"{len(titles) + 1}-{slug(figures.title(chart))}"
            titles[name] = figures.title(chart)
            files |= {f"figures/{name}.png": figures.png(chart), f"figures/{name}.svg": figures.svg(chart)}
    for name in carried if texts else carried.keys() - own:
        files[f"prompts/{name}.jsonl"] = prompts.as_lines(carried[name]).encode()
    told = {"format": FORMAT, "mechdiff": version("mechdiff"), "link": link}
    told |= {"made": datetime.now(UTC).isoformat(timespec="seconds")}
    told |= {"headline": headline and asdict(headline), "entries": [asdict(entry) for entry in entries], "titles": titles}
    told |= {"manifest": about(one.request for one in chosen) | vocabularies_of(chosen)}
    return zipped({FINDING: json.dumps(told, indent=2, allow_nan=False).encode()} | files)


def vocabularies_of(answers: Sequence[Answer]) -> dict:
    """Over which strings effects were taken, where two vocabularies differ."""
    named = {text for one in answers if "vocabulary" in one.table for text in one.table["vocabulary"]}
    return {"vocabulary": ", ".join(sorted(named))} if named else {}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def slug(text: str) -> str:
    """A title as a file's name."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "figure"


def run_of(request) -> Question | None:
    """The question that a request is, or is about; a comparison has none."""
    return request if isinstance(request, Question) else getattr(request, "run", None)


def kept_prompts(request) -> dict[str, list[Prompt]]:
    """Prompts of a request that no shipped domain's file names, by the hash that they are kept under here."""
    run = run_of(request)
    found = own_prompts(run).values() if run else ()
    return {prompts.keep_prompts(some).removeprefix(OWN): some for some in found}


def own_prompts(run: Question) -> dict[str, list[Prompt]]:
    """The same by the run's fields that name them, or would have to where a domain was curated on this machine alone."""
    domain, given = run.chosen_domain, {"prompts": ("val", run.prompts), "train": ("train", run.train)}
    own = domain in prompts.own_domains()
    return {
        name: prompts.read_prompts(file) if file else prompts.read_domain(domain, split)
        for name, (split, file) in given.items()
        if file or own
    }


def portable(request):
    """The same request without this machine's files: pairs by their name, prompts by their hash."""
    run = run_of(request)
    if run is None:
        return request
    own = {name: prompts.keep_prompts(found) for name, found in own_prompts(run).items()}
    run = replace(run, pair=run.spec.name, **own)
    return run if isinstance(request, Question) else replace(request, run=run)


def origin(request) -> dict[str, str]:
    """What a request's values depend on here, by name: weights, prompts, number format, device."""
    if isinstance(request, Comparison):
        return stored_origin(request)
    run = run_of(request)
    found = {"prompts": prompts.digest(run.chosen_prompts)} | Identity(run).pair
    if run.uses_train:
        found |= {"train prompts": prompts.digest(run.train_prompts)}
    return {name: str(value) for name, value in found.items()}


def stored_origin(request: Comparison) -> dict[str, str]:
    """The same of what two stored sweeps say of themselves."""
    found = {}
    for side, sweep in zip("ab", request.sweeps):
        told = sweep.manifest("rq1") or {}
        parts = {part: told.get(part, {}).get("fingerprint", "unknown") for part in ("base", "tuned")}
        parts |= {"prompts": told.get("prompts_hash", "unknown"), "sweep": told.get("finished", "unknown")}
        found |= {f"{side}: {name}": value for name, value in parts.items()}
    return found


def about(requests) -> dict:
    """Where the numbers come from, for people: models, prompts, formats, versions."""
    runs = list(dict.fromkeys(run for request in requests if (run := run_of(request)) is not None))
    told = {"versions": {name: version(name) for name in LIBRARIES}}
    if not runs:
        return told
    run = runs[0]
    spec, identity = run.spec, Identity(run)
    sides = {side: getattr(spec, side) for side in ("base", "tuned")}
    told |= {side: {"source": source.describe(), "fingerprint": source.fingerprint()} for side, source in sides.items()}
    told |= {"pair": spec.name, "domain": run.chosen_domain, "prompts": len(run.chosen_prompts), "seed": run.seed}
    return told | identity.numerics | {"device_name": device_name(identity.device)}
