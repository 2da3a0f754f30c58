"""What the Lab's models write, and its position map: on request, while one watches, stopped and found again."""

import threading
import time

import pytest
from streamlit.testing.v1 import AppTest
from support.app_page import fine
from support.lab_page import STACK, TEXT, keep, open_lab, titles
from views.lab import continuation, positions

import mechdiff
from mechdiff import Run, questions
from mechdiff.inputs import prompts
from mechdiff.questions.prompt.continuation import Continuation, ContinuationTask
from mechdiff.questions.prompt.position_map import PositionMap

PATIENCE = 300.0


def finish_writing(at: AppTest) -> AppTest:
    """Redraw until the models have written, as the page itself does."""
    deadline = time.monotonic() + PATIENCE
    while any(button.key == "stop" for button in at.button) and time.monotonic() < deadline:
        time.sleep(0.05)
        at.run()
    return at


def said(at: AppTest) -> str:
    return "".join(element.proto.body for element in at.get("html"))


def test_the_models_write_side_by_side_when_asked(shared):
    at = fine(open_lab(own=keep(TEXT), stack=STACK))
    assert "border-left" not in said(at), "nothing is written unasked"
    at.select_slider(key="tokens").set_value(20).run()
    at = fine(finish_writing(at.button(key="write").click().run()))
    run = Run("stack", stack=STACK, **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})
    expected = mechdiff.run(Continuation(run, 0, 20)).set_index("model")
    captions = [caption.value for caption in at.caption]
    for model in ("base", "tuned", "patched"):
        assert any(f"**{model}** · {expected.loc[model, 'tokens']} tokens" in caption for caption in captions)
        assert expected.loc[model, "text"].split()[-1] in said(at)
    assert "<mark" in said(at) and not any(button.key == "write" for button in at.button)
    at.slider(key="temperature").set_value(1.0).run()
    assert any(button.key == "write" for button in at.button), "another request is another text"


def test_a_stopped_text_stays_and_can_be_begun_again(shared, monkeypatch):
    original = ContinuationTask.steps

    stopped = threading.Event()

    def slow(self):
        for step, _ in enumerate(original(self)):
            if step == 8:  # after a few tokens it waits for the click
                stopped.wait(PATIENCE)
            yield

    monkeypatch.setattr(ContinuationTask, "steps", slow)
    at = fine(open_lab(own=keep(TEXT)))
    at.button(key="write").click().run()
    deadline = time.monotonic() + PATIENCE
    while "border-left" not in said(at) and time.monotonic() < deadline:  # nothing is written yet
        time.sleep(0.05)
        at.run()
    assert any("writing" in caption.value for caption in at.caption) and "border-left" in said(at)
    at.button(key="stop").click().run()
    stopped.set()
    fine(finish_writing(at))
    assert any("Stopped" in caption.value for caption in at.caption) and any(button.key == "write" for button in at.button)
    assert "border-left" in said(at)


def test_what_cannot_be_written_is_a_sentence(shared):
    at = fine(open_lab(own=keep("w1 " * 50)))
    at = finish_writing(at.button(key="write").click().run())
    assert not at.exception and "has room for 14 more" in at.error[0].value


@pytest.mark.parametrize(
    ("texts", "number", "markup"),
    [
        (["a b c", "a b d"], 2, "a b <mark>c</mark>"),
        (["<i> x", "<b> x"], 0, "<mark>&lt;i&gt;</mark> x"),
        (["a\n b", "a\n b"], 2, "a\n b"),
        (["a a b", "a a c", "a d"], 1, "a <mark>a</mark> b"),
        (["", "a"], 0, ""),
    ],
)
def test_the_first_words_that_differ_are_marked(texts, number, markup):
    assert continuation.first_difference([text.split() for text in texts]) == number
    assert continuation.marked(texts[0], number) == markup.replace("<mark>", continuation.MARK.split("{word}")[0])


def test_a_position_map_comes_on_request_with_its_time(shared, monkeypatch):
    at = fine(open_lab(own=keep(TEXT)))
    assert "Stream replaced" not in [box.label for box in at.selectbox], "nothing is computed while it is closed"
    at.session_state["positions"] = True
    at = fine(at.run())
    at.selectbox(key="step").set_value(1).run()
    assert any("one of 5 columns was timed just now" in caption.value for caption in at.caption)
    before = titles(at)
    at.button(key="map_positions").click().run()
    deadline = time.monotonic() + PATIENCE
    while len(titles(at)) == len(before) or session_busy(at):
        assert time.monotonic() < deadline
        time.sleep(0.05)
        at.run()
    run = Run("patch", layers=(0, 1, 2, 3), **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})
    task = questions.task(PositionMap(run))
    assert fine(at) and task.done == task.total and len(task.table()) == 5 * 4


def session_busy(at: AppTest) -> bool:
    return bool(at.session_state["_pending"])


def test_a_clicked_cell_of_the_position_map_is_gone_to(monkeypatch):
    state = {}
    monkeypatch.setattr(positions.st, "session_state", state)
    positions.go({"back": 3, "layer": 2})
    assert state == {"back": 3, "layer": 2, "add_layer": 2}
