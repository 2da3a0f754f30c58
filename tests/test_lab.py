"""The Lab page as a user sees it, on a tiny pair: prompts of one's own, clicks, stacks, texts, and the command line's numbers."""

import json
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from test_experiments import pair  # noqa: F401
from test_study import study  # noqa: F401

import mechdiff
from mechdiff import Run, experiments, prompts
from mechdiff.__main__ import main
from mechdiff.errors import UserError
from mechdiff.experiments import Continuation, NextTokens, PositionMap, Reading
from mechdiff.stacks import parse_part

sys.path.insert(0, str(Path(__file__).parents[1] / "app"))
import charts
import controls
import session
import strip
from views import lab, lab_chips, lab_maps, lab_positions, lab_says

PAGE = "import session\nfrom views import lab\nsession.frame(lab.page, 'lab')\n"
STACK = "layer=1 stream=mlp_out; layer=2 stream=heads heads=1,3 blend=0.5"
TEXT = "w40 w41 w42 w43 w44"


@pytest.fixture
def shared(study, tmp_path, monkeypatch):  # noqa: F811
    """The app on a tiny pair, which waits for every answer. Returns what its sidebar gives."""
    found = {name: value for name, value in study.items() if name != "limit"}
    found |= {"domain": "none", "direction": "base-to-tuned", "limit": 8}
    monkeypatch.setattr(controls, "selection", lambda: found)
    monkeypatch.setattr(prompts, "CACHE", tmp_path / "kept")
    monkeypatch.setattr(session, "PATIENCE", 300.0)
    monkeypatch.setattr(lab, "READ_S", 300.0)
    monkeypatch.setattr(charts.Unchecked, "to_dict", lambda self: self.chart.to_dict())  # every chart against the schema
    return found


@pytest.fixture
def drawn(monkeypatch):
    """What the strip was last given: tokens, chosen, take."""
    found = {}
    monkeypatch.setattr(strip, "draw", lambda tokens, chosen, key, take: found.update(tokens=tokens, chosen=chosen, take=take))
    return found


def open_lab(**query) -> AppTest:
    at = AppTest.from_string(PAGE, default_timeout=300)
    for name, value in query.items():
        at.query_params[name] = value
    return at.run()


def fine(at: AppTest) -> AppTest:
    assert not at.exception and not at.error, [*at.exception, *at.error]
    return at


def typed(at: AppTest, text: str) -> AppTest:
    return at.text_area(key="text").set_value(text).run()


def keep(*texts: str) -> str:
    """One's own prompts, kept. Returns the link's name for them."""
    return prompts.keep_prompts([prompts.Prompt(text, f"t{i}") for i, text in enumerate(texts)]).removeprefix(prompts.OWN)


def charts_of(at: AppTest) -> list[dict]:
    """The charts' specifications."""
    return [json.loads(chart.proto.spec) for chart in at.get("arrow_vega_lite_chart") or at.get("vega_lite_chart")]


def titles(at: AppTest) -> list[str]:
    return [" ".join(np.ravel(spec["title"]["text"])) for spec in charts_of(at)]


def stack_table(at: AppTest) -> pd.DataFrame:
    """The table under the stack's result."""
    (found,) = (frame.value for frame in at.dataframe if "stack" in frame.value)
    return found


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
    assert not at.exception and "nothing but special tokens" in at.error[0].value and len(at.error) == 1
    at = typed(at, "w1 " * 70)
    assert not at.exception and "reads at most 64" in at.error[0].value
    fine(typed(at, "w1 😀 مرحبا w2"))
    assert len(drawn["tokens"]) == 4


def test_typing_alone_computes_nothing(shared, monkeypatch):
    at = fine(open_lab())
    monkeypatch.setattr(session, "start", lambda *_: pytest.fail("a job was begun"))
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
    shown = at.selectbox(key="part")
    assert shown.options == ["0 to 0", "1 to 2", "3 to 4"] and [t["token"] for t in drawn["tokens"]] == [3, 4]
    shown.set_value(1).run()
    assert [token["token"] for token in drawn["tokens"]] == [1, 2] and at.number_input(key="back").value == 0
    at.number_input(key="back").set_value(4).run()
    assert [token["token"] for token in drawn["tokens"]] == [0], "the studied token is in sight"
    fine(typed(at, "w1 w2 w3"))


