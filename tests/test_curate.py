"""Curating domains: which rows, how they are divided, and that the same rows give the same files whatever their order."""

import csv
import json
import random
import re
import runpy
from collections import Counter
from itertools import combinations

import httpx2
import pyarrow.parquet
import pytest
from pyarrow import Table
from support.byte_tokenizer import byte_tokenizer
from support.tiny_pair import write_pair

from mechdiff import Run
from mechdiff.__main__ import main
from mechdiff.inputs import prompts
from mechdiff.inputs.curation import (
    NEAR_DUPLICATE,
    Spec,
    as_row,
    candidates,
    divided,
    grouped,
    near_duplicates,
    normal,
    shingles,
)
from mechdiff.inputs.prompts import read_domain, read_positions, read_rows
from mechdiff.reporting import bundle

ALIKE_PAIRS = ((3, 31), (40, 57))
SUBJECTS = {"Algebra": 24, "Geometry": 18, "Number Theory": 12, "Counting & Probability": 6}


def words(seed: int, count: int = 9) -> str:
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
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where one's own domains go in this test."""
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path / "domains")
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    return tmp_path / "domains"


@pytest.fixture
def pair(tmp_path, own_store):
    """A pair of tokenizers, without weights."""
    (tmp_path / "pair").mkdir()
    path = write_pair(tmp_path / "pair")
    for side in ("base", "tuned"):
        byte_tokenizer().save_pretrained(path.parent / side)
    return str(path)


@pytest.fixture
def run(pair):
    """Runs the command. Returns its exit status."""

    def curated(*words):
        return main(["curate", *map(str, words), "--pair", pair])

    return curated


def files(folder):
    return {name: (folder / name).read_bytes() for name in ("train.jsonl", "val.jsonl", "positions.jsonl")}


# The recipes of the study's own domains


def test_the_cognitive_recipe_divides_by_subject_and_keeps_it(run, home, tmp_path, capsys):
    assert run("--recipe", "math-500", "--file", write(tmp_path / "math.jsonl", problems()), "--train", 40, "--val", 20) == 0
    splits = {split: read_rows(home / "math-500" / f"{split}.jsonl") for split in ("train", "val")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "val": 20}
    assert {row["text"] for rows in splits.values() for row in rows} == {row["problem"] for row in problems()}
    for split, share in (("train", 2 / 3), ("val", 1 / 3)):
        counts = Counter(row["meta"]["subject"] for row in splits[split])
        assert all(abs(counts[subject] - share * count) <= 1 for subject, count in SUBJECTS.items())
        assert all(row["meta"]["level"] in range(1, 6) and row["meta"]["unique_id"] for row in splits[split])
        assert [row["id"] for row in splits[split]] == [f"math-500-{split}-{i:03d}" for i in range(len(splits[split]))]
    assert not {row["template"] for row in splits["train"]} & {row["template"] for row in splits["val"]}
    where = {row["text"]: (split, row["template"]) for split, rows in splits.items() for row in rows}
    for first, second in ALIKE_PAIRS:
        assert where[problems()[first]["problem"]] == where[problems()[second]["problem"]]
    said = capsys.readouterr().out
    assert (
        "math.jsonl: 60 rows, 60 match" in said
        and "math-500 train: 40 prompts from" in said
        and "positions in 40 prompts" in said
    )


