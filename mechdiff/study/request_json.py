"""Requests as plain data and back, by the fields of their types. What comes back may have been written by anyone."""

from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.questions import Diagnostics, NextTokens, Overlap, PositionMap, Reading, Run
from mechdiff.study.compare_sweeps import Comparison

KINDS = (Run, Reading, NextTokens, PositionMap, Diagnostics, Overlap, Comparison)  # of requests
TYPES = {kind.__name__: kind for kind in (*KINDS, Condition, Stack)}
REQUESTS = tuple(kind.__name__ for kind in KINDS)
LARGEST = 1 << 31  # of a whole number
MOST = {"top": 1000, "prompt": 1_000_000, "limit": 1_000_000, "back": 1_000_000}  # what would only cost memory
MOST |= {"horizon": 10_000, "new_tokens": 10_000}


def plain(value):
    """A request as what JSON can hold: a dataclass is its type's name and its fields."""
    if is_dataclass(value):
        return {"type": type(value).__name__} | {spec.name: plain(getattr(value, spec.name)) for spec in fields(value)}
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value


def request(found: object):
    """The request that plain data describe. Raises UserError for what is none, and for what that request itself refuses."""
    return made(found, REQUESTS, build=True)


def check(found: object) -> None:
    """Raises UserError unless the plain data describe a request, whether or not that can be answered here."""
    made(found, REQUESTS, build=False)


def made(found: object, names: tuple[str, ...], build: bool):
    """A dataclass from its name and fields. build: whether it is made, or only its fields looked at."""
    name = found.get("type") if isinstance(found, dict) else None
    if name not in names:
        raise UserError(f"A request of the type {name!r:.60} is not known. Known are: {', '.join(names)}.")
    hints, given = get_type_hints(TYPES[name]), {key: value for key, value in found.items() if key != "type"}
    known = {spec.name: spec for spec in fields(TYPES[name])}
    for key in given.keys() - known.keys():
        raise UserError(f"A {name} has no field {key!r:.60}: the bundle is broken, or of a later mechdiff.")
    for key in (key for key, spec in known.items() if key not in given and spec.default is MISSING):
        raise UserError(f"A {name} needs the field '{key}', and the bundle does not have it.")
    values = {key: typed(value, hints[key], f"{name}.{key}", build) for key, value in given.items()}
    return TYPES[name](**values) if build else None


def typed(found: object, kind, where: str, build: bool):
    """A plain value as what a field's type says. Raises UserError, naming the field, if it is something else."""
    if isinstance(kind, type) and is_dataclass(kind):
        return made(found, (kind.__name__,), build)
    if get_origin(kind) in (Union, UnionType):
        return either(found, get_args(kind), where, build)
    if get_origin(kind) is tuple and isinstance(found, list):
        return tuple(typed(part, get_args(kind)[0], where, build) for part in found)
    if kind is NoneType and found is None:
        return None
    if kind is float and type(found) in (int, float):
        return float(found)
    if kind in (str, bool) and type(found) is kind:
        return found
    if kind is int and type(found) is int and 0 <= found <= MOST.get(where.rpartition(".")[2], LARGEST):
        return found
    raise UserError(f"The field {where} of the bundle cannot be {found!r:.60}.")


def either(found: object, kinds: tuple, where: str, build: bool):
    """A value that may be of one of several types: a dataclass by its name, anything else by what fits."""
    classes = tuple(kind.__name__ for kind in kinds if is_dataclass(kind))
    if classes and isinstance(found, dict):
        return made(found, classes, build)
    for kind in kinds[:-1]:
        try:
            return typed(found, kind, where, build)
        except UserError:
            continue
    return typed(found, kinds[-1], where, build)
