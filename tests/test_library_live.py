"""Models in memory as a pair: the same numbers as from files, nothing on disk without a name, and the models stay as they are."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from support.families import tiny_model
from support.random_pair import WORDS, write_domain
from transformers import AutoModelForCausalLM, AutoTokenizer

import mechdiff as md
from mechdiff.inputs import pair_file, prompts

TEXTS = [" ".join(WORDS[i : i + 3 + i % 4]) for i in range(6)]


@pytest.fixture
def live(pair, tmp_path, monkeypatch):
    """Both models, their tokenizer, and the same pair from files."""
    write_domain(tmp_path / "domains" / "toy", TEXTS)
    monkeypatch.setattr(prompts, "DOMAINS", tmp_path / "domains")
    models = [AutoModelForCausalLM.from_pretrained(Path(pair["pair"]).parent / side) for side in ("base", "tuned")]
    yield *models, AutoTokenizer.from_pretrained(Path(pair["pair"]).parent / "base"), md.load(pair["pair"], domain="toy")
    pair_file.described.clear()


def effects(pair, **fields) -> np.ndarray:
    return pair.patch(**{"layers": 1, "limit": 4} | fields).table["kl"].to_numpy()


def loaded(live, **options):
    base, tuned, tokenizer, _ = live
    return md.load(base, tuned, tokenizer=tokenizer, domain="toy", **options)


def test_live_models_give_what_their_files_give(live):
    mine, files = loaded(live), live[3]
    np.testing.assert_allclose(effects(mine), effects(files), atol=1e-6)
    np.testing.assert_allclose(mine.drift(limit=6).table["cka"], files.drift(limit=6).table["cka"], atol=1e-6)
    ridge = {"layers": 1, "map": "ridge", "limit": 4}
    np.testing.assert_allclose(mine.transport(**ridge).table["kl"], files.transport(**ridge).table["kl"], atol=1e-6)
    row = [md.at(1).set(lambda clean: 0.5 * clean.donor)]
    np.testing.assert_allclose(mine.run(row, limit=4).table["kl"], files.run(row, limit=4).table["kl"], atol=1e-6)


def test_what_models_in_memory_cannot_is_said(live, tmp_path):
    mine = loaded(live)
    assert mine.patch(layers=1, limit=4).command.startswith("# There is no command line")
    with pytest.raises(md.UserError, match="save_pretrained"):
        mine.save(tmp_path / "mine.toml")
    for ask in (lambda **fields: mine.patch(layers=1, **fields), lambda **fields: mine.run([md.at(1).donor()], **fields)):
        with pytest.raises(md.UserError, match="float32 on cpu, so dtype cannot be chosen"):
            ask(limit=4, dtype="bfloat16")


def test_nothing_is_stored_without_a_name(live, own_store):
    before = len(own_store._cache)
    mine = loaded(live)
    effects(mine), mine.drift(limit=6), mine.transport(layers=1, limit=4)
    assert len(own_store._cache) == before and "in-memory" in repr(mine)
    named = loaded(live, name="mine")
    effects(named)
    assert len(own_store._cache) > before


@pytest.mark.parametrize("name", [None, "mine"])
def test_a_changed_weight_is_noticed(live, name):
    _, tuned, _, _ = live
    mine = loaded(live, name=name)
    first = effects(mine)
    np.testing.assert_array_equal(effects(mine), first)
    weight = tuned.model.layers[1].mlp.down_proj.weight
    for change in (lambda: weight.data.mul_(1.5), lambda: weight.data.copy_(weight.data.flip(0))):
        before = effects(mine)
        change()
        assert np.abs(effects(mine) - before).max() > 1e-6


def test_a_changed_buffer_or_mode_drops_the_clean_passes(live):
    _, tuned, _, _ = live
    mine = loaded(live)
    effects(mine)
    for change in (lambda: tuned.model.rotary_emb.inv_freq.mul_(0.5), lambda: tuned.train()):
        before = mine._live._loaded
        change()
        effects(mine)
        assert mine._live._loaded is not before


def test_configuration_and_tokenizer_belong_to_a_named_pair(live):
    """The same weights under the same name, read in another way, are another pair."""
    _, tuned, tokenizer, _ = live
    first = effects(loaded(live, name="mine"))
    tuned.config.rms_norm_eps = 0.5
    changed = effects(loaded(live, name="mine"))
    tokenizer.chat_template = "w1 w2 {{ messages[0]['content'] }} w3"
    templated = effects(loaded(live, name="mine"))
    assert np.abs(templated - changed).max() > 1e-6 and len(first) == 4


def state(model) -> dict:
    """What must be the same afterwards."""
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [list(module._forward_hooks) + list(module._forward_pre_hooks) for module in model.modules()],
        "forward": ["forward" in vars(module) for module in model.modules()],
        "kernel": model.config._attn_implementation,
        "dtypes": [parameter.dtype for parameter in model.parameters()],
        "grads": [parameter.requires_grad for parameter in model.parameters()],
        "pointers": [parameter.data_ptr() for parameter in model.parameters()],
        "cache": model.config.use_cache,
    }


def test_the_models_stay_as_they_are(live):
    base, tuned, _, _ = live
    tuned.train()
    tuned.set_attn_implementation("eager")
    tuned.model.layers[0].register_forward_hook(lambda *_: None)
    base.model.embed_tokens.weight.requires_grad_(False)
    before, values = [state(model) for model in (base, tuned)], [p.clone() for p in tuned.parameters()]
    random = torch.random.get_rng_state()
    mine = loaded(live)
    effects(mine, controls="self"), mine.transplant(layers=1, limit=4), mine.heads(layers=1, head_sets="1", limit=4)
    result = mine.run([md.at(0, "mlp_out").donor()], limit=4)
    assert [state(model) for model in (base, tuned)] == before
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(values, tuned.parameters()))
    assert any("hooks of the tuned model" in notice for notice in result.notices)


def test_an_adapter_is_compared_with_its_base(live):
    base, _, tokenizer, _ = live
    torch.manual_seed(0)
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"], r=4))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    mine = md.load(adapted, tokenizer=tokenizer, domain="toy")
    first = effects(mine)
    assert first.min() > 0
    with adapted.disable_adapter():
        assert effects(mine).max() < 1e-6, "without the adapter the two models are one"
    np.testing.assert_array_equal(effects(mine), first)


def changes(pair) -> pd.DataFrame:
    """The weights' changes without the pair's name."""
    return pair.weights().table.drop(columns="pair")


def test_weights_are_compared_in_memory(live):
    _, tuned, _, files = live
    mine = loaded(live)
    first = changes(mine)
    pd.testing.assert_frame_equal(first, changes(files))
    tuned.model.layers[1].mlp.down_proj.weight.data.mul_(1.5)
    different = changes(mine)["norm"] != first["norm"]
    assert first.loc[different, ["layer", "module"]].values.tolist() == [[1, "mlp.down_proj"]]


ADAPTERS = {
    "plain": {"r": 2},
    "dora": {"r": 2, "use_dora": True},
    "saved whole": {"r": 2, "modules_to_save": ["up_proj"]},
}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("details", ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_in_memory_is_that_of_its_files(live, tmp_path, family, details):
    tokenizer, base = live[2], tiny_model(family, 0)
    base.save_pretrained(tmp_path / "plain"), tokenizer.save_pretrained(tmp_path / "plain")
    targets = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}[family]
    details = details | ({"modules_to_save": ["c_fc"]} if family == "gpt2" and "modules_to_save" in details else {})
    config = LoraConfig(
        task_type="CAUSAL_LM", target_modules=targets, init_lora_weights=False, fan_in_fan_out=family == "gpt2", **details
    )
    adapted = get_peft_model(base, config).eval()
    for name, parameter in adapted.named_parameters():  # as training would leave them
        if "lora_magnitude_vector" in name or "modules_to_save" in name:
            parameter.data.mul_(1 + 0.2 * torch.rand_like(parameter))
    adapted.save_pretrained(tmp_path / "adapter")
    mine, files = md.load(adapted, tokenizer=tokenizer), md.load(tmp_path / "plain", tmp_path / "adapter")
    np.testing.assert_allclose(effects(mine, prompts=TEXTS), effects(files, prompts=TEXTS), atol=1e-5)
    table = changes(mine)
    pd.testing.assert_frame_equal(table, changes(files), atol=1e-4)
    changed = table.loc[table["norm"] > 0.01, "module"].str.rpartition(".")[2]
    assert set(changed) == {*targets, *details.get("modules_to_save", [])}
    with adapted.disable_adapter():
        assert changes(mine)["norm"].max() < 1e-6


def test_weights_that_are_no_matrices_in_memory_are_refused(live):
    tuned = live[1]
    tuned.model.layers[0].mlp.experts = torch.nn.Module()
    tuned.model.layers[0].mlp.experts.gate_up_proj = torch.nn.Parameter(torch.zeros(2, 3, 4))
    with pytest.raises(md.UserError, match=r"mlp\.experts\.gate_up_proj .*\nTry:  md\.load\(folder, folder\)"):
        loaded(live).weights()
    del tuned.model.layers[0].mlp.experts
    tuned.is_quantized = True
    with pytest.raises(md.UserError, match=r"quantized.*\nTry:  md\.load\(folder, folder\)"):
        loaded(live).weights()


def test_an_adapter_that_changes_its_base_leaves_none(live):
    """The base's weights are not in memory; and peft would take a merged one out of them in place if it were disabled."""
    base, other, tokenizer, _ = live
    adapted = get_peft_model(other, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    adapted.merge_adapter()
    with pytest.raises(md.UserError, match=r"merged.*\nTry:  .*unmerge_adapter"):
        md.load(adapted, tokenizer=tokenizer, domain="toy")
    mine, weight = md.load(base, adapted, tokenizer=tokenizer, domain="toy"), other.model.layers[0].self_attn.q_proj.weight
    before = weight.clone()
    assert effects(mine).min() > 0
    with adapted.disable_adapter(), pytest.raises(md.UserError, match=r"merged.*\nTry:  .*unmerge_adapter"):
        effects(mine)
    assert torch.equal(weight, before)
    biased = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], bias="all"))
    with pytest.raises(md.UserError, match=r"biases.*\nTry:  md.load\(base"):
        md.load(biased, tokenizer=tokenizer, domain="toy")
    prompts = get_peft_model(tiny_model("llama", 0), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(md.UserError, match="virtual tokens"):
        md.load(prompts, tokenizer=tokenizer, domain="toy")


def test_a_base_that_peft_has_put_an_adapter_into_is_still_the_base(live):
    """get_peft_model changes the model that it is given."""
    base, _, tokenizer, _ = live
    adapted = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False))
    both, alone = md.load(base, adapted, tokenizer=tokenizer, domain="toy"), md.load(adapted, tokenizer=tokenizer, domain="toy")
    np.testing.assert_array_equal(effects(both), effects(alone))
    assert effects(both).min() > 0


def test_what_is_wrong_is_a_sentence(live):
    base, tuned, tokenizer, _ = live
    with pytest.raises(md.UserError, match="need their tokenizer"):
        md.load(base, tuned)
    with pytest.raises(md.UserError, match="no causal language model"):
        md.load(torch.nn.Linear(2, 2), tuned, tokenizer=tokenizer)
    with pytest.raises(md.UserError, match="another pair named"):
        md.load(base, tuned, tokenizer=tokenizer, name="demo-cultural")
