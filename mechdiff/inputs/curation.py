"""Curation: from a data set's rows to a train and a validation split that share no template and no near-duplicate.

A Spec says what a domain's prompts are made of. A row's place is a hash of seed and text, so the order of the rows does not
matter and the same seed gives the same splits.
"""

import hashlib
import json
import math
import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from mechdiff.common.errors import UserError

OVERSAMPLING = 4  # candidate rows per requested prompt: the first by their hash
NEAR_DUPLICATE = 0.4  # Jaccard similarity of shingles at and above which two texts are near-duplicates
SHINGLE = 3  # consecutive words
SPLITS = ("train", "val")
MAX_VALUES = 12  # values of a field that an error lists

Record = dict[str, Any]  # a row of a data set: field -> value


@dataclass(frozen=True)
class Spec:
    """What a domain's prompts are made of, and how many there are.

    name: the domain. dataset, subset, split: a data set on the hub; file: a local file instead. text: a format string of fields,
    as "{question}". template: the field that says which prompts belong together, if there is one. topic: the field whose values
    have the same shares in both splits. keep: fields that stay in the rows. where, without: field -> patterns; a row must match
    one of them, or none. * stands for anything, and case does not matter.
    """

    name: str = ""
    dataset: str | None = None
    subset: str | None = None
    split: str = "train"
    file: str | None = None
    text: str = ""
    template: str | None = None
    topic: str | None = None
    keep: tuple[str, ...] = ()
    where: dict[str, tuple[str, ...]] = field(default_factory=dict)
    without: dict[str, tuple[str, ...]] = field(default_factory=dict)
    train: int = 350
    val: int = 150
    seed: int = 0

    @property
    def text_fields(self) -> list[str]:
        """The fields that the text is filled from, in order of first use."""
        names = [re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(self.text) if name]
        return list(dict.fromkeys(filter(None, names)))

    @property
    def fields(self) -> list[str]:
        """Every field that a row must have, in order of first use."""
        names = [*self.text_fields, self.template, self.topic, *self.keep, *self.where, *self.without]
        return list(dict.fromkeys(name for name in names if name))

    @property
    def source(self) -> str:
        return str(self.file) if self.file else f"{self.dataset} ({self.split})"


@dataclass(frozen=True, order=True)
class Row:
    """A row as a prompt. order: its place, a hash of seed and text. group: the rows that must share its split (see `grouped`)."""

    order: str
    text: str
    template: str = ""
    topic: str = ""
    meta: str = "{}"  # JSON
    group: str = ""


@dataclass
class Candidates:
    """The rows to choose from. rows: distinct ones that match, by their order. total, matching: how many rows were read, and how
    many of them match and have a text. values: per filtered field, the values that occurred."""

    rows: list[Row] = field(default_factory=list)
    total: int = 0
    matching: int = 0
    values: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))


# Rows


def candidates(spec: Spec, rows: Iterable[Record]) -> Candidates:
    """The rows that match, each text once. Raises UserError if a field is missing or no row matches."""
    result, limit = Candidates(), OVERSAMPLING * (spec.train + spec.val)
    by_order: dict[str, Row] = {}
    for raw in rows:
        if not result.total:
            check_fields(spec, raw)
        result.total += 1
        for name in spec.where:
            result.values[name][str(raw.get(name))] += 1
        if not matches(spec, raw) or (row := as_row(spec, raw)) is None:
            continue
        result.matching += 1
        by_order[row.order] = min(
            row, by_order.get(row.order, row)
        )  # the same one of equal texts, whatever their order in the file
        if len(by_order) > 2 * limit:
            by_order = dict(sorted(by_order.items())[:limit])
    result.rows = sorted(by_order.values())[:limit]
    if not result.rows:
        raise UserError(no_rows(spec, result))
    return result


def check_fields(spec: Spec, raw: Record) -> None:
    for name in spec.fields:
        if name not in raw:
            raise UserError(f"{spec.source} has no field '{name}'. Its fields are: {', '.join(raw)}")


def matches(spec: Spec, raw: Record) -> bool:
    def matches_any(name: str, patterns: tuple[str, ...]) -> bool:
        value = str(raw.get(name)).casefold()
        return any(fnmatchcase(value, pattern.casefold()) for pattern in patterns)

    wanted = all(matches_any(name, patterns) for name, patterns in spec.where.items())
    return wanted and not any(matches_any(name, patterns) for name, patterns in spec.without.items())


def as_row(spec: Spec, raw: Record) -> Row | None:
    """A row as a prompt; None if a field of its text is empty."""
    if any(blank(raw.get(name)) for name in spec.text_fields):
        return None
    try:
        text = spec.text.format(**{name: raw[name] for name in spec.text_fields})
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"The text {spec.text!r} cannot be filled from a row of {spec.source}: {error!r}.") from None
    meta = {name: None if blank(raw.get(name)) else raw[name] for name in spec.keep}
    order = hashlib.sha256(f"{spec.seed}\n{normal(text)}".encode()).hexdigest()
    template, topic = ("" if name is None or blank(raw.get(name)) else str(raw[name]) for name in (spec.template, spec.topic))
    return Row(order, text, template, topic, json.dumps(meta, ensure_ascii=False, default=str))


