"""The row engine equals plain hooks, for every family, stream and layer."""

import pytest
import torch
from support import plain_hooks
from support.families import FAMILIES, tiny_model
from support.rows import TOLERANCE, collect

from mechdiff.common.terms import STREAMS
from mechdiff.engine.anatomy import Anatomy, Unreadable
from mechdiff.engine.batches import like_lengths
from mechdiff.engine.build_rows import as_rows
from mechdiff.engine.hooks import run_hooks
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import Edit, Rows, run_rows
from mechdiff.engine.trace import run_trace
from mechdiff.models.parity import parity

PROMPTS = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (3, 9, 14, 1)]
LONG = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (60, 20, 58, 22, 7, 40, 41, 59)]
STATES = [stream for stream in STREAMS if stream != "heads"]


def by_rows(anatomy, trace, rows, row_tokens=20, logit_rows=7):
    return collect(lambda m: run_rows(anatomy, trace, rows, m, row_tokens, logit_rows), len(trace.last), rows.count)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def pair(family):
    return tiny_model(family, 0), tiny_model(family, 1)


@pytest.mark.parametrize(
    "swap", [pytest.param(False, id="base-to-tuned"), pytest.param(True, id="tuned-to-base", marks=pytest.mark.slow)]
)
def test_every_stream_and_layer_equals_plain_hooks(pair, swap):
    donor, recipient = pair[::-1] if swap else pair
    donor_trace, trace = run_trace(Anatomy(donor), PROMPTS, False), run_trace(Anatomy(recipient), PROMPTS)
    sites = [(layer, stream) for stream in STREAMS for layer in range(4)]
    heads = tuple(range(4))
    conditions = [Condition(layer, s, heads=heads if s == "heads" else None) for layer, s in sites]
    logprobs = by_rows(Anatomy(recipient), trace, as_rows(conditions, Anatomy(recipient), donor_trace, trace, {}))
    for p, ids in enumerate(PROMPTS):
        clean = plain_hooks.run(recipient, ids)
        torch.testing.assert_close(trace.logprobs[p], clean, atol=TOLERANCE, rtol=0)
        for row, (layer, stream) in enumerate(sites):
            value = plain_hooks.state(donor, ids, layer, stream)
            expected = plain_hooks.run(recipient, ids, [(layer, stream, lambda own, value=value: value)])
            assert (logprobs[p, row] - expected).abs().max() <= TOLERANCE, (p, layer, stream)
            assert (expected - clean).abs().max() > 100 * TOLERANCE, "the intervention must matter for the test to mean something"


def test_single_heads_and_blends_equal_plain_hooks(pair):
    donor, recipient = pair
    anatomy = Anatomy(recipient)
    donor_trace, trace = run_trace(Anatomy(donor), PROMPTS, False), run_trace(anatomy, PROMPTS)
    cells = [(layer, heads, blend) for layer in range(4) for heads, blend in (((0,), 1.0), ((1, 3), 0.3))]
    conditions = [Condition(layer, "heads", heads=heads, blend=blend) for layer, heads, blend in cells]
    logprobs = by_rows(anatomy, trace, as_rows(conditions, anatomy, donor_trace, trace, {}))
    for p, ids in enumerate(PROMPTS):
        for row, (layer, heads, blend) in enumerate(cells):
            value = plain_hooks.state(donor, ids, layer, "heads").view(4, 8)

            def mix(own, value=value, heads=heads, blend=blend):
                own = own.view(4, 8).clone()
                for head in heads:
                    own[head] = (1 - blend) * own[head] + blend * value[head]
                return own.flatten()

            expected = plain_hooks.run(recipient, ids, [(layer, "heads", mix)])
            assert (logprobs[p, row] - expected).abs().max() <= TOLERANCE, (p, layer, heads)


def test_a_stack_of_interventions_equals_plain_hooks(pair):
    donor, recipient = pair
    anatomy = Anatomy(recipient)
    donor_trace, trace = run_trace(Anatomy(donor), PROMPTS, False), run_trace(anatomy, PROMPTS)
    first, second = donor_trace.states["attn_out"][1], donor_trace.states["resid_post"][2]
    half = torch.full((1, 32), 0.5)
    row = torch.tensor([0])
    edits = [Edit(1, "attn_out", row, first[:, None]), Edit(2, "resid_post", row, second[:, None], half)]
    logprobs = by_rows(anatomy, trace, Rows(1, edits))
    for p, ids in enumerate(PROMPTS):
        chain = [(1, "attn_out", lambda own, p=p: first[p]), (2, "resid_post", lambda own, p=p: (own + second[p]) / 2)]
        assert (logprobs[p, 0] - plain_hooks.run(recipient, ids, chain)).abs().max() <= TOLERANCE


