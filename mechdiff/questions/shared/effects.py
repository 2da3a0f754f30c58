"""What patching, transport, rank, heads and transplants have in common: effects of conditions on prompts, in cached chunks.

A chunk is a block of prompts under the conditions of one site. A later request finds every chunk that an earlier one
computed. What is missing is computed in passes: some chunks of one block, which walk through the recipient together. How
chunks are divided into passes depends on the request alone, and a pass is computed whole: a request that was stopped goes on
to the same numbers, bit for bit.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import sides
from mechdiff.engine.intervention import HERE, Condition, Place, Stack
from mechdiff.inputs import prompts, vocabularies
from mechdiff.inputs.prompts import Prompt
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.lines import MEASURES, NOT_OF, SITE, Wide, site_labels
from mechdiff.questions.shared.request import Run

Group = tuple[Condition | Stack, ...]


@dataclass
class Chunk:
    """The conditions of one site on one block of prompts, and their effects once known: measure -> [conditions, prompts]."""

    block: int
    conditions: Group
    key: str
    found: dict[str, np.ndarray] | None = field(default=None, repr=False)


class EffectsTask:
    """Effects of groups of conditions on prompts.

    groups: conditions that are stored together; each group has one layer and stream. texts: the prompts, by default the run's.
    """

    def __init__(self, run: Run, groups: list[Group], store: Store, texts: list[Prompt] | None = None):
        self.run, self.store = run, store
        self.groups = sorted(dict.fromkeys(groups), key=lambda group: group[0].layer)
        self.identity, self.of_models, self.stage = Identity(run), [], ""
        self.donor, self.recipient = sides(run.direction)
        self.place = Place(run.back, run.horizon, self.donor if run.horizon > 1 else "")
        if run.spec.tuned.weights != run.spec.base.weights:
            run.spec.check_same_shape()
        self.texts = run.chosen_prompts if texts is None else texts
        self.blocks = prompts.blocks(self.texts)

    @cached_property
    def whole_key(self) -> str:
        return self._key("answer", prompts.digest(self.texts), tuple(self.groups))

    @cached_property
    def whole(self) -> dict[str, np.ndarray] | None:
        """The effects of all conditions on all prompts, once they are known."""
        return self.store.arrays(self.whole_key)

    @cached_property
    def chunks(self) -> list[Chunk]:
        blocks = range(len(self.blocks)) if self.whole is None else ()
        return [self._chunk(block, group) for block in blocks for group in self.groups]

    @cached_property
    def total(self) -> int:
        return sum(self._cells(chunk) for chunk in self.chunks)

    @cached_property
    def done(self) -> int:
        return sum(self._cells(chunk) for chunk in self.chunks if chunk.found)

    def _chunk(self, block: int, group: Group) -> Chunk:
        name = self._key("effects", self.digests[block], group)
        return Chunk(block, group, name, self.store.arrays(name))

    def _key(self, what: str, texts: str, conditions) -> str:
        asked = {"what": what, "direction": self.run.direction, "texts": texts, "conditions": repr(conditions)}
        if self.run.target is not None:
            asked |= {"target": self.run.target, "foil": self.run.foil}
        if self.place != HERE:
            asked |= {"back": self.place.back, "horizon": self.place.horizon}
        flat = [c for group in conditions for c in group] if isinstance(conditions[0], tuple) else conditions
        if not all(condition.plain for condition in flat):
            asked |= self.identity.train
        return key(**asked, **self.identity.pair, **self.identity.vocabulary)

    @property
    def notices(self) -> list[str]:
        """How the models run, which prompts were left out, and over which vocabulary effects are where that is not all of it."""
        about = vocabularies.summary(self.values(), self.run.direction)
        return [*self.of_models, *self.run.notices, *([vocabularies.message(about)] if about else [])]

    @cached_property
    def digests(self) -> list[str]:
        return [prompts.digest(block) for block in self.blocks]

    def _cells(self, chunk: Chunk) -> int:
        return len(chunk.conditions) * len(self.blocks[chunk.block])

    def steps(self) -> Iterator[None]:
        if all(chunk.found for chunk in self.chunks):
            return
        self.stage = "loading the models"
        yield
        loaded = self.identity.load()
        self.stage = "checking against plain hooks"
        yield
        loaded.check_parity(self.recipient, tuple(prompt.text for prompt in self.blocks[0]))
        self.of_models = loaded.notices
        yield
        maps, keep = (yield from self.fit()), done_already
        if loaded.offload:  # all of the donor's passes first: the models then change places once, and not for every block
            for number in sorted({chunk.block for chunk in self.chunks if not chunk.found}):
                yield from self._read(loaded, self.donor, [number], False)
                yield
        for numbers in self._together(loaded):
            for chunks in self._passes(loaded, numbers):
                if all(chunk.found for chunk in chunks):
                    continue
                following = yield from self._compute(loaded, chunks, maps)
                keep()  # of the pass before, while a GPU is at work on this one
                keep = following if self.identity.device == "cuda" else following() or done_already
                yield
        keep()
        yield

    def fit(self) -> Iterator[None]:
        """Fit the maps that the conditions need, on the train split."""
        sites = {}
        for condition in (part for group in self.groups for stack in group for part in stack.parts):
            if not condition.plain:
                add_need(sites, condition)
        if not sites:
            return {}
        from mechdiff.questions.shared.fitted_maps import FittedMaps

        self.stage = "reading the train split"
        fitted, maps = FittedMaps(self.run, self.identity, self.store, tuple(sorted({site[3] for site in sites}))), {}
        if not fitted.knows(sites):
            self.total += fitted.waiting()
            for count in fitted.steps():
                self.done += count
                yield
        self.stage = "fitting maps on the train split"
        yield
        for found in fitted.fit(sites):
            maps |= found
            yield
        return maps

    def _together(self, loaded: LoadedPair) -> list[list[int]]:
        """The blocks that walk together: all that lack something, if one pass can hold every row of them; else one by one.

        So a request that could be stopped half-way, and goes on, computes the same passes.
        """
        from mechdiff.questions.shared.measure import piece_sizes

        lacking = sorted({chunk.block for chunk in self.chunks if not chunk.found})
        rows = len(self.conditions) * sum(len(self.blocks[number]) for number in lacking) * self.place.span
        fits = rows <= piece_sizes(getattr(loaded, self.recipient))[0] and loaded.holds(self.recipient, self.prompts_of(lacking))
        return [lacking] if fits else [[number] for number in range(len(self.blocks))]

    def prompts_of(self, numbers: list[int]) -> tuple[str, ...]:
        """The texts of some blocks."""
        return tuple(prompt.text for number in numbers for prompt in self.blocks[number])

    def _passes(self, loaded: LoadedPair, numbers: list[int]) -> list[list[Chunk]]:
        """The chunks of some blocks in passes of as many rows as may walk together, a larger chunk alone."""
        from mechdiff.questions.shared.measure import piece_sizes

        limit = piece_sizes(getattr(loaded, self.recipient))[0] // (len(self.prompts_of(numbers)) * self.place.span)
        passes, rows, alike = [], limit, defaultdict(list)
        for chunk in (chunk for chunk in self.chunks if chunk.block in numbers):
            alike[chunk.conditions].append(chunk)
        for conditions, chunks in alike.items():
            if rows + len(conditions) > limit:
                passes.append([])
                rows = 0
            passes[-1] += chunks
            rows += len(conditions)
        return passes

    def _compute(self, loaded: LoadedPair, chunks: list[Chunk], maps: dict) -> Iterator[None]:
        """One pass. Returns what keeps its results, to be called when it may wait for them."""
        from mechdiff.engine.build_rows import as_rows
        from mechdiff.questions.shared.measure import Measure, run_locked

        numbers = sorted({chunk.block for chunk in chunks})
        texts = self.prompts_of(numbers)
        self.stage = "reading the prompts"
        yield
        donor = yield from self._read(loaded, self.donor, numbers, False)
        recipient = yield from self._read(loaded, self.recipient, numbers, True)
        conditions = [c for group in dict.fromkeys(chunk.conditions for chunk in chunks) for c in group]
        transplanted = any(part.transplant for condition in conditions for part in condition.parts)
        transplants = loaded.transplants(self.recipient, texts, self.place) if transplanted else None
        lengths = loaded.lengths(texts, self.place)
        shared = vocabularies.vocabulary_of(loaded)
        within = shared and (getattr(shared, self.donor), getattr(shared, self.recipient))
        measure = Measure(len(conditions), donor, recipient, self._tokens(loaded), True, lengths, within)
        rows = as_rows(conditions, getattr(loaded, self.recipient), donor, recipient, maps, transplants)
        before, expected = self.done, sum(self._cells(chunk) for chunk in chunks if not chunk.found)
        share, self.stage = expected / (len(conditions) * len(texts) * self.place.horizon), "patching"
        cells = 0
        for some in run_locked(loaded, self.recipient, texts, recipient, rows, measure, self.place):
            cells += some
            self.done = before + min(int(share * cells), expected - 1)  # the last one counts when all are kept
            yield
        self.done = before + expected - 1
        measure.leave()
        yield
        return partial(self._keep, chunks, numbers, measure, maps, shared.counts if shared else {})

    def _read(self, loaded: LoadedPair, side: str, numbers: list[int], keep_calls: bool) -> Iterator[None]:
        """One side's clean pass over some blocks, with a step after each that has to be made."""
        texts = self.prompts_of(numbers)
        if len(numbers) > 1 and loaded.known(side, texts, keep_calls, self.place) is None:
            for number in numbers:
                loaded.trace(side, self.prompts_of([number]), keep_calls, self.place)
                yield
        return loaded.trace(side, texts, keep_calls, self.place)

    def _keep(self, chunks: list[Chunk], numbers: list[int], measure, maps: dict, counts: dict) -> None:
        """chunks, numbers: those of a pass, whose rows are the chunks' conditions and whose prompts are the blocks'. counts: of
        the shared vocabulary."""
        rows, columns, start = {}, {}, 0
        for number in numbers:
            columns[number] = slice(start, start + len(self.blocks[number]))
            start += len(self.blocks[number])
        start = 0
        for group in dict.fromkeys(chunk.conditions for chunk in chunks):
            rows[group] = slice(start, start + len(group))
            start += len(group)
        for chunk in chunks:
            if not chunk.found:
                found = measure.arrays(rows[chunk.conditions], columns[chunk.block])
                chunk.found = found | used_alphas(chunk.conditions, maps) | counts
                self.store.put_arrays(chunk.key, chunk.found)
        self.done += 1

    def _tokens(self, loaded: LoadedPair) -> tuple[int, ...]:
        texts = [text for text in (self.run.target, self.run.foil) if text is not None]
        return tuple(loaded.tokenizers.token_id(text, self.recipient) for text in texts)

    @cached_property
    def conditions(self) -> list[Condition]:
        return [condition for group in self.groups for condition in group]

    def values(self) -> dict[str, np.ndarray]:
        """The measures of every condition on every prompt, [conditions, prompts]; nan where they are not there yet.

        A whole answer is kept beside its chunks, so that a repeat is one look-up.
        """
        if self.whole is not None:
            return self.whole
        names = {name: None for chunk in self.chunks if chunk.found for name in chunk.found} or dict.fromkeys(MEASURES)
        values = {name: np.full((len(self.conditions), len(self.texts)), np.nan, np.float32) for name in names}
        starts = dict(zip(self.groups, np.cumsum([0, *map(len, self.groups)])))
        for chunk in (chunk for chunk in self.chunks if chunk.found):
            rows = slice(starts[chunk.conditions], starts[chunk.conditions] + len(chunk.conditions))
            first = chunk.block * prompts.BLOCK
            for name, found in chunk.found.items():
                values[name][rows, first : first + len(self.blocks[chunk.block])] = found
        if all(chunk.found for chunk in self.chunks):
            self.whole = values
            self.store.put_arrays(self.whole_key, values)
        return values

    def labels(self) -> pd.DataFrame:
        """A row per line's condition, in the columns of SITE. row: its place among the conditions; reference: that of the
        condition it is compared with, if any.
        """
        labels = pd.DataFrame([site_labels(condition, self.run) for condition in self.conditions], columns=list(SITE))
        return labels.assign(row=range(len(labels)))

    def wide(self) -> Wide:
        """What is there, with what the lines are compared with."""
        labels, (values, vocabulary) = self.labels(), vocabularies.without_counts(self.values())
        found = {
            name: values[name][labels["row"]] for name in (*MEASURES, *sorted(values.keys() - {*MEASURES})) if name in values
        }
        if "reference" in labels:
            found["kl_reference"] = values["kl"][labels["reference"]]
        run = self.run
        named = {"pair": run.spec.name, "domain": run.chosen_domain, "question": run.question, "direction": run.direction}
        shown = labels.drop(columns=["row", "reference", *NOT_OF[run.question]], errors="ignore").reset_index(drop=True)
        shown = shown.assign(vocabulary=vocabulary) if vocabulary else shown
        return Wide(pd.DataFrame(named, index=shown.index).join(shown), found)

    def table(self) -> pd.DataFrame:
        """A line per prompt and condition, of what is there."""
        return self.wide().long()


def done_already() -> None:
    """Nothing is left to be kept."""


def add_need(sites: dict, condition: Condition) -> None:
    """Note which fitted map a condition needs, and whether it needs its alpha and its directions."""
    from mechdiff.engine.build_rows import site_of

    alpha, directions = sites.get(site_of(condition), (False, False))
    sites[site_of(condition)] = alpha or condition.alpha is None, directions or bool(condition.rank)


def used_alphas(conditions: Group, maps: dict) -> dict[str, np.ndarray]:
    """The scale that each mapped condition used, [conditions, 1]; nothing where none is mapped."""
    from mechdiff.engine.build_rows import site_of

    if not any(isinstance(c, Condition) and c.map != "none" for c in conditions):
        return {}
    scales = [maps[site_of(c)].alpha if c.alpha is None else c.alpha for c in conditions]
    return {"alpha_used": np.array(scales, np.float32)[:, None]}
