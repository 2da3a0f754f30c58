"""Pairs of one's own, added on this machine: checked, written as a pair file into the cache, and then found by name.

The app may be served to others, so what it is given as a path has to lie in one folder (MECHDIFF_MODELS), and code that comes
with a model is never trusted here.
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
    """One side as it was typed: a hub id or a path in the allowed folder, its revision, and the same of an adapter on it.

    model: empty for a tuned side that is only an adapter on the base.
    """

    model: str = ""
    revision: str = ""
    adapter: str = ""
    adapter_revision: str = ""


def inside(text: str) -> Path:
    """A path in the allowed folder, with every link followed. Raises UserError for any other."""
    root = OWN_MODELS.resolve()
    path = (root / text).resolve()
    if not path.is_relative_to(root):
        raise UserError(
            f"{text} is not in {OWN_MODELS}, the one folder whose models may be opened from here.\n"
            "Try:  put the model there, or start the app with MECHDIFF_MODELS=/the/folder"
        )
    return path


def found(text: str, revision: str, file: str) -> tuple[str, str]:
    """What was typed, as folder, gguf or hub, and the value. A hub id of something that was downloaded counts before a path.

    Raises UserError, with what to type, if it is neither.
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


def table(given: Given, side: str) -> dict[str, str]:
    """One side as a pair file's table. Raises UserError for what is not here, or may not be opened."""
    for revision in filter(None, (given.revision, given.adapter_revision)):
        if not REVISION.fullmatch(revision):
            raise UserError(f"Revision {revision!r:.80} is no commit, branch or tag.\nTry:  main")
    values = {}
    if given.model:
        kind, value = found(given.model, given.revision, "config.json")
        values = {kind: value} | ({"revision": given.revision} if given.revision and kind == "hub" else {})
    if given.adapter:
        kind, values["adapter"] = found(given.adapter, given.adapter_revision, "adapter_config.json")
        if given.adapter_revision and kind == "hub":
            values["adapter_revision"] = given.adapter_revision
    if not values:
        needed = "a model, or an adapter on the base" if side == "tuned" else "a model"
        raise UserError(f"The {side} side is empty: it needs {needed}.\nTry:  a hub id, or a folder in {OWN_MODELS}")
    return values


def describe(name: str, domain: str, base: Given, tuned: Given) -> dict:
    """The pair file that was asked for, as a table. Raises UserError for a name, domain or side that cannot be."""
    if not NAME.fullmatch(name):
        raise UserError(f"The name {name!r:.60} has to be 1 to 40 letters, digits, dots, dashes.\nTry:  my-pair")
    if name in (*shipped_pairs(), *added_pairs()):
        raise UserError(f"There is a pair {name} already.\nTry:  {name}-2")
    if domain not in domains():
        raise one_of("Domain", domain, domains())
    return {"domain": domain, "base": table(base, "base"), "tuned": table(tuned, "tuned")}


def check(pair: Pair) -> list[str]:
    """Raises UserError for a pair that cannot be studied at all. Returns what else to know: what it cannot be asked."""
    for side in SIDES:
        check_side(getattr(pair, side), pair)
    try:
        pair.check_same_shape()
    except UserError as error:
        return [str(error)]
    return []


def check_side(source: Source, pair: Pair) -> None:
    if source.convertible:
        return  # it has to be converted first, and can be from here
    folder = source.local()
    check_architecture(folder, pair)
    weight_files.tensors(folder)
    if not weight_files.has_tokenizer(source.tokenizer_folder()):
        raise UserError(f"{folder} has no tokenizer.\nTry:  copy the tokenizer's files from the model it was tuned from")
    if source.adapter:
        adapter_config(source.adapter_folder())
        weight_files.adapter_tensors(source.adapter_folder())


def add(name: str, domain: str, base: Given, tuned: Given) -> tuple[Pair, list[str]]:
    """Check a pair and write its file, so that it is found by name here. Returns it, and what else to know.

    Raises UserError, and writes nothing, for a pair that cannot be studied.
    """
    wanted = describe(name, domain, base, tuned)
    path = OWN_PAIRS / f"{name}.toml"
    pair = parse_pair(wanted, path)
    notes = [] if any(getattr(pair, side).convertible for side in SIDES) else check(pair)
    text = as_toml(wanted)
    assert tomllib.loads(text) == wanted, "what is written is what was checked"
    try:
        OWN_PAIRS.mkdir(parents=True, exist_ok=True)
        if len(added_pairs()) >= MOST:
            raise UserError(f"{MOST} pairs have been added already.\nTry:  rm {OWN_PAIRS}/NAME.toml")
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"There is a pair {name} already.\nTry:  {name}-2") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}.\nTry:  MECHDIFF_CACHE=/some/folder") from None
    return pair, notes


def as_toml(wanted: dict) -> str:
    lines = [f"domain = {quoted(wanted['domain'])}"]
    for side in SIDES:
        lines += [f"[{side}]", *(f"{key} = {quoted(value)}" for key, value in wanted[side].items())]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A TOML text. Raises UserError for one with signs that no path should have."""
    if not text.isprintable():
        raise UserError(f"{text!r:.80} holds signs that cannot be printed.\nTry:  another name for the folder")
    return json.dumps(text, ensure_ascii=False)
