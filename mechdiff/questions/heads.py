"""Heads (RQ4): which attention heads carry the change? Sets of heads at one layer, against all heads of that layer."""

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import CHOICES, SPLITS
from mechdiff.engine.intervention import Condition
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.effect_plan import Chunk, EffectPlan, Group
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.lines import Wide, heads_label
from mechdiff.questions.shared.request import Count, Share, alpha_rows_field, folds_field, map_field, positions_field
from mechdiff.questions.shared.task import Task

HeadSet = tuple[int, ...]


@dataclass(frozen=True)
class HeadSelection:
    """A head set at a layer, and how it was chosen: given, topk, greedy, random, candidate, or all heads."""

    layer: int
    heads: HeadSet
    chosen: str = "given"


@dataclass(frozen=True)
class Heads(EffectQuestion):
    """The donor's heads in place of the recipient's: every chosen set at every chosen layer, next to all heads of the layer.

    Its table has a row per prompt, layer and set, with kl, kl_to_donor and kl_donor_clean in nats as for `patch`, and
    kl_reference: the effect of all heads of the layer. heads: such as 0-5-7, or all; chosen: how the set was found. The summary's
    coverage is the set's effect as a share of that of all heads; it can exceed 1, since heads cancel. With a map, heads take
    what it makes of the donor's attn_out, through the pseudoinverse of the output projection; alpha_used is its scale.
    Raises UserError for a value that is not valid; when it is answered, for a head that does not exist.

    Example:
        >>> pair.heads(layers=1, head_sets="0;1,2", limit=4).summary()["heads"].tolist()
        ['all', '0', '1-2']
        >>> md.run(md.Heads(pair=pair.spec.path, layers=(1,), head_sets="each", limit=4))["heads"].nunique()
        5
    """

    question: ClassVar[str] = "heads"
    title: ClassVar[str] = "Which attention heads carry the change?"
    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "heads", "blend", "control")
    ratio: ClassVar[str] = "coverage"
    allowed_controls: ClassVar[tuple[str, ...]] = ("self", "mean", "random")

    head_sets: str = flag(
        "each",
        'each, all, sets such as "0;3;0,5,7", or for every size: topk, greedy (see --chosen-on), random; all is the reference',
    )
    chosen_on: str = flag(
        "train",
        "the split on which topk and greedy choose heads: train, or, as in the original study, the one they are scored on",
        choices=SPLITS,
    )
    draws: Count = flag(50, "random sets of each size", must="a number of sets, at least 1", example="50")
    blend: Share = flag(
        1.0,
        "the share of the donor in replaced heads, 0 to 1",
        must="a number between 0 (own state) and 1 (donor's state)",
        example="1.0",
    )
    map: str = map_field("none", "what is done to the donor's attn_out first; it then reaches the heads through pinv(W_o)")
    alpha_rows: str = alpha_rows_field()
    folds: str = folds_field()
    positions: Count = positions_field()

    @property
    def uses_train(self) -> bool:
        return super().uses_train or self.chooses_on_train or self.map != "none"

    def all_heads(self, layer: int) -> Condition:
        """The intervention that replaces all heads of a layer as this question does. A fitted map has its own scale.

        layer: from 0.
        """
        every = Condition(layer, "heads", heads=tuple(range(self.spec.heads)), blend=self.blend)
        if self.map == "none":
            return every
        return replace(every, map=self.map, map_stream="attn_out", alpha=1.0 if self.map == "zscore" else None)

    @property
    def chooses_on_train(self) -> bool:
        return self.head_sets in ("topk", "greedy") and self.chosen_on == "train"

    @cached_property
    def chosen_sets(self) -> tuple[HeadSet, ...]:
        """The head sets, each in rising order; none if they have to be chosen or drawn."""
        count = self.spec.heads
        if self.head_sets in CHOICES:
            return ()
        if self.head_sets == "each":
            return tuple((head,) for head in range(count))
        if self.head_sets == "all":
            return (tuple(range(count)),)
        return tuple(dict.fromkeys(parse_heads(part, count, self.spec.name) for part in self.head_sets.split(";")))

    def task(self, store: Store) -> "HeadsTask | ChosenHeadsTask":
        if self.head_sets in CHOICES:
            return ChosenHeadsTask(self, store)
        given = [HeadSelection(layer, heads) for layer in self.chosen_layers for heads in self.chosen_sets]
        return HeadsTask(self, given + (random_sets(self) if "random" in self.controls else []), store)


