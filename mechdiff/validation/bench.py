"""The row engine against plain hooks on the same prompts, in one run: ratios, and the largest difference.

The work is the full head sweep: every head of every layer, one at a time. Rows are timed on the whole of it, hooks on a
sample of cells on every prompt, extrapolated to the sweep. Rows measure the effect of every cell; hooks only run the model.
"""

import importlib
import random
import statistics
import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch

from mechdiff import questions
from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import FITTED, STUDYS_MAP
from mechdiff.common.versions import version_of
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.build_rows import as_rows
from mechdiff.engine.hooks import run_hooks
from mechdiff.engine.intervention import Condition
from mechdiff.engine.rows import Rows, run_rows
from mechdiff.engine.trace import Trace, run_trace
from mechdiff.inputs.pair_file import read_pair
from mechdiff.inputs.prompts import read_domain
from mechdiff.maths.linear_maps import folds, output_directions, pca_spread, size_ratios
from mechdiff.maths.named_maps import fit_of
from mechdiff.models.registry import load_pair, resolve_device, resolve_dtype
from mechdiff.questions import Run
from mechdiff.questions.shared.measure import Measure, piece_sizes
from mechdiff.study.sweep_plan import GRIDS
from mechdiff.study.sweeps import sweep
from mechdiff.validation.random_models import SHAPES, random_model

SAMPLE = 24  # cells of batch-1 hooks per prompt
BATCH = 32  # cells per pass of batched hooks
REPEATS = 3


def subject(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None):
    """Donor, recipient and their prompts' token ids."""
    if shape is None:
        loaded = load_pair(pair, device, dtype)
        texts = [prompt.text for prompt in read_domain(loaded.pair.domain, "val")[:prompts]]
        return loaded.base, loaded.tuned, [loaded.tokenizers.encode(text, "tuned") for text in texts]
    device = resolve_device(device)
    dtype = resolve_dtype(dtype, None, device)
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


def ignore(logits, prompts, rows) -> None:
    """Plain hooks are timed without measuring anything, in their favour."""


def sample(rows: Rows, count: int) -> Rows:
    """`count` of the rows, evenly spread over them."""
    return rows.select(torch.linspace(0, rows.count - 1, min(count, rows.count)).long())


def measure(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None) -> dict:
    """The figures of the benchmark; seconds are per prompt, for the full head sweep.

    rows_s: the sweep by rows, given a clean pass (median of repeats). trace_s: that clean pass.
    ratio_*: hooks over rows; ratio_batch1_with_trace adds the clean pass to the time of the rows.
    Raises UserError for an unknown pair, shape or device.
    """
    if prompts < 1 or tokens < 2:
        raise UserError("The benchmark needs at least one prompt of two tokens.\nTry:  --prompts 8 --tokens 128")
    base, tuned, ids = subject(pair, shape, prompts, tokens, device, dtype)
    donor_ids = ids if shape is None else [list(reversed(tokens)) for tokens in ids]
    donor, recipient = run_trace(base, donor_ids, keep_calls=False), run_trace(tuned, ids)
    heads = [Condition(layer, "heads", heads=(head,)) for layer in range(len(tuned.layers)) for head in range(tuned.heads)]
    rows = as_rows(heads, tuned, donor, recipient, {})
    seconds, error = time_in_turn(tuned, ids, rows, donor, recipient)
    rows_s, trace_s = statistics.median(seconds["rows"]), statistics.median(seconds["trace"])
    batch1_s, batched_s = (statistics.mean(seconds[name]) * rows.count for name in ("batch1", "batched"))
    return {
        "rows_s": rows_s,
        "hooks_batch1_s": batch1_s,
        "hooks_batched_s": batched_s,
        "ratio_batch1": batch1_s / rows_s,
        "ratio_batched": batched_s / rows_s,
        "ratio_batch1_with_trace": batch1_s / (rows_s + trace_s),
        "trace_s": trace_s,
        "max_abs_error": error,
        "cells": rows.count,
        "prompts": prompts,
        "tokens": statistics.mean(map(len, ids)),
        "tflops": sweep_flops(tuned) / rows_s / 1e12,
        **ceilings(tuned),
        "peak_gib": peak_gib(),
        "device": device_name(tuned.device.type),
        "dtype": str(tuned.dtype).removeprefix("torch."),
        "versions": {name: version_of(name) for name in ("torch", "transformers")},
    }


