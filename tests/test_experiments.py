"""Requests on a tiny random pair: tables, cache, fallback, interruption."""

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
import torch
from support import plain_hooks
from support.random_pair import WORDS, ids

import mechdiff
from mechdiff import Run, UserError, questions
from mechdiff.models import parity
from mechdiff.models.registry import FairLock, load_pair, unload
from mechdiff.questions.shared import measure

PARTS = {  # questions of every layer, to be asked again one layer at a time
    "drift": {},
    "patch": {"controls": ("self",)},
    "heads": {"head_sets": "each"},
    "transplant": {},
    "weights": {},
}


def test_patch_is_the_kl_of_plain_hooks(pair):
    run = Run("patch", streams=("resid_post", "mlp_out"), layers=(0, 3), direction="tuned-to-base", **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu")
    assert len(table) == 20 * 4 and set(table["map"]) == {"none"} and set(table["control"]) == {"none"}
    for line in table.itertuples():
        tokens = ids(loaded, run, line.prompt)
        donor, recipient = loaded.tuned.model, loaded.base.model
        value = plain_hooks.state(donor, tokens, line.layer, line.stream)
        patched = plain_hooks.run(recipient, tokens, [(line.layer, line.stream, lambda own, value=value: value)])
        clean, other = plain_hooks.run(recipient, tokens), plain_hooks.run(donor, tokens)
        for column, p, q in (("kl", patched, clean), ("kl_to_donor", other, patched), ("kl_donor_clean", other, clean)):
            expected = torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
            assert getattr(line, column) == pytest.approx(expected, abs=2e-5), column


def test_patching_the_last_state_recovers_the_donor_wholly(pair):
    """Both models then differ only in what follows the last layer, so with one unembedding nothing would be left."""
    loaded = load_pair(pair["pair"], "cpu")
    loaded.base.model.lm_head.weight.data = loaded.tuned.model.lm_head.weight.data
    loaded.base.model.model.norm.weight.data = loaded.tuned.model.model.norm.weight.data
    table = mechdiff.run(Run("patch", layers=(3,), **pair))
    assert table["kl_to_donor"].max() < 1e-5 < table["kl_donor_clean"].min()


def test_zscore_maps_with_the_train_split_alone(pair, tmp_path):
    own = mechdiff.run(Run("patch", layers=(1,), map="zscore", train=pair["prompts"], **pair))
    other = tmp_path / "train.jsonl"
    other.write_text("\n".join(json.dumps({"text": " ".join(WORDS[i : i + 5])}) for i in range(30, 60)))
    moved = mechdiff.run(Run("patch", layers=(1,), map="zscore", train=str(other), **pair))
    plain = mechdiff.run(Run("patch", layers=(1,), **pair))
    assert not np.allclose(own["kl"], moved["kl"]) and not np.allclose(own["kl"], plain["kl"])


def test_heads_have_the_full_set_as_reference(pair):
    table = mechdiff.run(Run("heads", layers=(2,), head_sets="0;1,3;0,1,2,3", controls=("self",), **pair))
    assert set(table["heads"]) == {"0", "1-3", "all"}
    full = table[(table["heads"] == "all") & (table["control"] == "none")].set_index("prompt")["kl"]
    assert np.array_equal(table["kl_reference"], full.loc[table["prompt"]])
    assert table[table["control"] == "self"]["kl"].max() < 1e-6 < full.min()


def test_blend_zero_changes_nothing_and_one_is_the_default(pair):
    none = mechdiff.run(Run("heads", layers=(2,), head_sets="all", blend=0.0, **pair))
    assert none["kl"].max() < 1e-6
    default = mechdiff.run(Run("heads", layers=(2,), head_sets="all", blend=1.0, **pair))
    full = mechdiff.run(Run("patch", layers=(2,), streams=("heads",), **pair))
    np.testing.assert_allclose(default["kl"], full["kl"], atol=1e-6)


def test_target_and_foil_come_from_the_same_rows(pair):
    run = Run("patch", layers=(1,), target="yes", foil="no", **pair)
    table, loaded = mechdiff.run(run), load_pair(pair["pair"], "cpu")
    tokens = ids(loaded, run, 0)
    value = plain_hooks.state(loaded.base.model, tokens, 1, "resid_post")
    patched = plain_hooks.run(loaded.tuned.model, tokens, [(1, "resid_post", lambda own: value)])
    clean = plain_hooks.run(loaded.tuned.model, tokens)
    yes, no = (loaded.tokenizers.token_id(word, "tuned") for word in ("yes", "no"))
    first = table.iloc[0]
    assert first["target_logprob"] == pytest.approx(patched[yes].item(), abs=1e-4)
    assert first["logit_difference"] == pytest.approx((patched[yes] - patched[no]).item(), abs=1e-4)
    assert first["target_logprob_clean"] == pytest.approx(clean[yes].item(), abs=1e-4)
    assert first["logit_difference_clean"] == pytest.approx((clean[yes] - clean[no]).item(), abs=1e-4)


def test_a_target_of_two_tokens_is_refused(pair):
    with pytest.raises(UserError, match="is 2 tokens"):
        mechdiff.run(Run("patch", layers=(1,), target="yes no", **pair))


def test_drift_of_a_model_with_itself_is_one(pair, tmp_path):
    same = tmp_path / "same.toml"
    same.write_text('[base]\nfolder = "base"\n[tuned]\nfolder = "base"\n')
    table = mechdiff.run(Run("drift", streams=("mlp_out",), **pair | {"pair": str(same)}))
    np.testing.assert_allclose(table[["cka", "cka_debiased"]], 1, atol=1e-9)
    assert list(table["n"]) == [20] * 4


def test_drift_of_several_streams_has_a_line_for_each_layer_and_stream(pair):
    table = mechdiff.run(Run("drift", streams=("mlp_out", "resid_post"), layers=(0, 3), **pair))
    assert table[["stream", "layer"]].to_numpy().tolist() == [
        ["mlp_out", 0],
        ["mlp_out", 3],
        ["resid_post", 0],
        ["resid_post", 3],
    ]


def test_a_site_that_is_the_same_for_every_prompt_has_no_similarity(pair, tmp_path):
    ending = tmp_path / "ending.jsonl"
    ending.write_text("\n".join(json.dumps({"text": f"w{i} w{2 * i} w7"}) for i in range(12)))
    task = questions.task(Run("drift", streams=("resid_pre",), **pair | {"prompts": str(ending)}))
    list(task.steps())
    assert task.table()["cka"].isna().tolist() == [True, False, False, False]
    assert task.notices == ["resid_pre is the same for every prompt at layer 0: no similarity is defined there."]


def test_a_repeat_needs_no_model(pair, monkeypatch):
    runs = [Run("patch", **pair), Run("heads", layers=(1,), **pair), Run("drift", **pair)]
    first = [mechdiff.run(run) for run in runs]
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    for run, table in zip(runs, first):
        again = mechdiff.run(run)
        assert again.equals(table)


def test_a_later_request_finds_what_an_earlier_one_computed(pair, monkeypatch):
    whole = mechdiff.run(Run("patch", **pair))
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    part = mechdiff.run(Run("patch", layers=(2,), **pair))
    assert part["kl"].tolist() == whole[whole["layer"] == 2]["kl"].tolist()
    fewer = mechdiff.run(Run("patch", limit=16, **pair))
    assert fewer["kl"].sum() == pytest.approx(whole[whole["prompt"] < 16]["kl"].sum())


@pytest.mark.parametrize("change", [{"dtype": "bfloat16"}, {"direction": "tuned-to-base"}, {"streams": ("attn_out",)}])
def test_another_request_misses(pair, change):
    mechdiff.run(Run("patch", layers=(1,), **pair))
    task = questions.task(Run("patch", layers=(1,), **pair | change))
    assert task.done == 0 < task.total


def test_an_interrupted_run_keeps_what_was_finished_and_ends_with_the_same_bits(pair, own_store, monkeypatch):
    monkeypatch.setattr(measure, "CPU_PIECE", 256)  # more rows than one pass holds
    run = Run("heads", **pair)
    whole = mechdiff.run(run)
    own_store.clear()
    task = questions.task(run)
    for _ in task.steps():
        if task.done >= 16 * 4 * 5:  # the first block
            break
    again = questions.task(run)
    assert 0 < again.done < again.total
    list(again.steps())
    assert again.done == again.total
    pd.testing.assert_frame_equal(again.table(), whole, check_exact=True)


def test_a_damaged_entry_is_computed_again(pair, own_store):
    run = Run("patch", layers=(1,), **pair)
    before = mechdiff.run(run)
    for name in list(own_store._cache):
        own_store._cache.set(name, own_store._cache.get(name)[:-3])
    assert mechdiff.run(run)["kl"].tolist() == before["kl"].tolist()


def test_a_model_the_engine_cannot_run_goes_by_hooks_and_says_so(pair, monkeypatch, own_store):
    by_rows = mechdiff.run(Run("patch", **pair))
    own_store.clear()
    unload()
    monkeypatch.setattr(parity, "parity", lambda *_: (float("nan"), "it is another kind"))
    task = questions.task(Run("patch", **pair))
    list(task.steps())
    np.testing.assert_allclose(task.table()["kl"], by_rows["kl"], atol=1e-5)
    assert "plain hooks" in task.notices[0] and "it is another kind" in task.notices[0]


def test_a_prompt_without_content_is_named(pair, tmp_path):
    empty = tmp_path / "special.jsonl"
    empty.write_text('{"text": "</s>"}')
    with pytest.raises(UserError, match="special tokens only"):
        mechdiff.run(Run("patch", **pair | {"prompts": str(empty)}))


def test_too_few_prompts_for_drift(pair):
    with pytest.raises(UserError, match="at least 4 prompts"):
        mechdiff.run(Run("drift", limit=3, **pair))


def test_two_threads_get_the_numbers_of_one(pair):
    runs = [Run("patch", direction=d, **pair) for d in ("base-to-tuned", "tuned-to-base")]
    alone = [mechdiff.run(run) for run in runs]
    questions.default().clear()
    unload()
    together = [None, None]
    threads = [threading.Thread(target=lambda i=i: together.__setitem__(i, mechdiff.run(runs[i]))) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for serial, parallel in zip(alone, together):
        np.testing.assert_allclose(serial["kl"], parallel["kl"], atol=1e-6)


def test_the_lock_serves_who_waits_longest():
    lock, order = FairLock(), []

    def work(name):
        with lock:
            order.append(name)

    with lock:
        threads = []
        for name in range(5):
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            while len(lock._queue) <= name:  # it waits now, behind the others
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


def test_many_layers_and_then_one_of_them_alone_is_a_hit(pair, monkeypatch):
    """What is stored is a chunk, not a request: no model is loaded for a part of what was asked before."""
    every = {name: mechdiff.run(Run(name, **details, **pair)) for name, details in PARTS.items()}
    unload()
    monkeypatch.setattr("mechdiff.models.registry._load", lambda *_: pytest.fail("a model was loaded"))
    for name, details in PARTS.items():
        for layer in range(4):
            table = mechdiff.run(Run(name, layers=(layer,), **details, **pair))
            whole = every[name][every[name]["layer"] == layer].reset_index(drop=True)
            pd.testing.assert_frame_equal(table, whole, check_like=True)
