"""Planted edits: pairs made from a base by a known edit, and how often mechdiff finds that edit in its place.

Each pair is measured in both directions with the row engine: every layer's residual stream is patched, every module is
transplanted, and so is every head of the attention layer with the largest effect.

**The decision rule.** An effect is above the floor if the lower end of the 95 % interval of its mean over prompts is
above intervals.FLOOR_FACTOR times the largest self-patch effect, over all sites and prompts of the base, in that dtype. An edit
counts as found if it is found in both directions.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.rows import Edit, Rows, run_rows
from mechdiff.engine.trace import Trace, run_trace
from mechdiff.engine.transplant import Transplants, run_transplants
from mechdiff.inputs.prompts import read_domain
from mechdiff.maths import intervals
from mechdiff.maths.similarity import kl
from mechdiff.models.registry import load_pair
from mechdiff.questions.shared.measure import Measure, piece_sizes
from mechdiff.validation.planted_edits import MODULES, Plant, plant

PAIR = "demo-cognitive"
STREAMS = ("resid_post", *MODULES)
RANK_TOLERANCE = 64  # x the dtype's epsilon x the outputs' largest singular value: directions below that are rounding
CLAIMS = {
    "onset": "onset: the first layer whose residual patch is above the floor is the edit's",
    "module": "module: the edited module is the only one whose transplant is above the floor",
    "modules": "adapter: the modules above the floor are those at its first layer and later, all of them",
    "below": "adapter: no module below its first layer is above the floor",
    "head": "head: the edited one has the largest effect and is the only one above the floor",
    "rank": "rank: the transplant's change has the planted rank",
    "cut": "rank: the change cut to that rank equals all of it",
    "fewer": "rank: cut to one direction less it differs, above the floor",
    "rising": "rank: the effect grows with every direction",
    "none": "no edit: nothing is above the floor",
    "noise": "noise below the floor: nothing is above the floor",
}
OPEN = ("fewer", "rising", "modules")  # what theory does not promise


Site = tuple[int, str, Tensor]  # layer, stream, value [b, width]


def run_sites(anatomy: Anatomy, trace: Trace, sites: list[Site], measure: Callable) -> None:
    """A row for each site and value."""
    edits = [Edit(layer, stream, torch.tensor([row]), value[:, None]) for row, (layer, stream, value) in enumerate(sites)]
    for _ in run_rows(anatomy, trace, Rows(len(sites), edits), measure, *piece_sizes(anatomy)):
        pass


def effects(anatomy: Anatomy, trace: Trace, sites: list[Site]) -> np.ndarray:
    """KL(patched || clean), [sites, prompts], nats."""
    measure = Measure(len(sites), trace, trace, (), shared=False)
    run_sites(anatomy, trace, sites, measure)
    measure.leave()
    return measure.measured["kl"].astype(float)


def distributions(anatomy: Anatomy, trace: Trace, sites: list[Site]) -> Tensor:
    """Patched log-probabilities, [sites, prompts, vocabulary], nats."""
    table = trace.logprobs.new_empty(len(sites), *trace.logprobs.shape)

    def write(logits, prompts, rows):
        table[rows, prompts] = logits.log_softmax(-1, dtype=torch.float32)

    run_sites(anatomy, trace, sites, write)
    return table


def at_every_layer(states: dict[str, Tensor]) -> list[Site]:
    """One site per layer for each of STREAMS, in order. states: stream -> [layers, b, width]."""
    return [(layer, stream, value) for stream in STREAMS for layer, value in enumerate(states[stream])]


class Bench:
    """What all planted pairs of a base share: the base, its prompts' ids, its clean pass, the floor and the decision rule.

    clusters: the template of each prompt. self_patches: [sites, prompts], nats.
    """

    def __init__(self, base: Anatomy, prompts: list[list[int]], clusters: list[str]):
        self.base, self.prompts, self.trace = base, prompts, run_trace(base, prompts)
        self.templates = intervals.Templates(clusters)
        self.self_patches = effects(base, self.trace, at_every_layer(self.trace.states))
        self.floor = float(self.self_patches.max())

    def above(self, values: np.ndarray) -> np.ndarray:
        """Which effects are above the floor, bool [sites]. values: [sites, prompts]."""
        _, low, _ = self.templates.mean(values.T)
        return low > intervals.floor_of(self.self_patches)

    def look(self, recipient: Anatomy, trace: Trace, donor: Trace, transplants: Transplants) -> "Measured":
        """Everything by which one direction of a pair is judged."""
        states = {"resid_post": donor.states["resid_post"], "attn_out": transplants.attn_out, "mlp_out": transplants.mlp_out}
        values = effects(recipient, trace, at_every_layer(states))
        means: dict[str, np.ndarray] = dict(zip(STREAMS, values.mean(1).reshape(len(STREAMS), -1)))
        measured = Measured(dict(zip(STREAMS, self.above(values).reshape(len(STREAMS), -1))), means)
        if measured.above["attn_out"].any():
            layer = int(means["attn_out"].argmax())
            heads = [(layer, "attn_out", transplants.heads[layer][:, head]) for head in range(recipient.heads)]
            values = effects(recipient, trace, heads)
            measured.heads_above = np.flatnonzero(self.above(values)).tolist()
            measured.strongest_head = int(values.mean(1).argmax())
        return measured

    def check(self, truth: Plant, edited: Anatomy) -> dict[str, bool]:
        """The verdict on every claim that concerns this pair."""
        trace = run_trace(edited, self.prompts)
        into_base, into_edited = (run_transplants(*models, self.prompts) for models in ((self.base, edited), (edited, self.base)))
        directions = [
            self.look(self.base, self.trace, trace, into_base),
            self.look(edited, trace, self.trace, into_edited),
        ]
        verdicts = [judge(truth, measured) for measured in directions]
        verdict = {claim: all(direction[claim] for direction in verdicts) for claim in verdicts[0]}
        if truth.rank is not None:
            layer = int(directions[0].means["mlp_out"].argmax())
            verdict |= self.check_rank(truth.rank, layer, into_base.mlp_out[layer])
        return verdict

    def check_rank(self, rank: int, layer: int, transplanted: Tensor) -> dict[str, bool]:
        """The rank of one MLP's change over prompts, and what the base makes of its leading directions alone."""
        own = self.trace.states["mlp_out"][layer].double()
        u, s, v = torch.linalg.svd(transplanted.double() - own, full_matrices=False)
        rounding = torch.finfo(transplanted.dtype).eps * torch.linalg.matrix_norm(own, 2)
        cuts = [own + u[:, :j] * s[:j] @ v[:j] for j in range(rank + 1)]
        sites = [(layer, "mlp_out", value.to(transplanted.dtype)) for value in (*cuts, transplanted)]
        logprobs = distributions(self.base, self.trace, sites)
        off = kl(logprobs[-1], logprobs[:-1]).double().cpu().numpy()
        effect = kl(logprobs[:-1], self.trace.logprobs).double().mean(1)
        differs = self.above(off)
        return {
            "rank": int((s > RANK_TOLERANCE * rounding).sum()) == rank,
            "cut": not differs[rank],
            "fewer": bool(differs[rank - 1]),
            "rising": bool((effect.diff() > 0).all()),
        }


