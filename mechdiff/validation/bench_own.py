"""Interventions and metrics of the user's own against the donor's state: rows a second, in one run."""

import statistics
from collections import defaultdict
from itertools import product

import numpy as np
import torch

from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.build_rows import Clean, as_rows
from mechdiff.engine.intervention import Condition, Given
from mechdiff.engine.rows import run_rows
from mechdiff.engine.trace import run_trace
from mechdiff.questions.shared.measure import Measure, piece_sizes
from mechdiff.questions.shared.metrics import Metric, metric
from mechdiff.validation.bench import SAMPLE, device_name, difference, of_prompt, run_all, sample, subject, timed

STREAMS = ("resid_post", "attn_out", "mlp_out")
COPIES = 8  # rows of a kind at each site
PASSES = 3  # that follow each other
TURNS = 5


def halfway(clean: Clean) -> torch.Tensor:
    """A function of both models' clean states."""
    return 0.5 * (clean.donor + clean.own)


def most_likely(patched: torch.Tensor, clean: torch.Tensor, donor: torch.Tensor) -> torch.Tensor:
    """The probability of the most likely next token."""
    return patched.exp().amax(-1)


def kinds(anatomy: Anatomy) -> dict[str, tuple[list[Condition], Metric | None]]:
    """What is compared: as many rows each, at the same sites, and the metric that is measured in addition."""
    sites = list(product(range(len(anatomy.layers)), STREAMS, range(COPIES)))
    donor = [Condition(layer, stream) for layer, stream, _ in sites]
    states = [torch.randn(anatomy.width, generator=torch.Generator().manual_seed(row)) for row in range(len(sites))]
    givens = {
        "tensor": [Given("", f"tensor {row}", True, state) for row, state in enumerate(states)],
        "function": [Given("", f"function {row}", True, halfway) for row in range(len(sites))],
    }
    own = {
        name: [Condition(layer, stream, given=given) for (layer, stream, _), given in zip(sites, values)]
        for name, values in givens.items()
    }
    compared: dict[str, tuple[list[Condition], Metric | None]] = {name: (rows, None) for name, rows in own.items()}
    return {"donor": (donor, None)} | compared | {"metric": (donor, metric(most_likely))}


def complete(measured: Measure) -> bool:
    """Whether every row has every measure."""
    return not any(np.isnan(values).any() for values in measured.measured.values())


def measure_own(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None) -> dict:
    """Rows a second of each kind, and its ratio to the donor's, as medians over turns in which every kind runs once.

    Building the rows and measuring KL is part of each, in passes that follow each other as in a request. tensor, function: the
    state is a tensor of the user's own, or a function of both models' clean states. metric: the donor's state, with a metric of
    the user's own. max_abs_error: the largest difference in log-probability between a sample of the rows and plain hooks.
    Raises UserError for an unknown pair, shape or device.
    """
    base, tuned, ids = subject(pair, shape, prompts, tokens, device, dtype)
    donor_ids = ids if shape is None else [list(reversed(row)) for row in ids]
    donor, recipient = run_trace(base, donor_ids, keep_calls=False), run_trace(tuned, ids)
    compared, seconds = kinds(tuned), defaultdict(list)

    def one_pass(conditions: list[Condition], extra: Metric | None) -> Measure:
        named = {} if extra is None else {extra.name: (extra, ())}
        measured = Measure(len(conditions), donor, recipient, (), True, metrics=named)
        run_all(run_rows(tuned, recipient, as_rows(conditions, tuned, donor, recipient, {}), measured, *piece_sizes(tuned)))
        measured.leave()
        return measured

    def run(kind: tuple[list[Condition], Metric | None]) -> None:
        """Passes as a request runs them: one is read while the next one is under way."""
        before = None
        for _ in range(PASSES):
            measured = one_pass(*kind)
            assert before is None or complete(before)
            before = measured
        assert before is not None and complete(before)

    for kind in compared.values():
        run(kind)  # the first may compile
    for _ in range(TURNS):
        for name, kind in compared.items():
            seconds[name].append(timed(lambda kind=kind: run(kind)))
    every = [condition for name, (rows, _) in compared.items() if name != "metric" for condition in rows]
    rows = sample(as_rows(every, tuned, donor, recipient, {}), 3 * SAMPLE)
    cells = PASSES * len(compared["donor"][0]) * len(ids)
    ratios = {name: statistics.median(d / s for d, s in zip(seconds["donor"], times)) for name, times in seconds.items()}
    return {
        "rows_per_s": {name: cells / statistics.median(times) for name, times in seconds.items()},
        "ratio_to_donor": {name: ratio for name, ratio in ratios.items() if name != "donor"},
        "max_abs_error": max(difference(tuned, ids[index], of_prompt(rows, index)) for index in range(min(2, len(ids)))),
        "rows": len(compared["donor"][0]),
        "prompts": len(ids),
        "turns": TURNS,
        "device": device_name(tuned.device.type),
        "dtype": str(tuned.dtype).removeprefix("torch."),
    }
