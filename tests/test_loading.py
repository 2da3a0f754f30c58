"""Pairs as researchers have them: every kind of side is the plain model, adapters share the base, and faults are told."""

import json
import shutil
import threading
from pathlib import Path

import pytest
import torch
from support.small_models import write_adapter, write_gguf, write_model, write_pair, write_prompts
from transformers import AutoModelForCausalLM

import mechdiff
from mechdiff import Run, UserError
from mechdiff.inputs import pair_file
from mechdiff.models import gguf, registry
from mechdiff.models import load as loading
from mechdiff.models.load import with_adapter
from mechdiff.models.registry import load_pair

IDS = torch.tensor([[5, 9, 13, 40, 7, 22, 31]])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, a full fine-tune of it, and two adapters on it."""
    folder = tmp_path_factory.mktemp("made")
    write_model(folder / "base", 0)
    write_model(folder / "tuned", 1)
    for number in (1, 2):
        write_adapter(folder / f"lora{number}", folder / "base", number)
    return folder


@pytest.fixture(autouse=True)
def room(made, tmp_path, monkeypatch, own_store):
    """A copy of these to break; nothing loaded before or after."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    registry.unload()
    for module in (pair_file, gguf):
        monkeypatch.setattr(module, "MODELS", tmp_path / "converted")
    monkeypatch.setattr(loading, "CACHE", tmp_path / "cache")
    yield tmp_path
    registry.unload()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


def merged(folder: Path, adapter: Path | None = None):
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    if adapter is None:
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(adapter)).merge_and_unload().eval()


def load(room: Path, base: str, tuned: str, options: str = ""):
    return load_pair(write_pair(room, base, tuned, options), "cpu")