def test_the_models_own_state_changes_nothing(pair):
    anatomy = Anatomy(pair[1])
    trace = run_trace(anatomy, PROMPTS)
    conditions = [Condition(layer, stream, control="self") for stream in STATES for layer in range(4)]
    logprobs = by_rows(anatomy, trace, as_rows(conditions, anatomy, trace, trace, {}))
    assert (logprobs - trace.logprobs[:, None]).abs().max() <= TOLERANCE


def test_our_own_hooks_equal_the_rows(pair):
    anatomy = Anatomy(pair[1])
    trace = run_trace(anatomy, PROMPTS)
    difference, why = parity(anatomy, trace, PROMPTS)
    assert why is None and difference <= TOLERANCE


@pytest.mark.parametrize(("row_tokens", "logit_rows"), [(1, 1), (5, 3), (10_000, 10_000)])
def test_the_size_of_the_pieces_does_not_matter(row_tokens, logit_rows):
    anatomy = Anatomy(tiny_model("llama", 1))
    trace = run_trace(anatomy, PROMPTS)
    conditions = [Condition(layer, "heads", heads=(head,)) for layer in range(4) for head in range(4)]
    donor = run_trace(Anatomy(tiny_model("llama", 0)), PROMPTS, False)
    rows = as_rows(conditions, anatomy, donor, trace, {})
    whole = by_rows(anatomy, trace, rows)
    torch.testing.assert_close(by_rows(anatomy, trace, rows, row_tokens, logit_rows), whole, atol=1e-5, rtol=0)


def test_batches_of_like_length_merge_into_the_same_trace():
    batches = like_lengths([len(ids) for ids in LONG], torch.device("cpu"))
    assert len(batches) > 1 and sorted(i for batch in batches for i in batch) == list(range(len(LONG)))
    anatomy = Anatomy(tiny_model("gemma3_text", 0))
    trace = run_trace(anatomy, LONG)
    rows = Rows(1, [Edit(1, "mlp_out", torch.tensor([0]), trace.states["mlp_out"][1].roll(1, 0)[:, None])])
    logprobs = by_rows(anatomy, trace, rows)
    expected = collect(lambda m: run_hooks(anatomy, LONG, rows, m), len(LONG), 1)
    torch.testing.assert_close(logprobs, expected, atol=TOLERANCE, rtol=0)
    for p, ids in enumerate(LONG):
        torch.testing.assert_close(trace.logprobs[p], plain_hooks.run(anatomy.model, ids), atol=TOLERANCE, rtol=0)


def test_bfloat16_stays_near_plain_hooks():
    anatomy = Anatomy(tiny_model("llama", 0).to(torch.bfloat16))
    difference, why = parity(anatomy, run_trace(anatomy, PROMPTS), PROMPTS)
    assert why is None and 0 < difference < 0.5


def test_running_rows_leaves_the_model_as_it_was():
    model = tiny_model("llama", 0)
    anatomy, before = Anatomy(model), plain_hooks.run(model, PROMPTS[1])
    trace = run_trace(anatomy, PROMPTS)
    by_rows(anatomy, trace, Rows(1, [Edit(0, "heads", torch.tensor([0]), trace.states["heads"][0][:, None])]))
    assert torch.equal(plain_hooks.run(model, PROMPTS[1]), before)
    assert anatomy.kernel == "sdpa"
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_model_whose_attention_bypasses_the_interface_says_so():
    anatomy = Anatomy(tiny_model("llama", 0))
    trace = run_trace(anatomy, PROMPTS)
    block = anatomy.layers[2].block
    block.forward = lambda hidden_states, **kwargs: hidden_states
    with pytest.raises(Unreadable, match="attention interface"):
        by_rows(anatomy, trace, Rows(1, [Edit(0, "resid_post", torch.tensor([0]), trace.states["resid_post"][0][:, None])]))


@pytest.mark.parametrize("stream", STREAMS)
def test_running_rows_leaves_the_trace_as_it_was(stream):
    """One row alone starts from the clean state itself; editing it in place must not reach the trace."""
    anatomy = Anatomy(tiny_model("llama", 0))
    trace = run_trace(anatomy, PROMPTS)
    before = {name: states.clone() for name, states in trace.states.items()}
    by_rows(anatomy, trace, Rows(1, [Edit(1, stream, torch.tensor([0]), trace.states[stream][1].roll(1, 0)[:, None])]))
    for name, states in trace.states.items():
        assert torch.equal(states, before[name]), name


