"""Requests as plain data and back, by the fields of their types. What comes back may have been written by anyone."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, get_args

import msgspec

from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.inputs import prompts
from mechdiff.inputs.pair_file import read_pair
from mechdiff.questions import Question, kind_of
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.prompt.position_map import PositionMap
from mechdiff.questions.prompt.reading import Reading
from mechdiff.questions.shared.fields import types_of
from mechdiff.study.compare_sweeps import Comparison

RUN = "Run"  # the type's name of every question, which the field `question` tells apart
KINDS = {kind.__name__: kind for kind in (Reading, NextTokens, PositionMap, Diagnostics, Overlap, Comparison)}
PARTS = {kind.__name__: kind for kind in (Condition, Stack)}
MOST = {"top": 1000, "prompt": 1_000_000}  # numbers that would only cost memory
FORMER = {  # fields that every question had in bundles of version 0.1, whether or not they meant anything to it
    "map", "ranks", "complement", "alpha", "positions", "head_sets", "blend", "controls", "target", "foil", "back", "horizon",
    "new_tokens", "stack",
}  # fmt: skip


def plain(value: Any) -> Any:
    """A request as what JSON can hold: a dataclass is its type's name and its fields."""
    if is_dataclass(value):
        names = {"type": RUN, "question": value.question} if isinstance(value, Question) else {"type": type(value).__name__}
        return names | {spec.name: plain(getattr(value, spec.name)) for spec in data_fields(value)}
    return [plain(part) for part in value] if isinstance(value, tuple | list) else value


def request(data: object, kind_of: Callable[[str], type[Question]] = kind_of) -> Any:
    """The request that plain data describe. kind_of: the class of a question's name.

    Raises UserError for anything else, and for what that request itself refuses.
    """
    kind, values = read(data, {RUN, *KINDS}, kind_of)
    return kind(**values)


def check(data: object) -> None:
    """Raises UserError unless the plain data describe a request, whether or not it can be answered here."""
    read(data, {RUN, *KINDS})


def read(data: object, names: set[str], kind_of: Callable[[str], type] = kind_of) -> tuple[type, dict[str, Any]]:
    """The dataclass of a name among these, and its fields, with the dataclasses inside them made."""
    name = data.get("type") if isinstance(data, dict) else None
    if not isinstance(data, dict) or name not in names:
        raise UserError(f"A request of the type {name!r:.60} is not known. Known types: {', '.join(sorted(names))}.")
    values = {key: value for key, value in data.items() if key != "type"}
    if name == RUN:
        if "question" not in values:
            raise UserError(f"A {name} needs the field 'question', and the bundle does not have it.")
        kind = kind_of(str(values.pop("question")))
        own = {spec.name for spec in data_fields(kind)}
        values = {key: value for key, value in values.items() if key in own or key not in FORMER}
        if values.get("ranks") is not None and kind.question == "transport":  # the uncut map, whatever version 0.1 wrote here
            values["ranks"] = ["full"]
        if "split" not in values:  # older than today's defaults
            values = of_its_day(values, own)
    else:
        kind = KINDS.get(name) or PARTS[name]
    known = {spec.name: spec for spec in data_fields(kind)}
    for key in values.keys() - known.keys():
        raise UserError(f"A {name} has no field {key!r:.60}: the bundle is broken, or of a later mechdiff.")
    for key in (key for key, spec in known.items() if key not in values and spec.default is MISSING):
        raise UserError(f"A {name} needs the field '{key}', and the bundle does not have it.")
    hints = types_of(kind)
    return kind, {key: field_value(value, hints[key], f"{name}.{key}") for key, value in values.items()}


def of_its_day(values: dict[str, Any], own: set[str]) -> dict[str, Any]:
    """An old question's values with what it left out, or meant, on its day: the domains' first versions, and ranks of a map."""
    domain = values.get("domain") or attempted_domain(values.get("pair"))
    first = f"{domain}@1"
    versioned = {"domain": first} if domain and first in prompts.domains() else {}
    former = {"map": "procrustes_scaled", "basis": "map"} if "basis" in own else {}
    return former | values | versioned


def attempted_domain(pair: object) -> str:
    """A pair's own domain; empty for a pair that is not here."""
    try:
        return read_pair(str(pair)).domain
    except UserError:
        return ""


def data_fields(kind: Any) -> list[Field]:
    """The fields that files hold: not a state of the user's own, which is no plain data."""
    return [spec for spec in fields(kind) if spec.metadata.get("data", True)]


def field_value(value: object, hint: Any, place: str) -> Any:
    """A field's value as its type says: dataclasses from their own plain data, all else by msgspec.

    Raises UserError, naming the field, for anything else.
    """
    if kinds := dataclasses_in(hint):
        if isinstance(value, list):
            return tuple(field_value(part, kinds[0], place) for part in value)
        kind, values = read(value, {RUN if issubclass(kind, Question) else kind.__name__ for kind in kinds})
        made = kind(**values)
        if not isinstance(made, kinds):
            raise UserError(f"The field {place} of the bundle is not valid: it is another request.")
        return made
    name = place.rpartition(".")[2]
    try:
        converted = msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise UserError(f"The field {place} of the bundle is not valid: {str(error).replace('`', '')}.") from None
    if isinstance(converted, int) and converted > MOST.get(name, 1 << 31):
        raise UserError(f"The field {place} of the bundle is not valid: {converted} is too large.")
    return converted


def dataclasses_in(hint: Any) -> tuple[type, ...]:
    """The dataclasses that a field's type names, also as one of several or as a tuple's parts."""
    if is_dataclass(hint):
        return (hint,) if isinstance(hint, type) else ()
    return tuple(kind for part in get_args(hint) for kind in dataclasses_in(part))
