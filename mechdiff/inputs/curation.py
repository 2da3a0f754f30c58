"""Curation: a data set's rows as candidates for prompts. `splits.py` divides them into train and val.

A Spec says what a domain's prompts are made of. A row's place is a hash of seed and text, so the order of the rows does not
matter and the same seed gives the same splits.
"""

import hashlib
import json
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from mechdiff.common.errors import UserError
from mechdiff.inputs.audit import BAD_LABEL, BY_FIELD, BY_TEXT, DUPLICATES, NO_TEXT, NOT_NEEDED, TOO_SHORT, Audit, LeftOut
from mechdiff.inputs.labels import BadLabel, label
from mechdiff.inputs.similar_texts import blank, normal

OVERSAMPLING = 4  # candidate rows per requested prompt: the first by their hash
MAX_VALUES = 12  # values of a field that an error lists

FILTERS = ("where", "or_where", "without")  # the fields of a Spec that hold patterns

Record = dict[str, Any]  # a row of a data set: field -> value
Patterns = dict[str, tuple[str, ...]]  # field -> patterns
TokenCount = Callable[[str], int]  # how many tokens a text has


def flag_of(name: str) -> str:
    """The flag of a field of Spec that has the field's own name."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True)
class Spec:
    """What a domain's prompts are made of, and how many there are.

    name: the domain. dataset, subset, split: a data set on the hub; file: a local file instead. text: a format string of
    fields, as "{question}". answer: the field of the right answer, if there is one. choices: the fields of the possible answers,
    or one field that holds their list. template: the field that says which prompts belong together, if there is one. topic: the
    field whose values have the same shares in both splits. keep: fields that stay in the rows. where, or_where, without: field
    -> patterns; a row must match in each field of where, or in any field of or_where instead, and in no field of without. A
    field matches if one of its patterns does: * stands for anything, and case does not matter. min_tokens: the fewest tokens of
    a text.
    """

    name: str = ""
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    file: str | None = None
    text: str = ""
    answer: str | None = None
    choices: tuple[str, ...] = ()
    template: str | None = None
    topic: str | None = None
    keep: tuple[str, ...] = ()
    where: Patterns = field(default_factory=dict)
    or_where: Patterns = field(default_factory=dict)
    without: Patterns = field(default_factory=dict)
    min_tokens: int = 0
    train: int = 350
    val: int = 150
    seed: int = 0

    @property
    def text_fields(self) -> list[str]:
        """The fields that the text is filled from, in order of first use."""
        names = [re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(self.text) if name]
        return list(dict.fromkeys(filter(None, names)))

    @property
    def flags(self) -> list[tuple[str, str]]:
        """Every field that a row must have, with the flag that names it, in which <> stands for the field."""
        one_field = self.text == "{" + "".join(self.text_fields) + "}"
        named = [(name, "--text-field <>" if one_field else '--text "{<>}"') for name in self.text_fields]
        single = {"--answer-field": self.answer, "--template-field": self.template, "--topic-field": self.topic}
        named += [(name, f"{flag} <>") for flag, name in single.items() if name]
        for flag, names in (("--choices", self.choices), ("--keep", self.keep)):
            named += [(name, f"{flag} {','.join('<>' if other == name else other for other in names)}") for name in names]
        for filters in FILTERS:
            named += [(name, f'{flag_of(filters)} "<>=VALUE"') for name in getattr(self, filters)]
        return named

    @property
    def source(self) -> str:
        return str(self.file) if self.file else f"{self.dataset} ({self.split})"


@dataclass(frozen=True, order=True)
class Row:
    """A row as a prompt. order: its place, a hash of seed and text. group: the rows that must share its split (`splits.grouped`).

    answer: the right answer, empty if it is not asked for; with choices, one of them.
    """

    order: str
    text: str
    template: str = ""
    topic: str = ""
    meta: str = "{}"  # JSON
    answer: str = ""
    choices: tuple[str, ...] = ()
    group: str = ""


@dataclass
class Candidates:
    """The rows to choose from. rows: distinct ones that match, by their order. matching: how many rows match, with equal ones.
    values: per filtered field, the values that occurred. audit: where the other rows went."""

    rows: list[Row] = field(default_factory=list)
    matching: int = 0
    values: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    audit: Audit = field(default_factory=Audit)


def candidates(spec: Spec, rows: Iterable[Record], count_tokens: TokenCount | None = None) -> Candidates:
    """The rows that match, each text once. A spec with min_tokens needs count_tokens.

    Raises UserError if a field is missing or no row matches.
    """
    result, limit = Candidates(), OVERSAMPLING * (spec.train + spec.val)
    by_order, copies = dict[str, Row](), Counter[str]()
    for raw in rows:
        if not result.audit.rows:
            check_fields(spec, raw)
        result.audit.rows += 1
        for name in spec.where:
            result.values[name][str(raw.get(name))] += 1
        try:
            row = as_row(spec, raw, count_tokens)
        except LeftOut as reason:
            result.audit.leave_out(reason)
            continue
        result.matching += 1
        copies[row.order] += 1
        by_order[row.order] = min(row, by_order.get(row.order, row))  # the same one of equal texts, whatever their order
        if len(by_order) > 2 * limit:
            by_order = dict(sorted(by_order.items())[:limit])
            copies = Counter({order: copies[order] for order in by_order})
    result.rows = sorted(by_order.values())[:limit]
    if not result.rows:
        raise UserError(no_rows(spec, result))
    same = sum(copies[row.order] for row in result.rows)  # rows with the text of a candidate
    result.audit.end(DUPLICATES, same - len(result.rows))
    result.audit.end(NOT_NEEDED, result.matching - same)
    return result


def check_fields(spec: Spec, raw: Record) -> None:
    for name, flag in spec.flags:
        if name not in raw:
            similar = (get_close_matches(name, list(raw), 1) or ["FIELD"])[0]
            raise UserError(
                f"{spec.source} has no field '{name}'. Its fields are: {', '.join(raw)}\nTry:  {flag.replace('<>', similar)}"
            )


def as_row(spec: Spec, raw: Record, count_tokens: TokenCount | None = None) -> Row:
    """A row as a prompt. Raises LeftOut, with the step and the reason, if it cannot be one."""
    for name in spec.text_fields:
        if blank(raw.get(name)):
            raise LeftOut(NO_TEXT, f"{name} is empty")
    check_filters(spec, raw)
    try:
        answer, choices = label(raw, spec.answer, spec.choices)
    except BadLabel as error:
        raise LeftOut(BAD_LABEL, error.reason, error.example) from None
    text = filled(spec, raw)
    if spec.min_tokens:
        assert count_tokens is not None, "a spec with min_tokens comes with a tokenizer"
        if count_tokens(text) < spec.min_tokens:
            raise LeftOut(TOO_SHORT, f"fewer than {spec.min_tokens}")
    meta = {name: None if blank(raw.get(name)) else raw[name] for name in spec.keep}
    order = hashlib.sha256(f"{spec.seed}\n{normal(text)}".encode()).hexdigest()
    template, topic = ("" if name is None or blank(raw.get(name)) else str(raw[name]) for name in (spec.template, spec.topic))
    return Row(order, text, template, topic, json.dumps(meta, ensure_ascii=False, default=str), answer, choices)


def filled(spec: Spec, raw: Record) -> str:
    """A row's text, its fields without white space around them."""
    values = {name: raw[name].strip() if isinstance(raw[name], str) else raw[name] for name in spec.text_fields}
    try:
        return spec.text.format(**values)
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"The text {spec.text!r} cannot be filled from a row of {spec.source}: {error!r}.\n"
            f"Try:  --text-field {next(iter(values))}"
        ) from None


