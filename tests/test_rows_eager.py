"""Rows equal plain hooks on **eager** attention, whatever the kernel: shared keys and values, windows, tied embeddings."""

import pytest
import torch
from support import plain_hooks
from support.families import FAMILIES, tiny_model
from support.rows import TOLERANCE, collect

from mechdiff.common.terms import STREAMS
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.build_rows import as_rows
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import Edit, Rows, run_rows
from mechdiff.engine.trace import run_trace

pytestmark = pytest.mark.slow
WINDOW = 4  # tokens that layers with a window see, in the families that have one
PROMPTS = [torch.randint(3, 97, (n,), generator=torch.Generator().manual_seed(n)).tolist() for n in (23, 9)]
SPAN, READ = 6, 2  # longer than the window, so that a row's own tokens leave it too
WITHOUT_GROUPS = ("gpt2", "gpt_neox")
VARIANTS = [
    (family, {"num_key_value_heads": groups} | {"tie_word_embeddings": tied})
    for family in FAMILIES
    if family not in WITHOUT_GROUPS
    for groups, tied in ((4, True), (2, False), (1, True), (1, False))
]
VARIANTS += [(family, {"tie_word_embeddings": tied}) for family in WITHOUT_GROUPS for tied in (True, False)]


def named(value) -> str:
    return value if isinstance(value, str) else "-".join(map(str, value.values()))


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(map(named, variant)))
def models(request):
    """Donor and recipient on eager attention, and the kernels that the rows may use."""
    family, changes = request.param
    donor, recipient = (tiny_model(family, seed, **changes) for seed in (0, 1))
    kernels = dict.fromkeys((recipient.config._attn_implementation, "eager"))
    for model in (donor, recipient):
        model.set_attn_implementation("eager")
        tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        assert tied == changes["tie_word_embeddings"]
    return donor, recipient, kernels


def on_every_kernel(donor, recipient, kernels):
    """The two models' anatomies, once with each kernel; eager again afterwards."""
    for kernel in kernels:
        for model in (donor, recipient):
            model.set_attn_implementation(kernel)
        yield Anatomy(donor), Anatomy(recipient)
    for model in (donor, recipient):
        model.set_attn_implementation("eager")


def close(logprobs, expected, about) -> None:
    assert (logprobs - expected).abs().max() <= TOLERANCE, about


def test_states_heads_and_stacks(models):
    donor, recipient, kernels = models
    sites = [(layer, stream) for stream in STREAMS for layer in (0, 3)]
    conditions = [Condition(layer, s, heads=tuple(range(4)) if s == "heads" else None) for layer, s in sites]
    conditions += [Condition(layer, "heads", heads=(head,)) for layer, head in ((0, 1), (2, 3))]
    expected = [by_hooks(donor, recipient, ids, conditions) for ids in PROMPTS]
    for before, anatomy in on_every_kernel(donor, recipient, kernels):
        clean, trace = run_trace(before, PROMPTS, False), run_trace(anatomy, PROMPTS)
        rows = as_rows(conditions, anatomy, clean, trace, {})
        last = Edit(3, "mlp_out", torch.tensor([0]), clean.states["mlp_out"][3][:, None])
        both = Rows(1, [Edit(1, "attn_out", torch.tensor([0]), clean.states["attn_out"][1][:, None]), last])
        logprobs = collect(lambda m, a=anatomy, t=trace, r=rows: run_rows(a, t, r, m, 20, 7), len(PROMPTS), rows.count)
        stacked = collect(lambda m, a=anatomy, t=trace, r=both: run_rows(a, t, r, m, 20, 7), len(PROMPTS), 1)
        for p, (alone, stack) in enumerate(expected):
            close(logprobs[p], alone, (anatomy.kernel, p))
            close(stacked[p, 0], stack, (anatomy.kernel, p, "stack"))


def by_hooks(donor, recipient, ids, conditions):
    """Each condition's log-probabilities [conditions, vocabulary], and those of the stack of two."""
    alone = []
    for condition in conditions:
        value = plain_hooks.state(donor, ids, condition.layer, condition.stream)

        def put(own, value=value, heads=condition.heads):
            if heads is None:
                return value
            own = own.view(4, 8).clone()
            own[list(heads)] = value.view(4, 8)[list(heads)]
            return own.flatten()

        alone.append(plain_hooks.run(recipient, ids, [(condition.layer, condition.stream, put)]))
    values = plain_hooks.states(donor, ids, [(1, "attn_out"), (3, "mlp_out")])
    stack = [(layer, stream, lambda own, value=value: value) for (layer, stream), value in values.items()]
    clean = plain_hooks.run(recipient, ids)
    assert all((logprobs - clean).abs().max() > 10 * TOLERANCE for logprobs in alone), "the intervention must matter"
    return torch.stack(alone), plain_hooks.run(recipient, ids, stack)


def test_spans_longer_than_the_window(models):
    donor, recipient, kernels = models
    sites = [(0, "resid_pre"), (1, "heads"), (2, "mlp_out"), (3, "attn_out")]
    conditions = [Condition(layer, s, heads=tuple(range(4)) if s == "heads" else None) for layer, s in sites]
    expected = torch.zeros(len(PROMPTS) * READ, len(sites), 97)
    for p, ids in enumerate(PROMPTS):
        for row, (layer, stream) in enumerate(sites):
            value = plain_hooks.state(donor, ids[: len(ids) - SPAN + 1], layer, stream)
            edit = (layer, stream, lambda own, value=value: value, len(ids) - SPAN)
            for step in range(READ):
                cut = ids[: len(ids) - READ + 1 + step]
                expected[READ * p + step, row] = plain_hooks.run(recipient, cut, [edit])
    for before, anatomy in on_every_kernel(donor, recipient, kernels):
        clean = run_trace(before, PROMPTS, False, span=SPAN, read=READ)
        trace = run_trace(anatomy, PROMPTS, span=SPAN, read=READ)
        rows = as_rows(conditions, anatomy, clean, trace, {})
        logprobs = collect(lambda m, a=anatomy, t=trace, r=rows: run_rows(a, t, r, m, 50, 7), len(PROMPTS) * READ, rows.count)
        close(logprobs, expected, anatomy.kernel)


@pytest.mark.parametrize("family", [name for name, config in FAMILIES.items() if "sliding_window" in config])
def test_a_window_leaves_the_rest_of_the_prompt_out_of_sight(family):
    """What the tests above rest on: in some layer the decision token sees itself and three more of 23 tokens."""
    model = tiny_model(family, 0)
    seen = [int((~call.hidden[0, 0, -1]).sum()) for call in run_trace(Anatomy(model), PROMPTS[:1]).calls]
    windowed = getattr(model.config, "layer_types", None) or ["sliding_attention"] * 4
    assert seen == [WINDOW - 1 if kind == "sliding_attention" else len(PROMPTS[0]) - 1 for kind in windowed]
    assert WINDOW - 1 in seen
