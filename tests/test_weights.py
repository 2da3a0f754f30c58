"""Differences of weights: every family's files, adapters, planted subspaces, and messages for what is not readable."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.families import FAMILIES, tiny_model
from torch.testing import assert_close

import mechdiff
from mechdiff import Run, questions
from mechdiff.common.errors import UserError
from mechdiff.inputs.pair_file import Source, read_pair
from mechdiff.inputs.weight_changes import Weights, difference
from mechdiff.maths.spectrum import Factors, spectrum
from mechdiff.questions.diagnostics.weight_overlap import Overlap


def of_rank(k: int, shape=(20, 30), values=None) -> torch.Tensor:
    """A random matrix with k singular values, all 1 unless they are given."""
    left, right = (torch.linalg.qr(torch.randn(size, k, generator=torch.Generator().manual_seed(size))).Q for size in shape)
    return (left * (torch.ones(k) if values is None else values)) @ right.mT


def pair_of(folder, family: str = "llama", shards: str = "5GB"):
    """A tiny base and a copy of it with noise of known size, saved as their makers do. Returns both models and the pair file."""
    base, tuned = (tiny_model(family, 0) for _ in range(2))
    torch.manual_seed(3)
    for parameter in tuned.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    base.save_pretrained(folder / "base", max_shard_size=shards)
    tuned.save_pretrained(folder / "tuned", max_shard_size=shards)
    path = folder / "pair.toml"
    path.write_text('[base]\nfolder = "base"\n[tuned]\nfolder = "tuned"\n')
    return base, tuned, path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_files_give_the_models_own_differences(family, tmp_path):
    base, tuned, _ = pair_of(tmp_path, family)
    mine, theirs = (Weights(Source(folder=str(tmp_path / side))) for side in ("base", "tuned"))
    linear = {name: module for name, module in base.named_modules() if type(module).__name__ in ("Linear", "Conv1D")}
    compared = 0
    for name, module in linear.items():
        place = next((place for place, stored in mine.places.items() if name.endswith(stored.name.removesuffix(".weight"))), None)
        if place is not None:
            change = tuned.get_submodule(name).weight - module.weight
            change = change.mT if type(module).__name__ == "Conv1D" else change
            assert_close(difference(mine, theirs, place)[0], change)
            compared += 1
    assert compared >= 4 * base.config.num_hidden_layers


SHAPES = {  # outputs x inputs: what is fused stays so, and what is stored the other way round is turned
    "gpt2": {"attn.c_attn": (96, 32), "attn.c_proj": (32, 32), "mlp.c_fc": (128, 32), "mlp.c_proj": (32, 128)},
    "phi3": {
        "self_attn.qkv_proj": (64, 32),
        "self_attn.o_proj": (32, 32),
        "mlp.gate_up_proj": (96, 32),
        "mlp.down_proj": (32, 48),
    },
    "gpt_neox": {
        "attention.query_key_value": (96, 32),
        "attention.dense": (32, 32),
        "mlp.dense_h_to_4h": (48, 32),
        "mlp.dense_4h_to_h": (32, 48),
    },
    "gemma2": {  # its embeddings are tied: one tensor for both, and no layer's
        "self_attn.q_proj": (32, 32),
        "self_attn.k_proj": (16, 32),
        "self_attn.v_proj": (16, 32),
        "self_attn.o_proj": (32, 32),
        "mlp.gate_proj": (48, 32),
        "mlp.up_proj": (48, 32),
        "mlp.down_proj": (32, 48),
    },
}


@pytest.mark.parametrize("family", SHAPES)
def test_matrices_have_their_files_names_and_shapes(family, tmp_path, own_store):
    _, _, path = pair_of(tmp_path, family)
    table = mechdiff.run(Run("weights", pair=str(path), layers=(2,)))
    shapes = {line.module: (line.outputs, line.inputs) for line in table.itertuples()}
    assert shapes == SHAPES[family] and (table["relative_norm"] > 0.01).all()


def test_a_stopped_comparison_has_lost_no_matrix(tmp_path, own_store, monkeypatch):
    _, _, path = pair_of(tmp_path)
    run = Run("weights", pair=str(path), layers=(0, 1))
    task, progress = questions.task(run), []
    for _ in task.steps():  # a step a matrix
        progress.append((task.done, task.total))
        if len(progress) == 10:
            break
    assert progress == [(k, 14) for k in range(1, 11)] and set(task.table()["layer"]) == {0}
    read, plain = [], Weights.plain
    monkeypatch.setattr(Weights, "plain", lambda self, place: (read.append(place), plain(self, place))[1])
    task = questions.task(run)
    assert (task.done, task.total) == (7, 14)
    assert len(questions.run(run)) == 14 and len(set(read)) == 4, "ten of them were kept"


def test_the_question_is_answered_from_shards_and_kept(tmp_path, own_store, monkeypatch):
    base, tuned, path = pair_of(tmp_path, shards="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    table = mechdiff.run(Run("weights", pair=str(path), layers=(1, 3)))
    assert set(table["layer"]) == {1, 3} and len(table) == 2 * 7
    line = table[(table["layer"] == 3) & (table["module"] == "mlp.down_proj")].iloc[0]
    before, after = (model.model.layers[3].mlp.down_proj.weight for model in (base, tuned))
    assert line["relative_norm"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)
    assert line["singular_1"] == pytest.approx(float(torch.linalg.svdvals(after - before)[0]), rel=1e-5)
    assert (line["outputs"], line["inputs"]) == tuple(before.shape)
    monkeypatch.setattr("mechdiff.inputs.weight_changes.Weights.plain", lambda *_: pytest.fail("read again"))
    assert mechdiff.run(Run("weights", pair=str(path), layers=(1, 3))).equals(table)


def dense(change) -> torch.Tensor:
    return change.dense() if isinstance(change, Factors) else change


def adapter_pair(folder, family: str, **details):
    """A base, and a random adapter of it, saved by peft. Returns both sides' weights, and base and merged models."""
    base = tiny_model(family, 0)
    base.save_pretrained(folder / "base")
    adapted = get_peft_model(tiny_model(family, 0), LoraConfig(r=2, lora_alpha=8, init_lora_weights=False, **details))
    for name, parameter in adapted.named_parameters():  # as training would leave them
        if "lora_magnitude_vector" in name or "modules_to_save" in name:
            parameter.data.mul_(1 + 0.2 * torch.rand_like(parameter))
    adapted.save_pretrained(folder / "adapter")
    (folder / "pair.toml").write_text('[base]\nfolder = "base"\n[tuned]\nadapter = "adapter"\n')
    tuned = read_pair(str(folder / "pair.toml")).tuned
    return Weights(Source(folder=str(folder / "base"))), Weights(tuned), base, adapted.merge_and_unload()


