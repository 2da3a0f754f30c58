"""Protocols: settings as data, under every question, in commands, keys and stored sweeps."""

import copy
import shlex
import tomllib
from argparse import Namespace
from dataclasses import fields, replace

import pytest

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.cli.run import read
from mechdiff.inputs import protocols
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.tokenizers import load_tokenizers
from mechdiff.questions import QUESTIONS
from mechdiff.questions.shared.command import command
from mechdiff.study import artifacts, sweep_plan


def parsed(line: str) -> mechdiff.Question:
    """The request of a command."""
    _, _, _, _, question, *options = shlex.split(line)
    return read(Namespace(question=question, options=options))[0]


NOT_A_QUESTION = {"about", "every", "layers", "domains", "sweep"}


def test_the_default_protocol_is_the_questions_own_defaults():
    for name, kind in QUESTIONS.items():
        own = {spec.name: spec.default for spec in fields(kind)}
        for field, value in protocols.settings(protocols.DEFAULT, name, "", None).items():
            assert field not in own or value == own[field] or (value == "auto" and own[field] is None), f"{name}.{field}"


@pytest.mark.parametrize("name", protocols.NAMES)
def test_every_setting_belongs_to_some_question(name):
    content = protocols.read(name)
    known = {spec.name for kind in QUESTIONS.values() for spec in fields(kind)}
    assert set(content["every"]) <= known
    assert set(content) - NOT_A_QUESTION <= set(QUESTIONS)
    for question in set(content) - NOT_A_QUESTION:
        assert set(content[question]) <= {spec.name for spec in fields(QUESTIONS[question])}
    assert set(content.get("sweep", {})) <= {spec.name for spec in fields(sweep_plan.Grid)}


def test_a_protocol_sets_what_the_request_does_not():
    rank = Run("rank", protocol="study")
    assert (rank.cut, rank.map, rank.ranks) == ("whitened", "procrustes_full", ("1", "8", "32", "full"))
    assert rank.vocabulary == "recipient" and rank.alpha_rows == "val" and rank.chat_template == "each"
    assert Run("rank", protocol="study", cut="output").cut == "output", "what is typed wins, even if it is the default"
    assert Run("drift", protocol="study").chat_template == "each" and not hasattr(Run("drift", protocol="study"), "cut")
    assert Run("rank").cut == "output"


def test_the_studys_behaviour_has_its_system_prompts_and_scores():
    cognitive, cultural, kazakh, own = (
        Run("behaviour", f"demo-{pair}", **more)
        for pair, more in (
            ("cognitive", {"protocol": "study"}),
            ("cultural", {"protocol": "study"}),
            ("cognitive", {"protocol": "study", "domain": "kk-culture"}),
            ("cultural", {}),
        )
    )
    assert cognitive.system == "Answer succinctly and correctly." and cognitive.answer_prefix == ""
    assert "formal Kazakh" in cultural.system and cultural.answer_prefix == " Жауап: "
    assert (kazakh.system, kazakh.answer_prefix) == (cultural.system, cultural.answer_prefix)
    assert {run.soft_refusal for run in (cognitive, cultural, kazakh)} == {"on"}
    assert (own.system, own.answer_prefix, own.soft_refusal) == ("", "", "off")
    assert parsed(command(cultural)) == cultural
    assert parsed(command(replace(own, answer_prefix=" Жауап: "))).answer_prefix == " Жауап: "


def test_layers_are_those_at_the_same_depth():
    assert protocols.scaled([0, 30, 31], 32, 32) == [0, 30, 31]
    assert protocols.scaled([0, 8, 31], 32, 30) == [0, 7, 29] and protocols.scaled([0, 1, 31], 32, 4) == [0, 3]
    assert Run("patch", protocol="study").layers == (7, 9, 11, 13, 22, 24, 28), "the demo pair has 30 layers"
    assert Run("patch", protocol="study", layers=(3,)).layers == (3,)
    heads = [Run("heads", protocol="study", domain=domain).layers for domain in ("cognitive", "cultural")]
    assert heads == [(28,), (24,)], "each domain has its own"


def test_a_changed_setting_is_named():
    assert Run("rank", protocol="study").protocol_label == "study"
    assert Run("rank", protocol="study", alpha=("2.0",)).protocol_label == "study, changed: alpha"
    assert Run("rank", protocol="study", alpha=("auto",), layers=(3,)).protocol_label == "study", "a part is no change"
    assert Run("rank", protocol="study", cut="output", map="ridge").protocol_label == "study, changed: map, cut"
    assert Run("rank").protocol_label == "mechdiff" and Run("rank", map="ridge").protocol_label == "mechdiff"
    assert Run("rank", cut="whitened").protocol_label == "mechdiff, changed: cut"


def test_a_copy_keeps_its_values():
    run = Run("patch", protocol="study", map="none")
    assert replace(run, limit=8).map == "none" and copy.deepcopy(run) == run
    assert run.converted(QUESTIONS["heads"]).chosen_on == "val", "a question's own settings come from the protocol"


