"""What patching, and later transport and rank, have in common: effects of conditions on prompts, in cached chunks.

A chunk is a block of prompts under the conditions of one site. A later request finds every chunk that an earlier one
computed; what is missing is computed block by block, all chunks of a block in one walk of the row engine.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from mechdiff import prompts
from mechdiff.conditions import Condition
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.request import Run
from mechdiff.experiments.states import States
from mechdiff.models import LoadedPair, load_pair
from mechdiff.prompts import Prompt
from mechdiff.store import Store, key
from mechdiff.terms import sides

MEASURES = ("kl", "kl_to_donor", "kl_donor_clean")


@dataclass
class Chunk:
    """The conditions of one site on one block of prompts, and their effects once known: measure -> [conditions, prompts]."""

    block: int
    conditions: tuple[Condition, ...]
    key: str
    found: dict[str, np.ndarray] | None = field(default=None, repr=False)


class EffectsTask:
    """Effects of groups of conditions on a run's prompts.

    groups: conditions that are stored together; each group has one layer and stream.
    """

    def __init__(self, run: Run, groups: list[tuple[Condition, ...]], store: Store):
        self.run, self.groups, self.store = run, groups, store
        self.identity, self.notices, self.stage = Identity(run), [], ""
        self.donor, self.recipient = sides(run.direction)
        if run.spec.tuned.weights != run.spec.base.weights:
            run.spec.check_same_shape()
        self.blocks = prompts.blocks(run.chosen_prompts)
        self.whole_key = self._key("answer", prompts.digest(run.chosen_prompts), groups)
        self.whole = store.table(self.whole_key)
        self.chunks = (
            [] if self.whole is not None else [self._chunk(b, group) for b in range(len(self.blocks)) for group in groups]
        )
        self.total = sum(self._cells(chunk) for chunk in self.chunks)
        self.done = sum(self._cells(chunk) for chunk in self.chunks if chunk.found)

    def _chunk(self, block: int, group: tuple[Condition, ...]) -> Chunk:
        name = self._key("effects", self.digests[block], group)
        return Chunk(block, group, name, self.store.arrays(name))

    def _key(self, what: str, texts: str, conditions) -> str:
        asked = {"what": what, "direction": self.run.direction, "texts": texts, "conditions": repr(conditions)}
        if self.run.target is not None:
            asked |= {"target": self.run.target, "foil": self.run.foil}
        if self.run.map != "none":
            asked |= {"train": self.train_digest}
        return key(**asked, **self.identity.pair)

    @cached_property
    def digests(self) -> list[str]:
        return [prompts.digest(block) for block in self.blocks]

    @cached_property
    def train_digest(self) -> str:
        return prompts.digest(self.run.train_prompts)

    def _cells(self, chunk: Chunk) -> int:
        return len(chunk.conditions) * len(self.blocks[chunk.block])

    def steps(self) -> Iterator[None]:
        missing = [chunk for chunk in self.chunks if not chunk.found]
        if not missing:
            return
        self.stage = "loading the models"
        yield
        loaded = load_pair(self.run.spec, self.identity.device, self.identity.dtype)
        self.stage = "checking against plain hooks"
        yield
        loaded.check_parity(self.recipient, tuple(prompt.text for prompt in self.blocks[missing[0].block]))
        self.notices = loaded.notices
        yield
        maps = yield from self._fit(missing)
        for number, block in enumerate(self.blocks):
            chunks = [chunk for chunk in missing if chunk.block == number]
            if chunks:
                yield from self._compute(loaded, block, chunks, maps)

    def _fit(self, missing: list[Chunk]) -> Iterator[None]:
        """Fit the maps that the missing conditions need, on the train split."""
        sites = {(c.map, c.layer, c.stream) for chunk in missing for c in chunk.conditions if c.map != "none"}
        if not sites:
            return {}
        from mechdiff.transport import fit_zscore

        self.stage = "fitting maps on the train split"
        states = States(self.identity, self.run.train_prompts, self.store)
        waiting = sum(len(block) for _, block in states.missing())
        self.total += waiting
        for count in states.steps():
            self.done += count
            yield
        maps = {}
        for stream in {stream for _, _, stream in sites}:
            x, y = (states.read(side, stream) for side in (self.donor, self.recipient))
            for name, layer, _ in (site for site in sites if site[2] == stream):
                maps[name, layer, stream] = fit_zscore(x[layer], y[layer]).to(self.identity.device)
        return maps

    def _compute(self, loaded: LoadedPair, block: list[Prompt], chunks: list[Chunk], maps: dict) -> Iterator[None]:
        from mechdiff.experiments.measure import Measure, run_locked
        from mechdiff.interventions import as_rows

        texts = tuple(prompt.text for prompt in block)
        self.stage = "reading the prompts"
        yield
        donor = loaded.trace(self.donor, texts, keep_calls=False)
        recipient = loaded.trace(self.recipient, texts, keep_calls=True)
        conditions = [condition for chunk in chunks for condition in chunk.conditions]
        measure = Measure(len(conditions), donor, recipient, self._tokens(loaded), loaded.tokenizers.shared)
        rows = as_rows(conditions, getattr(loaded, self.recipient), donor, recipient, maps)
        pending, self.stage = self._spans(chunks), "patching"
        for cells in run_locked(loaded, self.recipient, texts, recipient, rows, measure):
            self.done += cells
            pending = self._keep(pending, measure)
            yield

    def _spans(self, chunks: list[Chunk]) -> list[tuple[Chunk, slice]]:
        spans, start = [], 0
        for chunk in chunks:
            spans.append((chunk, slice(start, start + len(chunk.conditions))))
            start += len(chunk.conditions)
        return spans

    def _keep(self, pending: list[tuple[Chunk, slice]], measure) -> list[tuple[Chunk, slice]]:
        """Store the chunks that are complete; returns the others."""
        rest = []
        for chunk, span in pending:
            if measure.complete(span):
                chunk.found = measure.arrays(span)
                self.store.put_arrays(chunk.key, chunk.found)
            else:
                rest.append((chunk, span))
        return rest

    def _tokens(self, loaded: LoadedPair) -> tuple[int, ...]:
        texts = [text for text in (self.run.target, self.run.foil) if text is not None]
        return tuple(loaded.tokenizers.token_id(text, self.recipient) for text in texts)

    def table(self) -> pd.DataFrame:
        """A line per prompt and condition, of what is there; columns as far as they apply.

        A whole answer is kept beside its chunks, so that a repeat is one look-up.
        """
        if self.whole is None:
            table = self._join()
            if not all(chunk.found for chunk in self.chunks):
                return self._named(table)
            self.whole = table
            self.store.put_table(self.whole_key, table)
        return self._named(self.whole)

    def _join(self) -> pd.DataFrame:
        parts = [self._lines(chunk) for chunk in self.chunks if chunk.found]
        if not parts:
            return pd.DataFrame(columns=["prompt", "layer", "stream", "map", "heads", "blend", "control", *MEASURES])
        return pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        run, table = self.run, table.copy()
        named = {"pair": run.spec.name, "domain": run.chosen_domain, "question": run.question, "direction": run.direction}
        for place, (name, value) in enumerate(named.items()):
            table.insert(place, name, value)
        return table

    def _lines(self, chunk: Chunk) -> dict[str, np.ndarray]:
        n, conditions = len(self.blocks[chunk.block]), chunk.conditions
        prompt = np.arange(n) + chunk.block * prompts.BLOCK
        lines = {"prompt": np.tile(prompt, len(conditions))}
        for name in ("layer", "stream", "map", "control"):
            lines[name] = np.repeat([getattr(condition, name) for condition in conditions], n)
        lines["heads"] = np.repeat([heads_label(condition, self.run) for condition in conditions], n)
        lines["blend"] = np.repeat([condition.blend for condition in conditions], n)
        return lines | {name: values.ravel() for name, values in chunk.found.items()}


def heads_label(condition: Condition, run: Run) -> str:
    """0-5-7, or all; empty for a whole state."""
    if condition.heads is None:
        return ""
    return "all" if len(condition.heads) == run.spec.heads else "-".join(map(str, condition.heads))
