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
    """The donor's state, mapped if requested, in place of the recipient's, at every chosen layer and stream.

    Its table has a row per prompt, layer, stream and control. kl: KL(patched || clean) of the recipient's next token;
    kl_to_donor: KL(donor || patched); kl_donor_clean: KL(donor || clean), all in nats.
    Raises UserError for a value that is not valid, and for controls that do not go together with the map.
    Source: activation patching, Vig et al. 2020, arXiv:2004.12265; between two models, Prakash et al. 2024, arXiv:2402.14811.

    Example:
        >>> pair.patch(layers=[0, 1], limit=4, controls="self").summary()["control"].tolist()
        ['none', 'self', 'none', 'self']
        >>> md.run(md.Patch(pair=pair.spec.path, layers=(1,), limit=4)).shape[0]
        4
    """

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
        """What is run on every prompt: the patch at each site, followed by its controls. Returns them in the table's order."""
        return site_conditions(self, self.map, self.controls)

    def task(self, store: Store) -> EffectsTask:
        return EffectsTask(self, [(condition,) for condition in self.conditions], store)
