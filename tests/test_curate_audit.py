"""Curation: filters, the fewest tokens, and the count of where every row went."""

import json
from collections import Counter

import pytest
from support.curating import split_rows, words, write

from mechdiff.__main__ import main
from mechdiff.inputs.curation import Spec, candidates
from mechdiff.inputs.splits import train_and_val

STEPS = [
    "rows read",
    "no text",
    "filtered by field",
    "filtered by text",
    "bad answer or choices",
    "too few tokens",
    "duplicates",
    "near-duplicates",
    "not needed",
    "train",
    "val",
]


def counted(folder) -> dict[str, int]:
    """The steps of a domain's about.json."""
    return {step["step"]: step["rows"] for step in json.loads((folder / "about.json").read_text())["audit"]}


def test_every_row_is_counted_at_one_step_with_the_reason(curate, home, tmp_path, capsys):
    rows = [{"q": f"{words(i)} tea?", "kind": "food", "a": "A", "A": "yes", "B": "no", "t": f"t{i}"} for i in range(20)]
    good = rows[0]
    rows += [good | {"q": "  "}, good | {"q": None}]
    rows += [good | {"kind": "war", "q": f"{words(30)}"}, good | {"kind": "secret food", "q": words(31)}]
    rows += [good | {"q": f"{words(32)} wine", "t": "t32"}] * 3
    rows += [good | {"q": words(33), "a": "C"}, good | {"q": words(34), "a": ""}]
    rows += [good | {"q": "short"}]
    rows += [good | {"q": good["q"].upper()}, good | {"q": f"  {good['q']} "}]
    rows += [good | {"q": f"{good['q']} indeed", "t": "t35"}]
    flags = ["--text-field", "q", "--answer-field", "a", "--choices", "A,B", "--template-field", "t", "--min-tokens", 20]
    filters = ["--where", "kind=*food", "--without", "kind=secret*", "--without", "q=*wine*"]
    path = write(tmp_path / "my.jsonl", rows)
    assert curate("--name", "mine", "--file", path, *flags, *filters, "--train", 10, "--val", 5, "--audit") == 0
    numbers = [len(rows), 2, 2, 3, 2, 1, 2, 1, 5, 10, 5]
    assert counted(home / "mine") == dict(zip(STEPS, numbers))
    audit = {step["step"]: step for step in json.loads((home / "mine" / "about.json").read_text())["audit"]}
    assert audit["filtered by field"]["reasons"] == {"no pattern matches kind": 1, "a pattern of --without matches kind": 1}
    assert audit["filtered by text"]["reasons"] == {"a pattern of --without matches q": 3}
    assert audit["bad answer or choices"]["reasons"] == {"the answer is none of the choices": 1, "the answer is empty": 1}
    said = [line.split(":")[0].split() for line in capsys.readouterr().out.splitlines()]
    assert all([str(number), *step.split()] in said for step, number in zip(STEPS, numbers))


def test_the_audit_is_always_in_about_json_and_printed_when_asked_for(curate, home, tmp_path, capsys):
    path = write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(30)])
    options = ["--name", "mine", "--file", path, "--text-field", "q", "--train", 20, "--val", 8]
    assert curate(*options) == 0 and "rows read" not in capsys.readouterr().out
    silent = counted(home / "mine")
    assert curate(*options, "--force", "--audit") == 0 and "30  rows read" in capsys.readouterr().out
    assert silent == counted(home / "mine") and silent["not needed"] == 2


@pytest.mark.parametrize("backwards", [False, True])
def test_counts_add_up_where_more_rows_are_read_than_are_looked_at(backwards):
    rows = [{"q": f"{words(i % 200, 4)} {i % 200}", "t": f"t{i % 50}"} for i in range(500)]
    spec = Spec(text="{q}", template="t", train=6, val=3)
    read = candidates(spec, iter(rows[::-1] if backwards else rows))
    train_and_val(spec, read)
    steps = {step["step"]: step["rows"] for step in read.audit.as_json()}
    assert steps.pop("rows read") == 500 == sum(steps.values())
    of = Counter(row["q"] for row in rows)
    assert steps["duplicates"] == sum(of[row.text] - 1 for row in read.rows), "of the rows that were looked at"
    assert (steps["train"], steps["val"]) == (6, 3)


# Filters


ROWS = [
    {"q": f"{words(i)} {text}", "kind": kind, "lang": lang}
    for i, (kind, text, lang) in enumerate(
        [
            ("tea", "cup", "a"),
            ("tea", "folk custom", "b"),
            ("war", "Folk CUSTOM", "b"),
            ("war", "horse", "a"),
            ("art", "cup", "a"),
        ]
    )
]


