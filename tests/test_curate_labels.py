"""Curation: the right answer and the possible answers that stay in the rows, and what is said where they are no good."""

import numpy as np
import pytest
from support.curating import split_rows, words, write
from support.random_pair import WORDS

import mechdiff
from mechdiff import Run
from mechdiff.__main__ import main
from mechdiff.inputs.labels import BadLabel, label
from mechdiff.inputs.prompts import Prompt, read_domain

CITIES = ["Almaty", "Astana", "Oral city", "B"]


def questions(count: int, **changed) -> list[dict]:
    """Questions with four options each, of which the second is right."""
    options = [{c: f"{c.lower()}{i}" for c in "ABCD"} for i in range(count)]
    return [{"q": f"{words(i)}?", "answer": "B", "list": list(options[i].values())} | options[i] | changed for i in range(count)]


@pytest.mark.parametrize(
    ("given", "right"),
    [
        ("A", "Almaty"),
        ("a", "Almaty"),
        (" (C) ", "Oral city"),
        ("C.", "Oral city"),
        ("d)", "B"),
        ("B", "B"),  # a text before a letter
        ("Oral city", "Oral city"),
        ("  ORAL\n city ", "Oral city"),
        ("Ｏｒａｌ city", "Oral city"),
    ],
)
@pytest.mark.parametrize("fields", [("A", "B", "C", "D"), ("list",)], ids=["four fields", "a list"])
def test_the_right_choice_is_named_by_its_letter_or_its_text(given, right, fields):
    row = {"answer": given, "list": CITIES} | dict(zip("ABCD", [" Almaty ", *CITIES[1:]]))
    assert label(row, "answer", fields) == (right, tuple(CITIES))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"answer": "E"}, "the answer is none of the choices"),
        ({"answer": "Alma"}, "the answer is none of the choices"),
        ({"answer": 1}, "the answer is none of the choices"),
        ({"answer": "ORAL", "C": "Oral", "D": "oral"}, "the answer is none of the choices"),  # which of the two is not known
        ({"answer": " "}, "the answer is empty"),
        ({"answer": None}, "the answer is empty"),
        ({"answer": ["A"]}, "the answer is neither text nor a number"),
        ({"answer": True}, "the answer is neither text nor a number"),
        ({"C": " "}, "the choices are not two or more texts"),
        ({"C": None}, "the choices are not two or more texts"),
        ({"C": "Almaty "}, "two choices are the same"),
    ],
)
def test_a_label_that_cannot_be_used_says_why(row, why):
    with pytest.raises(BadLabel) as error:
        label({"answer": "A"} | dict(zip("ABCD", CITIES)) | row, "answer", tuple("ABCD"))
    assert error.value.reason == why


def test_one_field_of_choices_has_to_hold_a_list():
    for value in ("Almaty, Astana", ["Almaty"], []):
        with pytest.raises(BadLabel, match="the choices are not"):
            label({"answer": "A", "list": value}, "answer", ("list",))


@pytest.mark.parametrize("choices", ["A,B,C,D", "list"])
def test_choices_and_the_right_one_are_in_the_domains_prompts(curate, home, tmp_path, choices):
    rows = questions(12)
    options = ["--name", "mine", "--file", write(tmp_path / "my.jsonl", rows), "--text-field", "q", "--train", 8, "--val", 4]
    assert curate(*options, "--answer-field", "answer", "--choices", choices) == 0
    made = {prompt.text: (prompt.answer, prompt.choices) for split in ("train", "val") for prompt in read_domain("mine", split)}
    assert made == {row["q"]: (row["B"], tuple(row[c] for c in "ABCD")) for row in rows}


def test_an_answer_alone_is_kept_whole(curate, home, tmp_path):
    rows = [{"q": f"{words(i)}?", "a": [r" \frac{4}{3} ", 7, 2.5][i % 3]} for i in range(12)]
    options = ["--name", "mine", "--file", write(tmp_path / "my.jsonl", [{**row, "a": str(row["a"])} for row in rows])]
    assert curate(*options, "--text-field", "q", "--answer-field", "a", "--train", 8, "--val", 4) == 0
    lines = {row["text"]: row for row in split_rows(home / "mine")}
    assert {row["q"]: str(row["a"]).strip() for row in rows} == {text: row["answer"] for text, row in lines.items()}
    assert not any("choices" in row for row in lines.values())
    assert all(isinstance(prompt, Prompt) and prompt.answer for prompt in read_domain("mine", "val"))


