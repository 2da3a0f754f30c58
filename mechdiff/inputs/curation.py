"""Curate a domain from a data set: prompts of its rows, a train and a val split that share no template and no near-duplicate.

What a domain is made of is data, a Spec; the scripts beside this file hold one each. Rows are streamed, from the hub or a local
file. A row's place is a hash of seed and text, so that the order of the rows does not matter, and the same seed gives the same
files.
"""

import hashlib
import json
import math
import re
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from mechdiff.common.errors import UserError

SPARE = 4  # times the prompts wanted: so many rows, the first by their hash, are chosen from
ALIKE = 0.4  # Jaccard similarity of shingles from which on two texts are near-duplicates
SHINGLE = 3  # words in a row
SPLITS = ("train", "val")
MOST_SHOWN = 12  # values of a field that an error names


@dataclass(frozen=True)
class Spec:
    """What a domain's prompts are made of, and how many of them.

    name: the domain. dataset, subset, split: on the hub; file: a local one in place of it. text: a format string of fields, as
    "{question}". template: the field that says which prompts belong together, if there is one. topic: the field whose values both
    splits have in the same shares. keep: fields that stay in the rows. where, without: field -> patterns, of which a row has to
    have one, or may have none; * stands for anything, and case does not matter.
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
    def fields(self) -> list[str]:
        """Every field that a row needs to have, in order of use."""
        texts = [re.split(r"[.\[]", name)[0] for _, name, _, _ in string.Formatter().parse(self.text) if name]
        named = [*texts, self.template, self.topic, *self.keep, *self.where, *self.without]
        return list(dict.fromkeys(name for name in named if name))

    @property
    def source(self) -> str:
        return str(self.file) if self.file else f"{self.dataset} ({self.split})"


@dataclass(frozen=True, order=True)
class Row:
    """A row as a prompt. order: its place, a hash of seed and text. group: what it may not be parted from, once that is known."""

    order: str
    text: str
    template: str = ""
    topic: str = ""
    meta: str = "{}"  # JSON
    group: str = ""


@dataclass
class Read:
    """What was read. rows: different ones that fit, by their order. total, fitting: how many there were, before and after
    filters. values: of the filters' fields, those that were seen."""

    rows: list[Row] = field(default_factory=list)
    total: int = 0
    fitting: int = 0
    values: dict[str, Counter] = field(default_factory=lambda: defaultdict(Counter))


# Rows


def read(spec: Spec, rows: Iterator[dict]) -> Read:
    """The rows that fit, each text once. Raises UserError if a field is not there, or none fits."""
    found, known, most = Read(), {}, SPARE * (spec.train + spec.val)
    for raw in rows:
        if not found.total:
            check_fields(spec, raw)
        found.total += 1
        for name in spec.where:
            found.values[name][str(raw.get(name))] += 1
        if not fits(spec, raw) or (row := as_row(spec, raw)) is None:
            continue
        found.fitting += 1
        known[row.order] = min(row, known.get(row.order, row))  # of equal texts one, whatever their order in the file
        if len(known) > 2 * most:
            known = dict(sorted(known.items())[:most])
    found.rows = sorted(known.values())[:most]
    if not found.rows:
        raise UserError(nothing(spec, found))
    return found


def check_fields(spec: Spec, raw: dict) -> None:
    for name in spec.fields:
        if name not in raw:
            raise UserError(f"{spec.source} has no field '{name}'. Its fields are: {', '.join(raw)}")


def fits(spec: Spec, raw: dict) -> bool:
    def like(name: str, patterns: tuple[str, ...]) -> bool:
        value = str(raw.get(name)).casefold()
        return any(fnmatchcase(value, pattern.casefold()) for pattern in patterns)

    wanted = all(like(name, patterns) for name, patterns in spec.where.items())
    return wanted and not any(like(name, patterns) for name, patterns in spec.without.items())


def as_row(spec: Spec, raw: dict) -> Row | None:
    """A row as a prompt; None if a field of its text is empty."""
    used = Spec(text=spec.text).fields
    if any(blank(raw.get(name)) for name in used):
        return None
    try:
        text = spec.text.format(**{name: raw[name] for name in used})
    except (LookupError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"The text {spec.text!r} cannot be filled from a row of {spec.source}: {error!r}.") from None
    meta = {name: None if blank(raw.get(name)) else raw[name] for name in spec.keep}
    order = hashlib.sha256(f"{spec.seed}\n{normal(text)}".encode()).hexdigest()
    named = ["" if name is None or blank(raw.get(name)) else str(raw[name]) for name in (spec.template, spec.topic)]
    return Row(order, text, *named, json.dumps(meta, ensure_ascii=False, default=str))