def test_the_same_rows_give_the_same_files_in_any_order_and_of_any_kind(run, home, tmp_path):
    rows = problems()
    shuffled = random.Random(1).sample(rows, len(rows))
    made = {"one": write(tmp_path / "a.jsonl", rows), "again": write(tmp_path / "a.jsonl", rows)}
    made["shuffled"] = write(tmp_path / "b.jsonl", shuffled)
    made["parquet"], made["csv"] = str(tmp_path / "c.parquet"), str(tmp_path / "d.csv")
    pyarrow.parquet.write_table(Table.from_pylist(shuffled), made["parquet"])
    with open(made["csv"], "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    options = ("--name", "mine", "--text-field", "problem", "--topic-field", "subject", "--train", 30, "--val", 15)
    outputs = {}
    for name, path in made.items():
        assert run("--file", path, "--out", tmp_path / name, *options) == 0
        outputs[name] = files(tmp_path / name)
    assert all(output == outputs["one"] for output in outputs.values())
    assert run("--file", made["one"], "--out", tmp_path / "seed", *options, "--seed", 1) == 0
    assert files(tmp_path / "seed")["val.jsonl"] != outputs["one"]["val.jsonl"]


def test_the_cultural_recipe_asks_the_whole_question_and_leaves_religion_out(run, home, tmp_path):
    categories = ["Traditions", "Social Relationships", "Agriculture and Animal Husbandry", "Traditional Clothing", "History"]
    rows = [
        {"question": f"{words(i)}?", "category": categories[i % 5], "answer": "A"}
        | {c: f"{c}{i} {words(900 + i, 2)}" for c in "ABCD"}
        for i in range(100)
    ]
    rows[0]["question"], rows[1]["question"] = "Намаз қашан оқылады?", "Қазақтың діни мерекесі қандай?"
    assert run("--recipe", "kk-culture", "--file", write(tmp_path / "kk.jsonl", rows), "--train", 40, "--val", 18) == 0
    lines = [row for split in ("train", "val") for row in read_rows(home / "kk-culture" / f"{split}.jsonl")]
    assert Counter(row["meta"]["category"] for row in lines) == {
        "Traditions": 19,
        "Social Relationships": 19,
        "Traditional Clothing": 20,
    }
    question = next(row for row in rows if row["question"].startswith(lines[0]["text"].partition("\n")[0]))
    options = "\n".join(f"{c}) {question[c]}" for c in "ABCD")
    assert lines[0]["text"] == f"{question['question']}\n\n{options}" and not any("Намаз" in row["text"] for row in lines)


@pytest.mark.parametrize("script", ["curate", "curate_cognitive", "curate_cultural", "curate_positions", "fill_prompts"])
def test_the_former_scripts_still_run(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"mechdiff.scripts.{script}", run_name="__main__")
    assert end.value.code == 0 and "usage: python -m mechdiff curate" in capsys.readouterr().out


def test_an_unknown_recipe_is_answered_with_the_choices(run, capsys):
    assert run("--recipe", "math") == 2
    assert "Choose from: kk-culture, math-500" in capsys.readouterr().err


# Which rows, and how they are divided


def test_equal_texts_are_one_prompt_and_empty_ones_none():
    texts = ["Find  x.", "find x. ", "ＦＩＮＤ x.", "Find y.", "", "  ", None]
    for order in (texts, texts[::-1]):
        pool = candidates(Spec(text="{t}", file="f"), ({"t": text} for text in order))
        assert [row.text for row in pool.rows] == ["Find y.", "Find  x."] or {row.text for row in pool.rows} == {
            "Find  x.",
            "Find y.",
        }
        assert (pool.total, pool.matching) == (7, 4)


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


# A domain of one's own


def test_an_own_domain_is_found_and_can_be_studied(run, home, pair, tmp_path):
    rows = [{"q": words(i), "kind": f"k{i % 30}"} for i in range(60)]
    path = write(tmp_path / "my.jsonl", rows)
    assert run("--name", "mine", "--file", path, "--text-field", "q", "--template-field", "kind", "--train", 20, "--val", 8) == 0
    assert prompts.domains()[:2] == prompts.shipped_domains() and prompts.domains()[2:] == ["mine"] == prompts.own_domains()
    val = read_domain("mine", "val")
    assert len(val) == 8 and {prompt.template for prompt in val} <= {f"k{i}" for i in range(30)}
    positions = read_positions("mine")
    assert list(positions) == [prompt.text for prompt in read_domain("mine", "train")] and all(positions.values())
    study = Run("transport", pair, domain="mine", positions=4)
    assert study.chosen_prompts == val and len(study.train_prompts) == 20
    about = json.loads((home / "mine" / "about.json").read_text())
    assert (about["rows"], about["fitting"], about["file"], about["template"]) == (60, 60, "my.jsonl", "kind")


def test_the_words_of_an_own_domain_stay_at_home(run, home, pair, tmp_path):
    write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(30)])
    run("--name", "mine", "--file", tmp_path / "my.jsonl", "--text-field", "q", "--train", 20, "--val", 8)
    study, val = Run("patch", pair, domain="mine"), read_domain("mine", "val")
    assert not prompts.public(val) and prompts.public(read_domain(prompts.shipped_domains()[0], "val"))
    there = bundle.portable(study)
    assert there.prompts.startswith(prompts.OWN) and there.train.startswith(prompts.OWN)
    assert there.chosen_prompts == val and len(bundle.prompts_by_hash(study)) == 2


def test_filters_take_several_values_and_fields(run, home, tmp_path):
    rows = [
        {"q": f"{words(i)} {kind} {lang}", "kind": kind, "lang": lang}
        for i in range(10)
        for kind in ("Tea", "Tents", "War")
        for lang in "ab"
    ]
    path = write(tmp_path / "my.jsonl", rows)
    options = ("--name", "mine", "--file", path, "--text-field", "q", "--train", 6, "--val", 4)
    assert run(*options, "--where", "kind=t*", "--where", "lang=A", "--without", "q=*tents*", "--topic-field", "kind") == 0
    lines = [row for split in ("train", "val") for row in read_rows(home / "mine" / f"{split}.jsonl")]
    assert len(lines) == 10 and all(row["text"].endswith("Tea a") and row["meta"]["topic"] == "Tea" for row in lines)


