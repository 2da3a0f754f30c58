"""What transport and rank share: mapped states patched in, with the effect of the z-score map as the reference of `drop`."""

import random
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import COMPLEMENTS, COMPLETION, FITTED, MAP_CONTROLS, OUR_MAP, UNSCALED
from mechdiff.engine.intervention import Condition
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.conditions import every_head
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask, Group
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.request import (
    AUTO,
    FULL,
    SHRINK,
    Count,
    Index,
    Share,
    alpha_rows_field,
    check_map_controls,
    finite,
    folds_field,
    map_field,
    positions_field,
)

Cut = tuple[int | None, str]  # rank (None: uncut) and complement
REFERENCES = {"zscore": "kl_reference", "shift": "kl_shift"}  # maps, and the columns of their effects


@dataclass(frozen=True)
class MappedQuestion(EffectQuestion):
    """The fields of a question about maps."""

    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "rank", "complement", "alpha", "control")
    ratio: ClassVar[str] = "drop"

    map: str = map_field(OUR_MAP)
    complement: tuple[str, ...] = flag(COMPLEMENTS, "what fills the rest of the space after a cut", choices=COMPLEMENTS)
    alpha: tuple[str, ...] = flag(
        (AUTO,), f"scales of the mapped state: auto (1 for {' and '.join(UNSCALED)}, else see --alpha-rows) or numbers"
    )
    alpha_rows: str = alpha_rows_field()
    folds: str = folds_field()
    shrink: str = flag(SHRINK, "the weight of procrustes_scaled's shrinkage: above 0 up to 1, or auto, found out of fold")
    train_share: Share = flag(
        1.0,
        "the share of the train split's templates that maps are fitted on, above 0 up to 1: for a learning curve",
        must="a share of the templates, 0 to 1",
        example="0.5",
    )
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
        self.check_shrink()

    def check_shrink(self) -> None:
        """Raises UserError for a shrinkage that is no weight, or that nothing uses."""
        if self.shrink == SHRINK:
            return
        try:
            valid = self.shrink == AUTO or 0 < float(self.shrink) <= 1
        except ValueError:
            valid = False
        if not valid:
            raise UserError(f"Shrink '{self.shrink}' is neither auto nor a weight above 0 up to 1.\nTry:  --shrink auto")
        if self.map != "procrustes_scaled":
            raise UserError(f"The map {self.map} has no shrinkage.\nTry:  --map procrustes_scaled --shrink {self.shrink}")

    @cached_property
    def train_prompts(self) -> list[Prompt]:
        """What maps are fitted on: the train split, or all prompts of a share of its templates, by seed. Shares are nested."""
        prompts = super().train_prompts
        if self.train_share == 1:
            return prompts
        names = list(dict.fromkeys(prompt.template for prompt in prompts))
        random.Random(self.seed).shuffle(names)
        chosen = set(names[: max(1, round(self.train_share * len(names)))])
        return [prompt for prompt in prompts if prompt.template in chosen]

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
    """Effects of mapped states, next to those of the zscore map at the same site.

    cuts: rank and complement of every condition. references: maps whose effects are columns of every line.
    """

    def __init__(self, run: MappedQuestion, cuts: list[Cut], store: Store, references: tuple[str, ...] = ("zscore",)):
        groups: list[Group] = []
        self.references = references
        if run.map_from is not None:
            _ = replace(run, layers=(run.map_from,)).chosen_layers  # raises UserError for a layer that the pair does not have
        for stream, layer in product(run.streams, run.chosen_layers):
            heads = every_head(run, stream)
            settings = product(run.chosen_alphas, cuts)
            mapped = Condition(layer, stream, run.map, heads=heads, map_layer=None if run.map_from == layer else run.map_from)
            chosen = tuple(replace(mapped, alpha=alpha, rank=rank, complement=fill) for alpha, (rank, fill) in settings)
            simple = [Condition(layer, stream, name, heads=heads) for name in references]
            groups += [*((condition,) for condition in simple if condition not in chosen), chosen]
            groups += [tuple(dict.fromkeys(c.as_control(control) for c in chosen)) for control in run.controls]
        super().__init__(run, groups, store)

    def labels(self) -> pd.DataFrame:
        """The requested conditions and their controls, each with the conditions of its site that it is compared with."""
        labels, site = super().labels(), ["layer", "stream"]
        uncut = (labels["alpha"] == "1.0") & (labels["rank"] == FULL) & (labels["control"] == "none")
        lines = labels[self.requested(labels) | (labels["control"] != "none")]
        for name in self.references:
            lines = lines.join(labels[uncut & (labels["map"] == name)].set_index(site)["row"].rename(REFERENCES[name]), on=site)
        return lines

    def requested(self, labels: pd.DataFrame) -> pd.Series:
        """Which lines are conditions of the request itself, not its reference."""
        alphas = [AUTO if alpha is None else str(alpha) for alpha in self.run.chosen_alphas]
        return (labels["map"].str.partition(" of L")[0] == self.run.map) & labels["alpha"].isin(alphas)
