"""A curated domain's files: the recipes that they are made from, the splits, the positions that maps can be fitted on.

A domain's folder holds train.jsonl, val.jsonl, about.json (how they were made) and positions.jsonl, one line per train prompt:

    {"id": "...", "characters": [3, 17, 40]}

A position is a character of the prompt's own text; it stands for the token that covers it, in any tokenizer. Positions are drawn
from the tokens that a pair's base model sees of the text: no special tokens, none of the template, none of the sequence's last
four. The decision token is not among them; it is always studied as well.
"""

import dataclasses
import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import DATA, check_not_installed
from mechdiff.inputs import prompts
from mechdiff.inputs.curation import FILTERS, Candidates, Row, Spec, TokenCount, candidates
from mechdiff.inputs.data_sets import first_line, stream_rows, unreachable
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.splits import train_and_val
from mechdiff.inputs.tokenizers import Tokenizers, load_tokenizers, special_ids

RECIPES = DATA / "recipes"
FILES = ("train.jsonl", "val.jsonl", "positions.jsonl", "about.json")
FEW_TEMPLATES = 20  # with fewer, intervals over templates say little
RESERVED = "own"  # what the app calls a pair's own domain
DEFAULT_PAIR = "demo-cognitive"  # its base tokenizer draws the positions; the demo pairs share it
POSITIONS = 16  # per prompt, at most


# Recipes


def recipes() -> list[str]:
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name: str) -> Spec:
    """A ready-made Spec, named after its file."""
    if name not in recipes():
        raise one_of("Recipe", name, recipes())
    values: dict[str, Any] = tomllib.loads((RECIPES / f"{name}.toml").read_text(encoding="utf-8"))
    for key in FILTERS:
        values[key] = {field: tuple(patterns) for field, patterns in values.get(key, {}).items()}
    for key in ("choices", "keep"):
        values[key] = tuple(values.get(key, ()))
    return Spec(name=name, **values)


# A domain


def own_folder(name: str) -> Path:
    """Where a domain of one's own goes, so that `--domain NAME` finds it."""
    return prompts.DOMAINS / name


def check(spec: Spec, out: Path | None, force: bool) -> None:
    """Raises UserError for a spec that is incomplete or would hide a shipped domain."""
    if not re.fullmatch(r"[\w-]+", spec.name) or spec.name == RESERVED:
        raise UserError(f"A domain cannot be called '{spec.name}'. Use letters, digits and hyphens.\nTry:  --name mydomain")
    if not spec.dataset and not spec.file:
        raise UserError("There is no source of prompts.\nTry:  --dataset org/name  or  --file FILE.jsonl")
    if spec.file and not Path(spec.file).is_file():
        raise UserError(unreachable(spec, FileNotFoundError()))
    if not spec.text:
        raise UserError("The field that holds the prompt is missing.\nTry:  --text-field question")
    if spec.choices and not spec.answer:
        raise UserError("The --choices are given, but not which of them is right.\nTry:  --answer-field answer")
    if min(spec.train, spec.val) < 1:
        raise UserError(
            f"{spec.train} train and {spec.val} val prompts: each split needs at least one.\nTry:  --train 350 --val 150"
        )
    if not out and not force and spec.name in prompts.shipped_domains():
        raise UserError(
            f"There is a shipped domain '{spec.name}', which yours would replace.\nTry:  another --name, --out DIR, or --force"
        )


def write_domain(spec: Spec, folder: Path, force: bool, pair: str = DEFAULT_PAIR, audit: bool = False) -> list[str]:
    """Curate a domain into a folder. pair: whose base tokenizer counts for min_tokens. audit: whether the summary has it.

    Returns a summary, a line each. Raises UserError before anything is written.
    """
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not force:
        raise UserError(
            f"{folder} already has a {existing[0]}, which would be overwritten.\nTry:  --force, or another --out or --name"
        )
    read = candidates(spec, stream_rows(spec), token_counter(pair) if spec.min_tokens else None)
    splits = train_and_val(spec, read)
    counts = {"rows": read.audit.rows, "fitting": read.matching, "audit": read.audit.as_json()}
    source = {"file": spec.file and Path(spec.file).name} | ({"tokenizer": read_pair(pair).name} if spec.min_tokens else {})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in existing:
            (folder / name).unlink()
        for split, rows in splits.items():
            lines = [json.dumps(as_line(spec, split, i, row), ensure_ascii=False) for i, row in enumerate(rows)]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        about = json.dumps(dataclasses.asdict(spec) | source | counts, indent=2, ensure_ascii=False)
        (folder / "about.json").write_text(about + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.\nTry:  --out DIR") from None
    return [*summary(spec, read, splits), *(read.audit.as_lines() if audit else [])]


def token_counter(pair: str) -> TokenCount:
    """Counts the tokens of a text, special ones apart, with a pair's base tokenizer. Raises UserError if that is not here."""
    try:
        tokenizer = load_tokenizers(read_pair(pair)).base
    except UserError as error:
        raise UserError(
            f"--min-tokens needs the base tokenizer of {pair}: {first_line(error)}\n"
            "Try:  --pair with a pair that is on this machine (python -m mechdiff pairs), or no --min-tokens"
        ) from None
    special = special_ids(tokenizer)
    return lambda text: sum(token not in special for token in tokenizer(text, add_special_tokens=False).input_ids)


def as_line(spec: Spec, split: str, number: int, row: Row) -> dict[str, Any]:
    line = {"id": f"{spec.name}-{split}-{number:03d}", "text": row.text, "template": row.group}
    label = {"answer": row.answer, "choices": list(row.choices)}
    meta = json.loads(row.meta) | ({"topic": row.topic} if row.topic else {})
    return line | {name: value for name, value in label.items() if value} | {"meta": meta}


def summary(spec: Spec, read: Candidates, splits: dict[str, list[Row]]) -> list[str]:
    lines = [f"{spec.source}: {read.audit.rows} rows, {read.matching} match", *read.audit.bad_labels]
    for split, rows in splits.items():
        templates, topics = len({row.group for row in rows}), Counter(row.topic for row in rows if row.topic)
        shares = f"; {', '.join(f'{topic} {count}' for topic, count in topics.most_common())}" if topics else ""
        lines.append(f"{spec.name} {split}: {len(rows)} prompts from {templates} templates{shares}")
        if templates < FEW_TEMPLATES:
            lines.append(f"Intervals are over templates: with only {templates} of them they say little.")
    return lines


# Positions


def choose_positions(rows: list[dict[str, Any]], tokenizers: Tokenizers, count: int, seed: int) -> list[dict[str, Any]]:
    """A line per train prompt: its id and its chosen characters; all of them if there are fewer than count."""
    return [{"id": row["id"], "characters": tokenizers.choose(row["text"], count, seed)} for row in rows]


def write_positions(folder: Path, tokenizers: Tokenizers, count: int, seed: int) -> str:
    """Choose the positions of a domain's train prompts. Returns a summary. The same seed gives the same file."""
    check_not_installed(folder)
    rows = choose_positions(prompts.read_rows(folder / "train.jsonl"), tokenizers, count, seed)
    (folder / "positions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return f"{folder.name}: {sum(len(row['characters']) for row in rows)} positions in {len(rows)} prompts"


def try_positions(folder: Path, pair: str, seed: int) -> str:
    """Choose positions with a pair's tokenizer if it is on this machine; otherwise they are chosen when a question needs them."""
    try:
        return write_positions(folder, load_tokenizers(read_pair(pair)), POSITIONS, seed)
    except UserError as error:
        return f"No positions.jsonl, so positions are chosen when they are needed: {first_line(error)}"