def blank(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def normal(text: str) -> str:
    """A text without differences of case, character width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def no_rows(spec: Spec, read: Candidates) -> str:
    """Why no row is left."""
    if not read.total:
        return f"{spec.source} has no rows."
    filters = [
        f" The field {name} must be {', '.join(patterns)}; its values are: "
        + ", ".join(value for value, _ in read.values[name].most_common(MAX_VALUES))
        for name, patterns in spec.where.items()
    ]
    return f"None of the {read.total} rows of {spec.source} matches and has a text.{''.join(filters)}"


# Groups: rows that must share a split


def grouped(rows: list[Row]) -> list[Row]:
    """The rows with their group: the rows of one template; without a template field, chains of near-duplicates.

    Of near-duplicates in two templates only the first one stays: otherwise they would join the two templates.
    """
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    links = [(i, first.setdefault(row.template, i)) for i, row in enumerate(rows) if row.template]
    dropped: set[int] = set()
    for i, j in near_duplicates([row.text for row in rows]):
        if not (rows[i].template and rows[j].template):
            links.append((i, j))
        elif rows[i].template != rows[j].template and j not in dropped:
            dropped.add(i)
    for i, j in links:
        parent[max(root(i), root(j))] = min(root(i), root(j))
    return [replace(row, group=group_name(rows[root(i)])) for i, row in enumerate(rows) if i not in dropped]


def group_name(first: Row) -> str:
    """A group's name, from its first row: the template, or topic and hash."""
    slug = re.sub(r"\W+", "-", first.topic.casefold()).strip("-")
    return first.template or f"{slug}-{first.order[:8]}".strip("-")


def near_duplicates(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that are nearly the same apart from their numbers, the later one first, in the later one's order."""
    texts_with: dict[tuple[str, ...], list[int]] = defaultdict(list)
    sizes: list[int] = []
    for i, text in enumerate(texts):
        own = shingles(text)
        common = Counter(j for shingle in own for j in texts_with[shingle])
        for j, count in common.items():
            if count >= NEAR_DUPLICATE * (len(own) + sizes[j] - count):
                yield i, j
        sizes.append(len(own))
        for shingle in own:
            texts_with[shingle].append(i)


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every run of SHINGLE words, with all numbers replaced by the same one."""
    words = re.sub(r"\d+", "0", " ".join(re.findall(r"\w+", normal(text)))).split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


# Splits


def divided(spec: Spec, rows: list[Row]) -> dict[str, list[Row]]:
    """Train and val, by their order: no group in both, as many groups as possible, and each topic in the same share.

    Raises UserError, with the counts, if there are too few rows.
    """
    sizes, total = {"train": spec.train, "val": spec.val}, spec.train + spec.val
    if len(rows) < total:
        raise UserError(
            f"{spec.source} gives {len(rows)} distinct prompts, fewer than {spec.train} for train and {spec.val} for val.\n"
            f"Try:  --train {math.floor(len(rows) * spec.train / total)} --val {math.floor(len(rows) * spec.val / total)}"
        )
    rounds, seen = [], Counter[str]()
    for row in rows:
        rounds.append((seen[row.group], row))
        seen[row.group] += 1
    rows = [row for _, row in sorted(rounds)]  # one row of every group first, then the second ones
    splits = assigned(rows[:total], sizes)
    split_of = {row.group: split for split, members in splits.items() for row in members}
    for row in rows[total:]:
        split = split_of.setdefault(row.group, max(SPLITS, key=lambda name: sizes[name] - len(splits[name])))
        if len(splits[split]) < sizes[split]:
            splits[split].append(row)
    if any(len(splits[split]) < size for split, size in sizes.items()):
        raise UserError(
            f"The {len(rows)} distinct prompts of {spec.source} come from {len(seen)} templates, none of which may be in both "
            f"splits. That gives {len(splits['train'])} of {spec.train} prompts for train and {len(splits['val'])} of {spec.val} "
            "for val.\nTry:  fewer prompts, a finer --template-field, or none"
        )
    return {split: sorted(members) for split, members in splits.items()}


def assigned(rows: list[Row], sizes: dict[str, int]) -> dict[str, list[Row]]:
    """Groups to splits, the largest first: each to the split that needs most of the group's topic and has room for it."""
    topics, splits = Counter(row.topic for row in rows), {split: list[Row]() for split in SPLITS}
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.group].append(row)
    needed = {split: {topic: size * count / len(rows) for topic, count in topics.items()} for split, size in sizes.items()}
    for members in sorted(groups.values(), key=lambda members: (-len(members), members[0])):
        room = {split: size - len(splits[split]) for split, size in sizes.items()}
        roomy = [split for split in SPLITS if room[split] >= len(members)] or [max(SPLITS, key=lambda name: room[name])]
        split = max(roomy, key=lambda name: needed[name][members[0].topic])
        placed = members[: room[split]]
        splits[split] += placed
        for row in placed:
            needed[split][row.topic] -= 1
    return splits
