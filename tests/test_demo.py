"""The real demo pairs, end to end: exactness, shared weights, the command line."""

import json
import random

import pandas as pd
import pytest
import torch
from support import plain_hooks

from mechdiff import Run, load_pair, run
from mechdiff.__main__ import main
from mechdiff.common.terms import STREAMS
from mechdiff.engine.build_rows import as_rows
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import run_rows

pytestmark = pytest.mark.usefixtures("demo")


def test_a_hundred_random_cells_equal_plain_hooks(own_store):
    loaded = load_pair("demo-cognitive", "cpu")
    shortest = sorted(Run("patch").chosen_prompts, key=lambda prompt: len(prompt.text))[:10]
    texts = tuple(prompt.text for prompt in shortest)
    donor, trace = loaded.passes.trace("base", texts, False), loaded.passes.trace("tuned", texts, True)
    rng, cells = random.Random(0), {}
    for _ in range(10):
        stream = rng.choice(STREAMS)
        heads = tuple(sorted(rng.sample(range(9), rng.randint(1, 4)))) if stream == "heads" else None
        cells[Condition(rng.randrange(30), stream, heads=heads)] = None
    conditions = list(cells)
    outputs = {}

    def measure(logits, prompts, rows):
        for p, r, line in zip(prompts.tolist(), rows.tolist(), logits.log_softmax(-1)):
            outputs[p, r] = line

    for _ in run_rows(loaded.tuned, trace, as_rows(conditions, loaded.tuned, donor, trace, {}), measure, 64, 64):
        pass
    assert len(outputs) == 100
    ids_of = [loaded.tokenizers.encode(text, "tuned") for text in texts]
    sites = [(condition.layer, condition.stream) for condition in conditions]
    values = [plain_hooks.states(loaded.base.model, ids, sites) for ids in ids_of]
    for (p, r), logprobs in outputs.items():
        condition, ids = conditions[r], ids_of[p]
        value = values[p][sites[r]]

        def change(own, value=value, heads=condition.heads):
            if heads is None:
                return value
            own = own.view(9, 64).clone()
            own[list(heads)] = value.view(9, 64)[list(heads)]
            return own.flatten()

        expected = plain_hooks.run(loaded.tuned.model, ids, [(condition.layer, condition.stream, change)])
        assert (logprobs - expected).abs().max() <= 1e-4, condition


def test_both_demo_pairs_stand_on_one_copy_of_the_base():
    cognitive, cultural = load_pair("demo-cognitive", "cpu"), load_pair("demo-cultural", "cpu")
    assert cognitive.base.model is cultural.base.model and cognitive.lock is cultural.lock
    mine = dict(cognitive.base.model.named_parameters())
    for pair in (cognitive, cultural):
        shared = {name.replace(".base_layer", ""): p for name, p in pair.tuned.model.named_parameters() if "lora_" not in name}
        assert shared.keys() == mine.keys() and all(shared[name] is mine[name] for name in mine)


def test_an_adapter_on_shared_weights_equals_the_merged_model():
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = load_pair("demo-cultural", "cpu")
    alone = AutoModelForCausalLM.from_pretrained(loaded.pair.base.local(), dtype=torch.float32)
    merged = PeftModel.from_pretrained(alone, str(loaded.pair.tuned.adapter_folder())).merge_and_unload().eval()
    ids = loaded.tokenizers.encode("Where do people buy bread in Oran?", "tuned")
    torch.testing.assert_close(plain_hooks.run(loaded.tuned.model, ids), plain_hooks.run(merged, ids), atol=1e-3, rtol=0)
    assert (plain_hooks.run(loaded.base.model, ids) - plain_hooks.run(merged, ids)).abs().max() > 0.1


def test_the_decision_token_is_the_last_that_is_not_special():
    tokenizers = load_pair("demo-cognitive", "cpu").tokenizers
    ids = tokenizers.encode("What is 3 + 4?", "tuned")
    assert tokenizers.tuned.decode(ids).endswith("What is 3 + 4?<|im_end|>\n<|im_start|>assistant\n")
    assert ids[0] == tokenizers.tuned.bos_token_id != ids[1]


def test_the_command_line_and_the_api_give_the_same_table(own_store, tmp_path):
    out = tmp_path / "heads.csv"
    options = ["--pair", "demo-cognitive", "--limit", "4", "--layers", "27", "--head-sets", "0;3;0,5,7", "--controls", "self"]
    assert main(["run", "heads", *options, "--out", str(out)]) == 0
    table = run(Run("heads", limit=4, layers=(27,), head_sets="0;3;0,5,7", controls=("self",)))
    written = pd.read_csv(out)
    pd.testing.assert_frame_equal(written, table, check_dtype=False, rtol=1e-6)
    contract = (
        "pair domain question direction prompt layer stream map heads blend control kl kl_reference kl_to_donor kl_donor_clean"
    )
    assert set(contract.split()) <= set(written.columns)
    assert set(written["heads"]) == {"0", "3", "0-5-7", "all"} and set(written["prompt"]) == {0, 1, 2, 3}
    floor = written[written["control"] == "self"]["kl"].max()
    assert 0 <= floor < 1e-6 < written[written["control"] == "none"]["kl"].max()


def test_patching_recovers_more_the_later_the_layer(own_store):
    table = run(Run("patch", "demo-cultural", limit=8, layers=(2, 16, 29)))
    recovery = 1 - table.groupby("layer")["kl_to_donor"].mean() / table.groupby("layer")["kl_donor_clean"].mean()
    assert recovery[2] < 0.2 < recovery[16] < recovery[29]
    assert recovery[29] == pytest.approx(1, abs=1e-4)


def test_a_fitted_map_does_less_than_its_controls_and_the_floor_is_nothing(own_store, tmp_path):
    train = tmp_path / "train.jsonl"
    prompts = sorted(Run("patch").train_prompts, key=lambda prompt: len(prompt.text))[:48]
    train.write_text("\n".join(json.dumps({"text": prompt.text}) for prompt in prompts))
    controls = ("self", "mean", "random", "shuffled")
    table = run(Run("transport", layers=(8,), limit=8, train=str(train), controls=controls))
    mean = table.groupby("control")["kl"].mean()
    assert mean["self"] <= 1e-5 < mean["none"] < 0.8 * mean.drop(["self", "none"]).min()


def test_a_letter_of_several_tokens_stands_on_its_last():
    loaded = load_pair("demo-cognitive", "cpu")
    ids = loaded.tokenizers.tuned("a 🎁🙂!").input_ids
    labels = loaded.tokenizers.labels(ids, "tuned")
    assert labels[-1] == "!" and "".join(label for label in labels if "<" not in label) == "a␣🎁🙂!"
    assert len(labels) == len(ids) and sum(label.startswith("<") for label in labels) >= 2, "its parts keep their pieces"
    broken = [*loaded.tokenizers.tuned("🎁").input_ids[:1]] * 20
    assert all(label.startswith("<") for label in loaded.tokenizers.labels(broken, "tuned")), "parts alone make no letter"
