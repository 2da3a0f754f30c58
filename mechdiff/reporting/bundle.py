"""A finding in one zip: its link, its requests as plain data, their tables and figures, and a manifest.

A bundle may come from a stranger, so nothing in it is trusted: sizes are bounded, names are checked, its files stay in memory,
and a request is built from fields that exist, of the types they have. Nothing is pickled. A bundle names pairs, but no files on
this computer; the user's own prompts are named by their hash, and their texts are included only on request.
"""

import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime

import pandas as pd

from mechdiff.common.versions import version_of, versions
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import OWN, Prompt
from mechdiff.questions import Question
from mechdiff.questions.shared.identity import Identity
from mechdiff.reporting import figures
from mechdiff.study import request_json
from mechdiff.study.compare_sweeps import Comparison
from mechdiff.study.provenance import device_name

FORMAT = 1  # raise it when the meaning of a bundle changes
FINDING = "finding.json"
LINK = re.compile(r"(\./|[a-z][a-z0-9_-]*)(\?[A-Za-z0-9%&=+._~*-]*)?")  # a page of the app and its widgets, nowhere else
NAME = "[a-z0-9-]{1,80}"
FILES = re.compile(rf"finding\.json|tables/{NAME}\.parquet|figures/{NAME}\.(png|svg)|prompts/[0-9a-f]{{16}}\.jsonl")
MOST_FILES, MOST_BYTES, MOST_CELLS, MOST_PIXELS = 200, 128 << 20, 20_000_000, 60_000_000
SPEAKING = {"text", "token", "next"}  # columns that may hold a prompt's words


@dataclass(frozen=True)
class Answer:
    """A request and its whole table. command: the command line that gives it, if there is one."""

    request: object
    table: pd.DataFrame = field(compare=False, repr=False)
    command: str = ""