TARGETS = {"target_modules": ["v_proj", "down_proj"]}
LORAS = {
    "plain": TARGETS,
    "rank-stabilised": TARGETS | {"use_rslora": True},
    "patterns": TARGETS | {"alpha_pattern": {"v_proj": 32}, "rank_pattern": {"v_proj": 3}},
    "biases": TARGETS | {"bias": "lora_only"},
}


@pytest.mark.parametrize("details", LORAS.values(), ids=LORAS)
def test_an_adapter_is_the_merged_models_difference(details, tmp_path, own_store):
    before, after, base, merged = adapter_pair(tmp_path, "llama", **details)
    for module in ("self_attn.v_proj", "mlp.down_proj", "self_attn.q_proj"):
        expected = merged.get_submodule(f"model.layers.2.{module}").weight - base.get_submodule(f"model.layers.2.{module}").weight
        change = difference(before, after, (2, module))[0]
        assert isinstance(change, Factors), "not formed densely"
        assert_close(dense(change), expected, atol=1e-5, rtol=1e-5)
    table = mechdiff.run(Run("weights", pair=str(tmp_path / "pair.toml"), layers=(2,))).set_index("module")
    assert table.loc["mlp.down_proj", "stable_rank"] <= 2.001 and table.loc["self_attn.q_proj", "norm"] == 0
    exact = spectrum(dense(difference(before, after, (2, "mlp.down_proj"))[0]).double())
    for name in ("norm", "participation_ratio", "stable_rank", "rank_90"):
        assert table.loc["mlp.down_proj", name] == pytest.approx(getattr(exact, name), rel=1e-6)
    assert table.loc["mlp.down_proj", "singular_1"] == pytest.approx(float(exact.singular[0]), rel=1e-6)