def test_two_vocabularies_leave_the_decision_token(shared, drawn, monkeypatch):
    from mechdiff.tokens import Tokenizers

    monkeypatch.setattr(Tokenizers, "shared", False)
    at = fine(open_lab(own=keep(TEXT), stack=STACK, measure="recovery", back="3"))
    assert len(drawn["tokens"]) == 1 and any("two tokenizers differ" in caption.value for caption in at.caption)
    assert any("share no vocabulary" in caption.value for caption in at.caption) and len(stack_table(at)) == 4


def test_the_shown_command_gives_the_number_on_the_page(shared, own_store, tmp_path):
    at = fine(open_lab(own=keep(TEXT, "w7 w8 w9"), own_prompt="1", stack=STACK, horizon="4", back="1"))
    assert at.text_area(key="text").value == "w7 w8 w9"
    (command,) = (code.value for code in at.code if "run stack" in code.value)
    out, shown = tmp_path / "cli.parquet", stack_table(at)
    assert f"--stack '{STACK}'" in command and "--horizon 4" in command and "--prompts own:" in command
    own_store.clear()
    assert main([*shlex.split(command)[3:], "--out", str(out)]) == 0
    found = pd.read_parquet(out)
    assert len(found) == 2 * 4 and found["kl"].to_numpy() == pytest.approx(shown["kl"].to_numpy(), abs=1e-6)
    assert list(found["stack"]) == list(shown["stack"])


def test_a_stack_over_several_prompts_has_intervals(shared):
    at = fine(open_lab(own=keep(*(f"w{i} w{i + 1} w{i + 3}" for i in range(6))), stack="layer=2"))
    (view,) = at.session_state["_views"]
    assert view.value == pytest.approx(stack_table(at).query("control == 'none'")["kl"].mean()) and len(view.effects) == 6
    assert any("Mean over 6 prompts (6 templates), with 95 % intervals" in caption.value for caption in at.caption)
    assert view.state["stack"] == "layer=2" and view.state["own"], "the history brings it back"


def test_an_uploaded_file_is_read_and_a_broken_one_is_a_sentence(shared):
    at = fine(open_lab())
    lines = "\n".join(json.dumps({"text": f"w{i} w5 w6"}) for i in range(3))
    at.file_uploader(key="upload").set_value(("mine.jsonl", lines.encode(), "application/jsonl")).run()
    assert fine(at).text_area(key="text").value == "w0 w5 w6" and at.number_input(key="own_prompt").label == "Prompt, of 3"
    broken = {b'{"text": 3}': 'mine.jsonl, line 1 has no "text"', b"\xff\xfe": "not UTF-8", b"": "no prompts"}
    for content, message in broken.items():
        at.file_uploader(key="upload").set_value(("mine.jsonl", content, "application/jsonl")).run()
        assert not at.exception and message in at.error[0].value
        assert at.text_area(key="text").value == "w0 w5 w6", "what was there stays"


def test_chips_edit_the_stack(shared):
    at = fine(open_lab(own=keep(TEXT), stack=STACK))
    at.number_input(key="layer_0").set_value(3).run()
    at.selectbox(key="stream_0").set_value("resid_post").run()
    assert at.session_state["stack"] == "layer=3 stream=resid_post; layer=2 stream=heads heads=1,3 blend=0.5"
    at.button_group(key="heads_1").set_value([0, 1, 2, 3]).run()
    assert at.session_state["stack"].endswith("; layer=2 stream=heads blend=0.5")
    at.selectbox(key="map_0").set_value("ridge").run()
    assert at.session_state["stack"].startswith("layer=3 stream=resid_post map=ridge;"), "scale and rank have their defaults"
    at.text_input(key="rank_0").set_value("3").run()
    at.radio(key="complement_0").set_value("own").run()
    at.text_input(key="alpha_0").set_value("0.5").run()
    text = "layer=3 stream=resid_post map=ridge rank=3 complement=own alpha=0.5"
    assert fine(at).session_state["stack"].startswith(text) and at.query_params["stack"] == at.session_state["stack"]
    assert any(text in code.value for code in at.code)
    at.button(key="remove_1").click().run()
    assert at.session_state["stack"] == text
    at.number_input(key="add_layer").set_value(0).run()
    at.button(key="add").click().run()
    assert fine(at).session_state["stack"] == f"{text}; layer=0 stream=resid_post"
    at.button(key="clear").click().run()
    assert fine(at).session_state["stack"] == "" and any("Nothing is replaced yet" in info.value for info in at.info)