@dataclass
class Measured:
    """One direction of a pair. above: stream -> bool [layers]. means: stream -> mean effects [layers], nats.

    heads_above, strongest_head: at the attention layer with the largest effect, if one is above the floor.
    """

    above: dict[str, np.ndarray]
    means: dict[str, np.ndarray]
    heads_above: list[int] | None = None
    strongest_head: int | None = None

    @property
    def onset(self) -> int | None:
        layers = np.flatnonzero(self.above["resid_post"])
        return int(layers[0]) if len(layers) else None

    @property
    def modules(self) -> set[tuple[int, str]]:
        return {(int(layer), stream) for stream in MODULES for layer in np.flatnonzero(self.above[stream])}


def judge(truth: Plant, measured: Measured) -> dict[str, bool]:
    """Claim -> whether it holds in one direction of a pair."""
    if truth.layer is None:
        return {truth.kind: measured.onset is None and not measured.modules}
    verdict = {"onset": measured.onset == truth.layer}
    if truth.kind == "adapter":
        return verdict | {"modules": measured.modules == truth.modules, "below": measured.modules <= truth.modules}
    verdict["module"] = measured.modules == truth.modules
    if truth.head is not None:
        verdict["head"] = measured.strongest_head == truth.head and measured.heads_above == [truth.head]
    return verdict