def test_an_adapter_of_transposed_matrices_has_the_bases_orientation(tmp_path):
    before, after, base, merged = adapter_pair(tmp_path, "gpt2", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    for module in ("attn.c_attn", "mlp.c_fc"):
        name = f"transformer.h.1.{module}"
        expected = (merged.get_submodule(name).weight - base.get_submodule(name).weight).mT
        assert_close(dense(difference(before, after, (1, module))[0]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["dora", "saved whole"])
def test_an_adapter_that_is_not_a_product_is_formed_densely(kind, family, tmp_path):
    target, layer = ("v_proj", "model.layers") if family == "llama" else ("c_attn", "transformer.h")
    whole = "down_proj" if family == "llama" else "c_fc"
    details = {"use_dora": True} if kind == "dora" else {"modules_to_save": [whole]}
    before, after, base, merged = adapter_pair(
        tmp_path, family, target_modules=[target], fan_in_fan_out=family == "gpt2", **details
    )
    module = next(name for _, name in before.places if name.endswith(target if kind == "dora" else whole))
    expected = merged.get_submodule(f"{layer}.2.{module}").weight - base.get_submodule(f"{layer}.2.{module}").weight
    assert expected.norm() > 0.1
    expected = expected.mT if family == "gpt2" else expected
    assert_close(difference(before, after, (2, module))[0], expected, atol=1e-5, rtol=1e-5)


def test_what_is_not_readable_has_a_message(tmp_path):
    _, _, path = pair_of(tmp_path)
    (tmp_path / "tuned" / "model.safetensors").rename(tmp_path / "tuned" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"(?s)\.bin.*Try"):
        mechdiff.run(Run("weights", pair=str(path)))
    adapter = tmp_path / "other_kind"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(UserError, match="merge_and_unload"):
        _ = Weights(Source(folder=str(tmp_path / "base"), adapter=str(adapter))).adapter
    small = tiny_model("gpt_neox", 0)
    small.save_pretrained(tmp_path / "other")
    base, other = (Weights(Source(folder=str(tmp_path / side))) for side in ("base", "other"))
    assert difference(base, other, (0, "mlp.down_proj")) is None, "a matrix that one of them lacks"


def test_an_edit_that_makes_the_states_spans_their_mapped_subspace(study, tmp_path):
    """Tuned is base with a huge rank-2 edit of what layer 1's MLP writes: there the recipient's states are that edit."""
    tuned = tiny_model("llama", 0)
    tuned.model.layers[1].mlp.down_proj.weight.add_(100 * of_rank(2, (32, 48)))
    tuned.save_pretrained(tmp_path / "tuned")
    overlaps = {}
    for layer in (0, 1, 2):
        run = Run("weights", map="ridge", layers=(layer,), **{k: v for k, v in study.items() if k != "limit"})
        overlaps[layer] = questions.run(Overlap(run))
    assert overlaps[0].empty, "nothing differs up to layer 0, and so no matrix has a direction"
    (at_two,) = overlaps[1].query("k == 2").itertuples()
    assert (at_two.written, at_two.module) == (1, "mlp.down_proj") and at_two.overlap > 0.98 and at_two.chance == 2 / 32
    assert set(overlaps[1]["k"]) == {1, 2}, "a change of rank 2 has no third direction"
    assert overlaps[2].query("k == 2")["overlap"].iloc[0] > 0.9, "the residual stream carries it on"


def test_unrelated_changes_have_the_overlap_of_chance(study):
    run = Run("weights", layers=(3,), **{k: v for k, v in study.items() if k != "limit"})
    table = questions.run(Overlap(run))
    assert len(table) == 4 * 2 * 5
    by_size = table.groupby("k")[["overlap", "chance"]].mean()
    assert ((by_size["overlap"] / by_size["chance"]).loc[[8, 16]] < 1.5).all(), "two random models"


def test_the_subspace_of_one_layer_is_asked_for():
    with pytest.raises(UserError, match="--layers 26"):
        questions.task(Overlap(Run("weights", layers=(1, 2))))
