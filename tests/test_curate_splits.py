"""Curation: which rows are candidates, and how they are divided."""

import random
from itertools import combinations

import pytest
from support.curating import ALIKE_PAIRS, problems, words

from mechdiff.inputs.curation import Spec, as_row, candidates
from mechdiff.inputs.similar_texts import NEAR_DUPLICATE, near_duplicates, normal, shingles
from mechdiff.inputs.splits import divided, grouped


def test_equal_texts_are_one_prompt_and_empty_ones_none():
    texts = ["Find  x.", "find x. ", "ＦＩＮＤ x.", "Find y.", "", "  ", None]
    for order in (texts, texts[::-1]):
        pool = candidates(Spec(text="{t}", file="f"), ({"t": text} for text in order))
        assert [row.text for row in pool.rows] == ["Find y.", "Find  x."] or {row.text for row in pool.rows} == {
            "Find  x.",
            "Find y.",
        }
        assert (pool.audit.rows, pool.matching) == (7, 4)


def test_of_many_rows_the_first_by_their_hash_are_taken_whatever_their_order():
    spec = Spec(text="{t}", train=3, val=2)
    rows = [{"t": f"text {i}"} for i in range(500)]
    whole = sorted(as_row(spec, row) for row in rows)
    assert candidates(spec, iter(rows)).rows == candidates(spec, iter(rows[::-1])).rows == whole[:20]


def test_near_duplicates_are_those_whose_shingles_overlap():
    texts = [normal(row["problem"]) for row in problems()] + ["a b c d e", "a b c d f", "a b x y z", "12 apples", "99 apples"]
    pairs = {frozenset(pair) for pair in near_duplicates(texts)}
    expected = set()
    for i, j in combinations(range(len(texts)), 2):
        left, right = shingles(texts[i]), shingles(texts[j])
        if len(left & right) / len(left | right) >= NEAR_DUPLICATE:
            expected.add(frozenset((i, j)))
    assert pairs == expected and {*map(frozenset, ALIKE_PAIRS), frozenset((60, 61)), frozenset((63, 64))} <= pairs
    assert frozenset((60, 62)) not in pairs


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_templates_nothing_of_val_is_in_train(seed):
    chance = random.Random(seed)
    sizes = [chance.choice([1, 1, 1, 2, 3, 8]) for _ in range(60)]
    raw = [{"t": words(1000 * seed + 10 * i + j), "g": f"g{i}", "s": "ab"[i % 2]} for i, n in enumerate(sizes) for j in range(n)]
    spec = Spec(text="{t}", template="g", topic="s", train=40, val=15, seed=seed)
    splits = divided(spec, grouped(candidates(spec, iter(raw)).rows))
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "val": 15}
    groups = {split: {row.group for row in rows} for split, rows in splits.items()}
    assert not groups["train"] & groups["val"] and len(groups["train"] | groups["val"]) >= 54, "as many templates as there are"
    assert all(rows == sorted(rows) for rows in splits.values())


TOWNS = [f"how far is it to the town {i}" for i in range(3)]


def test_near_duplicates_are_one_group():
    rows = grouped(
        candidates(Spec(text="{t}", topic="s"), ({"t": text, "s": "Far & Wide"} for text in [*TOWNS, "what now"])).rows
    )
    groups = {row.text: row.group for row in rows}
    assert len({groups[text] for text in TOWNS}) == 1 and groups["what now"] != groups[TOWNS[0]]
    assert groups["what now"].startswith("far-wide-")


def test_of_near_duplicates_in_two_templates_one_stays():
    raw = [*zip(TOWNS, "aab"), ("what do cats eat", "b"), ("why not", "c")]
    rows = grouped(candidates(Spec(text="{t}", template="g"), ({"t": text, "g": group} for text, group in raw)).rows)
    assert all(row.group == row.template for row in rows) and {"b", "c"} <= {row.group for row in rows}
    assert {row.text for row in rows if row.text in TOWNS} in ({TOWNS[0], TOWNS[1]}, {TOWNS[2]})
