"""The Lab page as a user sees it: prompts of one's own, their links, the studied token."""

import json

import jobs
import pytest
from support.app_page import charts_of, fine
from support.lab_page import STACK, TEXT, keep, open_lab, stack_table, titles, typed
from support.two_tokenizers import SHARED, write_pair
from views.lab import page as lab

import mechdiff
from mechdiff import Run
from mechdiff.common.errors import UserError
from mechdiff.inputs import prompts
from mechdiff.questions.prompt.reading import Reading


def test_the_page_opens_on_the_domains_first_prompt(shared, drawn):
    at = fine(open_lab())
    assert at.text_area(key="text").value == "w0 w1 w2" and "own" not in at.query_params
    assert [token["text"] for token in drawn["tokens"]] == ["w0", "w1", "w2"] and drawn["chosen"] == 2
    assert titles(at) == ["What comes next?", "Which single states?", "Which single heads?"]
    at.number_input(key="own_prompt").set_value(2).run()
    assert at.text_area(key="text").value == "w2 w3 w4 w5 w6"


def test_a_typed_prompt_is_in_the_link_by_its_hash_alone(shared, drawn):
    at = fine(typed(open_lab(), f"  {TEXT} "))
    name = at.query_params["own"]
    assert name == keep_name(f"  {TEXT} ") and "w4" not in str(at.query_params)
    assert [token["text"] for token in drawn["tokens"]] == TEXT.split()
    again = fine(open_lab(own=name))
    assert again.text_area(key="text").value == f"  {TEXT} ", "the link shows the prompt again, and nothing is stripped"
    at.button(key="forget").click().run()
    assert at.text_area(key="text").value == "w0 w1 w2"


def keep_name(text: str) -> str:
    return prompts.keep_prompts([prompts.Prompt(text, "own")]).removeprefix(prompts.OWN)


@pytest.mark.parametrize("name", ["0123456789abcdef", "../x"])
def test_a_link_from_another_machine_says_so(shared, name):
    at = open_lab(own=name)
    assert not at.exception and "There are no prompts of your own named" in at.error[0].value and not charts_of(at)
    assert fine(typed(at, TEXT)).query_params["own"] == keep_name(TEXT), "the box still works"


def test_what_cannot_be_read_is_a_sentence(shared, drawn):
    at = typed(open_lab(), "  ")
    assert not at.exception and "The box is empty" in at.error[0].value and charts_of(at), "the prompt before it stays"
    at = typed(at, "</s>")
    assert not at.exception and "special tokens only" in at.error[0].value and len(at.error) == 1
    at = typed(at, "w1 " * 70)
    assert not at.exception and "reads at most 64" in at.error[0].value
    fine(typed(at, "w1 😀 مرحبا w2"))
    assert len(drawn["tokens"]) == 4


def test_typing_alone_computes_nothing(shared, monkeypatch):
    at = fine(open_lab())
    monkeypatch.delattr(jobs, "start")  # a job begun from here on is an error
    fine(at.run())
    fine(at.button(key="read").click().run())


def test_the_strip_says_where_the_models_part(shared, drawn):
    fine(open_lab(own=keep(TEXT)))
    reading = mechdiff.run(Reading(Run("patch", **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})))
    kl = reading.drop_duplicates("token")["kl"]
    assert [token["shade"] for token in drawn["tokens"]] == pytest.approx(list(kl / kl.max()), abs=1e-3)
    assert all(f"{value:.4g} nats" in token["about"] for value, token in zip(kl, drawn["tokens"]))


def test_a_clicked_token_is_studied_everywhere(shared, drawn):
    name = keep(TEXT)
    at = fine(open_lab(own=name, stack=STACK, back="2"))
    assert drawn["chosen"] == 2 and at.number_input(key="back").value == 2
    assert {"What does the stack do?", "Recovery", "What comes after ‘w42’?", "What comes next, with the stack?"} < {*titles(at)}
    mine = Run("stack", stack=STACK, back=2, controls=("self",), **shared | {"limit": None, "prompts": prompts.OWN + name})
    assert stack_table(at)["kl"].tolist() == mechdiff.run(mine)["kl"].tolist()