@dataclass(frozen=True)
class Headline:
    """The number that a page shows. asked: what it measures; of: on what. answer: index of its request among the answers.

    column, where: the column of that answer's summary, and the values that identify its line.
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
    """One part that can be checked again. asked: its request as plain data. origin: what its values depend on, by name."""

    name: str
    asked: dict
    command: str
    origin: dict[str, str]


@dataclass(frozen=True)
class Finding:
    """A bundle that was read. version: of the mechdiff that wrote it. titles: of the figures.

    tables, figures (PNG), texts (the user's own prompts): by name; texts by their hash.
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
    """A bundle as bytes. charts: Vega-Lite specifications. texts: whether to include the user's own prompts.

    Without them everything that may contain words of these prompts is left out: tables of tokens, and charts that show them.
    """
    carried = {name: members for answer in answers for name, members in prompts_by_hash(answer.request).items()}
    own = {name for name, members in carried.items() if not prompts.public(members)}
    silent = own and not texts
    chosen = [answer for answer in answers if not (silent and SPEAKING & set(answer.table))]
    if headline is not None:
        headline = replace(headline, value=float(headline.value), answer=chosen.index(answers[headline.answer]))
    files, entries, titles = {}, [], {}
    for answer in chosen:
        kind = re.sub("(?<=[a-z])(?=[A-Z])", "-", type(answer.request).__name__)
        name = f"{len(entries) + 1}-{slug(getattr(answer.request, 'question', kind))}"
        entries.append(Entry(name, request_json.plain(portable(answer.request)), answer.command, origin(answer.request)))
        files[f"tables/{name}.parquet"] = answer.table.to_parquet(index=False)
    for chart in charts:
        if not (silent and SPEAKING & set(figures.numbers(chart))):
            name = f"{len(titles) + 1}-{slug(figures.title(chart))}"
            titles[name] = figures.title(chart)
            files |= {f"figures/{name}.png": figures.png(chart), f"figures/{name}.svg": figures.svg(chart)}
    for name in carried if texts else carried.keys() - own:
        files[f"prompts/{name}.jsonl"] = prompts.as_lines(carried[name]).encode()
    content = {"format": FORMAT, "mechdiff": version_of("mechdiff"), "link": link}
    content |= {"made": datetime.now(UTC).isoformat(timespec="seconds")}
    content |= {"headline": headline and asdict(headline), "entries": [asdict(entry) for entry in entries], "titles": titles}
    content |= {"manifest": about(answer.request for answer in chosen) | vocabularies_of(chosen)}
    return zipped({FINDING: json.dumps(content, indent=2, allow_nan=False).encode()} | files)


def vocabularies_of(answers: Sequence[Answer]) -> dict:
    """Over which strings effects were computed, where two vocabularies differ."""
    names = {name for answer in answers if "vocabulary" in answer.table for name in answer.table["vocabulary"]}
    return {"vocabulary": ", ".join(sorted(names))} if names else {}


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
    """The question that a request is, or is about; None for a comparison."""
    return request if isinstance(request, Question) else getattr(request, "run", None)


def prompts_by_hash(request) -> dict[str, list[Prompt]]:
    """A request's prompts that are not in a shipped domain, by the hash under which they are stored here."""
    run = run_of(request)
    splits = own_prompts(run).values() if run else ()
    return {prompts.keep_prompts(members).removeprefix(OWN): members for members in splits}


def own_prompts(run: Question) -> dict[str, list[Prompt]]:
    """The same, by the run's field that names them, or would have to where a domain exists on this computer only."""
    domain, files = run.chosen_domain, {"prompts": ("val", run.prompts), "train": ("train", run.train)}
    own = domain in prompts.own_domains()
    return {
        name: prompts.read_prompts(file) if file else prompts.read_domain(domain, split)
        for name, (split, file) in files.items()
        if file or own
    }


def portable(request):
    """The same request without names of files: pairs by their name, prompts by their hash."""
    run = run_of(request)
    if run is None:
        return request
    own = {name: prompts.keep_prompts(members) for name, members in own_prompts(run).items()}
    run = replace(run, pair=run.spec.name, **own)
    return run if isinstance(request, Question) else replace(request, run=run)


def origin(request) -> dict[str, str]:
    """What a request's values depend on here, by name: weights, prompts, number format, device."""
    if isinstance(request, Comparison):
        return stored_origin(request)
    run = run_of(request)
    assert run is not None, "every request but a comparison is about a question"
    parts = {"prompts": prompts.digest(run.chosen_prompts)} | Identity(run).pair
    if run.uses_train:
        parts |= {"train prompts": prompts.digest(run.train_prompts)}
    return {name: str(value) for name, value in parts.items()}


def stored_origin(request: Comparison) -> dict[str, str]:
    """The same for two stored sweeps, from their manifests."""
    origins = {}
    for side, sweep in zip("ab", request.sweeps):
        manifest = sweep.manifest("rq1") or {}
        parts = {part: manifest.get(part, {}).get("fingerprint", "unknown") for part in ("base", "tuned")}
        parts |= {"prompts": manifest.get("prompts_hash", "unknown"), "sweep": manifest.get("finished", "unknown")}
        origins |= {f"{side}: {name}": value for name, value in parts.items()}
    return origins


def about(requests) -> dict:
    """Where the numbers come from, for people: models, prompts, formats, versions."""
    runs = list(dict.fromkeys(run for request in requests if (run := run_of(request)) is not None))
    manifest = {"versions": versions()}
    if not runs:
        return manifest
    run = runs[0]
    spec, identity = run.spec, Identity(run)
    sides = {side: getattr(spec, side) for side in ("base", "tuned")}
    manifest |= {side: {"source": source.describe(), "fingerprint": source.fingerprint()} for side, source in sides.items()}
    manifest |= {"pair": spec.name, "domain": run.chosen_domain, "prompts": len(run.chosen_prompts), "seed": run.seed}
    return manifest | identity.numerics | {"device_name": device_name(identity.device)}