FOLDER, TUNED = 'folder = "base"', 'folder = "tuned"'
LORA = [f'adapter = "lora{number}"' for number in (1, 2)]
KINDS = {  # what the two tables say, and the folder and adapter that each side amounts to
    "full fine-tune": (FOLDER, TUNED, ("base", None), ("tuned", None)),
    "adapter": (FOLDER, LORA[0], ("base", None), ("base", "lora1")),
    "adapter, base named again": (FOLDER, f"{FOLDER}\n{LORA[0]}", ("base", None), ("base", "lora1")),
    "adapter on the base's side": (f"{FOLDER}\n{LORA[0]}", FOLDER, ("base", "lora1"), ("base", None)),
    "an adapter on either side": (f"{FOLDER}\n{LORA[0]}", LORA[1], ("base", "lora1"), ("base", "lora2")),
    "adapters on two models": (f"{FOLDER}\n{LORA[0]}", f"{TUNED}\n{LORA[1]}", ("base", "lora1"), ("tuned", "lora2")),
    "GGUF and folder": ('gguf = "base.gguf"', TUNED, ("base", None), ("tuned", None)),
    "GGUF and an adapter on it": ('gguf = "base.gguf"', LORA[0], ("base", None), ("base", "lora1")),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_pair_is_the_models_that_it_names(room, kind):
    base, tuned, *sides = KINDS[kind]
    if "gguf" in base:
        gguf.prepare(pair_file.Source(gguf=str(write_gguf(room / "base.gguf", room / "base"))))
    path = write_pair(room, base, tuned)
    loaded = load_pair(path, "cpu")
    for anatomy, (folder, adapter) in zip((loaded.base, loaded.tuned), sides):
        expected = merged(room / folder, adapter and room / adapter)
        torch.testing.assert_close(logits(anatomy.model), logits(expected), atol=2e-5, rtol=0)
    table = mechdiff.run(Run("patch", pair=path, prompts=write_prompts(room / "p.jsonl", 6), layers=(2,), device="cpu"))
    assert len(table) == 6 and table["kl"].min() > 1e-6 and not loaded.preflight.by_hooks


def storages(*models) -> dict[int, int]:
    """Address -> bytes of every distinct storage behind the models' parameters."""
    blocks = (p.untyped_storage() for model in models for p in model.parameters())
    return {storage.data_ptr(): storage.nbytes() for storage in blocks}


def test_an_adapter_pair_costs_one_model_and_so_do_two_adapters_on_one_base(room):
    for number in (1, 2):
        write_adapter(room / f"lora{number}", room / "base", number, target_modules=["q_proj", "v_proj"], r=1)
    first, second = (load(room, FOLDER, LORA[number]) for number in (0, 1))
    both = load(room, f"{FOLDER}\n{LORA[0]}", LORA[1])
    alone = sum(storages(first.base.model).values())
    assert alone < sum(storages(first.base.model, first.tuned.model).values()) < 1.1 * alone
    every = (first.base, first.tuned, second.base, second.tuned, both.base, both.tuned)
    assert sum(storages(*(anatomy.model for anatomy in every)).values()) < 1.1 * alone
    assert first.base.model is second.base.model and first.lock is second.lock is both.lock


@pytest.mark.parametrize(
    ("family", "details"),
    [
        ("qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}),
        ("qwen2", {"target_modules": ["q_proj"], "bias": "all"}),
        ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),
        ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
        ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    ],
)
def test_whatever_an_adapter_replaces_the_base_stays_as_it_was(room, family, details):
    """Biases and embeddings that come with an adapter are copied into parameters: not into those that the base runs with."""
    folder = write_model(room / family, family=family)
    adapter = write_adapter(room / "lora", folder, 3, **details)
    loaded = load(room, f'folder = "{family}"', 'adapter = "lora"')
    torch.testing.assert_close(logits(loaded.base.model), logits(merged(folder)), atol=0, rtol=0)
    torch.testing.assert_close(logits(loaded.tuned.model), logits(merged(folder, adapter)), atol=3e-5, rtol=0)
    assert (logits(loaded.tuned.model) - logits(loaded.base.model)).abs().max() > 1e-2


def test_two_threads_one_asking_the_base_and_one_the_tuned_model_get_the_right_answers(room):
    loaded = load(room, FOLDER, LORA[0])
    texts = [(f"w{i} w{i + 1} w{2 * i}",) for i in range(12)]
    expected = {(side, text): loaded.passes.trace(side, text, True).logprobs for side in ("base", "tuned") for text in texts}
    assert all((expected["base", text] - expected["tuned", text]).abs().max() > 1e-3 for text in texts)
    loaded.passes.clear()
    logprobs, start = {}, threading.Barrier(2)

    def ask(side):
        start.wait()
        for text in texts:
            logprobs[side, text] = loaded.passes.trace(side, text, True).logprobs

    threads = [threading.Thread(target=ask, args=(side,)) for side in ("base", "tuned")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logprobs.keys() == expected.keys() and all(torch.equal(logprobs[key], expected[key]) for key in expected)


def test_a_model_that_is_one_pairs_base_and_anothers_fine_tune_is_held_by_both_pairs_locks(room):
    first, second = load(room, FOLDER, TUNED), load(room, TUNED, FOLDER)
    assert first.base.model is second.tuned.model and set(map(id, first.lock.locks)) == set(map(id, second.lock.locks))
    third = load(room, TUNED, TUNED + "\n" + LORA[0])
    held = threading.Event()

    def wait_for_it():
        with first.lock:
            held.set()

    with third.lock:
        thread = threading.Thread(target=wait_for_it)
        thread.start()
        assert not held.wait(0.1), "the other pair runs the same weights"
    assert held.wait(5)
    thread.join()


OFFLOADED = """device_map = { "model.embed_tokens" = "cpu", "model.rotary_emb" = "cpu", "model.layers.0" = "disk",
"model.layers.1" = "cpu", "model.layers.2" = "disk", "model.layers.3" = "cpu", "model.norm" = "disk", "lm_head" = "cpu" }"""


@pytest.mark.parametrize("question", ["patch", "heads", "transplant", "drift"])
def test_offloaded_layers_give_the_same_numbers(room, question):
    settings = {"prompts": write_prompts(room / "p.jsonl", 6), "device": "cpu"}
    paths = [write_pair(room, FOLDER, TUNED, options) for options in ("", OFFLOADED.replace("\n", " "), 'device_map = "auto"')]
    plain, offloaded, auto = (mechdiff.run(Run(question, pair=path, **settings)) for path in paths)
    loaded = load_pair(paths[1], "cpu")
    assert loaded.base.model.model.layers[0].mlp.up_proj.weight.device.type == "meta" and not loaded.preflight.by_hooks
    numbers = plain.select_dtypes("float").columns
    for other in (offloaded, auto):
        assert (plain[numbers] - other[numbers]).abs().max().max() < 1e-5


def test_an_adapter_on_offloaded_weights_is_refused(room):
    with pytest.raises(UserError, match=r"offloaded.*\n.*merge_and_unload"):
        load(room, FOLDER, LORA[0], OFFLOADED.replace("\n", " "))


def cut(path: Path):
    path.write_bytes(path.read_bytes()[:-100])


def pickled(room: Path):
    state = AutoModelForCausalLM.from_pretrained(room / "base").state_dict()
    torch.save(state, room / "base" / "pytorch_model.bin")
    (room / "base" / "model.safetensors").unlink()


def edit(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(path: Path, *names: str):
    from safetensors.torch import load_file, save_file

    save_file({name: tensor for name, tensor in load_file(path).items() if name not in names}, path)


def forget_tokenizer(folder: Path):
    for path in folder.glob("tokenizer*"):
        path.unlink()


def missing_shard(folder: Path):
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sorted(folder.glob("model-*.safetensors"))[0].unlink()


FAULTS = {
    "a file cut off": (lambda room: cut(room / "base/model.safetensors"), ["base/model.safetensors is cut off", "again"]),
    "no safetensors file": (
        lambda room: (room / "base/model.safetensors").write_bytes(b"x" * 99),
        ["base", "not a readable"],
    ),
    "pickled weights": (pickled, ["base holds its weights as .bin files alone", "pickle", "save_pretrained"]),
    "no weights": (lambda room: (room / "base/model.safetensors").unlink(), ["base", "model.safetensors is missing"]),
    "a shard is missing": (lambda room: missing_shard(room / "base"), ["base", "model-00001"]),
    "a tensor is missing": (
        lambda room: without(room / "base/model.safetensors", "model.layers.1.mlp.up_proj.weight"),
        ["lack 1 of the model's tensors: model.layers.1.mlp.up_proj.weight"],
    ),
    "another config": (lambda room: edit(room / "base/config.json", intermediate_size=64), ["other shapes than its config.json"]),
    "no config that can be read": (lambda room: (room / "base/config.json").write_text("{"), ["config.json", "not a readable"]),
    "unknown architecture": (
        lambda room: edit(room / "base/config.json", model_type="frob"),
        ["base is a frob, which transformers does not know", "upgrade"],
    ),
    "no language model": (
        lambda room: edit(room / "base/config.json", model_type="t5"),
        ["base is a t5", "causal language model"],
    ),
    "remote code": (
        lambda room: edit(room / "base/config.json", model_type="frob", auto_map={"AutoModelForCausalLM": "x.Y"}),
        ["code comes with the weights", "trust_remote_code = true"],
    ),
    "no tokenizer": (lambda room: forget_tokenizer(room / "base"), ["no tokenizer", "tokenizer.json"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_no_whole_model_is_told_in_a_sentence(room, fault):
    make, says = FAULTS[fault]
    make(room)
    with pytest.raises(UserError) as caught:
        load(room, FOLDER, TUNED)
    for text in (*says, "Try"):
        assert text in str(caught.value)


MISFITS = {
    "another width": ({"hidden_size": 64, "head_dim": 16}, {}, ["does not fit this base", "size mismatch", "wide"]),
    "more layers": ({"num_hidden_layers": 6}, {}, ["of its tensors have no place in this model", "layers.4"]),
    "fewer layers": ({"num_hidden_layers": 3}, {}, ["it lacks tensors for", "layers.3"]),
    "another family": (
        {"family": "gpt_neox"},
        {"target_modules": ["query_key_value"]},
        ["does not fit this base", "query_key_value"],
    ),
    "another vocabulary": (
        {"vocab_size": 120},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        ["does not fit this base", "size mismatch"],
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_an_adapter_of_another_base_is_told_in_a_sentence(room, case):
    changes, details, says = MISFITS[case]
    other = write_model(room / "wide", **changes)
    write_adapter(room / "astray", other, **details)
    with pytest.raises(UserError) as caught:
        load(room, FOLDER, 'adapter = "astray"')
    for text in (*says, "Try:  the base it was trained on"):
        assert text in str(caught.value)


def test_an_adapter_that_names_another_base_but_fits_is_loaded_with_a_notice(room):
    edit(room / "lora1" / "adapter_config.json", base_model_name_or_path="org/elsewhere")
    assert load(room, FOLDER, LORA[0]).notices == [
        "The adapter lora1 names org/elsewhere as its base model; here it is applied to base."
    ]
    assert load(room, FOLDER, LORA[1]).notices == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "adds virtual tokens and changes no weight"),
        ({"peft_type": "WIZARDRY"}, "peft does not know"),
    ],
)
def test_what_is_no_change_of_weights_is_refused(room, change, says):
    edit(room / "lora1" / "adapter_config.json", **change)
    with pytest.raises(UserError, match=says):
        load(room, FOLDER, LORA[0])


def test_an_adapter_without_safetensors_is_told(room):
    (room / "lora1" / "adapter_model.safetensors").rename(room / "lora1" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"only as \.bin, a pickle"):
        with_adapter(AutoModelForCausalLM.from_pretrained(room / "base"), room / "lora1")


def test_a_file_that_is_no_gguf_is_told(room):
    (room / "x.gguf").write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(UserError, match=r"x\.gguf cannot be read as a GGUF model"):
        gguf.prepare(pair_file.Source(gguf=str(room / "x.gguf")))
    assert not list((room / "converted").glob("*/")), "nothing half-done is left"
