"""From candidate rows to a train and a validation split that share no template and no near-duplicate."""

import math
import re
from collections import Counter, defaultdict
from dataclasses import replace

from mechdiff.common.errors import UserError
from mechdiff.inputs.audit import NEAR_DUPLICATES, NOT_NEEDED, TRAIN, VAL
from mechdiff.inputs.curation import Candidates, Row, Spec
from mechdiff.inputs.similar_texts import near_duplicates

SPLITS = (TRAIN, VAL)

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


# Splits


def train_and_val(spec: Spec, read: Candidates) -> dict[str, list[Row]]:
    """The candidates as train and val; their audit is then complete.

    Raises UserError, with the counts, if there are too few rows.
    """
    rows, total = grouped(read.rows), spec.train + spec.val
    read.audit.end(NEAR_DUPLICATES, len(read.rows) - len(rows))
    if len(rows) < total:
        left_out = f" Of its {read.audit.rows:,} rows: {read.audit.left_out}." if read.audit.left_out else ""
        labels = "".join(f" {sentence}" for sentence in read.audit.bad_labels)
        raise UserError(
            f"{spec.source} gives {len(rows)} distinct prompts, fewer than {spec.train} for train and {spec.val} for val."
            f"{left_out}{labels}\n"
            f"Try:  --train {math.floor(len(rows) * spec.train / total)} --val {math.floor(len(rows) * spec.val / total)}"
        )
    splits = divided(spec, rows)
    read.audit.end(NOT_NEEDED, len(rows) - total)
    for split, members in splits.items():
        read.audit.end(split, len(members))
    return splits


def divided(spec: Spec, rows: list[Row]) -> dict[str, list[Row]]:
    """Train and val, by their order: no group in both, as many groups as possible, and each topic in the same share.

    rows: at least as many as both need. Raises UserError, with the counts, if they are of too few groups.
    """
    sizes, total = {TRAIN: spec.train, VAL: spec.val}, spec.train + spec.val
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
            f"splits. That gives {len(splits[TRAIN])} of {spec.train} prompts for train and {len(splits[VAL])} of {spec.val} "
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
