"""Curating domains: the command, its recipes, its files, and what it answers to what cannot be."""

import csv
import json
import random
import re
import runpy
from collections import Counter

import httpx2
import pyarrow.parquet
import pytest
from pyarrow import Table
from support.curating import ALIKE_PAIRS, SUBJECTS, files, problems, split_rows, words, write

from mechdiff import Run
from mechdiff.__main__ import main
from mechdiff.inputs import prompts
from mechdiff.inputs.answer_scoring import scored
from mechdiff.inputs.prompts import read_domain, read_positions, read_prompts, read_rows
from mechdiff.reporting import bundle

# The recipes of the study's own domains


def test_the_cognitive_recipe_asks_for_the_final_answer_and_divides_by_subject(curate, home, tmp_path, capsys):
    assert curate("--recipe", "math-500", "--file", write(tmp_path / "math.jsonl", problems()), "--train", 40, "--val", 20) == 0
    splits = {split: read_rows(home / "math-500" / f"{split}.jsonl") for split in ("train", "val")}
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 40, "val": 20}
    answers = {row["problem"] + "\n\nFinal answer:": row["answer"] for row in problems()}
    assert {row["text"]: row["answer"] for rows in splits.values() for row in rows} == answers
    for split, share in (("train", 2 / 3), ("val", 1 / 3)):
        counts = Counter(row["meta"]["subject"] for row in splits[split])
        assert all(abs(counts[subject] - share * count) <= 1 for subject, count in SUBJECTS.items())
        assert all(row["meta"]["level"] in range(1, 6) and row["meta"]["unique_id"] for row in splits[split])
        assert [row["id"] for row in splits[split]] == [f"math-500-{split}-{i:03d}" for i in range(len(splits[split]))]
    assert not {row["template"] for row in splits["train"]} & {row["template"] for row in splits["val"]}
    where = {row["text"].partition("\n")[0]: (split, row["template"]) for split, rows in splits.items() for row in rows}
    for first, second in ALIKE_PAIRS:
        assert where[problems()[first]["problem"]] == where[problems()[second]["problem"]]
    said = capsys.readouterr().out
    assert (
        "math.jsonl: 60 rows, 60 match" in said
        and "math-500 train: 40 prompts from" in said
        and "positions in 40 prompts" in said
    )


def test_the_same_rows_give_the_same_files_in_any_order_and_of_any_kind(curate, home, tmp_path):
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
        assert curate("--file", path, "--out", tmp_path / name, *options) == 0
        outputs[name] = files(tmp_path / name)
    assert all(output == outputs["one"] for output in outputs.values())
    assert curate("--file", made["one"], "--out", tmp_path / "seed", *options, "--seed", 1) == 0
    assert files(tmp_path / "seed")["val.jsonl"] != outputs["one"]["val.jsonl"]


def kazakh(question: str, category: str, number: int, answer: str = "B") -> dict:
    """A row in the format of the Kazakh questions."""
    return {"question": question, "category": category, "answer": answer} | {c: f"{c.lower()} {number}" for c in "ABCD"}


def test_the_cultural_recipe_asks_the_question_alone_and_keeps_the_options_and_the_right_one(curate, home, tmp_path):
    rows = [kazakh(f"{words(i)}?", "Traditional Clothing", i, "ABCD"[i % 4]) for i in range(40)]
    assert curate("--recipe", "kk-culture", "--file", write(tmp_path / "kk.jsonl", rows), "--train", 30, "--val", 10) == 0
    of = {row["question"]: row for row in rows}
    for line in split_rows(home / "kk-culture"):
        row = of[line["text"]]
        assert line["choices"] == [row[c] for c in "ABCD"] and line["answer"] == row[row["answer"]]
        assert line["meta"]["category"] == "Traditional Clothing"
    prompt = read_domain("kk-culture", "val")[0]
    assert prompt.answer in prompt.choices and scored(prompt.text, prompt.choices) == prompt.choices, "scored by their texts"
    shown = ["--text", r"{question}\n\nA) {A}\nB) {B}\nC) {C}\nD) {D}", "--out", tmp_path / "shown"]
    options = ["--recipe", "kk-culture", "--file", tmp_path / "kk.jsonl", "--train", 30, "--val", 10]
    assert curate(*options, *shown) == 0
    prompt = read_prompts(tmp_path / "shown" / "val.jsonl")[0]
    assert scored(prompt.text, prompt.choices) == tuple("ABCD"), "scored by their letters"