def test_rows_without_a_usable_label_are_left_out_and_counted(curate, home, tmp_path, capsys):
    rows = [*questions(12), *questions(3, answer="E"), *questions(1, C="b0")]
    for i, row in enumerate(rows):
        row["q"] = f"{words(i)}?"
    options = ["--name", "mine", "--file", write(tmp_path / "my.jsonl", rows), "--text-field", "q", "--train", 8, "--val", 4]
    assert curate(*options, "--answer-field", "answer", "--choices", "A,B,C,D") == 0
    assert {row["text"] for row in split_rows(home / "mine")} == {row["q"] for row in rows[:12]}
    said = capsys.readouterr().out
    assert "16 rows, 12 match" in said
    assert "In 3 rows the answer is none of the choices, as in 'E' of 'a0', 'b0', 'c0', 'd0'." in said
    assert "In 1 row two choices are the same, as in 'a0', 'b0', 'b0', 'd0'." in said


BAD = [
    (
        ["--answer-field", "answers"],
        [],
        "has no field 'answers'. Its fields are: q, answer, list, A, B, C, D\nTry:  --answer-field answer",
    ),
    (["--answer-field", "answer", "--choices", "A,B,c"], [], "has no field 'c'."),
    (["--choices", "A,B,C,D"], [], "not which of them is right.\nTry:  --answer-field answer"),
    (
        ["--answer-field", "answer", "--choices", "A,C,D"],
        [],
        "None of the 12 rows of {path} is left: 12 bad answer or choices. In 12 rows the answer is none of the choices, as in "
        "'b0' of 'a0', 'c0', 'd0'.\nTry:  --answer-field FIELD --choices FIELD,FIELD",
    ),
    (
        ["--answer-field", "answer", "--choices", "A"],
        [],
        "In 12 rows the choices are not a list, as in A is 'a0'.\nTry:  --answer-field FIELD --choices FIELD,FIELD",
    ),
    (
        ["--answer-field", "answer", "--choices", "A,B,C,D"],
        ["x"] * 6,
        "6 distinct prompts, fewer than 8 for train and 4 for val. Of its 12 rows: 6 bad answer or choices. In 6 rows the answer "
        "is none of the choices, as in 'x' of 'a0', 'b0', 'c0', 'd0'.\nTry:  --train 4 --val 2",
    ),
]


@pytest.mark.parametrize(("flags", "answers", "says"), BAD, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_what_is_wrong_with_a_label_is_a_sentence(curate, home, tmp_path, capsys, flags, answers, says):
    rows = questions(12)
    for row in rows:
        row["answer"] = row["B"]
    for row, answer in zip(rows, answers):
        row["answer"] = answer
    path = write(tmp_path / "my.jsonl", rows)
    assert curate("--name", "mine", "--file", path, "--text-field", "q", "--train", 8, "--val", 4, *flags) == 2
    assert says.format(path=path) in capsys.readouterr().err and not home.exists()


def test_behaviour_scores_a_curated_domains_choices_and_answers(pair, home, tmp_path):
    rows = [{"q": f"{words(i)} {WORDS[i]}", "answer": "b"} | dict(zip("AB", WORDS[i + 9 : i + 11])) for i in range(12)]
    path = write(tmp_path / "my.jsonl", rows)
    flags = ["--text-field", "q", "--answer-field", "answer", "--choices", "A,B", "--train", "4", "--val", "4"]
    assert main(["curate", "--name", "mine", "--file", path, *flags, "--pair", pair["pair"]]) == 0
    table = mechdiff.run(Run("behaviour", pair["pair"], domain="mine", new_tokens=2, device="cpu"))
    columns = table[["choice_logprob", "choice_right", "exact"]].to_numpy(float)
    assert len(table) == 8 and np.isfinite(columns).all()
