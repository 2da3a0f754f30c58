"""A row's right answer and possible answers, as data sets write them.

The right one of several choices is given by its letter (B, b, (B), B.) or by its text, in any case and with any white space.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from mechdiff.inputs.prompts import LETTERS
from mechdiff.inputs.similar_texts import blank, normal

SHOWN = 60  # characters of an answer or a choice in a message


class BadLabel(Exception):
    """A row without a usable label. reason: why, in the same words for every such row. example: what this one has."""

    def __init__(self, reason: str, example: str = "") -> None:
        super().__init__(reason)
        self.reason, self.example = reason, example


def label(row: Mapping[str, Any], answer: str | None, choices: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A row's right answer and its choices, both as texts; empty for what is not asked for.

    answer: the field of the right answer. choices: the fields of the possible ones, or one field that holds their list. With
    choices, the returned answer is one of them, letter for letter. Raises BadLabel for a row without a usable label.
    """
    if not answer:
        return "", ()
    given = answer_text(row.get(answer))
    if not choices:
        return given, ()
    texts = choice_texts(row, choices)
    place = place_of(given, texts)
    if place is None:
        raise BadLabel("the answer is none of the choices", f"{given!r:.{SHOWN}} of {listed(texts)}")
    return texts[place], texts


def answer_text(value: object) -> str:
    if blank(value):
        raise BadLabel("the answer is empty")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise BadLabel("the answer is neither text nor a number", f"{value!r:.{SHOWN}}")
    return str(value).strip()


def choice_texts(row: Mapping[str, Any], fields: Sequence[str]) -> tuple[str, ...]:
    values = row.get(fields[0]) if len(fields) == 1 else [row.get(name) for name in fields]
    if not isinstance(values, list | tuple):
        raise BadLabel("the choices are not a list", f"{fields[0]} is {values!r:.{SHOWN}}")
    texts = tuple("" if blank(value) else str(value).strip() for value in values)
    if not all(texts) or not 2 <= len(texts) <= len(LETTERS):
        raise BadLabel("the choices are not two or more texts", listed(texts))
    if len(set(texts)) < len(texts):
        raise BadLabel("two choices are the same", listed(texts))
    return texts


def place_of(answer: str, choices: Sequence[str]) -> int | None:
    """The index of the choice that an answer names; None if it names none, or two that differ only in case or white space.

    A text that is exactly a choice comes first, then one that differs from it in case and white space, then a letter.
    """
    if answer in choices:
        return choices.index(answer)
    alike = [i for i, choice in enumerate(choices) if normal(choice) == normal(answer)]
    if alike:
        return alike[0] if len(alike) == 1 else None
    letter = re.fullmatch(r"\(?([A-Z])[.):]?", normal(answer).upper())
    place = LETTERS.index(letter[1]) if letter else len(choices)
    return place if place < len(choices) else None


def listed(texts: Sequence[str]) -> str:
    return ", ".join(f"{text!r:.{SHOWN}}" for text in texts)