def test_a_stack_that_cannot_be_says_so_and_can_be_mended(shared):
    at = open_lab(own=keep(TEXT), stack="layer=9; layr=1; layer=2 map=ridge rank=x")
    assert not at.exception and "layer '9' is not a number from 0 to 3" in at.error[0].value
    assert len(charts_of(at)) == 3, "the rest of the page is there"
    at.button(key="remove_0").click().run()
    assert "'layr=1' in the stack" in at.error[0].value
    at.button(key="remove_0").click().run()
    at = at.text_input(key="stack").set_value("layer=2; layer=2 map=ridge").run()
    assert "Two interventions lie at layer 2" in at.error[0].value
    fine(at.button(key="remove_1").click().run())


@pytest.mark.parametrize(
    ("before", "picked", "after"),
    [
        ("", {"layer": 2, "stream": "mlp_out"}, "layer=2 stream=mlp_out"),
        ("layer=2 stream=mlp_out map=ridge", {"layer": 2, "stream": "mlp_out"}, ""),
        ("layer=2 stream=mlp_out", {"layer": 2, "stream": "resid_post"}, "layer=2 stream=mlp_out; layer=2 stream=resid_post"),
        ("layer=1", {"layer": 2, "head": 3}, "layer=1; layer=2 stream=heads heads=3"),
        ("layer=2 heads=1", {"layer": 2, "head": 3}, "layer=2 stream=heads heads=1,3"),
        ("layer=2 heads=1,3", {"layer": 2, "head": 3}, "layer=2 stream=heads heads=1"),
        ("layer=2 heads=3", {"layer": 2, "head": 3}, ""),
        ("layer=2 heads=0,1,2", {"layer": 2, "head": 3}, "layer=2 stream=heads"),
        ("layer=2 stream=heads", {"layer": 2, "head": 3}, "layer=2 stream=heads heads=0,1,2"),
        ("layer=2 heads=1", {"layer": 2, "stream": "heads"}, "layer=2 stream=heads"),
        ("layer=2 stream=heads", {"layer": 2, "stream": "heads"}, ""),
        ("nonsense", {"layer": 2, "head": 0}, "nonsense; layer=2 stream=heads heads=0"),
    ],
)
def test_a_clicked_cell_joins_the_stack_or_leaves_it(pair, monkeypatch, before, picked, after):  # noqa: F811
    state = {"stack": before}
    monkeypatch.setattr(lab_chips.st, "session_state", state)
    lab_chips.toggle(picked, Run("patch", **pair).spec)
    assert state["stack"] == after


def test_a_downloaded_stack_is_the_stack(shared):
    from mechdiff.stacks import parse_stack, read_stack

    at = fine(open_lab(own=keep(TEXT), stack=STACK))
    spec = Run("patch", **shared).spec
    parts = tuple(parse_part(text, spec.layers, spec.heads) for text in STACK.split(";"))
    path = Path(shared["pair"]).with_name("stack.toml")
    path.write_text(lab_chips.as_toml(parts))
    assert parse_stack(read_stack(str(path)), spec.layers, spec.heads) == parse_stack(STACK, spec.layers, spec.heads)
    assert [button.label for button in at.get("download_button")] == ["Download as TOML"]


def test_the_patched_next_tokens_stand_beside_base_and_tuned(shared):
    at = fine(open_lab(own=keep(TEXT), stack="layer=2"))
    assert titles(at)[-3] == "What comes next, with the stack?" or "What comes next, with the stack?" in titles(at)
    run = Run("patch", **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})
    task = experiments.task(NextTokens(run, parse_part("layer=2", 4, 4), 0, 5))
    assert task.done == task.total, "it was computed for the page"


@pytest.mark.parametrize("measure", ["effect", "recovery", "target"])
def test_every_measure_of_the_maps_is_the_tables(shared, measure):
    run = Run("patch", target="yes", foil="no" if measure == "target" else None, **shared)
    table = mechdiff.run(run)
    found = lab_maps.values(table, measure, 0.0).to_numpy()
    by_hand = {
        "effect": table["kl"],
        "recovery": 1 - table["kl_to_donor"] / table["kl_donor_clean"],
        "target": table["logit_difference"] - table["logit_difference_clean"] if measure == "target" else None,
    }
    assert found == pytest.approx(by_hand[measure].to_numpy()) and np.abs(found).max() > 1e-3
    assert np.isnan(lab_maps.values(table, "recovery", 1e9)).all(), "at the floor there is nothing to recover"
    alone = mechdiff.run(Run("patch", target="yes", **shared))
    assert lab_maps.values(alone, "target", 0.0).to_numpy() == pytest.approx(
        (alone["target_logprob"] - alone["target_logprob_clean"]).to_numpy()
    )


