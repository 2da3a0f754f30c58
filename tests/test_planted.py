"""Planted edits are found where they were put, and nothing is found where there is none."""

import dataclasses
import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from support import plain_hooks
from support.families import tiny_model

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.trace import run_trace
from mechdiff.engine.transplant import run_transplants
from mechdiff.inputs.prompts import Prompt
from mechdiff.validation import planted
from mechdiff.validation.planted import OPEN, Bench, check_pairs, judge
from mechdiff.validation.planted_edits import KINDS, Plant, plant

LENGTHS = [9, 10, 11, 12] * 6
PROMPTS = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(100 + i)).tolist() for i, n in enumerate(LENGTHS)]
CLUSTERS = [str(i) for i in range(24)]
HEAD, MLP, ADAPTER, NOISE, NONE = range(5)  # the first pair of each kind


@pytest.fixture(scope="module", params=["llama", "gpt2", "gpt_neox"])
def bench(request):
    return Bench(Anatomy(tiny_model(request.param, 0)), PROMPTS, CLUSTERS)


def seen_in_base(bench: Bench, edited: Anatomy):
    """What patching and transplanting the edited model into the base shows."""
    transplants = run_transplants(bench.base, edited, PROMPTS)
    return bench.look(bench.base, bench.trace, run_trace(edited, PROMPTS), transplants)


def changed(bench: Bench, edited: Anatomy) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    pairs = zip(bench.base.model.named_parameters(), edited.model.parameters())
    return {name: (old, new) for (name, old), new in pairs if not torch.equal(old, new)}


@pytest.mark.slow
def test_every_planted_edit_is_found_and_nothing_else(bench):
    """Four pairs of each kind: MLP changes of rank 1, 2, 4 and 8, noise of both sorts."""
    tally, misses = check_pairs(bench, 20, 0, lambda done, total: None)
    assert misses == []
    assert {claim: counts for claim, counts in tally.items() if claim not in OPEN} == {
        "onset": [12, 12],
        "module": [8, 8],
        "below": [4, 4],
        "head": [4, 4],
        "rank": [4, 4],
        "cut": [4, 4],
        "none": [4, 4],
        "noise": [4, 4],
    }
    assert tally["fewer"] == [4, 4] and tally["modules"] == [4, 4], "not promised, but so on these models"


@pytest.mark.parametrize("index", range(5), ids=KINDS)
def test_an_edit_is_what_it_says_and_leaves_the_base_alone(bench, index):
    before = {name: p.clone() for name, p in bench.base.model.named_parameters()}
    truth, edited = plant(bench.base, index, 3)
    weights = changed(bench, edited)
    assert all(torch.equal(p, before[name]) for name, p in bench.base.model.named_parameters())
    shared = {id(p) for p in bench.base.model.parameters()}
    touched = {name for name, p in edited.model.named_parameters() if id(p) not in shared}
    assert truth.kind == KINDS[index] and weights.keys() <= touched
    if index in (HEAD, MLP):
        [(old, new)] = weights.values()
        rank = torch.linalg.matrix_rank((new - old).double(), rtol=1e-4)
        assert rank == (truth.rank or bench.base.head_width)
    if index in (NOISE, NONE):
        assert not weights, "a relative 1e-9 is below float32's last place"
    if index == ADAPTER:
        assert len(weights) == len(touched) > 0


def test_the_last_place_of_some_entries_is_noise_too(bench):
    _, edited = plant(bench.base, NOISE + len(KINDS), 0)
    weights = changed(bench, edited)
    assert weights
    for old, new in weights.values():
        assert 0 < (old != new).float().mean() < 0.1
        assert ((new - old).abs() <= torch.finfo(torch.float32).eps * old.abs()).all()


@pytest.mark.parametrize("index", [HEAD, MLP, ADAPTER], ids=["head", "mlp", "adapter"])
def test_a_wrong_truth_is_not_borne_out(bench, index):
    """The claims have teeth: the same findings, judged against an edit that was not made."""
    truth, edited = plant(bench.base, index, 0)
    seen = seen_in_base(bench, edited)
    assert all(judge(truth, seen).values())
    for layer in {0, 1, 2, 3} - {truth.layer}:
        moved = frozenset({(layer, stream) for _, stream in truth.modules})
        verdict = judge(dataclasses.replace(truth, layer=layer, modules=moved), seen)
        assert not verdict["onset"] and not verdict.get("module", False) and not verdict.get("modules", False)
    if index == HEAD:
        assert not judge(dataclasses.replace(truth, head=(truth.head + 1) % 4), seen)["head"]
    assert judge(Plant("none"), seen) == {"none": False}


def test_the_other_layers_of_an_edit_show_the_floor_alone(bench):
    truth, edited = plant(bench.base, MLP, 1)
    seen = seen_in_base(bench, edited)
    for stream in ("attn_out", "mlp_out"):
        others = [mean for layer, mean in enumerate(seen.means[stream]) if (layer, stream) not in truth.modules]
        assert max(others) <= bench.floor
    assert max(seen.means["resid_post"][: truth.layer], default=0) <= bench.floor
    assert seen.means["mlp_out"][truth.layer] > 100 * bench.floor


def test_a_wrong_rank_is_not_borne_out(bench):
    truth, edited = plant(bench.base, MLP + len(KINDS), 0)
    transplanted = run_transplants(bench.base, edited, PROMPTS).mlp_out[truth.layer]
    assert truth.rank == 2
    assert bench.check_rank(2, truth.layer, transplanted)["rank"]
    under, over = (bench.check_rank(rank, truth.layer, transplanted) for rank in (1, 3))
    assert not under["rank"] and not under["cut"]
    assert not over["rank"] and not over["fewer"]


def test_a_planted_model_is_the_base_with_that_weight(bench):
    """Built independently: the changed weights loaded into a copy of the base give the same model."""
    _, edited = plant(bench.base, ADAPTER, 2)
    copied = tiny_model(bench.base.model.config.model_type, 0)
    copied.load_state_dict(edited.model.state_dict())
    assert torch.equal(plain_hooks.run(copied, PROMPTS[0]), plain_hooks.run(edited.model, PROMPTS[0]))


@pytest.mark.slow
def test_the_report_can_be_read_and_stored(bench, monkeypatch):
    tokenizers = SimpleNamespace(encode=lambda text, side: PROMPTS[int(text)])
    loaded = SimpleNamespace(pair=SimpleNamespace(domain="any"), base=bench.base, tokenizers=tokenizers, lock=nullcontext())
    monkeypatch.setattr(planted, "load_pair", lambda *given: loaded)
    monkeypatch.setattr(planted, "read_domain", lambda *given: [Prompt(str(i // 2), CLUSTERS[i // 2]) for i in range(48)])
    done = []
    report = planted.report(5, 20, "cpu", 0, lambda *step: done.append(step))
    assert done[-1] == (5, 5) and report["prompts"] == 20, "one of each template"
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = planted.lines(report)
    assert "3 of 3" in text and "nothing" in text and all(planted.CLAIMS[claim] in text for claim in report["claims"])


@pytest.mark.parametrize(("pairs", "prompts"), [(0, 24), (5, 19)])
def test_too_few_pairs_or_prompts_are_refused(pairs, prompts):
    with pytest.raises(UserError, match="at least one pair and 20 prompts"):
        planted.report(pairs, prompts, "cpu", 0, print)
