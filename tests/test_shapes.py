"""Models of different build: drift still compares them, and says what with what; every other question says why not."""

import json

import pytest
import torch
from support import plain_hooks
from support.small_models import write_model, write_pair, write_prompts

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.__main__ import main
from mechdiff.inputs.model_config import shape_of
from mechdiff.maths.similarity import linear_cka
from mechdiff.models import registry
from mechdiff.models.registry import load_pair
from mechdiff.questions.diagnostics.map_quality import Diagnostics
from mechdiff.questions.diagnostics.weight_overlap import Overlap
from mechdiff.questions.drift import partners
from mechdiff.questions.prompt.continuation import Continuation
from mechdiff.questions.prompt.next_tokens import NextTokens
from mechdiff.questions.prompt.position_map import PositionMap
from mechdiff.questions.prompt.reading import Reading

OTHERS = {
    "wider": {"hidden_size": 48, "head_dim": 12},
    "deeper": {"num_hidden_layers": 6},
    "shallower and narrower": {"num_hidden_layers": 3, "hidden_size": 16, "head_dim": 4},
    "more heads": {"num_attention_heads": 8, "head_dim": 4},
    "wider heads": {"head_dim": 16},
}


@pytest.fixture
def settings(tmp_path, own_store):
    """What a request on a pair of unlike models says: settings(changes of the tuned model)."""
    registry.unload()

    def ask(**changes):
        write_model(tmp_path / "base", 0)
        write_model(tmp_path / "tuned", 1, **changes)
        path = write_pair(tmp_path, 'folder = "base"', 'folder = "tuned"')
        return {"pair": path, "prompts": write_prompts(tmp_path / "p.jsonl", 12), "device": "cpu"}

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERS)
def test_drift_is_the_cka_of_plain_hooks_at_the_layers_it_names(settings, kind):
    run = Run("drift", streams=("resid_post", "mlp_out"), **settings(**OTHERS[kind]))
    task = questions.task(run)
    for _ in task.steps():
        pass
    table, loaded = task.table(), load_pair(run.pair, "cpu")
    ids = [loaded.tokenizers.encode(prompt.text, "base") for prompt in run.chosen_prompts]
    depths = [len(loaded.base.layers), len(loaded.tuned.layers)]
    assert ("tuned_layer" in table) == (depths[0] != depths[1]) == any("nearest share of its depth" in n for n in task.notices)
    assert set(table["layer"]) == set(range(4))
    for line in table.itertuples():
        layers = line.layer, getattr(line, "tuned_layer", line.layer)
        sides = zip((loaded.base, loaded.tuned), layers)
        x, y = (torch.stack([plain_hooks.state(side.model, i, layer, line.stream) for i in ids]) for side, layer in sides)
        assert line.cka == pytest.approx(linear_cka(x, y), abs=1e-4)


def test_layers_are_paired_at_the_nearest_share_of_the_depth():
    assert partners("resid_post", 4, 4) == partners("mlp_out", 4, 4) == [0, 1, 2, 3]
    assert partners("resid_post", 2, 4) == [1, 3] and partners("resid_pre", 2, 4) == [0, 2]
    assert partners("resid_post", 4, 2) == [0, 0, 0, 1] and partners("mlp_out", 4, 2) == [0, 0, 1, 1]
    for own, others in ((30, 24), (24, 30), (7, 5)):
        layers = partners("resid_post", own, others)
        assert layers == sorted(layers) and layers[-1] == others - 1
        assert all(abs((i + 1) / own - (j + 1) / others) <= 0.5 / others + 1e-9 for i, j in enumerate(layers) if j)


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("question", ["patch", "transport", "rank", "heads", "transplant", "weights", "stack"])
def test_what_cannot_be_asked_is_a_sentence_that_leads_to_drift(settings, question, kind, capsys):
    request = settings(**OTHERS[kind])
    words = ["run", question, "--pair", request["pair"], "--prompts", request["prompts"], "--device", "cpu"]
    assert main(words + (["--stack", "layer=1"] if question == "stack" else [])) == 2
    said = capsys.readouterr().err
    assert "no state or matrix of one fits in the other" in said and "run drift" in said and "Traceback" not in said
    assert f"Try:  python -m mechdiff run drift --pair {request['pair']}" in said


@pytest.mark.parametrize("make", [NextTokens, PositionMap, Continuation, Diagnostics, Overlap])
def test_what_the_pages_ask_is_a_sentence_too(settings, make):
    from mechdiff.engine.intervention import Condition

    request = settings(**OTHERS["wider"])
    question = {Continuation: "stack", PositionMap: "patch"}.get(make, "transport")
    run = Run(question, layers=(1,), **({"stack": "layer=1"} if question == "stack" else {}), **request)
    details = {"condition": Condition(1, "resid_post"), "prompt": 0} if make is NextTokens else {}
    with pytest.raises(UserError, match="a width of 32, the tuned model 48"):
        questions.task(make(run, **details))


def test_reading_one_prompt_works_for_any_two_models(settings):
    table = questions.run(Reading(Run("patch", **settings(**OTHERS["wider"]))))
    assert len(table) and table["kl"].notna().all()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_config_that_leaves_its_familys_defaults_out_is_read(tmp_path, family):
    folder = write_model(tmp_path / family, family=family, tokenizer=False)
    whole = shape_of(folder)
    config = json.loads((folder / "config.json").read_text())
    for name in ("num_attention_heads", "n_head"):
        config.pop(name, None)
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text(json.dumps(config))
    default = {"llama": 32, "gpt2": 12}[family]
    assert (whole.layers, whole.width, whole.heads) == (4, 32, 4) and shape_of(tmp_path / "bare").heads == default


def test_capped_logits_of_either_side_ask_for_the_kernel_that_keeps_them(settings, tmp_path):
    path = settings()["pair"]
    assert mechdiff.load_pair(path).pair.kernel == "sdpa"
    write_model(tmp_path / "tuned", 1, "gemma2")
    assert mechdiff.inputs.pair_file.read_pair(path).kernel == "eager"
