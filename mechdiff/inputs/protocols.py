"""Protocols: named settings of the questions, such as those of the original study. They are data, in data/protocols."""

import tomllib
from functools import lru_cache
from typing import Any

from mechdiff.common.errors import one_of
from mechdiff.common.paths import DATA

FOLDER = DATA / "protocols"
DEFAULT, STUDY = "mechdiff", "study"
LAYERS = "layers"  # the table of layers, which are scaled to a pair's depth


def names() -> tuple[str, ...]:
    """Every protocol; first the default."""
    return (DEFAULT, *sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != DEFAULT))


NAMES = names()


@lru_cache
def read(name: str) -> dict[str, Any]:
    """A protocol's tables. Raises UserError for a name that does not exist."""
    if name not in NAMES:
        raise one_of("Protocol", name, NAMES)
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def about(name: str) -> str:
    """A protocol in a sentence's part."""
    return read(name)["about"]


def settings(name: str, question: str, domain: str, depth: int | None) -> dict[str, Any]:
    """What a protocol sets of a question, field by field, whether or not the question has that field.

    domain: whose own settings come last. depth: the layers of the pair's models; None where they are not known, as for a pair
    that was never downloaded: then the layers are left open.
    """
    protocol = read(name)
    values = of_tables(protocol, question) | of_domain(name, question, domain)
    layers = protocol.get(LAYERS, {}) | domain_tables(name, domain).get(LAYERS, {})
    if depth is not None and question in layers:
        values[LAYERS] = tuple(scaled(layers[question], layers["of"], depth))
    return values


def of_domain(name: str, question: str, domain: str) -> dict[str, Any]:
    """What a protocol sets of a question on one domain alone."""
    return of_tables(domain_tables(name, domain), question)


def domain_tables(name: str, domain: str) -> dict[str, Any]:
    return read(name).get("domains", {}).get(domain, {})


def of_tables(tables: dict[str, Any], question: str) -> dict[str, Any]:
    values = tables.get("every", {}) | tables.get(question, {})
    return {field: tuple(value) if isinstance(value, list) else value for field, value in values.items()}


def scaled(layers: list[int], of: int, depth: int) -> list[int]:
    """Layers of a model with `of` layers as those at the nearest relative depth of another model, each once."""
    return list(dict.fromkeys(round(layer * (depth - 1) / (of - 1)) for layer in layers))


def grid(name: str) -> dict[str, Any]:
    """What a protocol's sweeps ask: fields of study.sweep_plan.Grid."""
    return {field: tuple(value) for field, value in read(name).get("sweep", {}).items()}
