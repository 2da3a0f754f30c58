"""Data sets made up for curation, and the fixtures `home`, `tokenizer_pair` and `curate`."""

import json
import random

import pytest

from mechdiff.__main__ import main
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import read_rows
from support.byte_tokenizer import byte_tokenizer
from support.tiny_pair import write_pair

ALIKE_PAIRS = ((3, 31), (40, 57))
SUBJECTS = {"Algebra": 24, "Geometry": 18, "Number Theory": 12, "Counting & Probability": 6}


def words(seed: int, count: int = 9) -> str:
    """Random words: no two seeds give near-duplicates."""
    chance = random.Random(seed)
    return " ".join("".join(chance.choices("abcdefghij", k=6)) for _ in range(count))


def problems() -> list[dict]:
    """Sixty in the format of MATH-500; two pairs of them are near-duplicates."""
    subjects = [subject for subject, count in SUBJECTS.items() for _ in range(count)]
    rows = [
        {"problem": f"Find {words(i)}.", "answer": str(i), "subject": subject, "level": 1 + i % 5, "unique_id": f"test/{i}.json"}
        for i, subject in enumerate(subjects)
    ]
    for first, second in ALIKE_PAIRS:
        rows[first]["problem"] = f"What is the remainder when ${first}^7$ is divided by {second}? Give {first} digits."
        rows[second]["problem"] = f"What is the remainder when ${second}^9$ is divided by {first}? Give {second} digits."
    return rows


def write(path, rows):
    """Rows as JSON lines. Returns the file's name."""
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where one's own domains go in this test."""
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path / "domains")
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    return tmp_path / "domains"


@pytest.fixture
def tokenizer_pair(tmp_path, own_store):
    """A pair of tokenizers, without weights."""
    (tmp_path / "pair").mkdir()
    path = write_pair(tmp_path / "pair")
    for side in ("base", "tuned"):
        byte_tokenizer().save_pretrained(path.parent / side)
    return str(path)


@pytest.fixture
def curate(tokenizer_pair):
    """Runs the command with that pair. Returns its exit status."""

    def curated(*words):
        return main(["curate", *map(str, words), "--pair", tokenizer_pair])

    return curated


def files(folder):
    """What a domain's files contain, apart from about.json."""
    return {name: (folder / name).read_bytes() for name in ("train.jsonl", "val.jsonl", "positions.jsonl")}


def split_rows(folder):
    """The rows of both splits."""
    return [row for split in ("train", "val") for row in read_rows(folder / f"{split}.jsonl")]
