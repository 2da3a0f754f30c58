"""Interventions and metrics of the user's own against the donor's state: rows a second, in one run."""

import statistics
from collections import defaultdict
from itertools import product

import torch

from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.build_rows import Clean, as_rows
from mechdiff.engine.intervention import Condition, Given
from mechdiff.engine.rows import run_rows
from mechdiff.engine.trace import run_trace
from mechdiff.questions.shared.measure import Measure, piece_sizes
from mechdiff.questions.shared.metrics import Metric, metric
from mechdiff.validation.bench import device_name, run_all, subject, timed

STREAMS = ("resid_post", "attn_out", "mlp_out")
COPIES = 8  # rows of a kind at each site
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
    return {name: (rows, None) for name, rows in ({"donor": donor} | own).items()} | {"metric": (donor, metric(most_likely))}


def measure_own(pair: str, shape: str | None, prompts: int, tokens: int, device: str, dtype: str | None) -> dict:
    """Rows a second of each kind, and its ratio to the donor's, as medians over turns in which every kind runs once.

    Building the rows and measuring KL is part of each. tensor, function: the state is a tensor of the user's own, or a function
    of both models' clean states. metric: the donor's state, with a metric of the user's own.
    Raises UserError for an unknown pair, shape or device.
    """
    base, tuned, ids = subject(pair, shape, prompts, tokens, device, dtype)
    donor_ids = ids if shape is None else [list(reversed(row)) for row in ids]
    donor, recipient = run_trace(base, donor_ids, keep_calls=False), run_trace(tuned, ids)
    compared, seconds = kinds(tuned), defaultdict(list)

    def run(conditions: list[Condition], extra: Metric | None) -> None:
        named = {} if extra is None else {extra.name: (extra, ())}
        measured = Measure(len(conditions), donor, recipient, (), True, metrics=named)
        run_all(run_rows(tuned, recipient, as_rows(conditions, tuned, donor, recipient, {}), measured, *piece_sizes(tuned)))
        measured.leave()
        assert not any(torch.from_numpy(values).isnan().any() for values in measured.measured.values()), "every row is measured"

    for kind in compared.values():
        run(*kind)  # the first may compile
    for _ in range(TURNS):
        for name, kind in compared.items():
            seconds[name].append(timed(lambda kind=kind: run(*kind)))
    cells = len(compared["donor"][0]) * len(ids)
    ratios = {name: statistics.median(d / s for d, s in zip(seconds["donor"], times)) for name, times in seconds.items()}
    return {
        "rows_per_s": {name: cells / statistics.median(times) for name, times in seconds.items()},
        "ratio_to_donor": {name: ratio for name, ratio in ratios.items() if name != "donor"},
        "rows": len(compared["donor"][0]),
        "prompts": len(ids),
        "turns": TURNS,
        "device": device_name(tuned.device.type),
        "dtype": str(tuned.dtype).removeprefix("torch."),
    }
