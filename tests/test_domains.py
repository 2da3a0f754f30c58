"""The shipped prompts of today: what each domain promises."""

import hashlib
import re
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mechdiff.common.paths import SHIPPED_DOMAINS
from mechdiff.inputs import templates
from mechdiff.inputs.prompts import read_rows

DOMAINS = {name: name for name in ("cultural", "cognitive", "neutral")}
WITHIN = 0.10  # how far the domains' deciles of length may lie apart
FROZEN = {
    "cultural": "75659dccd0fb1786",
    "cognitive": "0b15ffed0c3cc636",
    "neutral": "9321f26a7076da14",
}


def folder(name: str) -> Path:
    return SHIPPED_DOMAINS / DOMAINS[name]


def rows(name: str, split: str) -> list[dict]:
    return read_rows(folder(name) / f"{split}.jsonl")


def source(name: str) -> dict:
    return tomllib.loads((folder(name) / "templates.toml").read_text(encoding="utf-8"))


def of_val(name: str) -> list[dict]:
    return [template for template in source(name)["template"] if template["split"] == "val"]


def content(name: str) -> str:
    return hashlib.sha256(b"".join((folder(name) / f"{split}.jsonl").read_bytes() for split in ("train", "val"))).hexdigest()[:16]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_template_is_in_one_split_and_val_has_one_prompt_of_each(name):
    val, train = (Counter(row["template"] for row in rows(name, split)) for split in ("val", "train"))
    assert len(val) == 150 and set(val.values()) == {1}
    assert len(train) >= 150 and max(train.values()) <= 3 and sum(train.values()) == 350
    assert not val.keys() & train.keys()
    texts = [row["text"] for split in ("val", "train") for row in rows(name, split)]
    assert len(set(texts)) == len(texts) == 500


@pytest.mark.parametrize("name", DOMAINS)
def test_no_two_templates_share_six_words_in_a_row(name):
    seen: dict[tuple[str, ...], str] = {}
    for template in source(name)["template"]:
        text = re.sub(r"\{[^}]*\}|\d+([.,]\d+)*", " | ", template["text"])
        for part in text.split("|"):
            words = re.findall(r"[\w'’-]+", part.lower())
            for run in zip(*(words[i:] for i in range(6))):
                assert seen.setdefault(run, template["id"]) == template["id"], (run, template["id"], seen[run])


@pytest.mark.parametrize("name", DOMAINS)
def test_prompts_that_sweeps_are_stored_of_do_not_change(name):
    assert content(name) == FROZEN[name], "a new version has a name of its own"


def test_the_domains_are_equally_long_and_ask_in_the_same_forms():
    deciles = {name: np.percentile([len(row["text"]) for row in rows(name, "val")], range(10, 100, 10)) for name in DOMAINS}
    forms = {name: Counter(row["meta"]["form"] for row in rows(name, "val")) for name in DOMAINS}
    for name in DOMAINS:
        assert np.abs(deciles[name] / deciles["cultural"] - 1).max() < WITHIN, name
        assert set(forms[name]) == {"question", "request", "story"}
        assert max(abs(forms[name][form] - forms["cultural"][form]) for form in forms[name]) <= 5


def test_cultural_val_is_spread_over_topics_and_places():
    val = rows("cultural", "val")
    topics = Counter(row["meta"]["topic"] for row in val)
    assert len(topics) == 23 and all(5 <= count <= 9 for count in topics.values())
    regions = Counter(row["meta"]["region"] for row in val)
    assert 10 <= regions.pop("Kazakhstan") <= 15 and regions.pop("none") <= 30
    assert max(regions.values()) <= 9 and len(regions) >= 35


def test_cultural_train_has_the_same_share_of_places():
    texts = [row["text"] for row in rows("cultural", "train")]
    named = Counter(
        place for place in source("cultural")["slots"]["region"] for text in texts if re.search(rf"\b{place}\b", text)
    )
    kazakh = sum(bool(re.search("Kazakh|Almaty|Astana", text)) for text in texts)
    assert 0.065 <= kazakh / len(texts) <= 0.1
    assert all(count / len(texts) <= 0.06 for place, count in named.items() if place != "Kazakhstan")


def test_cognitive_answers_are_worked_out_twice():
    val = of_val("cognitive")
    stated = [template for template in val if "states" in template]
    assert len(stated) >= 120
    for template in stated:
        assert templates.answer(template["answer"]) == template["states"], template["id"]
    kinds = Counter(template["kind"] for template in val)
    assert kinds["other"] >= 0.4 * len(val) and set(kinds) == {"word", "other"}


def test_a_neutral_prompt_has_the_form_and_length_of_its_partner():
    texts = {f"{name}:{row['template']}": row for name in ("cultural", "cognitive") for row in rows(name, "val")}
    partners = [(row, texts[row["meta"]["partner"]]) for row in rows("neutral", "val")]
    assert Counter(partner["id"].split("-")[0] for _, partner in partners) == {"cultural": 75, "cognitive": 75}
    assert len({partner["id"] for _, partner in partners}) == 150
    for row, partner in partners:
        assert row["meta"]["form"] == partner["meta"]["form"]
        assert abs(len(row["text"]) / len(partner["text"]) - 1) <= 0.15, row["id"]
