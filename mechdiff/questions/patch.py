"""Patch (RQ1): where does the difference matter? One layer's state from the other model, and its effect on the next token."""

from dataclasses import dataclass
from typing import ClassVar

from mechdiff.common.cache import Store
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.conditions import site_conditions
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.request import Count, check_map_controls, map_field, positions_field


@dataclass(frozen=True)
class Patch(EffectQuestion):
    """The donor's state, mapped if requested, in place of the recipient's, at every chosen layer and stream."""

    question: ClassVar[str] = "patch"
    title: ClassVar[str] = "Which layers carry the change?"
    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "heads", "blend", "control")

    map: str = map_field("none")
    positions: Count = positions_field()

    def check(self) -> None:
        super().check()
        check_map_controls(self.map, self.controls)

    @property
    def uses_train(self) -> bool:
        return super().uses_train or self.map != "none"

    @property
    def conditions(self) -> list[Condition]:
        return site_conditions(self, self.map, self.controls)

    def task(self, store: Store) -> EffectsTask:
        return EffectsTask(self, [(condition,) for condition in self.conditions], store)
