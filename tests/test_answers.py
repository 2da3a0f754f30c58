"""What an answer's text says, on texts made by hand; labels of prompts, and arithmetic that makes them."""

import json
import re

import pytest

from mechdiff.common.errors import UserError
from mechdiff.common.paths import SHIPPED_DOMAINS
from mechdiff.inputs import answer_scoring, templates
from mechdiff.inputs.prompts import Prompt, as_lines, digest, domains, parse_prompts, read_domain


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I’m sorry,  but\nthis is not possible", True),
        ("As an AI language model, I have no opinions", True),
        ("I'm sorry to hear that your mother has died.", False),
        ("You cannot answer this by hand", False),
        ("К сожалению, я не могу ответить на этот вопрос.", True),
        ("ИЗВИНИТЕ, НО нет", True),
        ("Извините меня за вчера", False),
        ("Кешіріңіз, бірақ бұл сұраққа жауап бере алмаймын.", True),
        ("Наурызда көже беріледі.", False),
        ("", False),
    ],
)
def test_a_refusal_is_known_by_its_phrases(text, refused):
    assert answer_scoring.refuses(text) == refused


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Maybe. Perhaps it's likely, i think; unlikely things too", {"hedges": 4, "first_person": 1}),
        ("Возможно, это так. Мүмкін.", {"hedges": 2}),
        ("I think that we’re right, in the US", {"first_person": 2, "hedges": 1}),
        ("Я думаю, мой друг! Біздің ауыл?!", {"first_person": 3, "exclamations": 2, "questions": 1}),
        ("Two things:\n- one\n* two\n  3. three\n10) ten\n-no, 4.5 is none", {"list_items": 4}),
        (r"so \frac{1}{2} and $x^2 + 1$, 3 + 4 = 7", {"maths": 3}),
        ("it costs $5 or $6, I paid", {"maths": 0, "first_person": 1}),
        ("Please sit down, sir. Thank you, Mr. Khan! A pleased siren", {"politeness": 2, "honorifics": 2}),
        ("Уважаемая госпожа, будьте добры, ответьте. Спасибо Вам!", {"politeness": 2, "honorifics": 3}),
        ("Құрметті қонақ, Сіз шай ішіңіз, рақмет; өтінемін, айтпаңыз", {"politeness": 2, "honorifics": 4}),
        ("Бұл теңіз туралы аңыз, маңызы бар, сізше емес", {"politeness": 0, "honorifics": 0}),
        ("", {}),
    ],
)
def test_marks_of_style_are_counted(text, marks):
    counted = answer_scoring.marks(text)
    assert list(counted) == list(answer_scoring.lists()["style"])
    assert {kind: counted[kind] for kind in marks} == marks and (text or not any(counted.values()))


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("The price was $80.", "80", True),
        ("First 20, then 60, so 1,200", "1200", True),
        ("#### 18.00", "18", True),
        ("It is 75 km/h and not 80 km/h", "75", False),
        (r"\boxed{75} and not 80", "75", True),
        (r"It is \boxed{\frac{6}{5}}.", "1.2", True),
        ("6/5", "1.2", True),
        ("-3", "3", False),
        ("5-3", "3", True),
        ("1/0", "1", False),
        ("none", "1", False),
        ("", "1", False),
        ("  Almaty!\nIt is large.", "almaty", True),
        ("It is Almaty.", "Almaty", False),
        (r"Thus \boxed{\left( 3, \frac{\pi}{2} \right)}", r"\left( 3, \frac{\pi}{2} \right)", True),
        (r"\boxed{p - q", "p - q", False),
        ("«Наурыз».", "наурыз", True),
    ],
)
def test_exact_match(text, answer, right):
    assert answer_scoring.right(text, answer) == right


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("B", "tea with milk"),
        ("(B) of course", "tea with milk"),
        ("B. Tea", "tea with milk"),
        ("Tea with milk, usually", "tea with milk"),
        ("tea", "tea"),
        ("A good question", None),
        ("Water", None),
        ("D)", None),
        ("teas", None),
    ],
)
def test_the_choice_that_a_text_begins_with(text, chosen):
    choices = ("tea", "tea with milk", "kumys")
    assert answer_scoring.chosen(text, choices) == chosen
    assert answer_scoring.right(text, "tea with milk", choices) == (chosen == "tea with milk")