def blank(value: object) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def normal(text: str) -> str:
    """A text without what makes no difference: case, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def nothing(spec: Spec, found: Read) -> str:
    """Why no row is left."""
    if not found.total:
        return f"{spec.source} holds no rows."
    asked = [
        f" The field {name} is asked to be {', '.join(patterns)}; it is: "
        + ", ".join(value for value, _ in found.values[name].most_common(MOST_SHOWN))
        for name, patterns in spec.where.items()
    ]
    return f"None of the {found.total} rows of {spec.source} fits and has a text.{''.join(asked)}"


# Groups: rows that may not be parted


def grouped(rows: list[Row]) -> list[Row]:
    """The rows with their group: those of one template; where no field names one, near-duplicates, however far they are linked.

    Of near-duplicates in two templates the first one stays: they would tie all of both templates together.
    """
    parent = list(range(len(rows)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[str, int] = {}
    same, dropped = [(i, first.setdefault(row.template, i)) for i, row in enumerate(rows) if row.template], set()
    for i, j in near_duplicates([row.text for row in rows]):
        if not (rows[i].template and rows[j].template):
            same.append((i, j))
        elif rows[i].template != rows[j].template and j not in dropped:
            dropped.add(i)
    for i, j in same:
        parent[max(root(i), root(j))] = min(root(i), root(j))
    return [replace(row, group=name_of(rows[root(i)])) for i, row in enumerate(rows) if i not in dropped]


def name_of(leader: Row) -> str:
    """What a group's template is called: by its first row's template, or topic and hash."""
    slug = re.sub(r"\W+", "-", leader.topic.casefold()).strip("-")
    return leader.template or f"{slug}-{leader.order[:8]}".strip("-")


def near_duplicates(texts: list[str]) -> Iterator[tuple[int, int]]:
    """Pairs of texts that are much the same but for their numbers, the later one first; in the later one's order."""
    holders, sizes = defaultdict(list), []
    for i, text in enumerate(texts):
        mine = shingles(text)
        common = Counter(j for one in mine for j in holders[one])
        for j, count in common.items():
            if count >= ALIKE * (len(mine) + sizes[j] - count):
                yield i, j
        sizes.append(len(mine))
        for one in mine:
            holders[one].append(i)


def shingles(text: str) -> set[tuple[str, ...]]:
    """Every few words in a row, each number the same one."""
    words = re.sub(r"\d+", "0", " ".join(re.findall(r"\w+", normal(text)))).split()
    return {tuple(words[i : i + SHINGLE]) for i in range(max(1, len(words) - SHINGLE + 1))}


# Splits


def divided(spec: Spec, rows: list[Row]) -> dict[str, list[Row]]:
    """Train and val, by their order: no group in both, as many groups as there are, and each topic in the same share.

    Raises UserError, with what there is, if there are too few rows for them.
    """
    sizes, total = {"train": spec.train, "val": spec.val}, spec.train + spec.val
    if len(rows) < total:
        raise UserError(
            f"{spec.source} gives {len(rows)} different prompts; {spec.train} for train and {spec.val} for val are wanted.\n"
            f"Try:  --train {math.floor(len(rows) * spec.train / total)} --val {math.floor(len(rows) * spec.val / total)}"
        )
    turns, place = [], Counter()
    for row in rows:
        turns.append((place[row.group], row))
        place[row.group] += 1
    rows = [row for _, row in sorted(turns)]  # first one row of every group, then the second ones
    found = assigned(rows[:total], sizes)
    home = {row.group: split for split, some in found.items() for row in some}
    for row in rows[total:]:
        split = home.setdefault(row.group, max(SPLITS, key=lambda name: sizes[name] - len(found[name])))
        if len(found[split]) < sizes[split]:
            found[split].append(row)
    if any(len(found[split]) < size for split, size in sizes.items()):
        raise UserError(
            f"The {len(rows)} different prompts of {spec.source} are of {len(place)} templates, none of which may be in both "
            f"splits: that gives {len(found['train'])} prompts for train and {len(found['val'])} for val, and {spec.train} and "
            f"{spec.val} are wanted.\nTry:  fewer of them, or a finer --template-field, or none"
        )
    return {split: sorted(some) for split, some in found.items()}


def assigned(rows: list[Row], sizes: dict[str, int]) -> dict[str, list[Row]]:
    """Groups to splits, the largest first: to the one that still wants most of the group's topic, and has room for it."""
    groups, topics, found = defaultdict(list), Counter(row.topic for row in rows), {split: [] for split in SPLITS}
    for row in rows:
        groups[row.group].append(row)
    wanted = {split: {topic: size * count / len(rows) for topic, count in topics.items()} for split, size in sizes.items()}
    for members in sorted(groups.values(), key=lambda some: (-len(some), some[0])):
        room = {split: size - len(found[split]) for split, size in sizes.items()}
        able = [split for split in SPLITS if room[split] >= len(members)] or [max(SPLITS, key=room.get)]
        split = max(able, key=lambda name: wanted[name][members[0].topic])
        placed = members[: room[split]]
        found[split] += placed
        for row in placed:
            wanted[split][row.topic] -= 1
    return found