def test_the_cultural_recipe_matches_category_or_question_and_leaves_religion_out(curate, home, tmp_path):
    chosen = [
        *(
            kazakh(f"{words(i)}?", category, i)
            for i, category in enumerate(["Traditions", "Social Life", "Agriculture", "Norms"])
        ),
        kazakh(f"{words(10)} Folk CUSTOMS?", "History", 10),
        kazakh(f"{words(11)} family {words(12)}?", "Sport", 11),
    ]
    others = [
        kazakh(f"{words(20)}?", "History", 20),
        kazakh(f"{words(21)}?", "Religious Traditions", 21),
        kazakh("Намаз қашан оқылады?", "Traditions", 22),
        kazakh("Қазақтың діни мерекесі қандай?", "Traditions", 23),
        kazakh(f"{words(24)} a family and its FAITH?", "History", 24),
    ]
    path = write(tmp_path / "kk.jsonl", chosen + others)
    assert curate("--recipe", "kk-culture", "--file", path, "--train", 4, "--val", 2) == 0
    assert {row["text"] for row in split_rows(home / "kk-culture")} == {row["question"] for row in chosen}


@pytest.mark.parametrize("script", ["curate", "curate_cognitive", "curate_cultural", "curate_positions", "fill_prompts"])
def test_the_former_scripts_still_run(script, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"mechdiff.scripts.{script}", run_name="__main__")
    assert end.value.code == 0 and "usage: python -m mechdiff curate" in capsys.readouterr().out


def test_an_unknown_recipe_is_answered_with_the_choices(curate, capsys):
    assert curate("--recipe", "math") == 2
    assert "Choose from: kk-culture, math-500" in capsys.readouterr().err


# A domain of one's own


def test_an_own_domain_is_found_and_can_be_studied(curate, home, tokenizer_pair, tmp_path):
    rows = [{"q": words(i), "kind": f"k{i % 30}"} for i in range(60)]
    path = write(tmp_path / "my.jsonl", rows)
    assert (
        curate("--name", "mine", "--file", path, "--text-field", "q", "--template-field", "kind", "--train", 20, "--val", 8) == 0
    )
    assert prompts.domains() == [*prompts.shipped_domains(), "mine"] and prompts.own_domains() == ["mine"]
    val = read_domain("mine", "val")
    assert len(val) == 8 and {prompt.template for prompt in val} <= {f"k{i}" for i in range(30)}
    positions = read_positions("mine")
    assert list(positions) == [prompt.text for prompt in read_domain("mine", "train")] and all(positions.values())
    study = Run("transport", tokenizer_pair, domain="mine", positions=4)
    assert study.chosen_prompts == val and len(study.train_prompts) == 20
    about = json.loads((home / "mine" / "about.json").read_text())
    assert (about["rows"], about["fitting"], about["file"], about["template"]) == (60, 60, "my.jsonl", "kind")


def test_the_words_of_an_own_domain_stay_at_home(curate, home, tokenizer_pair, tmp_path):
    write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(30)])
    curate("--name", "mine", "--file", tmp_path / "my.jsonl", "--text-field", "q", "--train", 20, "--val", 8)
    study, val = Run("patch", tokenizer_pair, domain="mine"), read_domain("mine", "val")
    assert not prompts.public(val) and prompts.public(read_domain(prompts.shipped_domains()[0], "val"))
    there = bundle.portable(study)
    assert there.prompts.startswith(prompts.OWN) and there.train.startswith(prompts.OWN)
    assert there.chosen_prompts == val and len(bundle.prompts_by_hash(study)) == 2


def test_filters_take_several_values_and_fields(curate, home, tmp_path):
    rows = [
        {"q": f"{words(i)} {kind} {lang}", "kind": kind, "lang": lang}
        for i in range(10)
        for kind in ("Tea", "Tents", "War")
        for lang in "ab"
    ]
    path = write(tmp_path / "my.jsonl", rows)
    options = ("--name", "mine", "--file", path, "--text-field", "q", "--train", 6, "--val", 4)
    assert curate(*options, "--where", "kind=t*", "--where", "lang=A", "--without", "q=*tents*", "--topic-field", "kind") == 0
    lines = split_rows(home / "mine")
    assert len(lines) == 10 and all(row["text"].endswith("Tea a") and row["meta"]["topic"] == "Tea" for row in lines)


