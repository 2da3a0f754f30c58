"""Transplants equal a model into which the one module was built, and are exactly nothing where the weights agree."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from support import plain_hooks
from support.families import FAMILIES, tiny_model

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.rows import Edit, Rows, run_rows
from mechdiff.engine.trace import run_trace
from mechdiff.engine.transplant import run_transplants
from mechdiff.models.registry import with_adapter

PROMPTS = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (3, 9, 14, 1)]
LONG = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (60, 20, 58, 7, 40)]
TOLERANCE = 1e-4
LAYERS, HEADS = 4, 4


def with_module(recipient, donor, layer: int, stream: str):
    """A copy of the recipient whose attention or MLP at a layer is the donor's."""
    twin = copy.deepcopy(recipient)
    block, *_ = plain_hooks.modules(twin, layer)
    which = ("attn_out", "mlp_out").index(stream) + 1
    old, new = plain_hooks.modules(twin, layer)[which], plain_hooks.modules(donor, layer)[which]
    name = next(name for name, child in block.named_children() if child is old)
    setattr(block, name, copy.deepcopy(new))
    return twin


def weight_and_bias(projection):
    """[out, in] and [out] of a linear map of either kind."""
    transposed = type(projection).__name__ == "Conv1D"
    weight = projection.weight.T if transposed else projection.weight
    return weight, torch.zeros(len(weight)) if projection.bias is None else projection.bias


def effects(anatomy, trace, edits):
    """Log-probabilities [b, rows, vocabulary] of one row an edit."""
    table = torch.full((len(trace.last), len(edits), 97), torch.nan)

    def measure(logits, which, row):
        table[which, row] = logits.log_softmax(-1)

    rows = Rows(len(edits), [Edit(*site, torch.tensor([row]), value[:, None]) for row, (site, value) in enumerate(edits)])
    for _ in run_rows(anatomy, trace, rows, measure, 100, 100):
        pass
    return table


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request):
    return tiny_model(request.param, 0), tiny_model(request.param, 1)


@pytest.mark.parametrize(
    "swap", [pytest.param(False, id="base-to-tuned"), pytest.param(True, id="tuned-to-base", marks=pytest.mark.slow)]
)
def test_a_transplant_is_the_model_with_that_module_built_in(pair, swap):
    donor, recipient = pair[::-1] if swap else pair
    anatomy = Anatomy(recipient)
    transplants, trace = run_transplants(anatomy, Anatomy(donor), PROMPTS), run_trace(anatomy, PROMPTS)
    sites = [(layer, stream) for layer in range(LAYERS) for stream in ("attn_out", "mlp_out")]
    patched = effects(anatomy, trace, [((layer, s), getattr(transplants, s)[layer]) for layer, s in sites])
    for row, (layer, stream) in enumerate(sites):
        built = with_module(recipient, donor, layer, stream)
        for p, ids in enumerate(PROMPTS):
            value = plain_hooks.state(built, ids, layer, stream)
            torch.testing.assert_close(getattr(transplants, stream)[layer, p], value, atol=TOLERANCE, rtol=0)
            expected = plain_hooks.run(recipient, ids, [(layer, stream, lambda own, value=value: value)])
            assert (patched[p, row] - expected).abs().max() <= TOLERANCE, (p, layer, stream)
            assert (expected - plain_hooks.run(recipient, ids)).abs().max() > 100 * TOLERANCE, "the transplant must matter"


def test_a_head_alone_swaps_its_own_share_of_the_projection(pair):
    donor, recipient = pair
    transplants = run_transplants(Anatomy(recipient), Anatomy(donor), PROMPTS)
    for layer in range(LAYERS):
        built = with_module(recipient, donor, layer, "attn_out")
        (theirs, _), (ours, _) = (weight_and_bias(plain_hooks.modules(m, layer)[3]) for m in (donor, recipient))
        for p, ids in enumerate(PROMPTS):
            own, mine, new = (
                plain_hooks.state(m, ids, layer, s) for m, s in ((recipient, "attn_out"), (recipient, "heads"), (built, "heads"))
            )
            for head in range(HEADS):
                at = slice(8 * head, 8 * head + 8)
                expected = own + theirs[:, at] @ new[at] - ours[:, at] @ mine[at]
                torch.testing.assert_close(transplants.heads[layer, p, head], expected, atol=TOLERANCE, rtol=0)