def test_spans_equal_plain_hooks(pair):
    """Patched three tokens before the end, read at the last two: each row runs four tokens anew."""
    donor, recipient = pair
    anatomy, prompts = Anatomy(recipient), [ids for ids in PROMPTS if len(ids) > 4]
    donor_trace = run_trace(Anatomy(donor), prompts, False, span=4, read=2)
    trace = run_trace(anatomy, prompts, span=4, read=2)
    sites = [(layer, stream) for stream in STREAMS for layer in range(4)]
    conditions = [Condition(layer, s, heads=tuple(range(4)) if s == "heads" else None) for layer, s in sites]
    rows = as_rows(conditions, anatomy, donor_trace, trace, {})
    logprobs = collect(lambda m: run_rows(anatomy, trace, rows, m, 50, 7), 2 * len(prompts), rows.count)
    for p, ids in enumerate(prompts):
        cut = [ids[: len(ids) - 1], ids]
        for step in range(2):
            assert (trace.logprobs[2 * p + step] - plain_hooks.run(recipient, cut[step])).abs().max() <= TOLERANCE
        for row, (layer, stream) in enumerate(sites):
            value = plain_hooks.state(donor, ids[:-3], layer, stream)
            for step in range(2):
                edit = (layer, stream, lambda own, value=value: value, len(ids) - 4)
                expected = plain_hooks.run(recipient, cut[step], [edit])
                assert (logprobs[2 * p + step, row] - expected).abs().max() <= TOLERANCE, (p, layer, stream, step)
    ours = collect(lambda m: run_hooks(anatomy, prompts, rows, m, 3, span=4, read=2), 2 * len(prompts), rows.count)
    torch.testing.assert_close(ours, logprobs, atol=TOLERANCE, rtol=0)


def test_spans_of_many_lengths_merge_into_the_same_trace():
    anatomy, prompts = Anatomy(tiny_model("gemma3_text", 0)), [ids for ids in LONG if len(ids) > 10]
    trace = run_trace(anatomy, prompts, span=9, read=3)
    rows = Rows(1, [Edit(1, "mlp_out", torch.tensor([0]), trace.states["mlp_out"][1].roll(1, 0)[:, None])])
    logprobs = collect(lambda m: run_rows(anatomy, trace, rows, m, 40, 7), 3 * len(prompts), 1)
    expected = collect(lambda m: run_hooks(anatomy, prompts, rows, m, 1, span=9, read=3), 3 * len(prompts), 1)
    torch.testing.assert_close(logprobs, expected, atol=TOLERANCE, rtol=0)


def test_a_span_of_the_models_own_state_changes_nothing(pair):
    anatomy, prompts = Anatomy(pair[1]), [ids for ids in PROMPTS if len(ids) > 4]
    trace = run_trace(anatomy, prompts, span=5, read=5)
    conditions = [Condition(layer, stream, control="self") for stream in STATES for layer in range(4)]
    rows = as_rows(conditions, anatomy, trace, trace, {})
    logprobs = collect(lambda m: run_rows(anatomy, trace, rows, m, 60, 7), 5 * len(prompts), rows.count)
    assert (logprobs - trace.logprobs[:, None]).abs().max() <= TOLERANCE


def test_a_shortened_span_is_the_same_pass(pair):
    """Gemma's and Mistral's windows too: tokens that leave the span are seen in the prefix as they were seen within it."""
    anatomy, prompts = Anatomy(pair[1]), [ids for ids in LONG if len(ids) > 12]
    short, long = run_trace(anatomy, prompts, span=4), run_trace(anatomy, prompts, span=12).shorten(4)
    rows = Rows(2, [Edit(r, "resid_pre", torch.tensor([r]), short.states["resid_pre"][r].roll(1, 0)[:, None]) for r in range(2)])
    logprobs = [collect(lambda m, t=t: run_rows(anatomy, t, rows, m, 40, 7), len(prompts), 2) for t in (short, long)]
    torch.testing.assert_close(logprobs[0], logprobs[1], atol=1e-5, rtol=0)
    for left, right in zip(short.calls, long.calls):
        assert torch.equal(left.hidden, right.hidden) and torch.equal(left.inside, right.inside)