def test_the_command_says_the_protocol_and_what_differs_from_it():
    run = Run("rank", protocol="study", limit=8, alpha=("2.0",), layers=(3,))
    words = command(run)
    assert "--protocol study" in words and "--alpha 2.0" in words and "--cut" not in words and "--ranks" not in words
    assert parsed(words) == run
    assert parsed(command(Run("rank", protocol="study", cut="output"))).cut == "output"


def test_a_protocol_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UserError, match=r"Protocol 'studdy' .*mechdiff, study"):
        Run("patch", protocol="studdy")


def test_a_pair_may_have_a_protocol_of_its_own(pair, tmp_path):
    file = tmp_path / "tiny.toml"
    file.write_text(file.read_text() + '[options]\nprotocol = "study"\n')
    assert Run("patch", pair=str(file)).map == "zscore" and Run("patch", pair=str(file), protocol="mechdiff").map == "none"
    file.write_text(file.read_text().replace('"study"', '"studdy"'))
    with pytest.raises(UserError, match="mechdiff, study"):
        read_pair(str(file))


def test_equal_settings_are_a_hit_whatever_the_protocol(study):
    study |= {"chat_template": "auto", "min_shared_ratio": 0.0}
    both = [Run("patch", layers=(0, 1), protocol=name, map="none", statistics="train", **study) for name in protocols.NAMES]
    mechdiff.run(both[0])
    assert questions.task(both[1]).plan.whole is not None
    scored = study | {"train": None, "layers": (0,), "map": "zscore", "statistics": "prompts"}
    scored = [Run("patch", protocol=name, **scored) for name in protocols.NAMES]
    assert len({questions.task(run).plan.whole_key for run in scored}) == 1


def test_stored_sweeps_are_apart(study):
    folders = {artifacts.stored_name("p", name) for name in protocols.NAMES}
    assert folders == {"p", "p@study"}


def test_chat_templates_by_side(pair, tmp_path):
    tokenizers = load_tokenizers(Run("patch", **pair).spec)
    tokenizers.tuned = copy.deepcopy(tokenizers.base)
    for side, words in (("base", "w1 {{ messages[-1]['content'] }}"), ("tuned", "{{ messages[0]['content'] }} w2")):
        getattr(tokenizers, side).chat_template = words

    def rendered(template: str, **more) -> list[str]:
        tokenizers.pair = replace(tokenizers.pair, chat_template=template, **more)
        return [tokenizers.render("w5", side) for side in ("base", "tuned")]

    assert rendered("auto") == ["w5 w2"] * 2 and rendered("base") == ["w1 w5"] * 2
    assert rendered("each") == ["w1 w5", "w5 w2"] and rendered("none") == ["w5"] * 2
    assert rendered("each", system="w9") == ["w1 w5", "w9 w2"], "the system prompt is a turn before the prompt"
    tokenizers.base.chat_template = tokenizers.tuned.chat_template = None
    assert rendered("each") == ["w9\n\nw5"] * 2


def test_a_template_without_a_place_for_a_system_prompt_is_a_sentence(pair):
    run = Run("patch", system="Be brief.", **pair)
    tokenizers = load_tokenizers(run.spec)
    tokenizers.base.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(UserError, match=r"takes no system prompt \(no system role\)"):
        tokenizers.render("w1", "base")


def test_what_the_models_read_belongs_to_the_key(study):
    keys = {
        questions.task(Run("patch", layers=(0,), **study, **more)).plan.whole_key
        for more in ({}, {"system": "w1"}, {"suffix": " w1"}, {"chat_template": "none"})
    }
    assert len(keys) == 4
    same = questions.task(Run("patch", layers=(0,), chat_template="each", **study)).plan.whole_key
    apart = questions.task(Run("patch", layers=(0,), **study)).plan.whole_key
    assert same != apart, "two tokenizers may have two templates"


def test_a_suffix_ends_every_prompt(study):
    run = Run("patch", suffix=" w7", **study)
    assert all(prompt.text.endswith(" w7") for prompt in (*run.chosen_prompts, *run.train_prompts))


def test_the_command_line_takes_protocols():
    run, _ = read(Namespace(question="rank", options=["--protocol", "study", "--alpha", "0.5"]))
    assert run.cut == "whitened" and run.protocol_label == "study"


def test_protocol_files_are_valid_and_say_what_they_are():
    for name in protocols.NAMES:
        content = tomllib.loads((protocols.FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
        assert content["about"] == protocols.about(name) and not content["about"].endswith(".")


def test_a_protocols_filter_is_told_where_it_leaves_prompts_out(study):
    quiet, told = (Run("patch", **study, **more) for more in ({"protocol": "study"}, {"min_shared_ratio": 0.65}))
    assert len(quiet.chosen_prompts) == len(told.chosen_prompts) and quiet.left_out == told.left_out == {"val": (0, 20)}
    assert quiet.notices == [] and len(told.notices) == 1, "what was asked for is answered"
