"""A form from the fields of a question: what the sidebar does not already choose, each with a widget of its type."""

import dataclasses
from typing import Any, get_args

import streamlit as st

from mechdiff.questions import EffectQuestion, Question
from mechdiff.questions.shared.fields import bounds_of, is_tuple, types_of

SIDEBAR = ("pair", "domain", "protocol", "direction", "limit", "min_shared_ratio")  # of a question's fields
SITES = ("layers", "streams")  # inherited fields that stand beside the question's own
COLUMNS = 4


def form(kind: type[Question]) -> dict[str, Any]:
    """Draw the form. Returns the fields that are not at their default, as the question takes them."""
    mine = [spec for spec in dataclasses.fields(kind) if spec.name not in SIDEBAR and takes_values(kind, spec.name)]
    own = own_fields(kind)
    first = [spec for spec in mine if spec in own or spec.name in SITES]
    values = grid(kind, sorted(first, key=lambda spec: spec.name in SITES))
    with st.expander("More options"):
        return values | grid(kind, [spec for spec in mine if spec not in first])


def own_fields(kind: type[Question]) -> list[dataclasses.Field]:
    """The fields that a question does not share with others of its sort."""
    sort = EffectQuestion if issubclass(kind, EffectQuestion) else Question
    shared = {spec.name for spec in dataclasses.fields(sort)}
    return [spec for spec in dataclasses.fields(kind) if spec.name not in shared]


def takes_values(kind: type[Question], name: str) -> bool:
    return name != "controls" or bool(getattr(kind, "allowed_controls", True))


def grid(kind: type[Question], specs: list[dataclasses.Field]) -> dict[str, Any]:
    values = {}
    for start in range(0, len(specs), COLUMNS):
        for spec, column in zip(specs[start : start + COLUMNS], st.columns(COLUMNS, vertical_alignment="bottom")):
            with column:
                value = field(kind, spec)
            if value != spec.default:
                values[spec.name] = value
    return values


def field(kind: type[Question], spec: dataclasses.Field) -> Any:
    """A field's widget. Its key, and so its name in the address, has the question's name before it."""
    hint, choices, default = types_of(kind)[spec.name], choices_of(kind, spec), spec.default
    assert default is not dataclasses.MISSING, "every field of a question has a default"
    label = spec.name.replace("_", " ").capitalize()
    details = {"key": f"{kind.question}_{spec.name}", "bind": "query-params", "help": spec.metadata["help"]}
    if choices and is_tuple(hint):
        return tuple(st.multiselect(label, choices, list(default), **details))
    if choices and type(None) in get_args(hint):
        return st.selectbox(label, choices, None, placeholder="default", **details)
    if choices:
        return st.selectbox(label, choices, choices.index(default), **details)
    if isinstance(default, bool):
        return st.toggle(label, default, **details)
    if isinstance(default, int | float):
        low, high = bounds_of(hint)
        number = type(default)
        limits = [None if bound is None else number(bound) for bound in (low, high)]
        return st.number_input(label, *limits, value=default, step=1 if number is int else 0.05, **details)
    placeholder = spec.metadata["example"].partition("  or")[0] or "default"
    text = st.text_input(label, text_of(default), placeholder=placeholder, **details)
    if isinstance(default, str):
        return text  # as it is: a suffix may begin with a space
    return text.strip() or (() if default == () else None)


def choices_of(kind: type[Question], spec: dataclasses.Field) -> list[str]:
    by_kind = {"streams": kind.stream_choices, "controls": getattr(kind, "allowed_controls", ())}
    return list(by_kind.get(spec.name, spec.metadata["choices"]))


def text_of(default: object) -> str:
    """A default as a text that the field reads."""
    return ",".join(map(str, default)) if isinstance(default, tuple) else "" if default is None else str(default)
