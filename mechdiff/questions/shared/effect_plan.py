"""Which effects a request needs: conditions on prompts, in chunks that are stored.

A chunk is a block of prompts under the conditions of one site: a later request reads every chunk that an earlier one computed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import sides
from mechdiff.engine.intervention import Condition, Place, Stack, tuple_of
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.lines import MEASURES
from mechdiff.questions.shared.metrics import Metric

Group = tuple[Condition | Stack, ...]
Arrays = dict[str, np.ndarray]


@dataclass
class Chunk:
    """The conditions of one site on one block of prompts, and their effects once known: measure -> [conditions, prompts]."""

    block: int
    conditions: Group
    key: str
    effects: Arrays | None = field(default=None, repr=False)


class EffectPlan:
    """The chunks of a request, with the effects that are stored.

    groups: conditions that are stored together; each group has one layer and stream. texts: the prompts.
    """

    def __init__(self, run: EffectQuestion, groups: list[Group], store: Store, texts: list[Prompt]):
        self.run, self.store, self.identity, self.texts = run, store, Identity(run), texts
        self.metrics: tuple[Metric, ...] = tuple(run.own_metrics.values())
        self.groups = sorted(dict.fromkeys(groups), key=lambda group: group[0].layer)
        self.place = Place(run.back, run.horizon, sides(run.direction)[0] if run.horizon > 1 else "")
        self.blocks = prompts.blocks(texts)

    @cached_property
    def conditions(self) -> list[Condition | Stack]:
        return [condition for group in self.groups for condition in group]

    @cached_property
    def whole_key(self) -> str:
        return self.key("answer", prompts.digest(self.texts), tuple(self.groups))

    @cached_property
    def whole(self) -> Arrays | None:
        """The effects of all conditions on all prompts, once they are known."""
        return self.store.arrays(self.whole_key)

    @cached_property
    def chunks(self) -> list[Chunk]:
        blocks = range(len(self.blocks)) if self.whole is None else ()
        return [self.chunk(block, group) for block in blocks for group in self.groups]

    def chunk(self, block: int, group: Group) -> Chunk:
        name = self.key("effects", self.digests[block], group)
        return Chunk(block, group, name, self.store.arrays(name))

    def key(self, what: str, texts: str, conditions: tuple) -> str:
        """The key under which effects are stored: content of the pair, prompts and conditions, and the request's key fields."""
        parts = {"what": what, "direction": self.run.direction, "texts": texts, "conditions": content_of(conditions)}
        parts |= self.run.key_fields()
        if self.metrics:
            parts |= {"metrics": [metric.content for metric in self.metrics]}
        flat = [c for group in conditions for c in group] if isinstance(conditions[0], tuple) else conditions
        if not all(condition.plain for condition in flat):
            parts |= self.identity.train
        if any(part.alpha is None for condition in flat for part in condition.parts):
            parts |= self.identity.scale
        return key(**parts, **self.identity.pair, **self.identity.vocabulary)

    @cached_property
    def digests(self) -> list[str]:
        return [prompts.digest(block) for block in self.blocks]

    def cells(self, chunks: list[Chunk]) -> int:
        return sum(len(chunk.conditions) * len(self.blocks[chunk.block]) for chunk in chunks)

    @property
    def known(self) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.effects]

    @property
    def missing_blocks(self) -> list[int]:
        """The blocks that lack some chunk."""
        return sorted({chunk.block for chunk in self.chunks if not chunk.effects})

    def prompts_of(self, numbers: list[int]) -> tuple[str, ...]:
        """The texts of some blocks."""
        return tuple(prompt.text for number in numbers for prompt in self.blocks[number])

    def keep(self, chunk: Chunk, effects: Arrays) -> None:
        chunk.effects = effects
        if self.storable(chunk.conditions):
            self.store.put_arrays(chunk.key, effects)

    def storable(self, conditions: Sequence[Condition | Stack]) -> bool:
        """Whether effects are stored on disk: not those of the user's own functions that have no name and version."""
        return all(condition.storable for condition in conditions) and all(metric.storable for metric in self.metrics)

    def values(self) -> Arrays:
        """The measures of every condition on every prompt, [conditions, prompts]; nan where they are not known yet.

        A complete answer is stored in addition to its chunks, so that a repeat is one look-up.
        """
        if self.whole is not None:
            return self.whole
        known = [(chunk, chunk.effects) for chunk in self.chunks if chunk.effects]
        names = {name: None for _, effects in known for name in effects} or dict.fromkeys(MEASURES)
        values = {name: np.full((len(self.conditions), len(self.texts)), np.nan, np.float32) for name in names}
        starts = dict(zip(self.groups, np.cumsum([0, *map(len, self.groups)])))
        for chunk, effects in known:
            rows = slice(starts[chunk.conditions], starts[chunk.conditions] + len(chunk.conditions))
            first = chunk.block * prompts.BLOCK
            for name, measure in effects.items():
                values[name][rows, first : first + len(self.blocks[chunk.block])] = measure
        if all(chunk.effects for chunk in self.chunks):
            self.whole = values
            if self.storable(self.conditions):
                self.store.put_arrays(self.whole_key, values)
        return values


def content_of(conditions: tuple) -> str:
    """What conditions are, as a key holds it: groups of conditions, or conditions."""
    return tuple_of([content_of(part) if isinstance(part, tuple) else part.content for part in conditions])
