"""Rank (RQ3): how many dimensions does the map need?"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import CUTS, STUDYS_MAP, WHITENED
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.lines import rank_label
from mechdiff.questions.shared.mapped import Cut, MappedQuestion, MappedTask
from mechdiff.questions.shared.request import FULL


@dataclass(frozen=True)
class Rank(MappedQuestion):
    """The map cut to every chosen rank, under every complement.

    A cut keeps the leading directions of the map's outputs, in order of variance on train; the complement fills the rest. The
    table is that of `transport`, with a row per prompt and condition; rank and complement are texts, `full` the uncut map.
    Raises UserError for a value that is not valid, such as a rank that is neither a number nor full.

    Example:
        >>> pair.rank(layers=1, ranks="1,8", complement="own", limit=4).summary()["rank"].tolist()
        ['1', '8']
        >>> md.run(md.Rank(pair=pair.spec.path, layers=(1,), ranks=("0", "full"), limit=4)).groupby("rank")["kl"].mean().shape
        (2,)
    """

    question: ClassVar[str] = "rank"
    title: ClassVar[str] = "How many dimensions does the map need?"

    cut: str = flag(
        "output",
        "what is cut: the map's outputs, or, as in the original study, the map itself between whitened states (--map "
        "procrustes_scaled), whose scale shrinks with the rank",
        choices=CUTS,
    )
    ranks: tuple[str, ...] = flag(
        ("0", "1", "2", "4", "8", "16", "32", "64", FULL), "ranks that a map is cut to: numbers, or full for the uncut map"
    )

    def check(self) -> None:
        super().check()
        if not self.ranks:
            raise UserError("No rank is named.\nTry:  --ranks 1,8,full")
        _ = self.chosen_ranks
        if self.cut == WHITENED and self.map not in ("procrustes_scaled", STUDYS_MAP):
            raise UserError(f"The map {self.map} has no whitened states to be cut between.\nTry:  --map procrustes_scaled")
        if self.cut == WHITENED and "random" in self.controls:
            raise UserError("A random rotation cannot be cut between whitened states.\nTry:  --controls self,mean,shuffled")

    @property
    def complements(self) -> tuple[str, ...]:
        """What fills the rest after a cut; a whitened cut leaves nothing open."""
        return (WHITENED,) if self.cut == WHITENED else self.complement

    @cached_property
    def chosen_ranks(self) -> tuple[int | None, ...]:
        """The ranks as numbers; None for the uncut map. Raises UserError for one that is neither a number nor full."""
        for text in self.ranks:
            if text != FULL and not text.isdigit():
                raise UserError(f"Rank '{text}' is neither a number from 0 nor full.\nTry:  --ranks 0,1,8,32,full")
        return tuple(dict.fromkeys(None if text == FULL else int(text) for text in self.ranks))

    def task(self, store: Store) -> "RankTask":
        return RankTask(self, store)


class RankTask(MappedTask):
    """Effects of rank cuts. The uncut map is one condition under either complement."""

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