def check_filters(spec: Spec, raw: Record) -> None:
    """Raises LeftOut for a row that the filters leave out: by text if they read only fields of the text, otherwise by field."""

    def by(names: list[str]) -> str:
        return BY_FIELD if set(names) - set(spec.text_fields) else BY_TEXT

    unmatched = [name for name in spec.where if not matches(raw, name, spec.where)]
    wanted = not unmatched and (bool(spec.where) or not spec.or_where)
    if not wanted and not any(matches(raw, name, spec.or_where) for name in spec.or_where):
        names = list(dict.fromkeys([*unmatched, *spec.or_where]))
        raise LeftOut(by(names), f"no pattern matches {' or '.join(names)}")
    unwanted = [name for name in spec.without if matches(raw, name, spec.without)]
    if unwanted:
        raise LeftOut(by(unwanted), f"a pattern of --without matches {' and '.join(unwanted)}")


def matches(raw: Record, name: str, patterns: Patterns) -> bool:
    """Whether a field's value has one of its patterns."""
    value = str(raw.get(name)).casefold()
    return any(fnmatchcase(value, pattern.casefold()) for pattern in patterns[name])


def no_rows(spec: Spec, read: Candidates) -> str:
    """Why no row is left, and what to type instead."""
    if not read.audit.rows:
        return f"{spec.source} has no rows.\nTry:  another --file, or another --split of the data set"
    filters = [
        f"The field {name} must be {', '.join(spec.where[name])}; its values are: "
        + ", ".join(value for value, _ in read.values[name].most_common(MAX_VALUES))
        + "."
        for name in never_matched(spec, read)
    ]
    why = " ".join([f"{read.audit.left_out}.", *filters, *read.audit.bad_labels])
    return f"None of the {read.audit.rows} rows of {spec.source} is left: {why}\nTry:  {remedy(spec, read)}"


def remedy(spec: Spec, read: Candidates) -> str:
    """What to type where no row is left: something about the step that most rows ended at."""
    steps = read.audit.steps
    step = max(steps, key=lambda name: steps[name].total())
    if step in (BY_FIELD, BY_TEXT) and (names := never_matched(spec, read)):
        return f'--where "{names[0]}={read.values[names[0]].most_common(1)[0][0]}"'
    return {
        NO_TEXT: "--text-field FIELD, with a field that has text",
        BAD_LABEL: "--answer-field FIELD --choices FIELD,FIELD, with the fields of the right and the possible answers",
        TOO_SHORT: f"--min-tokens {spec.min_tokens // 2}",
    }.get(step, "other patterns in --where, --or-where and --without")


def never_matched(spec: Spec, read: Candidates) -> list[str]:
    """The fields of where that match in no row."""
    return [name for name, values in read.values.items() if not any(matches({name: value}, name, spec.where) for value in values)]