def test_heads_sum_to_the_attention_but_for_the_bias(pair):
    donor, recipient = pair
    transplants, own = (run_transplants(Anatomy(recipient), Anatomy(model), PROMPTS) for model in pair)
    for layer in range(LAYERS):
        (_, theirs), (_, ours) = (weight_and_bias(plain_hooks.modules(m, layer)[3]) for m in (donor, recipient))
        summed = (transplants.heads[layer] - own.attn_out[layer].unsqueeze(1)).sum(1) + theirs - ours
        torch.testing.assert_close(summed, transplants.attn_out[layer] - own.attn_out[layer], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_moves_where_the_weights_agree(pair, dtype):
    """One layer differs: before, after and beside it every value is the recipient's own, bit for bit."""
    recipient = copy.deepcopy(pair[1]).to(dtype)
    donor = copy.deepcopy(recipient)
    for parameter in plain_hooks.modules(donor, 2)[2].parameters():
        parameter.mul_(1.5)
    transplants = run_transplants(Anatomy(recipient), Anatomy(donor), PROMPTS)
    own = run_transplants(Anatomy(recipient), Anatomy(recipient), PROMPTS)
    assert torch.equal(transplants.attn_out, own.attn_out)
    assert torch.equal(transplants.heads, own.attn_out.unsqueeze(2).expand_as(transplants.heads))
    assert [torch.equal(a, b) for a, b in zip(transplants.mlp_out, own.mlp_out)] == [True, True, False, True]
    if dtype == torch.float32:
        trace = run_trace(Anatomy(recipient), PROMPTS)
        for stream in ("attn_out", "mlp_out"):
            torch.testing.assert_close(getattr(own, stream), trace.states[stream], atol=TOLERANCE, rtol=0)


def test_an_adapter_pair_over_shared_weights(tmp_path):
    """The adapter sits on layers 1 and up, and on the projection: no weight could be read there."""
    base = tiny_model("llama", 0)
    targets = ["q_proj", "o_proj", "down_proj"]
    tuned = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, target_modules=targets, layers_to_transform=[1, 2, 3]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    tuned.save_pretrained(tmp_path)
    merged = tuned.merge_and_unload().requires_grad_(False)
    twin = with_adapter(base, tmp_path)
    for adapted, plain in (((base, twin), (base, merged)), ((twin, base), (merged, base))):
        transplants, expected = (run_transplants(*map(Anatomy, models), PROMPTS) for models in (adapted, plain))
        own = run_transplants(Anatomy(adapted[0]), Anatomy(adapted[0]), PROMPTS)
        for name in ("attn_out", "mlp_out", "heads"):
            torch.testing.assert_close(getattr(transplants, name), getattr(expected, name), atol=TOLERANCE, rtol=0)
            assert torch.equal(getattr(transplants, name)[0], getattr(own, name)[0])
            assert not any(
                torch.allclose(a, b, atol=0.01) for a, b in zip(getattr(transplants, name)[1:], getattr(own, name)[1:])
            )


def test_batches_of_like_length_come_back_in_order():
    recipient, donor = (Anatomy(tiny_model("gemma3_text", seed)) for seed in (0, 1))
    transplants = run_transplants(recipient, donor, LONG)
    for p, ids in enumerate(LONG):
        alone = run_transplants(recipient, donor, [ids])
        for name in ("attn_out", "mlp_out", "heads"):
            torch.testing.assert_close(getattr(transplants, name)[:, p], getattr(alone, name)[:, 0], atol=TOLERANCE, rtol=0)


def test_transplanting_leaves_the_models_as_they_were():
    models = [tiny_model("llama", seed) for seed in (0, 1)]
    before = [plain_hooks.run(model, PROMPTS[1]) for model in models]
    transplants = run_transplants(*map(Anatomy, models), PROMPTS)
    assert all(torch.equal(plain_hooks.run(model, PROMPTS[1]), clean) for model, clean in zip(models, before))
    assert not any(m._forward_hooks or m._forward_pre_hooks for model in models for m in model.modules())
    assert transplants.nbytes == 4 * LAYERS * len(PROMPTS) * 32 * (1 + 1 + HEADS)


def test_models_of_two_shapes_are_refused():
    recipient, donor = (Anatomy(tiny_model("llama", seed)) for seed in (0, 1))
    donor.layers = donor.layers[:3]
    with pytest.raises(UserError, match=r"4 layers .* and 3 layers"):
        run_transplants(recipient, donor, PROMPTS)
