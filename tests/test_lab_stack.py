"""The Lab's stack and maps: chips, clicks, the command line's numbers, every measure."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.app_page import charts_of, fine
from support.lab_page import STACK, TEXT, keep, open_lab, stack_table, titles
from views.lab import chips, effects

import mechdiff
from mechdiff import Run, questions
from mechdiff.__main__ import main
from mechdiff.engine.intervention_text import parse_part, parse_stack, read_stack
from mechdiff.inputs import prompts
from mechdiff.questions.prompt.next_tokens import NextTokens


def test_the_shown_command_gives_the_number_on_the_page(shared, own_store, tmp_path):
    at = fine(open_lab(own=keep(TEXT, "w7 w8 w9"), own_prompt="1", stack=STACK, horizon="4", back="1"))
    assert at.text_area(key="text").value == "w7 w8 w9"
    (command,) = (code.value for code in at.code if "run stack" in code.value)
    out, frame = tmp_path / "cli.parquet", stack_table(at)
    assert f"--stack '{STACK}'" in command and "--horizon 4" in command and "--prompts own:" in command
    own_store.clear()
    assert main([*shlex.split(command)[3:], "--out", str(out)]) == 0
    table = pd.read_parquet(out)
    assert len(table) == 2 * 4 and table["kl"].to_numpy() == pytest.approx(frame["kl"].to_numpy(), abs=1e-6)
    assert list(table["stack"]) == list(frame["stack"])


def test_a_stack_over_several_prompts_has_intervals(shared):
    at = fine(open_lab(own=keep(*(f"w{i} w{i + 1} w{i + 3}" for i in range(20))), stack="layer=2"))
    (view,) = at.session_state["_views"]
    assert view.value == pytest.approx(stack_table(at).query("control == 'none'")["kl"].mean()) and len(view.effects) == 20
    assert any("(intervals approximate: 20 templates), with 95 % intervals" in caption.value for caption in at.caption)
    assert view.state["stack"] == "layer=2" and view.state["own"], "the history brings it back"

    few = fine(open_lab(own=keep(*(f"w{i} w{i + 1} w{i + 3}" for i in range(6))), stack="layer=2"))
    assert any("Mean over 6 prompts (no intervals: 6 templates, fewer than 20). " in caption.value for caption in few.caption)


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
    assert fine(at).session_state["stack"] == "" and any("No interventions yet" in info.value for info in at.info)


def test_a_stack_that_cannot_be_says_so_and_can_be_mended(shared):
    at = open_lab(own=keep(TEXT), stack="layer=9; layr=1; layer=2 map=ridge rank=x")
    assert not at.exception and "layer '9' is not a number from 0 to 3" in at.error[0].value
    assert len(charts_of(at)) == 3, "the rest of the page is there"
    at.button(key="remove_0").click().run()
    assert "'layr=1' in the stack" in at.error[0].value
    at.button(key="remove_0").click().run()
    at = at.text_input(key="stack").set_value("layer=2; layer=2 map=ridge").run()
    assert "Two interventions are at layer 2" in at.error[0].value
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
def test_a_clicked_cell_joins_the_stack_or_leaves_it(pair, monkeypatch, before, picked, after):
    state = {"stack": before}
    monkeypatch.setattr(chips.st, "session_state", state)
    chips.toggle(picked, Run("patch", **pair).spec)
    assert state["stack"] == after


def test_a_downloaded_stack_is_the_stack(shared):
    at = fine(open_lab(own=keep(TEXT), stack=STACK))
    spec = Run("patch", **shared).spec
    parts = tuple(parse_part(text, spec.layers, spec.heads) for text in STACK.split(";"))
    path = Path(shared["pair"]).with_name("stack.toml")
    path.write_text(chips.as_toml(parts))
    assert parse_stack(read_stack(str(path)), spec.layers, spec.heads) == parse_stack(STACK, spec.layers, spec.heads)
    assert [button.label for button in at.get("download_button")] == ["Download as TOML"]


def test_the_patched_next_tokens_stand_beside_base_and_tuned(shared):
    at = fine(open_lab(own=keep(TEXT), stack="layer=2"))
    assert "What comes next, with the stack?" in titles(at)
    run = Run("patch", **shared | {"limit": None, "prompts": prompts.OWN + keep(TEXT)})
    task = questions.task(NextTokens(run, parse_part("layer=2", 4, 4), 0, 5))
    assert task.done == task.total, "it was computed for the page"


@pytest.mark.parametrize("measure", ["effect", "recovery", "target"])
def test_every_measure_of_the_maps_is_the_tables(shared, measure):
    run = Run("patch", target="yes", foil="no" if measure == "target" else None, **shared)
    table = mechdiff.run(run)
    mapped = effects.values(table, measure, 0.0).to_numpy()
    by_hand = {
        "effect": table["kl"],
        "recovery": 1 - table["kl_to_donor"] / table["kl_donor_clean"],
        "target": table["logit_difference"] - table["logit_difference_clean"] if measure == "target" else None,
    }
    assert mapped == pytest.approx(by_hand[measure].to_numpy()) and np.abs(mapped).max() > 1e-3
    assert np.isnan(effects.values(table, "recovery", 1e9)).all(), "at the floor there is nothing to recover"
    alone = mechdiff.run(Run("patch", target="yes", **shared))
    assert effects.values(alone, "target", 0.0).to_numpy() == pytest.approx(
        (alone["target_logprob"] - alone["target_logprob_clean"]).to_numpy()
    )


def test_a_target_is_asked_for_and_checked(shared):
    at = fine(open_lab(own=keep(TEXT), measure="target"))
    assert any("Type a target token" in info.value for info in at.info) and len(charts_of(at)) == 1
    at.text_input(key="target").set_value("yes").run()
    assert len(charts_of(fine(at))) == 3
    at.text_input(key="foil").set_value("w1 w2").run()
    assert not at.exception and "is 2 tokens" in at.error[0].value


def test_what_is_in_the_stack_is_framed(pair):
    spec = Run("patch", **pair).spec
    sites = pd.DataFrame({"layer": [1, 1, 2, 2], "stream": ["mlp_out", "heads", "heads", "mlp_out"]})
    heads = pd.DataFrame({"layer": [1, 2, 2], "head": [0, 0, 3]})
    stack = ["layer=1 stream=mlp_out", "layer=2 stream=heads heads=3", "layer=1 stream=heads", "?"]
    assert effects.chosen(sites, "stream", spec, stack) == [True, True, False, False]
    assert effects.chosen(heads, "head", spec, stack) == [True, False, True]
