"""The row engine against plain hooks on the same prompts, in one run: ratios, and the largest difference.

The work is the full head sweep: every head of every layer, one at a time. Rows and batched hooks are timed on it whole or on
a sample; batch-1 hooks on a sample of cells, extrapolated to the sweep.
"""

import statistics
import time
from importlib.metadata import version

import torch

from mechdiff.anatomy import Anatomy
from mechdiff.conditions import Condition
from mechdiff.errors import UserError, one_of
from mechdiff.experiments.measure import Measure, piece_sizes
from mechdiff.hooks import run_hooks
from mechdiff.interventions import as_rows
from mechdiff.models import load_pair, resolve_device
from mechdiff.prompts import read_domain
from mechdiff.rows import Rows, run_rows
from mechdiff.trace import run_trace

SHAPES = {
    "tiny": dict(vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4),
    "llama-8b": dict(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    ),
}
SAMPLE = 24  # cells of batch-1 hooks a prompt
BATCH = 32  # cells a pass of batched hooks
REPEATS = 3


def random_model(shape: str, device: str, dtype: torch.dtype):
    """A model of a known shape with random weights: right for speed and memory, not for findings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    if shape not in SHAPES:
        raise one_of("Shape", shape, SHAPES)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return LlamaForCausalLM(LlamaConfig(**SHAPES[shape])).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def subject(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None):
    """Donor, recipient and their prompts' token ids."""
    if shape is None:
        loaded = load_pair(pair, device, dtype)
        texts = [prompt.text for prompt in read_domain(loaded.pair.domain, "val")[:prompts]]
        return loaded.base, loaded.tuned, [loaded.tokenizers.encode(text, "tuned") for text in texts]
    device = resolve_device(device)
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    anatomy = Anatomy(random_model(shape, device, getattr(torch, dtype)))
    ids = torch.randint(anatomy.vocabulary, (prompts, tokens), generator=torch.Generator().manual_seed(0)).tolist()
    return anatomy, anatomy, ids


def timed(work) -> float:
    """Seconds for a piece of work, with the device's queue empty before and after."""
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return time.perf_counter() - start


def run_all(pieces) -> None:
    for _ in pieces:
        pass


def measure(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None) -> dict:
    """The figures of the benchmark; seconds are medians a prompt for the full head sweep.

    Raises UserError for an unknown pair, shape or device.
    """
    if prompts < 1 or tokens < 2:
        raise UserError("The benchmark needs at least one prompt of two tokens.\nTry:  --prompts 8 --tokens 128")
    base, tuned, ids = subject(pair, shape, prompts, tokens, device, dtype)
    donor_ids = ids if shape is None else [list(reversed(one)) for one in ids]
    donor, recipient = run_trace(base, donor_ids, keep_calls=False), run_trace(tuned, ids)
    heads = [Condition(layer, "heads", heads=(head,)) for layer in range(len(tuned.layers)) for head in range(tuned.heads)]
    rows = as_rows(heads, tuned, donor, recipient, {})

    def collector():
        return Measure(rows.count, donor, recipient, (), True)

    def sweep():
        run_all(run_rows(tuned, recipient, rows, collector(), *piece_sizes(tuned)))

    def clean():
        run_trace(tuned, ids)

    sweep()
    rows_s = statistics.median(timed(sweep) + timed(clean) for _ in range(REPEATS)) / prompts
    sample = Rows(0, []) if not rows.count else rows.pick(torch.linspace(0, rows.count - 1, min(SAMPLE, rows.count)).long())
    one_s, batched_s, error = [], [], 0.0
    for index in range(prompts):
        one = one_prompt(sample, index)
        error = max(error, difference(tuned, ids[index], one))
        one_s.append(timed(lambda: run_all(run_hooks(tuned, ids[index : index + 1], one, ignore))) / one.count)
        batch = one_prompt(rows.pick(torch.linspace(0, rows.count - 1, min(BATCH, rows.count)).long()), index)
        batched_s.append(timed(lambda: run_all(run_hooks(tuned, ids[index : index + 1], batch, ignore, BATCH))) / batch.count)
    hooks_batch1_s, hooks_batched_s = statistics.mean(one_s) * rows.count, statistics.mean(batched_s) * rows.count
    return {
        "rows_s": rows_s,
        "hooks_batch1_s": hooks_batch1_s,
        "hooks_batched_s": hooks_batched_s,
        "ratio_batch1": hooks_batch1_s / rows_s,
        "ratio_batched": hooks_batched_s / rows_s,
        "max_abs_error": error,
        "cells": rows.count,
        "prompts": prompts,
        "tokens": statistics.mean(map(len, ids)),
        "tflops": sweep_flops(tuned) / rows_s / 1e12,
        "device": torch.cuda.get_device_name() if tuned.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "dtype": str(tuned.dtype).removeprefix("torch."),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }


def ignore(logits, prompts, rows) -> None:
    """Plain hooks are timed without measuring anything, in their favour."""


def one_prompt(rows: Rows, index: int) -> Rows:
    """The same rows for one prompt of the batch."""
    from dataclasses import replace

    return Rows(rows.count, [replace(edit, value=edit.value[index : index + 1]) for edit in rows.edits])


def difference(anatomy: Anatomy, ids: list[int], rows: Rows) -> float:
    """Largest difference in log-probability between rows and plain hooks on one prompt."""
    by_rows, by_hooks = (torch.zeros(rows.count, anatomy.vocabulary) for _ in range(2))

    def into(table):
        def keep(logits, prompts, which):
            table[which] = logits.float().log_softmax(-1).cpu()

        return keep

    run_all(run_rows(anatomy, run_trace(anatomy, [ids]), rows, into(by_rows), 64, 64))
    run_all(run_hooks(anatomy, [ids], rows, into(by_hooks)))
    return (by_rows - by_hooks).abs().max().item()


def sweep_flops(anatomy: Anatomy) -> float:
    """Multiply-adds x 2 of the weights that the sweep's rows pass through, a prompt: layers from each row's on, unembedding."""
    layer = sum(p.numel() for p in anatomy.layers[0].block.parameters() if p.ndim >= 2)
    depth = len(anatomy.layers)
    passes = sum(depth - index for index in range(depth)) * anatomy.heads
    return 2 * (layer * passes + anatomy.width * anatomy.vocabulary * depth * anatomy.heads)
