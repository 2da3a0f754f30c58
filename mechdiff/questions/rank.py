"""Rank (RQ3): how many directions of the difference between two states carry its effect? Or: how many does a map need?"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any, ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import BASES, CUTS, DIFFERENCE, MAP_CONTROLS, STUDYS_MAP, WHITENED
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.conditions import every_head
from mechdiff.questions.shared.effects import EffectsTask, Group
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.lines import rank_label
from mechdiff.questions.shared.mapped import Cut, MappedQuestion, MappedTask
from mechdiff.questions.shared.request import FULL

OF_MAP = {"map", "complement", "alpha", "cut", "map_from"}  # fields that only the basis `map` reads


@dataclass(frozen=True)
class Rank(MappedQuestion):
    """The difference between the two states, or a map, cut to every chosen rank.

    Basis difference: the recipient's state plus the train mean of donor - recipient, plus k leading directions of what is left
    of the difference on the prompt itself. Rank 0 is one constant shift for all prompts; full is the ordinary patch.
    Basis map: a cut keeps the leading directions of the map's outputs, in order of variance on train; the complement fills the
    rest, and full is the uncut map. It is the default where --map, --complement, --alpha, --cut or --map-from is given.
    The table has a row per prompt and condition, with kl, kl_to_donor and kl_donor_clean in nats as for `patch`, and under basis
    map kl_reference, the zscore map's effect; rank and complement are texts.
    Raises UserError for a value that is not valid, such as a rank that is neither a number nor full.

    Example:
        >>> pair.rank(layers=1, ranks="0,1", limit=4).summary()["rank"].tolist()
        ['0', '1', 'full']
        >>> pair.rank(layers=1, map="ridge", ranks="1,8", complement="own", limit=4).summary()["rank"].tolist()
        ['1', '8']
    """

    question: ClassVar[str] = "rank"
    title: ClassVar[str] = "How many directions carry the difference?"
    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "rank", "basis", "complement", "alpha", "control")

    basis: str = flag(
        DIFFERENCE,
        "whose directions a cut keeps: those of the observed difference between the two states, or those of a map's outputs "
        "(default where --map, --complement, --alpha, --cut or --map-from is given)",
        choices=BASES,
    )
    cut: str = flag(
        "output",
        "what is cut under basis map: the map's outputs, or, as in the original study, the map itself between whitened states "
        "(--map procrustes_scaled), whose scale shrinks with the rank",
        choices=CUTS,
    )
    ranks: tuple[str, ...] = flag(
        (*map(str, (0, 1, 2, 4, 8, 16, 32, 64, 128)), FULL), "ranks that are kept: numbers, or full for all directions"
    )

    def check(self) -> None:
        super().check()
        if not self.ranks:
            raise UserError("No rank is named.\nTry:  --ranks 1,8,full")
        _ = self.chosen_ranks
        if self.basis == DIFFERENCE:
            return
        if self.cut == WHITENED and self.map not in ("procrustes_scaled", STUDYS_MAP):
            raise UserError(f"The map {self.map} has no whitened states to be cut between.\nTry:  --map procrustes_scaled")
        if self.cut == WHITENED and "random" in self.controls:
            raise UserError("A random rotation cannot be cut between whitened states.\nTry:  --controls self,mean,shuffled")

    @property
    def defaults(self) -> dict[str, Any]:
        """Every field's value where a request names none. What only a map has means that a map is cut. Returns them by name."""
        whitened = {"map": "procrustes_scaled"} if self._given & {"cut"} and self.cut == WHITENED else {}
        return super().defaults | whitened | ({"basis": "map"} if self._given & OF_MAP else {})

    @property
    def complements(self) -> tuple[str, ...]:
        """What fills the rest after a cut of a map; a whitened cut leaves nothing open."""
        return (WHITENED,) if self.cut == WHITENED else self.complement

    @cached_property
    def chosen_ranks(self) -> tuple[int | None, ...]:
        """The ranks as numbers; None for full. Raises UserError for one that is neither a number nor full."""
        for text in self.ranks:
            if text != FULL and not text.isdigit():
                raise UserError(f"Rank '{text}' is neither a number from 0 nor full.\nTry:  --ranks 0,1,8,32,full")
        return tuple(dict.fromkeys(None if text == FULL else int(text) for text in self.ranks))

    def task(self, store: Store) -> EffectsTask:
        return DifferenceTask(self, store) if self.basis == DIFFERENCE else RankTask(self, store)


class DifferenceTask(EffectsTask):
    """Effects of the difference cut to every rank, and of the ordinary patch, which each is a part of."""

    def __init__(self, run: Rank, store: Store):
        groups: list[Group] = []
        for stream, layer in product(run.streams, run.chosen_layers):
            whole = Condition(layer, stream, heads=every_head(run, stream))
            cuts = tuple(replace(whole, rank=rank, complement=DIFFERENCE) for rank in run.chosen_ranks if rank is not None)
            groups += [*([cuts] if cuts else []), (whole,)]
            for control in run.controls:
                same = [cut.as_control(control) for cut in cuts if cut.rank] if control in MAP_CONTROLS else []
                groups += [tuple(same)] if same else [(whole.as_control(control),)] if control not in MAP_CONTROLS else []
        super().__init__(run, groups, store)


class RankTask(MappedTask):
    """Effects of cuts of a map. The uncut map is one condition under either complement."""

    def __init__(self, run: Rank, store: Store):
        cuts: list[Cut] = [(rank, fill) for rank, fill in product(run.chosen_ranks, run.complements) if rank is not None]
        super().__init__(run, [*cuts, *([(None, "")] if None in run.chosen_ranks else [])], store)

    def requested(self, labels: pd.DataFrame) -> pd.Series:
        return super().requested(labels) & labels["rank"].isin([rank_label(rank) for rank in self.run.chosen_ranks])

    def labels(self) -> pd.DataFrame:
        """The uncut map leaves nothing to fill: its lines are repeated under every requested complement."""
        labels = super().labels()
        uncut = (labels["rank"] == FULL) & (labels["map"] != "zscore") & (labels["control"] != "self")
        copies = [labels[uncut].assign(complement=complement) for complement in self.run.complements]
        return pd.concat([labels[~uncut], *copies]).sort_values("row", kind="stable")
