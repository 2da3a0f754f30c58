"""A user's own pairs: checked, written as a pair file into one folder, and from then on available by name.

The app may be served to others, so a path must lie in one folder (MECHDIFF_MODELS), and code that comes with a model is never
trusted here.
"""

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

from mechdiff.common.errors import UserError, one_of
from mechdiff.common.paths import OWN_MODELS, OWN_PAIRS
from mechdiff.common.terms import SIDES
from mechdiff.inputs import weight_files
from mechdiff.inputs.pair_file import Pair, Source, added_pairs, parse_pair, shipped_pairs, snapshot
from mechdiff.inputs.prompts import domains
from mechdiff.models.load import adapter_config, check_architecture

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
REVISION = re.compile(r"[\w./-]{1,80}", re.ASCII)
MOST = 200  # pairs that may be added


@dataclass(frozen=True)
class Given:
    """One side as the user typed it: a hub id or a path in the allowed folder, its revision, and the same for an adapter.

    model: empty for a tuned side that is only an adapter on the base.
    """

    model: str = ""
    revision: str = ""
    adapter: str = ""
    adapter_revision: str = ""


def inside(text: str) -> Path:
    """A path in the allowed folder, with every link resolved. Raises UserError for a path outside it."""
    root = OWN_MODELS.resolve()
    path = (root / text).resolve()
    if not path.is_relative_to(root):
        raise UserError(
            f"{text} is not in {OWN_MODELS}, the only folder whose models may be opened.\n"
            "Try:  put the model there, or start the app with MECHDIFF_MODELS=/the/folder"
        )
    return path


def located(text: str, revision: str, file: str) -> tuple[str, str]:
    """A typed model or adapter as a pair file's entry: its key (folder, gguf or hub) and its value.

    Raises UserError, with what to type, if it is neither a path nor a downloaded hub id.
    """
    path = inside(text)
    if path.exists():
        return ("gguf" if path.suffix == ".gguf" else "folder"), str(path)
    if not HUB.fullmatch(text):
        raise UserError(
            f"{text} is neither in {OWN_MODELS} nor a hub id such as org/model.\nTry:  ls {OWN_MODELS}  or a model's hub id"
        )
    snapshot(text, revision or None, file)
    return "hub", text


def table_of(given: Given, side: str) -> dict[str, str]:
    """One side as a pair file's table. Raises UserError for a model that is not on this machine, or may not be opened."""
    for revision in filter(None, (given.revision, given.adapter_revision)):
        if not REVISION.fullmatch(revision):
            raise UserError(f"Revision {revision!r:.80} is not a commit, branch or tag.\nTry:  main")
    values = {}
    if given.model:
        kind, value = located(given.model, given.revision, "config.json")
        values = {kind: value} | ({"revision": given.revision} if given.revision and kind == "hub" else {})
    if given.adapter:
        kind, values["adapter"] = located(given.adapter, given.adapter_revision, "adapter_config.json")
        if given.adapter_revision and kind == "hub":
            values["adapter_revision"] = given.adapter_revision
    if not values:
        needed = "a model, or an adapter on the base" if side == "tuned" else "a model"
        raise UserError(f"The {side} side is empty: it needs {needed}.\nTry:  a hub id, or a folder in {OWN_MODELS}")
    return values


def describe(name: str, domain: str, base: Given, tuned: Given) -> dict:
    """The new pair file as a table. Raises UserError for an invalid name, domain or side."""
    if not NAME.fullmatch(name):
        raise UserError(f"The name {name!r:.60} must be 1 to 40 letters, digits, dots or dashes.\nTry:  my-pair")
    if name in (*shipped_pairs(), *added_pairs()):
        raise UserError(f"The pair {name} already exists.\nTry:  {name}-2")
    if domain not in domains():
        raise one_of("Domain", domain, domains())
    return {"domain": domain, "base": table_of(base, "base"), "tuned": table_of(tuned, "tuned")}


def check(pair: Pair) -> list[str]:
    """Raises UserError for a pair that cannot be studied at all. Returns notes on the questions that it does not support."""
    for side in SIDES:
        check_side(getattr(pair, side), pair)
    try:
        pair.check_same_shape()
    except UserError as error:
        return [str(error)]
    return []


def check_side(source: Source, pair: Pair) -> None:
    if source.convertible:
        return  # it must be converted first, which the app offers
    folder = source.local()
    check_architecture(folder, pair)
    weight_files.tensors(folder)
    if not weight_files.has_tokenizer(source.tokenizer_folder()):
        raise UserError(f"{folder} has no tokenizer.\nTry:  copy the tokenizer's files from the model it was tuned from")
    if (adapter := source.adapter_folder()) is not None:
        adapter_config(adapter)
        weight_files.adapter_tensors(adapter)


def add(name: str, domain: str, base: Given, tuned: Given) -> tuple[Pair, list[str]]:
    """Check a pair and write its file, so that it is available by name. Returns the pair and notes for the user.

    Raises UserError, and writes nothing, for a pair that cannot be studied.
    """
    table = describe(name, domain, base, tuned)
    path = OWN_PAIRS / f"{name}.toml"
    pair = parse_pair(table, path)
    notes = [] if any(getattr(pair, side).convertible for side in SIDES) else check(pair)
    text = as_toml(table)
    assert tomllib.loads(text) == table, "the file must say what was checked"
    try:
        OWN_PAIRS.mkdir(parents=True, exist_ok=True)
        if len(added_pairs()) >= MOST:
            raise UserError(f"There are already {MOST} added pairs, the most that are allowed.\nTry:  rm {OWN_PAIRS}/NAME.toml")
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"The pair {name} already exists.\nTry:  {name}-2") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.\nTry:  ls -ld {OWN_PAIRS}") from None
    return pair, notes


def as_toml(table: dict) -> str:
    lines = [f"domain = {quoted(table['domain'])}"]
    for side in SIDES:
        lines += [f"[{side}]", *(f"{key} = {quoted(value)}" for key, value in table[side].items())]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A TOML string. Raises UserError for characters that no path should have."""
    if not text.isprintable():
        raise UserError(f"{text!r:.80} contains characters that cannot be printed.\nTry:  another name for the folder")
    return json.dumps(text, ensure_ascii=False)