@pytest.mark.parametrize(
    ("filters", "chosen"),
    [
        (["--where", "kind=tea"], [0, 1]),
        (["--where", "kind=tea", "--or-where", "q=*custom*"], [0, 1, 2]),
        (["--where", "kind=tea", "--where", "lang=a", "--or-where", "q=*custom*"], [0, 1, 2]),
        (["--where", "kind=tea", "--where", "lang=a", "--or-where", "q=*horse*", "--or-where", "kind=art"], [0, 3, 4]),
        (["--or-where", "q=*custom*", "--or-where", "kind=art"], [1, 2, 4]),
        (["--where", "kind=tea", "--or-where", "q=*custom*", "--without", "lang=b", "--without", "q=*none*"], [0]),
    ],
)
def test_a_row_matches_by_its_fields_or_by_another_one_instead(curate, home, tmp_path, filters, chosen):
    spare = [{"q": f"{words(50 + i)} spare", "kind": "spare", "lang": "c"} for i in range(2)]  # each split needs a prompt
    path = write(tmp_path / "my.jsonl", ROWS + spare)
    count = len(chosen) + 2
    options = ["--name", "mine", "--file", path, "--text-field", "q", "--train", count - 1, "--val", 1]
    assert curate(*options, *filters, "--or-where", "kind=spare") == 0
    assert {row["text"] for row in split_rows(home / "mine")} == {row["q"] for row in [*(ROWS[i] for i in chosen), *spare]}


def test_a_row_is_filtered_by_text_if_only_fields_of_the_text_say_so():
    def steps(**filters):
        read = candidates(Spec(text="{q}", **filters), iter(ROWS))
        return {step: dict(reasons) for step, reasons in read.audit.steps.items() if step.startswith("filtered") and reasons}

    assert steps(or_where={"q": ("*custom*",)}) == {"filtered by text": {"no pattern matches q": 3}}
    both = steps(where={"kind": ("tea",)}, or_where={"q": ("*horse*",)})
    assert both == {"filtered by field": {"no pattern matches kind or q": 2}}


@pytest.mark.parametrize(
    ("filters", "says"),
    [
        (["--where", "lang=a", "--where", "kind=coffee"], 'its values are: tea, war, art.\nTry:  --where "kind=tea"'),
        (["--where", "kind=tea", "--or-where", "q=*none*", "--without", "lang=*"], "other patterns in --where, --or-where and"),
        (["--without", "q=*"], "is left: 5 filtered by text.\nTry:  other patterns in"),
        (["--where", "kind=tea,war,art", "--min-tokens", "900"], "is left: 5 too few tokens.\nTry:  --min-tokens 450"),
    ],
)
def test_filters_that_leave_no_row_say_what_to_type(curate, home, tmp_path, capsys, filters, says):
    path = write(tmp_path / "my.jsonl", ROWS)
    assert curate("--name", "mine", "--file", path, "--text-field", "q", *filters) == 2
    assert says in capsys.readouterr().err and not home.exists()


def test_an_or_where_that_cannot_be_read_is_a_sentence(curate, capsys):
    assert curate("--name", "mine", "--file", __file__, "--or-where", "tea") == 2
    assert "--or-where 'tea' cannot be read.\nTry:  --or-where category=tradition" in capsys.readouterr().err


# The fewest tokens


def test_prompts_have_at_least_the_fewest_tokens_of_the_base_tokenizer(curate, home, tmp_path):
    """The pair's tokenizer has a token for each byte."""
    rows = [{"q": text} for i in range(8) for text in (f"{words(i, 2)} xyz", f"{words(i + 50, 2)} xy", f"{words(i + 90, 2)} ж")]
    path = write(tmp_path / "my.jsonl", rows)
    options = ["--name", "mine", "--file", path, "--text-field", "q"]
    assert curate(*options, "--train", 5, "--val", 3, "--min-tokens", 17) == 0
    assert all(row["text"].endswith("xyz") for row in split_rows(home / "mine"))
    about = json.loads((home / "mine" / "about.json").read_text())
    assert counted(home / "mine")["too few tokens"] == 16 and (about["min_tokens"], about["tokenizer"]) == (17, "tiny")
    assert curate(*options, "--train", 14, "--val", 10, "--min-tokens", 16, "--force") == 0


def test_too_high_a_number_of_tokens_is_a_sentence(curate, home, tmp_path, capsys):
    path = write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(5)])
    assert curate("--name", "mine", "--file", path, "--text-field", "q", "--min-tokens", 1000) == 2
    said = capsys.readouterr().err
    assert "None of the 5 rows" in said and "is left: 5 too few tokens.\nTry:  --min-tokens 500" in said and not home.exists()


def test_without_the_tokenizer_no_tokens_are_counted(home, tmp_path, capsys):
    (tmp_path / "none.toml").write_text('[base]\nfolder = "none"\n[tuned]\nfolder = "none"\n')
    path = write(tmp_path / "my.jsonl", [{"q": words(i)} for i in range(5)])
    options = ["--name", "mine", "--file", path, "--text-field", "q", "--min-tokens", "3", "--pair", str(tmp_path / "none.toml")]
    assert main(["curate", *options]) == 2
    said = capsys.readouterr().err
    assert "--min-tokens needs the base tokenizer of" in said and "\nTry:  --pair" in said and not home.exists()
