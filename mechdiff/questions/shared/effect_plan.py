"""Which effects a request needs: conditions on prompts, in chunks that the store keeps.

A chunk is a block of prompts under the conditions of one site: a later request finds every chunk that an earlier one computed.
"""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import sides
from mechdiff.engine.intervention import Condition, Place, Stack
from mechdiff.inputs import prompts
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.lines import MEASURES
from mechdiff.questions.shared.request import Question

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
    """The chunks of a request, and what the store holds of them.

    groups: conditions that are stored together; each group has one layer and stream. texts: the prompts.
    """

    def __init__(self, run: Question, groups: list[Group], store: Store, texts: list[Prompt]):
        self.run, self.store, self.identity, self.texts = run, store, Identity(run), texts
        self.groups = sorted(dict.fromkeys(groups), key=lambda group: group[0].layer)
        back, horizon = getattr(run, "back", 0), getattr(run, "horizon", 1)
        self.place = Place(back, horizon, sides(run.direction)[0] if horizon > 1 else "")
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
        """Where the store keeps effects: by content of the pair, prompts and conditions, and the fields that say so."""
        parts = {"what": what, "direction": self.run.direction, "texts": texts, "conditions": repr(conditions)}
        parts |= self.run.key_fields()
        flat = [c for group in conditions for c in group] if isinstance(conditions[0], tuple) else conditions
        if not all(condition.plain for condition in flat):
            parts |= self.identity.train
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
        self.store.put_arrays(chunk.key, effects)

    def values(self) -> Arrays:
        """The measures of every condition on every prompt, [conditions, prompts]; nan where they are not known yet.

        A whole answer is kept beside its chunks, so that a repeat is one look-up.
        """
        if self.whole is not None:
            return self.whole
        names = {name: None for chunk in self.known for name in chunk.effects} or dict.fromkeys(MEASURES)
        values = {name: np.full((len(self.conditions), len(self.texts)), np.nan, np.float32) for name in names}
        starts = dict(zip(self.groups, np.cumsum([0, *map(len, self.groups)])))
        for chunk in self.known:
            rows = slice(starts[chunk.conditions], starts[chunk.conditions] + len(chunk.conditions))
            first = chunk.block * prompts.BLOCK
            for name, effects in chunk.effects.items():
                values[name][rows, first : first + len(self.blocks[chunk.block])] = effects
        if all(chunk.effects for chunk in self.chunks):
            self.whole = values
            self.store.put_arrays(self.whole_key, values)
        return values
