"""Computing the effects that a plan lacks, in passes: chunks of one or more blocks that run through the recipient together.

How chunks are divided into passes depends only on the request, and a pass is computed whole: a request that was stopped and
continued gives the same numbers, bit for bit.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np

from mechdiff.common.errors import UserError
from mechdiff.common.terms import sides
from mechdiff.engine.build_rows import as_rows, site_of
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.engine.trace import Trace
from mechdiff.engine.upper_layers import run_above
from mechdiff.inputs import vocabularies
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.effect_plan import Chunk, EffectPlan, Group
from mechdiff.questions.shared.measure import Measure, piece_sizes, run_locked
from mechdiff.questions.shared.metrics import Metric
from mechdiff.questions.shared.task import Progress, Steps

Keep = Callable[[], None]


class Passes:
    """The passes of one plan on a loaded pair, with the maps that its conditions need."""

    def __init__(self, plan: EffectPlan, loaded: LoadedPair, maps: dict, progress: Progress):
        self.plan, self.loaded, self.maps, self.progress = plan, loaded, maps, progress
        self.donor, self.recipient = sides(plan.run.direction)

    def steps(self) -> Iterator[None]:
        """Every pass that is not complete. On a GPU a pass is stored while the next one is computed."""
        plan, keep = self.plan, nothing_to_store
        if self.loaded.placement.offload:  # all of the donor's passes first, so that the models change places once
            for number in plan.missing_blocks:
                yield from self.read(self.donor, [number], False)
                yield
        for numbers in self.together():
            for chunks in self.divided(numbers):
                if all(chunk.effects for chunk in chunks):
                    continue
                following = yield from self.compute(chunks)
                keep()
                keep = following
                if plan.identity.device != "cuda":
                    following()
                    keep = nothing_to_store
                yield
        keep()
        yield

    def together(self) -> list[list[int]]:
        """The blocks that run together: all incomplete ones, if one pass can hold all their rows; otherwise one by one.

        So a request that was stopped half-way, and is continued, computes the same passes.
        """
        plan, lacking = self.plan, self.plan.missing_blocks
        rows = len(plan.conditions) * sum(len(plan.blocks[number]) for number in lacking) * plan.place.span
        fits = rows <= self.most_rows and self.loaded.passes.fits(self.recipient, plan.prompts_of(lacking))
        return [lacking] if fits else [[number] for number in range(len(plan.blocks))]

    @property
    def most_rows(self) -> int:
        return piece_sizes(getattr(self.loaded, self.recipient))[0]

    def divided(self, numbers: list[int]) -> list[list[Chunk]]:
        """The chunks of some blocks in passes of as many rows as may run together; a larger chunk alone."""
        limit = self.most_rows // (len(self.plan.prompts_of(numbers)) * self.plan.place.span)
        passes: list[list[Chunk]] = []
        rows, alike = limit, defaultdict(list)
        for chunk in (chunk for chunk in self.plan.chunks if chunk.block in numbers):
            alike[chunk.conditions].append(chunk)
        for conditions, chunks in alike.items():
            mixed = bool(passes) and of_all_tokens(passes[-1][0].conditions) != of_all_tokens(conditions)
            if rows + len(conditions) > limit or mixed:
                passes.append([])
                rows = 0
            passes[-1] += chunks
            rows += len(conditions)
        return passes

    def compute(self, chunks: list[Chunk]) -> Steps[Keep]:
        """One pass. Returns the function that stores its results, which waits until they are in main memory."""
        plan, loaded, progress = self.plan, self.loaded, self.progress
        numbers = sorted({chunk.block for chunk in chunks})
        texts = plan.prompts_of(numbers)
        progress.stage = "reading the prompts"
        yield
        donor = yield from self.read(self.donor, numbers, False)
        recipient = yield from self.read(self.recipient, numbers, True)
        conditions = [c for group in dict.fromkeys(chunk.conditions for chunk in chunks) for c in group]
        transplanted = any(part.transplant for condition in conditions for part in condition.parts)
        transplants = loaded.passes.transplants(self.recipient, texts, plan.place) if transplanted else None
        shared = vocabularies.vocabulary_of(loaded)
        within = shared and (getattr(shared, self.donor), getattr(shared, self.recipient))
        lengths = loaded.passes.lengths(texts, plan.place)
        own = plan.run.vocabulary == "recipient"
        measure = Measure(len(conditions), donor, recipient, self.token_ids(), True, lengths, within, self.metrics(), own)
        if of_all_tokens(conditions):
            pieces = self.above(texts, conditions, measure)
        else:
            with self.weights_for(conditions):
                rows = as_rows(conditions, getattr(loaded, self.recipient), donor, recipient, self.maps, transplants)
            pieces = run_locked(loaded, self.recipient, texts, recipient, rows, measure, plan.place)
        before, expected = progress.done, plan.cells([chunk for chunk in chunks if not chunk.effects])
        share, progress.stage = expected / (len(conditions) * len(texts) * plan.place.horizon), "patching"
        cells = 0
        for count in pieces:
            cells += count
            progress.done = before + min(int(share * cells), expected - 1)  # the last one counts when all are stored
            yield
        progress.done = before + expected - 1
        measure.leave()
        yield
        return partial(self.keep, chunks, numbers, measure, shared.counts if shared else {})

    def weights_for(self, conditions: list) -> AbstractContextManager:
        """The recipient's weights at hand, where a state is taken through one of its matrices."""
        reads = any(part.map_stream for condition in conditions for part in condition.parts)
        return self.loaded.placement.at_work(self.recipient) if reads else nullcontext()

    def above(self, texts: tuple[str, ...], conditions: list, measure: Measure) -> Iterator[int]:
        """The recipient's layers above each condition's, on the donor's states of all tokens."""
        loaded, at_work = self.loaded, self.loaded.placement.at_work
        ids = [loaded.passes.ids(side, texts) for side in (self.donor, self.recipient)]
        if ids[0] != ids[1]:
            raise UserError(
                "The two models read other tokens, so one's states at every token do not fit the other.\nTry:  --replace token"
            )
        layers = [condition.layer for condition in conditions]
        models = getattr(loaded, self.donor), getattr(loaded, self.recipient)
        return run_above(*models, ids[1], layers, measure, partial(at_work, self.donor), partial(at_work, self.recipient))

    def read(self, side: str, numbers: list[int], keep_calls: bool) -> Steps[Trace]:
        """One side's clean pass over some blocks, with a step after each block that has to be computed."""
        loaded, plan = self.loaded, self.plan
        texts = plan.prompts_of(numbers)
        if len(numbers) > 1 and loaded.passes.known(side, texts, keep_calls, plan.place) is None:
            for number in numbers:
                loaded.passes.trace(side, plan.prompts_of([number]), keep_calls, plan.place)
                yield
        return loaded.passes.trace(side, texts, keep_calls, plan.place)

    def keep(self, chunks: list[Chunk], numbers: list[int], measure: Measure, counts: dict) -> None:
        """Store a pass, whose rows are the chunks' conditions and whose columns are the blocks' prompts.

        counts: of the shared vocabulary.
        """
        columns = slices(numbers, [len(self.plan.blocks[number]) for number in numbers])
        groups = list(dict.fromkeys(chunk.conditions for chunk in chunks))
        rows = slices(groups, list(map(len, groups)))
        for chunk in chunks:
            if not chunk.effects:
                effects = measure.arrays(rows[chunk.conditions], columns[chunk.block])
                self.plan.keep(chunk, effects | used_alphas(chunk.conditions, self.maps) | counts)
        self.progress.done += 1

    def metrics(self) -> dict[str, tuple[Metric, tuple[int, ...]]]:
        """The user's metrics by name, with their tokens' ids in the recipient's vocabulary."""
        token_id = self.loaded.tokenizers.token_id
        return {
            metric.name: (metric, tuple(token_id(text, self.recipient) for text in metric.texts))
            for metric in self.plan.metrics
            if metric.of_tokens is not None
        }

    def token_ids(self) -> tuple[int, ...]:
        """The target's id in the recipient's vocabulary, and the foil's."""
        texts = [text for text in (self.plan.run.target, self.plan.run.foil) if text is not None]
        return tuple(self.loaded.tokenizers.token_id(text, self.recipient) for text in texts)


def of_all_tokens(conditions: Sequence[Condition | Stack]) -> bool:
    """Whether conditions replace the states of all tokens. No pass mixes them with others."""
    return conditions[0].parts[0].every


def nothing_to_store() -> None:
    """Every pass is stored."""


def slices(names: list, lengths: list[int]) -> dict[Any, slice]:
    """Consecutive slices of these lengths, by name."""
    ends = np.cumsum(lengths).tolist()
    return {name: slice(end - length, end) for name, length, end in zip(names, lengths, ends)}


def used_alphas(conditions: Group, maps: dict) -> dict[str, np.ndarray]:
    """The scale that each mapped condition used, [conditions, 1]; nothing if none is mapped. A stack is a group of its own."""
    single = [condition for condition in conditions if isinstance(condition, Condition)]
    if all(condition.map == "none" for condition in single):
        return {}
    scales = [maps[site_of(c)].scale(c) if c.alpha is None else c.alpha for c in single]
    return {"alpha_used": np.array(scales, np.float32)[:, None]}
