"""What transport and rank share: mapped states patched in, with the effect of the z-score map as the reference of `drop`."""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import COMPLEMENTS, COMPLETION, FITTED, MAP_CONTROLS
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.conditions import every_head
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask, Group
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.request import (
    AUTO,
    FULL,
    Count,
    Index,
    alpha_rows_field,
    check_map_controls,
    finite,
    map_field,
    positions_field,
)

Cut = tuple[int | None, str]  # rank (None: uncut) and complement


@dataclass(frozen=True)
class MappedQuestion(EffectQuestion):
    """The fields of a question about maps."""

    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "rank", "complement", "alpha", "control")
    ratio: ClassVar[str] = "drop"

    map: str = map_field("procrustes_scaled")
    complement: tuple[str, ...] = flag(COMPLEMENTS, "what fills the rest of the space after a cut", choices=COMPLEMENTS)
    alpha: tuple[str, ...] = flag((AUTO,), "scales of the mapped state: auto (see --alpha-rows) or numbers")
    alpha_rows: str = alpha_rows_field()
    map_from: Index | None = flag(
        None,
        "the layer whose map is used, in place of each layer's own",
        must="a layer, from 0",
        example="24",
    )
    positions: Count = positions_field()

    def check(self) -> None:
        super().check()
        check_map_controls(self.map, self.controls)
        if not (self.complement and self.alpha):
            raise UserError("A complement or an alpha is missing.\nTry:  --alpha auto --complement mean,own")
        if self.map_from is not None and self.map not in FITTED:
            raise UserError(
                f"The map {self.map} is fitted at no layer.\nTry:  --map procrustes_scaled --map-from {self.map_from}"
            )
        if self.map_from is not None and set(self.controls) & {*MAP_CONTROLS, COMPLETION}:
            raise UserError("A map of another layer is a control itself.\nTry:  --controls self,mean")
        _ = self.chosen_alphas

    @property
    def uses_train(self) -> bool:
        return True

    @cached_property
    def chosen_alphas(self) -> tuple[float | None, ...]:
        """The scales of the mapped state; None for the one found out of fold. Raises UserError for what is no number."""
        try:
            return tuple(dict.fromkeys(None if text == AUTO else finite(text) for text in self.alpha))
        except ValueError:
            wrong = ",".join(self.alpha)
            raise UserError(f"Alpha '{wrong}' is neither auto nor numbers.\nTry:  --alpha auto,0.8,1.0") from None


class MappedTask(EffectsTask):
    """Effects of mapped states, with the zscore effect at the same site as kl_reference.

    cuts: rank and complement of every condition.
    """

    def __init__(self, run: MappedQuestion, cuts: list[Cut], store: Store):
        groups: list[Group] = []
        if run.map_from is not None:
            _ = replace(run, layers=(run.map_from,)).chosen_layers  # raises UserError for a layer that the pair does not have
        for stream, layer in product(run.streams, run.chosen_layers):
            heads = every_head(run, stream)
            settings = product(run.chosen_alphas, cuts)
            mapped = Condition(layer, stream, run.map, heads=heads, map_layer=None if run.map_from == layer else run.map_from)
            chosen = tuple(replace(mapped, alpha=alpha, rank=rank, complement=fill) for alpha, (rank, fill) in settings)
            reference = Condition(layer, stream, "zscore", heads=heads)
            groups += [chosen] if reference in chosen else [(reference,), chosen]
            groups += [tuple(dict.fromkeys(c.as_control(control) for c in chosen)) for control in run.controls]
        super().__init__(run, groups, store)

    def labels(self) -> pd.DataFrame:
        """The requested conditions and their controls, each with the zscore condition of its site."""
        labels, site = super().labels(), ["layer", "stream"]
        zscore = (
            (labels["map"] == "zscore") & (labels["alpha"] == "1.0") & (labels["rank"] == FULL) & (labels["control"] == "none")
        )
        references = labels[zscore].set_index(site)["row"].rename("reference")
        return labels[self.requested(labels) | (labels["control"] != "none")].join(references, on=site)

    def requested(self, labels: pd.DataFrame) -> pd.Series:
        """Which lines are conditions of the request itself, not its reference."""
        alphas = [AUTO if alpha is None else str(alpha) for alpha in self.run.chosen_alphas]
        return (labels["map"].str.partition(" of L")[0] == self.run.map) & labels["alpha"].isin(alphas)