def parse_heads(text: str, count: int, pair: str) -> HeadSet:
    """ "0,5,7" as (0, 5, 7). Raises UserError for an empty set or a head that does not exist."""
    try:
        heads = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise UserError(
            f"Head sets '{text}' cannot be read.\nTry:  --head-sets each, all, topk, greedy, random, or \"0;3;0,5,7\""
        ) from None
    for head in heads:
        if not 0 <= head < count:
            last = count - 1
            raise UserError(f"Head {head} does not exist: {pair} has {count} heads a layer, 0 to {last}.\nTry:  --head-sets each")
    return heads


class HeadsPlan(EffectPlan):
    def chunk(self, block: int, group: Group) -> Chunk:
        """A single head's chunk, or its part of the chunk of all single heads of its layer."""
        chunk = super().chunk(block, group)
        first = group[0]
        assert isinstance(first, Condition) and first.heads is not None, "a group of the question heads replaces heads"
        if chunk.effects is None and len(group) == 1 and len(first.heads) == 1:
            (head,) = first.heads
            every = super().chunk(block, tuple(replace(first, heads=(h,)) for h in range(self.run.spec.heads)))
            chunk.effects = every.effects and {
                name: values[head : head + 1] if len(values) > 1 else values for name, values in every.effects.items()
            }
        return chunk


class HeadsTask(EffectsTask):
    """Effects of head sets, with the effect of replacing all heads as kl_reference."""

    plan_type = HeadsPlan

    def __init__(self, run: Heads, sets: list[HeadSelection], store: Store, texts=None):
        self.sets, full, groups = sets, range(run.spec.heads), []
        for layer in run.chosen_layers:
            every = run.all_heads(layer)
            here = dict.fromkeys(chosen.heads for chosen in sets if chosen.layer == layer)
            singles = tuple(replace(every, heads=heads) for heads in here if len(heads) == 1)
            groups += [(every,), *((every.as_control(control),) for control in run.controls if control != "random")]
            groups += [singles] if len(singles) == len(full) else [(single,) for single in singles]
            given = {chosen.heads for chosen in sets if chosen.layer == layer and chosen.chosen == "given"}
            larger = [replace(every, heads=heads) for heads in here if 1 < len(heads) < len(full)]
            groups += [(condition,) for condition in larger if condition.heads in given]
            if drawn := tuple(condition for condition in larger if condition.heads not in given):
                groups.append(drawn)
        super().__init__(run, groups, store, texts)

    def labels(self) -> pd.DataFrame:
        """The sets, with all heads as their reference. `chosen` says how a set was chosen; random sets are a control."""
        labels = super().labels()
        every = [HeadSelection(layer, tuple(range(self.run.spec.heads)), "all") for layer in self.run.chosen_layers]
        listing = [c for c in dict.fromkeys(self.sets) if len(c.heads) < self.run.spec.heads] + every
        listed = [(c.layer, heads_label(c.heads, self.run), c.chosen) for c in listing]
        labels = labels.merge(pd.DataFrame(listed, columns=["layer", "heads", "chosen"]), on=["layer", "heads"])
        full = labels[(labels["chosen"] == "all") & (labels["control"] == "none")]
        labels.loc[labels["chosen"] == "random", "control"] = "random"
        return labels.join(full.set_index("layer")["row"].rename("kl_reference"), on="layer")


def random_sets(run: Heads) -> list[HeadSelection]:
    """Random sets of 1, 2, 4, 8, ... heads at every chosen layer: `draws` of each size, or every set if there are fewer."""
    count, rng, sets = run.spec.heads, random.Random(run.seed), []
    for layer in run.chosen_layers:
        for size in itertools.takewhile(lambda size: size < count, (2**power for power in itertools.count())):
            if math.comb(count, size) <= run.draws:
                drawn = set(itertools.combinations(range(count), size))
            else:
                drawn = set()
                while len(drawn) < run.draws:
                    drawn.add(tuple(sorted(rng.sample(range(count), size))))
            sets += [HeadSelection(layer, heads, "random") for heads in sorted(drawn)]
    return sets