def test_a_shorter_prompt_has_fewer_tokens_to_study(shared, drawn):
    at = fine(open_lab(own=keep(TEXT, "w1 w2"), back="4"))
    assert drawn["chosen"] == 0
    at.number_input(key="own_prompt").set_value(1).run()
    assert fine(at).number_input(key="back").value == 1 and drawn["chosen"] == 0


def test_a_click_on_the_strip_sets_the_token_back(shared, drawn, monkeypatch):
    fine(open_lab(own=keep(TEXT)))
    state = {}
    monkeypatch.setattr(lab.st, "session_state", state)
    drawn["take"](1)
    assert state == {"back": 3}


def test_a_long_prompt_is_shown_in_parts(shared, drawn, monkeypatch):
    monkeypatch.setattr(lab, "WINDOW", 2)
    at = fine(open_lab(own=keep(TEXT)))
    part = at.selectbox(key="part")
    assert part.options == ["0 to 0", "1 to 2", "3 to 4"] and [t["token"] for t in drawn["tokens"]] == [3, 4]
    part.set_value(1).run()
    assert [token["token"] for token in drawn["tokens"]] == [1, 2] and at.number_input(key="back").value == 0
    at.number_input(key="back").set_value(4).run()
    assert [token["token"] for token in drawn["tokens"]] == [0], "the studied token is in sight"
    fine(typed(at, "w1 w2 w3"))


def test_two_vocabularies_leave_the_decision_token(shared, drawn, tmp_path):
    (tmp_path / "two").mkdir()
    shared["pair"] = str(write_pair(tmp_path / "two"))
    own = {"own": keep("w1 w2 b3 w4"), "measure": "recovery", "back": "3"}
    at = fine(open_lab(stack="layer=0; layer=1 heads=0", **own))
    assert len(drawn["tokens"]) == 1 and any("two tokenizers differ" in caption.value for caption in at.caption)
    table, over = stack_table(at), f"{len(SHARED)} shared strings"
    assert len(table) == 4 and set(table["vocabulary"]) == {over} and "Recovery" in titles(at)
    said = [info.value for info in at.info if info.value.startswith(f"Effects over the {len(SHARED)} token strings")]
    assert len(said) == 1, "it is said once, whatever the page answers"
    at.segmented_control(key="measure").set_value("target").run()
    at.text_input(key="target").set_value("t3").run()
    assert not fine(at).exception
    plain = fine(open_lab(**own))
    next_tokens = charts_of(plain)[titles(plain).index("What comes next?")]
    assert over in str(next_tokens["title"])
    at.button(key="write").click().run()
    assert fine(at)


def test_an_uploaded_file_is_read_and_a_broken_one_is_a_sentence(shared):
    at = fine(open_lab())
    lines = "\n".join(json.dumps({"text": f"w{i} w5 w6"}) for i in range(3))
    at.file_uploader(key="upload").set_value(("mine.jsonl", lines.encode(), "application/jsonl")).run()
    assert fine(at).text_area(key="text").value == "w0 w5 w6" and at.number_input(key="own_prompt").label == "Prompt (of 3)"
    broken = {b'{"text": 3}': 'mine.jsonl, line 1 has no "text"', b"\xff\xfe": "not UTF-8", b"": "no prompts"}
    for content, message in broken.items():
        at.file_uploader(key="upload").set_value(("mine.jsonl", content, "application/jsonl")).run()
        assert not at.exception and message in at.error[0].value
        assert at.text_area(key="text").value == "w0 w5 w6", "what was there stays"


def test_an_own_prompt_that_cannot_be_kept_is_a_sentence(shared, monkeypatch):
    at = fine(open_lab())

    def full(_):
        raise UserError("The prompts cannot be kept in /x: No space left on device.")

    monkeypatch.setattr(prompts, "keep_prompts", full)
    at = typed(at, TEXT)
    assert not at.exception and "No space left" in at.error[0].value