def test_without_a_tokenizer_there_are_no_positions_and_no_old_ones(curate, home, tmp_path, capsys):
    path = write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(30)])
    options = ["--name", "mine", "--file", path, "--text-field", "q", "--train", "20", "--val", "8"]
    assert curate(*options) == 0 and (home / "mine" / "positions.jsonl").exists()
    (tmp_path / "none.toml").write_text('[base]\nfolder = "none"\n[tuned]\nfolder = "none"\n')
    assert main(["curate", *options, "--force", "--seed", "2", "--pair", str(tmp_path / "none.toml")]) == 0
    assert "No positions.jsonl, so positions are chosen when they are needed: There is no model" in capsys.readouterr().out
    assert not (home / "mine" / "positions.jsonl").exists() and read_positions("mine") == {}


# What cannot be


GOOD = ["--name", "mine", "--text-field", "problem", "--train", "40", "--val", "20"]
WRONG = [
    (
        ["--text-field", "prompt"],
        r"has no field 'prompt'. Its fields are: problem, answer, subject, level, unique_id\nTry:  --text-fi",
    ),
    (["--template-field", "topic"], "has no field 'topic'.*\nTry:  --template-field FIELD"),
    (["--topic-field", "subjects"], "has no field 'subjects'.*\nTry:  --topic-field subject"),
    (["--where", "levels=5"], "has no field 'levels'.*\nTry:  --where \"level=VALUE\""),
    (["--keep", "level,uniqueid"], "has no field 'uniqueid'.*\nTry:  --keep level,unique_id"),
    (["--train", "350"], "gives 60 distinct prompts, fewer than 350 .*\nTry:  --train 56 --val 3"),
    (["--template-field", "subject", "--train", "38"], "from 4 templates, none of which may be in both"),
    (
        ["--where", "subject=music,art"],
        "None of the 60 rows .* is left: 60 filtered by field. The field subject must be music, art; its values are: Algebra, "
        'Geometry, .*\nTry:  --where "subject=Algebra"',
    ),
    (["--where", "subject"], "--where 'subject' cannot be read.\nTry:  --where category=tradition,etiquette"),
    (["--text-field", "", "--text", ""], "Try:  --text-field"),
    (["--text-field", "", "--text", "{problem[5][x]}"], r"cannot be filled from a row .*\nTry:  --text-field problem"),
    (["--val", "0"], "Try:  --train 350"),
    (["--name", "../mine"], "cannot be called '../mine'"),
    (["--name", "own"], "cannot be called 'own'"),
    (["--file", "none.jsonl"], "file none.jsonl does not exist .*\nTry:  ls"),
    (["--file", __file__], "not in a supported format. Choose a file that ends in .jsonl, .json, .parquet, .csv"),
    (["--file", ""], "Try:  --dataset org/name  or  --file"),
    (["--name", prompts.shipped_domains()[0]], "There is a shipped domain"),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "")
def test_what_cannot_be_is_a_sentence_and_writes_nothing(curate, home, tmp_path, capsys, wrong, says):
    path = write(tmp_path / "math.jsonl", problems())
    assert curate("--file", path, *GOOD, *wrong) == 2
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
def test_a_broken_file_is_a_sentence(curate, home, tmp_path, capsys, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert curate("--file", tmp_path / name, *GOOD) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said and not home.exists()


def test_what_is_there_is_not_overwritten_without_a_word(curate, home, tmp_path, capsys):
    path = write(tmp_path / "math.jsonl", problems())
    assert curate("--file", path, *GOOD) == 0
    before = files(home / "mine")
    assert curate("--file", path, *GOOD, "--seed", 1) == 2 and "already has a train.jsonl" in capsys.readouterr().err
    assert files(home / "mine") == before
    assert curate("--file", path, *GOOD, "--seed", 1, "--force") == 0 and files(home / "mine") != before


def failing(error):
    def fail(*_, **details):
        assert 0 < details["timeout"] <= 10
        raise error

    return fail


def test_without_the_hub_there_is_a_sentence_at_once(curate, home, monkeypatch, capsys):
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
        assert curate("--recipe", "math-500") == 2 and says in capsys.readouterr().err
    assert not home.exists()