class ChosenHeadsTask(Task):
    """Head sets of every size, scored on the run's prompts. topk and greedy sets are chosen first, on train or on these prompts.

    topk: the k heads with the largest single effects. greedy: one head at a time, always the head that adds most.
    """

    def __init__(self, run: Heads, store: Store):
        self.run, self.store = run, store
        self.heads = tuple(range(run.spec.heads))
        self.orders: dict[int, HeadSet] = {}
        self.scored: HeadsTask | None = None
        self.before = 0  # cells done in earlier stages
        self.current: HeadsTask = self._stage()

    @property
    def notices(self) -> list[str]:
        return self.current.notices

    @property
    def total(self) -> int:
        return self.before + self.current.total + (0 if self.scored else self._to_come())

    @property
    def done(self) -> int:
        return self.before + self.current.done

    @property
    def stage(self) -> str:
        return self.current.stage if self.scored else f"choosing heads on the {self.run.chosen_on} split, {self.current.stage}"

    @property
    def choosing(self) -> list[Prompt]:
        """The prompts that heads are chosen on."""
        return self.run.train_prompts if self.run.chosen_on == "train" else self.run.chosen_prompts

    def _to_come(self) -> int:
        """An estimate of the cells of the stages after this one."""
        layers, train = len(self.run.chosen_layers), len(self.choosing)
        chosen = (
            max((len(order) for order in self.orders.values()), default=0) if self.run.head_sets == "greedy" else len(self.heads)
        )
        sets = sum(len(self.heads) - k for k in range(chosen + 1, len(self.heads) - 1))
        return layers * (sets * train + len(self.heads) * len(self.run.chosen_prompts))

    def _stage(self) -> "HeadsTask":
        """The next task: candidates on train while sets are being chosen, then the chosen sets on the run's prompts."""
        run = self.run
        if run.head_sets == "random":
            self.scored = HeadsTask(run, random_sets(run), self.store)
        elif all(len(self.orders.get(layer, ())) == len(self.heads) for layer in run.chosen_layers):
            sets = [
                HeadSelection(layer, tuple(sorted(order[:k])), run.head_sets)
                for layer, order in self.orders.items()
                for k in range(1, len(order) + 1)
            ]
            self.scored = HeadsTask(run, sets + (random_sets(run) if "random" in run.controls else []), self.store)
        if self.scored:
            return self.scored
        candidates = []
        for layer in run.chosen_layers:
            order = self.orders.get(layer, ())
            candidates += [
                HeadSelection(layer, tuple(sorted((*order, head))), "candidate") for head in self.heads if head not in order
            ]
        return HeadsTask(replace(run, controls=(), metrics=()), candidates, self.store, self.choosing)

    def steps(self) -> Iterator[None]:
        while True:
            for _ in self.current.steps():
                yield
            if self.scored:
                return
            self._choose()
            self.before += self.current.total
            self.current = self._stage()

    def _choose(self) -> None:
        """Order the heads by their effects: all at once for topk, the next best for greedy."""
        means = self.current.values()["kl"].mean(1, dtype=float)
        effects = {(c.layer, c.heads): mean for c, mean in zip(self.current.conditions, means) if c.control == "none"}
        for layer in self.run.chosen_layers:
            order = self.orders.get(layer, ())
            effect = {h: effects[layer, tuple(sorted((*order, h)))] for h in self.heads if h not in order}
            ranked = sorted(effect, key=lambda head: (-effect[head], head))
            self.orders[layer] = (*order, *(ranked if self.run.head_sets == "topk" else ranked[:1]))

    def wide(self) -> Wide:
        return (self.scored or HeadsTask(self.run, [], self.store)).wide()

    def table(self) -> pd.DataFrame:
        return self.wide().long()