def test_a_target_is_asked_for_and_checked(shared):
    at = fine(open_lab(own=keep(TEXT), measure="target"))
    assert any("Name a token" in info.value for info in at.info) and len(charts_of(at)) == 1
    at.text_input(key="target").set_value("yes").run()
    assert len(charts_of(fine(at))) == 3
    at.text_input(key="foil").set_value("w1 w2").run()
    assert not at.exception and "is 2 tokens" in at.error[0].value


def test_what_is_in_the_stack_is_framed(pair):  # noqa: F811
    spec = Run("patch", **pair).spec
    sites = pd.DataFrame({"layer": [1, 1, 2, 2], "stream": ["mlp_out", "heads", "heads", "mlp_out"]})
    heads = pd.DataFrame({"layer": [1, 2, 2], "head": [0, 0, 3]})
    stack = ["layer=1 stream=mlp_out", "layer=2 stream=heads heads=3", "layer=1 stream=heads", "?"]
    assert lab_maps.chosen(sites, "stream", spec, stack) == [True, True, False, False]
    assert lab_maps.chosen(heads, "head", spec, stack) == [True, False, True]


def finish_writing(at: AppTest) -> AppTest:
    """Redraw until the models have written, as the page itself does."""
    deadline = time.monotonic() + 60
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
    original = experiments.ContinuationTask.steps

    def slow(self):
        for _ in original(self):
            time.sleep(0.1)
            yield

    monkeypatch.setattr(experiments.ContinuationTask, "steps", slow)
    at = fine(open_lab(own=keep(TEXT)))
    at.button(key="write").click().run()
    time.sleep(1.0)
    at.run()
    assert any("writing" in caption.value for caption in at.caption) and "border-left" in said(at)
    fine(finish_writing(at.button(key="stop").click().run()))
    assert any("Stopped" in caption.value for caption in at.caption) and any(button.key == "write" for button in at.button)
    assert "border-left" in said(at)


def test_what_cannot_be_written_is_a_sentence(shared):
    at = fine(open_lab(own=keep("w1 " * 50)))
    at = finish_writing(at.button(key="write").click().run())
    assert not at.exception and "has room for 14 more" in at.error[0].value


@pytest.mark.parametrize(
    ("texts", "number", "shown"),
    [
        (["a b c", "a b d"], 2, "a b <mark>c</mark>"),
        (["<i> x", "<b> x"], 0, "<mark>&lt;i&gt;</mark> x"),
        (["a\n b", "a\n b"], 2, "a\n b"),
        (["a a b", "a a c", "a d"], 1, "a <mark>a</mark> b"),
        (["", "a"], 0, ""),
    ],
)
def test_the_first_words_that_differ_are_marked(texts, number, shown):
    assert lab_says.parting([text.split() for text in texts]) == number
    assert lab_says.marked(texts[0], number) == shown.replace("<mark>", lab_says.MARK.split("{word}")[0])


def test_a_position_map_comes_on_request_with_its_time(shared, monkeypatch):
    at = fine(open_lab(own=keep(TEXT)))
    assert "Stream replaced" not in [box.label for box in at.selectbox], "nothing is computed while it is closed"
    at.session_state["positions"] = True
    at = fine(at.run())
    at.selectbox(key="step").set_value(1).run()
    assert any("one of its 5 columns was timed just now" in caption.value for caption in at.caption)
    at.button(key="map_positions").click().run()
    while not any("Where in the prompt, and how deep" in title for title in titles(at)) or session_busy(at):
        time.sleep(0.05)
        at.run()
    run = Run("patch", layers=(0, 1, 2, 3), **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})
    task = experiments.task(PositionMap(run))
    assert fine(at) and task.done == task.total and len(task.table()) == 5 * 4


def session_busy(at: AppTest) -> bool:
    return bool(at.session_state["_pending"])


def test_a_clicked_cell_of_the_position_map_is_gone_to(monkeypatch):
    state = {}
    monkeypatch.setattr(lab_positions.st, "session_state", state)
    lab_positions.go({"back": 3, "layer": 2})
    assert state == {"back": 3, "layer": 2, "add_layer": 2}


def test_an_own_prompt_that_cannot_be_kept_is_a_sentence(shared, monkeypatch):
    at = fine(open_lab())

    def full(_):
        raise UserError("The prompts cannot be kept in /x: No space left on device.")

    monkeypatch.setattr(prompts, "keep_prompts", full)
    at = typed(at, TEXT)
    assert not at.exception and "No space left" in at.error[0].value