def time_in_turn(tuned: Anatomy, ids: list[list[int]], rows: Rows, donor: Trace, recipient: Trace):
    """Lists of seconds by what took them, and the largest difference between rows and hooks.

    Everything takes turns, so that a machine whose speed drifts treats all alike.
    """

    def every_head():
        measured = Measure(rows.count, donor, recipient, (), True)
        run_all(run_rows(tuned, recipient, rows, measured, *piece_sizes(tuned)))

    def hooks(index: int, sampled: Rows, batch: int) -> float:
        """Seconds per cell."""
        own = of_prompt(sampled, index)
        return timed(lambda: run_all(run_hooks(tuned, ids[index : index + 1], own, ignore, batch))) / own.count

    every_head()
    every_head()  # the first may have compiled
    seconds, error = defaultdict(list), 0.0
    for index in range(len(ids)):
        if index % max(1, len(ids) // REPEATS) == 0:
            seconds["rows"].append(timed(every_head) / len(ids))
            seconds["trace"].append(timed(lambda: run_trace(tuned, ids)) / len(ids))
        error = max(error, difference(tuned, ids[index], of_prompt(sample(rows, SAMPLE), index)))
        seconds["batch1"].append(hooks(index, sample(rows, SAMPLE), 1))
        seconds["batched"].append(hooks(index, sample(rows, 2 * BATCH), BATCH))
    return seconds, error


def ceilings(anatomy: Anatomy, size: int = 8192) -> dict:
    """The device's limits, measured now: a matrix product, and a copy (bytes read and written). Empty on a CPU."""
    if anatomy.device.type != "cuda":
        return {}
    left, right = (torch.randn(size, size, device=anatomy.device, dtype=anatomy.dtype) for _ in range(2))
    source = torch.empty(1 << 30, dtype=torch.uint8, device=anatomy.device)
    target = torch.empty_like(source)
    product = statistics.median(timed(lambda: left @ right) for _ in range(10))
    copy = statistics.median(timed(lambda: target.copy_(source)) for _ in range(10))
    return {"matmul_tflops": 2 * size**3 / product / 1e12, "copy_gb_per_s": 2 * source.nbytes / copy / 1e9}


def peak_gib() -> float | None:
    """The peak of GPU memory held by tensors so far in this process."""
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None


def of_prompt(rows: Rows, index: int) -> Rows:
    """The same rows for one prompt of the batch."""
    return Rows(rows.count, [replace(edit, states=edit.value[index : index + 1]) for edit in rows.edits])


def difference(anatomy: Anatomy, ids: list[int], rows: Rows) -> float:
    """Largest difference in log-probability between rows and plain hooks on one prompt."""
    by_rows, by_hooks = (torch.zeros(rows.count, anatomy.vocabulary) for _ in range(2))

    def into(table):
        def write(logits, prompts, rows):
            table[rows] = logits.float().log_softmax(-1).cpu()

        return write

    run_all(run_rows(anatomy, run_trace(anatomy, [ids]), rows, into(by_rows), 64, 64))
    run_all(run_hooks(anatomy, [ids], rows, into(by_hooks)))
    return (by_rows - by_hooks).abs().max().item()


def sweep_flops(anatomy: Anatomy) -> float:
    """Twice the multiply-adds per prompt of the sweep's rows: every layer from a row's own layer on, and the unembedding."""
    layer = sum(p.numel() for p in anatomy.layers[0].block.parameters() if p.ndim >= 2)
    depth = len(anatomy.layers)
    passes = sum(depth - index for index in range(depth)) * anatomy.heads
    return 2 * (layer * passes + anatomy.width * anatomy.vocabulary * depth * anatomy.heads)


def measure_live(pair: str, device: str, dtype: str | None, prompts: int = 32, changes: int = 20) -> dict:
    """Seconds that the app's call takes after a change of layer, heads or blend: with clean passes in memory, and from disk.

    load_s: loading the pair (without imports). first_*: each change for the first time. repeat_*: the same changes again, from a
    store opened anew, without a model. rank_*: as many changes of a map's rank, with the map fitted.
    """
    rng, layers, heads = random.Random(0), read_pair(pair).layers, read_pair(pair).heads
    import_s = timed(lambda: importlib.import_module("transformers.models.llama.modeling_llama"))
    load_s = timed(lambda: load_pair(pair, device, dtype))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))

        def ask(layer: int, replaced: list[int], blend: float, store: Store) -> float:
            sets = ",".join(map(str, sorted(replaced)))
            run = Run("heads", pair, limit=prompts, layers=(layer,), head_sets=sets, blend=blend, device=device, dtype=dtype)
            return timed(lambda: questions.run(run, store))

        cold_s = ask(0, [0], 1.0, store)
        requests = [
            (rng.randrange(layers), rng.sample(range(heads), rng.randint(1, heads - 1)), rng.choice([0.25, 0.5, 0.75, 1.0]))
            for _ in range(changes)
        ]
        first = [ask(*change, store) for change in requests]
        again = [ask(*change, Store(Path(folder))) for change in requests]

    def cut(rank: int) -> float:
        """Seconds for one rank, with a new scale each time, so that only the train split's states come from disk."""
        alpha = f"{rng.uniform(0.5, 1.5):.9f}"
        options = {"layers": (2 * layers // 3,), "ranks": (str(rank),), "complement": ("own",), "alpha": (alpha,)}
        return timed(lambda: questions.run(Run("rank", pair, limit=prompts, device=device, dtype=dtype, **options)))

    cut(1)  # reads the train split and fits the map
    ranks = [cut(rng.randint(0, 256)) for _ in range(changes)]
    return {
        "import_s": import_s,
        "load_s": load_s,
        "cold_s": cold_s,
        "first_median_s": statistics.median(first),
        "first_worst_s": max(first),
        "repeat_median_s": statistics.median(again),
        "repeat_worst_s": max(again),
        "rank_median_s": statistics.median(ranks),
        "rank_worst_s": max(ranks),
        "changes": changes,
        "prompts": prompts,
        "peak_gib": peak_gib(),
    }


def measure_study(pair: str, device: str, dtype: str | None, grid: str) -> dict:
    """Seconds that a whole sweep takes from an empty cache, by part and by stage. The pair is loaded first; no answers.

    parts_s: seconds by part of the sweep. stages_s: the same by stage. cells: rows times prompts.
    """
    with tempfile.TemporaryDirectory() as folder:
        store, parts, stages, cells = Store(Path(folder) / "results"), defaultdict(float), defaultdict(float), 0
        load_pair(pair, device, dtype)
        GRIDS["measured"] = replace(GRIDS[grid], behaviour=False)
        start = mark = time.perf_counter()
        for task, label in sweep(pair, None, "measured", Path(folder) / "out", ["bench"], store, device=device, dtype=dtype):
            for _ in task.steps():
                now = time.perf_counter()
                parts[label] += now - mark
                stages[task.stage] += now - mark
                mark = now
            cells += task.total
        total = time.perf_counter() - start
    written = total - sum(parts.values())
    figures = {"seconds": total, "parts_s": dict(parts) | {"between, intervals and tables": written}, "stages_s": dict(stages)}
    return figures | {"cells": cells, "grid": grid, "peak_gib": peak_gib(), "device": device_name(device)}


def device_name(device: str) -> str:
    on_gpu = resolve_device(device) == "cuda"
    return torch.cuda.get_device_name() if on_gpu else f"cpu, {torch.get_num_threads()} threads"


def measure_fit(pair: str, shape: str | None, device: str, n: int = 350) -> dict:
    """Seconds to fit every site (three streams of every layer) on n random train states of a pair's or a shape's width.

    fit_s: map -> both sides' spectra and the map; alpha_s: its scale, out of fold; directions_s: what rank cuts need.
    """
    device = resolve_device(device)
    if shape:
        layers, width = SHAPES[shape]["num_hidden_layers"], SHAPES[shape]["hidden_size"]
    else:
        spec = read_pair(pair)
        layers, width = spec.layers, spec.shape("base").width
    sites, generator = 3 * layers, torch.Generator(device).manual_seed(0)
    x = torch.randn(sites, n, width, generator=generator, device=device) * torch.logspace(1, -2, width, device=device)
    y = x.roll(1, -1) + 0.1 * torch.randn(sites, n, width, generator=generator, device=device)
    groups = torch.arange(n)
    pca_spread(x[:2])  # warm

    def alpha(name: str):
        for rest, held in folds(groups, 0):
            part = fit_of(name)(pca_spread(x[:, rest]), pca_spread(y[:, rest]))
            size_ratios(part, x[:, held], y[:, held]).median(-1).values.tolist()

    seconds = {"fit_s": {}, "alpha_s": {}, "directions_s": {}}
    for name in (name for name in FITTED if name != STUDYS_MAP):
        seconds["fit_s"][name] = timed(lambda name=name: fit_of(name)(pca_spread(x), pca_spread(y)))
        seconds["alpha_s"][name] = timed(lambda name=name: alpha(name))
        side = pca_spread(x)
        fitted = fit_of(name)(side, pca_spread(y))
        seconds["directions_s"][name] = timed(lambda fitted=fitted, side=side: output_directions(fitted, side))
    return seconds | {"sites": sites, "prompts": n, "width": width, "device": device_name(device)}