def check_pairs(bench: Bench, pairs: int, seed: int, progress: Callable[[int, int], None]) -> tuple[dict, list[str]]:
    """Claim -> [found, total] over planted pairs; and in words, each claim that theory promises and that does not hold.

    progress(done, pairs) is called after each pair.
    """
    tally, misses = defaultdict(lambda: [0, 0]), []
    for index in range(pairs):
        truth, edited = plant(bench.base, index, seed)
        for claim, holds in bench.check(truth, edited).items():
            tally[claim][0] += holds
            tally[claim][1] += 1
            if not holds and claim not in OPEN:
                misses.append(f"pair {index} ({truth}): {claim}")
        del edited
        gc.collect()  # a model's parts refer to each other
        progress(index + 1, pairs)
    return {claim: tally[claim] for claim in CLAIMS if claim in tally}, misses


def report(pairs: int, prompts: int, device: str, seed: int, progress: Callable[[int, int], None]) -> dict:
    """Plant edits in the demo base, look for them, and count. In float32: the floor and the ranks depend on its rounding.

    Raises UserError for too few pairs or prompts.
    """
    if pairs < 1 or prompts < intervals.FEWEST:
        raise UserError(f"Planted pairs need at least one pair and {intervals.FEWEST} prompts.\nTry:  --pairs 48 --prompts 24")
    started = time.perf_counter()
    loaded = load_pair(PAIR, device, "float32")
    templates = {prompt.template: prompt for prompt in read_domain(loaded.pair.domain, "val")}
    sample = list(templates.values())[:prompts]
    ids = [loaded.tokenizers.encode(prompt.text, "base") for prompt in sample]
    with loaded.lock:
        bench = Bench(loaded.base, ids, [prompt.template for prompt in sample])
        tally, misses = check_pairs(bench, pairs, seed, progress)
    return {
        "pairs": pairs,
        "prompts": len(ids),
        "seed": seed,
        "dtype": "float32",
        "device": str(bench.base.device),
        "floor": bench.floor,
        "floor_factor": intervals.FLOOR_FACTOR,
        "claims": {
            claim: intervals.wilson(*counts) | {"text": CLAIMS[claim], "open": claim in OPEN} for claim, counts in tally.items()
        },
        "misses": misses,
        "seconds": time.perf_counter() - started,
    }


def lines(report: dict) -> str:
    """The report as a table to read: a line per claim with found, total and the share's 95 % interval."""

    def line(text: str, counts: dict) -> str:
        low, high = (f"{100 * counts[end]:.0f}" for end in ("low", "high"))
        return f"{counts['found']:6} of {counts['total']:<5} {low:>3}-{high:<3} %   {text}"

    head = [
        f"{report['pairs']} planted pairs on the demo base: {report['prompts']} prompts, a template each, "
        f"{report['dtype']}, {report['device']}, seed {report['seed']}; {report['seconds']:.0f} s",
        f"Above the floor: the 95 % interval's lower end exceeds {report['floor_factor']} x {report['floor']:.2g} nats, "
        "the largest self-patch",
    ]
    claims = report["claims"].values()
    promised = [line(counts["text"], counts) for counts in claims if not counts["open"]]
    counted = [line(counts["text"], counts) for counts in claims if counts["open"]]
    sections = {
        "Found, and the share's 95 % interval": promised,
        "Counted only: theory does not promise these": counted,
        "Missed": ["  " + miss for miss in report["misses"]] or ["  nothing"],
    }
    return "\n".join([*head, *("\n".join(["", title, *part]) for title, part in sections.items() if part)])
