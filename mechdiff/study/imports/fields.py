"""One entry of a file: its fields are taken one by one, with the file's name as a fallback; the rest is kept as it is."""

import json
import math

from mechdiff.study.imports.names import from_name


class Unread(Exception):
    """Why a file is not read, in a few words."""


class Entry:
    """The fields of one JSON object or CSV line. Each comes from the file, else from its name, else it is lacking.

    lacks: the fields that neither gives. notes: what a reader has to know about the line.
    """

    def __init__(self, content: object, stem: str):
        if not isinstance(content, dict):
            raise Unread(f"holds {kind_of(content)} where an object with named numbers is expected")
        self.content, self.name = dict(content), from_name(stem)
        self.lacks: list[str] = []
        self.notes: list[str] = []

    def take(self, key: str) -> object:
        value = self.content.pop(key, None)
        return None if isinstance(value, float) and math.isnan(value) else value

    def take_field(self, field: str, *keys: str, needed: bool = False):
        """A field from the first of these keys that exists, else from the file's name; an empty text if neither has it.

        Where file and name disagree, the file counts, and a note says so.
        """
        values = [value for key in keys if (value := self.take(key)) not in (None, "")]
        by_name = getattr(self.name, field, None)
        if values:
            if by_name is not None and not alike(values[0], by_name):
                self.notes.append(f"the name says {field} {by_name}")
            return values[0]
        if by_name is not None:
            self.notes.append(f"{field} only in the name")
            return by_name
        if needed:
            raise Unread(f"has no {field}, neither inside nor in its name")
        self.lacks.append(field)
        return ""

    def number(self, key: str, needed: bool = False) -> float:
        """A number by its key; nan where it is missing."""
        return as_number(self.take(key), key, needed)

    def layer(self) -> int:
        return as_layer(self.take_field("layer", "layer", needed=True))

    def prompts(self, key: str = "n") -> float:
        count = self.number(key)
        if math.isnan(count):
            self.lacks.append("prompts")
        return count

    def scale(self) -> str:
        """Alpha as our tables write it."""
        alpha = self.take_field("alpha", "alpha_used", "alpha")
        self.take("alpha")
        return "" if alpha == "" else str(as_number(alpha, "alpha", True))

    def line(self, **fields) -> dict:
        """A line of a table, with what it lacks, its notes, and the fields that no column holds."""
        lacks = dict.fromkeys([] if "low" in fields else ["intervals"]) | dict.fromkeys(self.lacks)
        rest = {key: value for key, value in self.content.items() if value is not None}
        about = {"lacks": ", ".join(lacks), "note": "; ".join(dict.fromkeys(self.notes))}
        return fields | about | {"rest": json.dumps(rest) if rest else ""}


def alike(value: object, text: str) -> bool:
    try:
        return float(str(value)) == float(text)
    except (TypeError, ValueError):
        return str(value) == text


def as_number(value: object, what: str, needed: bool = False) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None if value == "" else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        if needed:
            raise Unread(f"holds no {what}")
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unread(f"{what} is {kind_of(value)}, not a number")
    if math.isinf(value):
        raise Unread(f"{what} is infinite")
    return float(value)


def as_layer(value: object) -> int:
    text = str(value).removeprefix("L")
    if not text.isdecimal():
        raise Unread(f"layer '{value}' is not a number")
    return int(text)


def kind_of(value: object) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "nothing"}
    return kinds.get(type(value), "a number")
