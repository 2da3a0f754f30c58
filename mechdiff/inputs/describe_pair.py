"""Pairs that Python code describes, in place of a file. Needs no torch."""

import json
from dataclasses import fields
from pathlib import Path

from mechdiff.common.errors import UserError
from mechdiff.inputs import pair_file
from mechdiff.inputs.pair_file import OPTIONS, Pair, parse_pair, snapshot

ADAPTER = "adapter_config.json"


def describe(base: str | Path, tuned: str | Path, name: str | None, domain: str, chat_template: str) -> Pair:
    """A pair of two models, each a folder, a GGUF file, or a hub id (`org/model` or `org/model@revision`).

    tuned: may be an adapter on the base. name: default: what the two are called. Raises UserError for one that is neither here
    nor a hub id.
    """
    tables = {"base": source(base), "tuned": source(tuned)}
    name = name or "-and-".join(str(model).rstrip("/").rpartition("/")[2].removesuffix(".gguf") for model in (base, tuned))
    table = {"name": name, "domain": domain, **tables, "options": {"chat_template": chat_template}}
    return parse_pair(table, Path.cwd() / f"{name}.toml")


def source(model: str | Path) -> dict[str, str]:
    """One side as a pair file's table."""
    path = Path(model).expanduser()
    if path.suffix == ".gguf":
        return {"gguf": str(path)}
    if path.is_dir():
        return {"adapter" if (path / ADAPTER).exists() and not (path / "config.json").exists() else "folder": str(path)}
    hub, _, revision = str(model).partition("@")
    at = {"revision": revision} if revision else {}
    try:
        snapshot(hub, revision or None, "config.json")
    except UserError:
        try:
            snapshot(hub, revision or None, ADAPTER)
        except UserError:
            return {"hub": hub} | at  # the first question says what is missing, and what to type
        return {"adapter": hub} | ({"adapter_revision": revision} if revision else {})
    return {"hub": hub} | at


def keep_described(pair: Pair) -> Pair:
    """Let read_pair find a pair by its name in this process. Raises UserError if the name belongs to another pair."""
    known = pair_file.described.setdefault(pair.name, pair)
    if known != pair or pair.name in pair_file.pair_names():
        raise UserError(f"There is another pair named {pair.name}.\nTry:  name='{pair.name}-2'")
    return known


def toml_of(pair: Pair) -> str:
    """The pair as a pair file."""
    lines = [f"name = {json.dumps(pair.name)}", f"domain = {json.dumps(pair.domain)}"]
    for side in ("base", "tuned"):
        given = getattr(pair, side)
        values = {spec.name: getattr(given, spec.name) for spec in fields(given) if getattr(given, spec.name) is not None}
        lines += ["", f"[{side}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items())]
    options = {key: getattr(pair, key) for key in OPTIONS if getattr(pair, key) != Pair.__dataclass_fields__[key].default}
    lines += ["", "[options]", *(f"{key} = {toml_value(value)}" for key, value in options.items())] if options else []
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    if isinstance(value, tuple):  # a device map
        return "{ " + ", ".join(f"{json.dumps(name)} = {json.dumps(place)}" for name, place in value) + " }"
    return json.dumps(value)
