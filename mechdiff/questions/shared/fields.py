"""The fields of a request: declared once, with help, choices and bounds, and checked whoever filled them in."""

import dataclasses
import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

import msgspec

from mechdiff.common.errors import UserError, one_of

ALL = "all"


def flag(
    default: Any,
    text: str,
    *,
    choices: Iterable[str] = (),
    must: str = "",
    example: str = "",
    bare: str | None = None,
    read: Callable[[str], Any] | None = None,
    key: bool = False,
) -> Any:
    """A field of a question, with its help: the flag of the command line, the widget of its page.

    default: its value if it is not given. text: its help. choices: the values of a text, or of each text of a tuple.
    must: what the type's bounds say, in words; example: a valid value, for errors. bare: the value of the flag without one.
    read: what the command line does with the text first. key: whether the field belongs to the key under which a chunk of
    results is stored: what a condition or the pair already holds does not. Returns a dataclass field.

    Example:
        >>> md.flag(8, "how many words", must="at least 1", key=True).metadata["help"]
        'how many words'
    """
    details = {"help": text, "choices": tuple(choices), "must": must, "example": example, "bare": bare, "read": read, "key": key}
    return dataclasses.field(default=default, metadata=details)


def flag_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


@cache
def types_of(owner: type) -> dict[str, Any]:
    """Each field's type, with its bounds."""
    hints = get_type_hints(owner, include_extras=True)
    return {spec.name: hints[spec.name] for spec in dataclasses.fields(owner)}


def checked(owner: type, spec: dataclasses.Field, value: object) -> Any:
    """A value as its field's type says: a text is split where a tuple is meant, and read where a number is.

    Raises UserError, with what the field takes, for anything else.
    """
    kind = types_of(owner)[spec.name]
    if is_tuple(kind):
        value = as_tuple(value)
    try:
        value = msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(spec, value, str(error)) from None
    choices = spec.metadata["choices"]
    for name in value if isinstance(value, tuple) else () if value is None else (value,):
        if choices and name not in choices:
            raise one_of(spec.name.removesuffix("s").capitalize(), name, choices)
    return value


def is_tuple(kind: Any) -> bool:
    parts = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    return any(get_origin(part) is tuple for part in parts)


def bounds_of(kind: Any) -> tuple[float | None, float | None]:
    """The least and the largest value of a number's type; None where there is no bound."""
    metas = [part for part in getattr(kind, "__metadata__", ()) if isinstance(part, msgspec.Meta)]
    low = next((meta.ge for meta in metas if meta.ge is not None), None)
    return low, next((meta.le for meta in metas if meta.le is not None), None)


def as_tuple(value: object) -> object:
    """What plainly means a tuple: 8, "0,4,8", range(30), a list."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    if isinstance(value, Iterable):
        return tuple(value)
    return value if value is None else (value,)


def invalid(spec: dataclasses.Field, value: object, reason: str) -> UserError:
    """The error for a value that a field does not take. reason: msgspec's, where the field itself says nothing better."""
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    name, must = spec.name.replace("_", " ").capitalize(), spec.metadata["must"]
    expected = f"It must be {must}." if must else reason.partition(" - at ")[0].replace("`", "") + "."
    example = spec.metadata["example"]
    quoted = text if text.lstrip("-").replace(".", "", 1).isdigit() else f"'{text}'"
    attempt = f"\nTry:  {flag_name(spec.name)} {example}" if example else ""
    return UserError(f"{name} {quoted} is not valid. {expected}{attempt}")
