"""Curate a domain of your own from a data set on the hub, or from a JSONL, parquet or CSV file.

    python -m mechdiff.scripts.curate --name mydomain --file my.parquet --text-field question
    python -m mechdiff.scripts.curate --name mydomain --dataset org/name --split test --text "{question}\\n{A}\\n{B}" \\
        --template-field source --where "category=tradition*,etiquette" --train 350 --val 150

Writes train.jsonl and val.jsonl, the positions that maps can be fitted on, and about.json, which says how they were made, into a
folder that `--domain mydomain` finds: cache/domains, or MECHDIFF_DATA. No prompt of val has a template or a near-duplicate in
train. The same seed gives the same files, whatever the order of the rows.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from mechdiff.cli import curate_positions
from mechdiff.common.errors import UserError
from mechdiff.common.paths import DOMAINS
from mechdiff.inputs import prompts
from mechdiff.inputs.curation import Read, Row, Spec, divided, grouped, read
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.tokenizers import load_tokenizers

KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
FILES = ("train.jsonl", "val.jsonl", "positions.jsonl", "about.json")
PATIENCE = 10.0  # seconds to wait for the hub
FEW = 20  # templates: with fewer, intervals over templates say little
TAKEN = "own"  # what the app calls a pair's own domain


# Where rows come from


def rows_of(spec: Spec) -> Iterator[dict]:
    """The rows of a data set, one after the other. Raises UserError for what is not there or cannot be read."""
    import datasets
    from huggingface_hub.errors import HTTPError
    from pyarrow import ArrowException

    datasets.utils.logging.set_verbosity(datasets.utils.logging.CRITICAL)
    try:
        yield from opened(spec)
    except StopIteration:  # what datasets raises for a file without rows
        return
    except UnicodeDecodeError:
        raise UserError(f"{spec.source} is not UTF-8 text.") from None
    except (OSError, HTTPError) as error:
        raise UserError(unreachable(spec, error)) from None
    except (ValueError, ArrowException) as error:
        raise UserError(f"{spec.source} cannot be read: {first_line(error)}") from None


def opened(spec: Spec):
    from datasets import load_dataset

    if spec.file:
        kind = KINDS.get(Path(spec.file).suffix)
        if kind is None:
            raise UserError(f"{spec.file} is of no kind that can be read. Choose a file that ends in {', '.join(KINDS)}.")
        return load_dataset(kind, data_files=str(spec.file), split="train", streaming=True)
    from huggingface_hub import HfApi

    HfApi().dataset_info(spec.dataset, timeout=PATIENCE)  # without the hub this fails at once; load_dataset tries for long
    return load_dataset(spec.dataset, spec.subset, split=spec.split, streaming=True)


def unreachable(spec: Spec, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    if spec.file:
        return f"There is no file {spec.file} that can be read.\nTry:  ls {Path(spec.file).parent}"
    if isinstance(error, GatedRepoError):
        return f"{spec.dataset} is only for those whom its owners let in.\nTry:  hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return f"The hub has no data set {spec.dataset} that you may see.\nTry:  hf auth login, or --file FILE"
    return (
        f"{spec.dataset} cannot be fetched: the hub is not reachable ({type(error).__name__}).\n"
        "Try:  again with a network; or fetch one of its files elsewhere and give it with --file FILE"
    )


def first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# What comes out


def write(spec: Spec, folder: Path, force: bool, pair: str) -> None:
    """Curate a domain into a folder, and say what it is. Raises UserError, and writes nothing, where that cannot be."""
    there = [name for name in FILES if (folder / name).exists()]
    if there and not force:
        raise UserError(f"{folder} already has a {there[0]}, which would be lost.\nTry:  --force, or another --out or --name")
    found = read(spec, rows_of(spec))
    splits = divided(spec, grouped(found.rows))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in there:
            (folder / name).unlink()
        for split, rows in splits.items():
            lines = [json.dumps(as_line(spec, split, i, row), ensure_ascii=False) for i, row in enumerate(rows)]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        told = asdict(spec) | {"rows": found.total, "fitting": found.fitting, "file": spec.file and Path(spec.file).name}
        (folder / "about.json").write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}.\nTry:  --out DIR") from None
    say(spec, found, splits)
    positions(folder, pair, spec.seed)


def as_line(spec: Spec, split: str, number: int, row: Row) -> dict:
    meta = json.loads(row.meta) | ({"topic": row.topic} if row.topic else {})
    return {"id": f"{spec.name}-{split}-{number:03d}", "text": row.text, "template": row.group, "meta": meta}


def say(spec: Spec, found: Read, splits: dict[str, list[Row]]) -> None:
    print(f"{spec.source}: {found.total} rows, {found.fitting} fit")
    for split, rows in splits.items():
        templates, topics = len({row.group for row in rows}), Counter(row.topic for row in rows if row.topic)
        shares = f"; {', '.join(f'{topic} {count}' for topic, count in topics.most_common())}" if topics else ""
        print(f"{spec.name} {split}: {len(rows)} prompts of {templates} templates{shares}")
        if templates < FEW:
            print(f"Intervals are over templates: with {templates} of them they say little.")


def positions(folder: Path, pair: str, seed: int) -> None:
    """Choose the train prompts' positions with a pair's tokenizer, if it is here. Else they are chosen when they are needed."""
    try:
        curate_positions.write(folder, load_tokenizers(read_pair(pair)), 16, seed)
    except UserError as error:
        print(f"No positions.jsonl, so positions are chosen when they are needed: {first_line(error)}")


# The command line


def main(about: str, spec: Spec, words: list[str] | None = None) -> int:
    """A curation script. about: its help. spec: what it curates, where the flags say nothing else. Returns the exit status."""
    given = vars(parser(about, spec).parse_args(words))
    out, force, pair = (given.pop(name) for name in ("out", "force", "pair"))
    try:
        field, text = given.pop("text_field"), given.pop("text")
        given["text"] = f"{{{field}}}" if field else text.replace("\\n", "\n")
        given |= {name: tuple(filter(None, given[name].split(","))) for name in ("keep",)}
        given |= {name: patterns(name, given[name]) if given[name] is not None else getattr(spec, name) for name in FILTERS}
        wanted = replace(spec, **given)
        check(wanted, out, force)
        write(wanted, Path(out) if out else DOMAINS / wanted.name, force, pair)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if not out:
        print(f"Try:  python -m mechdiff run patch --pair {pair} --domain {wanted.name} --limit 32")
    return 0


FILTERS = ("where", "without")


def parser(about: str, spec: Spec) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--name", default=spec.name, help="what the domain is called")
    found.add_argument("--file", help="a JSONL, parquet or CSV file, in place of a data set of the hub")
    found.add_argument("--dataset", default=spec.dataset, help="a data set's id on the hub")
    found.add_argument("--subset", default=spec.subset, help="which of its configurations")
    found.add_argument("--split", default=spec.split, help="which of its splits (default: %(default)s)")
    found.add_argument("--text-field", help="the field that holds the prompt")
    found.add_argument("--text", default=spec.text, help='or several of them, as "{question}\\n{A}\\n{B}"')
    found.add_argument(
        "--template-field", dest="template", default=spec.template, help="prompts with one value of it are a template"
    )
    found.add_argument("--topic-field", dest="topic", default=spec.topic, help="both splits have its values in the same shares")
    found.add_argument("--keep", default=",".join(spec.keep), help="fields that stay in the rows, as level,source")
    about = "FIELD=VALUE,VALUE; * stands for anything"
    found.add_argument("--where", action="append", help=f"only rows like this: {about}; may be given again")
    found.add_argument("--without", action="append", help=f"no rows like this: {about}")
    found.add_argument("--train", type=int, default=spec.train, help="prompts to fit maps on (default: %(default)s)")
    found.add_argument("--val", type=int, default=spec.val, help="prompts to evaluate on (default: %(default)s)")
    found.add_argument("--seed", type=int, default=spec.seed)
    found.add_argument(
        "--pair", default=curate_positions.PAIR, help="whose base tokenizer chooses the positions (default: %(default)s)"
    )
    found.add_argument("--out", help="a folder, in place of cache/domains/NAME or MECHDIFF_DATA/NAME")
    found.add_argument("--force", action="store_true", help="replace what is there")
    return found


def patterns(name: str, given: list[str]) -> dict[str, tuple[str, ...]]:
    """FIELD=VALUE,VALUE as a filter."""
    found = {}
    for text in given:
        field, equals, values = text.partition("=")
        if not (field and equals and values):
            raise UserError(f"--{name} {text!r} cannot be read.\nTry:  --{name} category=tradition,etiquette")
        found[field] = (*found.get(field, ()), *filter(None, values.split(",")))
    return found


def check(spec: Spec, out: str | None, force: bool) -> None:
    """Raises UserError for a spec that says too little, or would hide a domain that is there."""
    if not re.fullmatch(r"[\w-]+", spec.name) or spec.name == TAKEN:
        raise UserError(f"A domain cannot be called '{spec.name}'. Use letters, digits and hyphens.\nTry:  --name mydomain")
    if not spec.dataset and not spec.file:
        raise UserError("Nothing is named to take prompts from.\nTry:  --dataset org/name  or  --file FILE.jsonl")
    if spec.file and not Path(spec.file).is_file():
        raise UserError(unreachable(spec, FileNotFoundError()))
    if not spec.text:
        raise UserError("It is not said which field is the prompt.\nTry:  --text-field question")
    if min(spec.train, spec.val) < 1:
        raise UserError(f"{spec.train} train and {spec.val} val prompts: each needs one at least.\nTry:  --train 350 --val 150")
    if not out and not force and spec.name in prompts.shipped_domains():
        raise UserError(
            f"There is a shipped domain '{spec.name}', and yours would be read in its place.\n"
            "Try:  another --name, --out DIR, or --force"
        )


if __name__ == "__main__":
    sys.exit(main(__doc__, Spec()))