def test_without_a_tokenizer_there_are_no_positions_and_no_old_ones(run, home, tmp_path, capsys):
    path = write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(30)])
    options = ["--name", "mine", "--file", path, "--text-field", "q", "--train", "20", "--val", "8"]
    assert run(*options) == 0 and (home / "mine" / "positions.jsonl").exists()
    (tmp_path / "none.toml").write_text('[base]\nfolder = "none"\n[tuned]\nfolder = "none"\n')
    assert main(["curate", *options, "--force", "--seed", "2", "--pair", str(tmp_path / "none.toml")]) == 0
    assert "No positions.jsonl, so positions are chosen when they are needed: There is no model" in capsys.readouterr().out
    assert not (home / "mine" / "positions.jsonl").exists() and read_positions("mine") == {}


# What cannot be


GOOD = ["--name", "mine", "--text-field", "problem", "--train", "40", "--val", "20"]
WRONG = [
    (["--text-field", "prompt"], r"has no field 'prompt'. Its fields are: problem, answer, subject, level, unique_id"),
    (["--template-field", "kind"], "has no field 'kind'"),
    (["--train", "350"], "gives 60 distinct prompts, fewer than 350 .*\nTry:  --train 56 --val 3"),
    (["--template-field", "subject", "--train", "38"], "from 4 templates, none of which may be in both"),
    (
        ["--where", "subject=music,art"],
        "None of the 60 rows .* The field subject must be music, art; its values are: Algebra, Geometry",
    ),
    (["--where", "subject"], "--where 'subject' cannot be read.\nTry:  --where category=tradition,etiquette"),
    (["--text-field", "", "--text", ""], "Try:  --text-field"),
    (["--text-field", "", "--text", "{problem[5][x]}"], "cannot be filled from a row"),
    (["--val", "0"], "Try:  --train 350"),
    (["--name", "../mine"], "cannot be called '../mine'"),
    (["--name", "own"], "cannot be called 'own'"),
    (["--file", "none.jsonl"], "file none.jsonl does not exist .*\nTry:  ls"),
    (["--file", __file__], "not in a supported format. Choose a file that ends in .jsonl, .json, .parquet, .csv"),
    (["--file", ""], "Try:  --dataset org/name  or  --file"),
    (["--name", prompts.shipped_domains()[0]], "There is a shipped domain"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "")
def test_what_cannot_be_is_a_sentence_and_writes_nothing(run, home, tmp_path, capsys, wrong, says):
    path = write(tmp_path / "math.jsonl", problems())
    assert run("--file", path, *GOOD, *wrong) == 2
    assert re.search(says, capsys.readouterr().err)
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", b'{"problem":\nxx', "cannot be read"),
        ("a.jsonl", b"", "has no rows"),
        ("a.jsonl", b"\n\n", "has no rows"),
        ("a.parquet", b"xx", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
        ("a.csv", b"problem\n\xff\xfe", "is not UTF-8 text"),
    ],
)
def test_a_broken_file_is_a_sentence(run, home, tmp_path, capsys, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert run("--file", tmp_path / name, *GOOD) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not home.exists()


def test_what_is_there_is_not_overwritten_without_a_word(run, home, tmp_path, capsys):
    path = write(tmp_path / "math.jsonl", problems())
    assert run("--file", path, *GOOD) == 0
    before = files(home / "mine")
    assert run("--file", path, *GOOD, "--seed", 1) == 2 and "already has a train.jsonl" in capsys.readouterr().err
    assert files(home / "mine") == before
    assert run("--file", path, *GOOD, "--seed", 1, "--force") == 0 and files(home / "mine") != before


def failing(error):
    def fail(*_, **details):
        assert 0 < details["timeout"] <= 10
        raise error

    return fail


def test_without_the_hub_there_is_a_sentence_at_once(run, home, monkeypatch, capsys):
    """Not after the half minute for which load_dataset tries again."""
    import datasets
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was tried all the same"))
    missing = RepositoryNotFoundError("404", response=httpx2.Response(404, request=httpx2.Request("GET", "https://hub")))
    for error, says in (
        (
            httpx2.ConnectError("Name or service not known"),
            "the hub is not reachable (ConnectError).\nTry:  again with a network",
        ),
        (httpx2.ReadTimeout("slow"), "the hub is not reachable (ReadTimeout)"),
        (OfflineModeIsEnabled("offline"), "and pass it with --file FILE"),
        (missing, "The hub has no data set HuggingFaceH4/MATH-500 that you can access"),
    ):
        monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", failing(error))
        assert run("--recipe", "math-500") == 2 and says in capsys.readouterr().err
    assert not home.exists()
