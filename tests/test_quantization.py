"""Quantized loads and the options of a pair file that change how a model is loaded."""

import importlib.util

import pytest
import torch
from support.small_models import write_adapter, write_model, write_pair, write_prompts

import mechdiff
from mechdiff import Run, UserError
from mechdiff.inputs.pair_file import read_pair
from mechdiff.models.registry import load_pair, unload
from mechdiff.questions.shared.identity import Identity

IDS = torch.tensor([[5, 9, 13, 40, 7, 22, 31]])
SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}


@pytest.fixture
def pair(tmp_path, own_store):
    """Writes a pair file on two models and an adapter: pair(tuned's lines, options)."""
    unload()
    write_model(tmp_path / "base", 0, **SIZES)
    write_model(tmp_path / "tuned", 1, **SIZES)
    write_adapter(tmp_path / "lora", tmp_path / "base")
    yield lambda tuned, options="": write_pair(tmp_path, 'folder = "base"', tuned, options)
    unload()


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
@pytest.mark.parametrize("tuned", ['folder = "tuned"', 'adapter = "lora"'])
def test_a_quantized_pair_runs_by_rows_on_weights_of_fewer_bytes(pair, tmp_path, bits, tuned):
    pytest.importorskip("bitsandbytes")
    plain, path = load_pair(pair(tuned), "cpu"), pair(tuned, f'quantization = "{bits}"')
    loaded = load_pair(path, "cpu")
    settings = {"prompts": write_prompts(tmp_path / "p.jsonl", 6), "layers": (1,), "device": "cpu"}
    near, exact = (mechdiff.run(Run("patch", pair=p, **settings))["kl"].mean() for p in (path, plain.pair.path))
    assert not loaded.preflight.by_hooks and loaded.parity["tuned"] <= loaded.preflight.limit("tuned")
    assert 0.3 * exact < near < 3 * exact and near != exact
    weights = [loaded.base.layers[0].mlp.up_proj.weight, plain.base.layers[0].mlp.up_proj.weight]
    assert weights[0].nbytes <= weights[1].nbytes / (4 if bits == "8bit" else 8)
    if "adapter" in tuned:
        pairs = zip(loaded.base.layers, loaded.tuned.layers)
        assert all(layer.mlp.up_proj.weight is twin.mlp.up_proj.weight for layer, twin in pairs)


@pytest.mark.parametrize("bits", ["8bit", "4bit"])
def test_both_trees_of_a_quantized_adapter_pair_answer_whoever_runs_first(pair, bits):
    pytest.importorskip("bitsandbytes")
    answers = []
    for order in (("base", "tuned"), ("tuned", "base")):
        unload()
        loaded = load_pair(pair('adapter = "lora"', f'quantization = "{bits}"'), "cpu")
        with torch.no_grad():
            logits = {side: getattr(loaded, side).model(IDS).logits for side in order}
        answers.append(logits)
    assert all(torch.equal(answers[0][side], answers[1][side]) for side in logits)
    assert (logits["base"] - logits["tuned"]).abs().max() > 1e-2


def test_without_bitsandbytes_it_says_what_to_type(pair, monkeypatch):
    original = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "bitsandbytes" else original(name, *a))
    with pytest.raises(UserError, match=r"bitsandbytes.*not installed.*\n.*pip install bitsandbytes"):
        load_pair(pair('folder = "tuned"', 'quantization = "4bit"'), "cpu")


def test_what_changes_numbers_is_in_the_key_and_what_is_not_asked_for_is_not(pair):
    options = ["", 'quantization = "8bit"', 'quantization = "4bit"', 'device_map = "auto"', 'dtype = "bfloat16"']
    options.append('chat_template = "none"')
    identities = [Identity(Run("drift", pair=pair('folder = "tuned"', option), device="cpu")).pair for option in options]
    assert len({repr(sorted(identity.items())) for identity in identities}) == len(options)
    assert not {"quantization", "device_map"} & identities[0].keys(), "what was computed before is found again"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('quantization = "2bit"', ["quantization '2bit'", "8bit, 4bit"]),
        ('device_map = "everywhere"', ["device_map 'everywhere'", "auto, balanced"]),
        ("device_map = 3", ["device_map '3'"]),
    ],
)
def test_a_wrong_option_is_answered_with_the_choices(pair, options, says):
    with pytest.raises(UserError) as caught:
        read_pair(pair('folder = "tuned"', options))
    assert all(text in str(caught.value) for text in says)