def test_choices_are_scored_by_letter_where_the_prompt_names_them_all():
    assert answer_scoring.scored("Which?\nA) x\nB) y", ("x", "y")) == ("A", "B")
    assert answer_scoring.scored("Which?\n(A) x\n(B) y", ("x", "y", "z")) == ("x", "y", "z")
    assert answer_scoring.scored("A. is a letter", ("x", "y")) == ("x", "y")


def row(**parts):
    return [json.dumps({"text": "Which?"} | parts)]


@pytest.mark.parametrize(
    ("parts", "answer", "choices"),
    [
        ({}, "", ()),
        ({"answer": 7}, "7", ()),
        ({"answer": "x", "choices": ["y", "x"]}, "x", ("y", "x")),
        ({"answer": "B", "choices": ["y", "x"]}, "x", ("y", "x")),
        ({"answer": "B", "choices": ["A", "C", "B"]}, "B", ("A", "C", "B")),
    ],
)
def test_a_prompts_label_is_read_and_kept(parts, answer, choices):
    (prompt,) = parse_prompts(row(**parts), "mine")
    assert (prompt.answer, prompt.choices) == (answer, choices)
    assert parse_prompts(as_lines([prompt]).split("\n"), "mine") == [prompt]
    assert digest([prompt]) == digest([Prompt("Which?", "t")]), "no other question depends on it"


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"answer": True}, "neither text nor a number"),
        ({"answer": ["7"]}, "neither text nor a number"),
        ({"answer": "x", "choices": ["x"]}, "not two or more different texts"),
        ({"answer": "x", "choices": ["x", "x"]}, "not two or more different texts"),
        ({"answer": "x", "choices": ["x", 3]}, "not two or more different texts"),
        ({"answer": "x", "choices": "xy"}, "not two or more different texts"),
        ({"choices": ["x", "y"]}, "'' is not one of them"),
        ({"answer": "C", "choices": ["x", "y"]}, "'C' is not one of them"),
    ],
)
def test_a_label_that_cannot_be_is_named_with_its_line(parts, says):
    with pytest.raises(UserError, match=f"(?s)mine, line 1 has.*{says}.*Try:"):
        parse_prompts(row(**parts), "mine")


@pytest.mark.parametrize(
    ("arithmetic", "value"),
    [("100 * 64 / (100 - 20)", "80"), ("comb(7, 3)", "35"), ("3 ** 100 % 10", "1"), ("1 / 8", "0.125"), ("10 / 3", "10/3")],
)
def test_a_templates_arithmetic_is_exact(arithmetic, value):
    assert templates.answer(arithmetic) == value


@pytest.mark.parametrize("arithmetic", ["__import__('os')", "open(1)", "x", "1 if 1 else 2", "'a' * 3"])
def test_a_template_is_data_and_no_code(arithmetic):
    with pytest.raises(UserError, match="not arithmetic"):
        templates.answer(arithmetic)


def test_shipped_answers_are_numbers_that_another_way_confirms():
    """Two templates worked out here once more, from the texts; all answers are numbers."""
    shipped = [domain for domain in domains() if (SHIPPED_DOMAINS / domain).is_dir()]
    labelled = [prompt for domain in shipped for prompt in read_domain(domain, "val") if prompt.answer]
    assert len(labelled) > 40 and all(answer_scoring.is_number(prompt.answer) for prompt in labelled)
    checked = 0
    for prompt in labelled:
        if match := re.search(r"angles of a triangle measure (\d+)° and (\d+)°", prompt.text):
            assert sum(map(int, match.groups())) + int(prompt.answer) == 180
        elif match := re.match(r"Compute (\d+) \+ (\d+) \+ \d+ \+ ... \+ (\d+)", prompt.text):
            first, second, last = map(int, match.groups())
            assert sum(range(first, last + 1, second - first)) == int(prompt.answer)
        else:
            continue
        checked += 1
    assert checked == 6
