"""Transplant (RQ1): what did one module's weights change? The donor's attention, MLP or heads, on the recipient's input."""

from dataclasses import dataclass
from typing import ClassVar

from mechdiff.common.cache import Store
from mechdiff.common.terms import MODULE_STREAMS
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask, Group
from mechdiff.questions.shared.fields import flag


@dataclass(frozen=True)
class Transplant(EffectQuestion):
    """The donor's weights at every chosen layer and module, run on the recipient's clean input.

    Its table has a row per prompt, layer, module and control, with kl, kl_to_donor and kl_donor_clean in nats as for `patch`. The
    effect is zero where the two models' weights are equal. The stream heads gives a row for every single head.
    Raises UserError for a value that is not valid.

    Example:
        >>> pair.transplant(layers=1, limit=4).summary()["stream"].tolist()
        ['attn_out', 'mlp_out']
        >>> bool((md.run(md.Transplant(pair=pair.spec.path, layers=(1,), limit=4))["kl"] > 0).all())
        True
    """

    question: ClassVar[str] = "transplant"
    title: ClassVar[str] = "Which module's weights carry the change?"
    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "heads", "control")
    stream_choices: ClassVar[tuple[str, ...]] = MODULE_STREAMS
    allowed_controls: ClassVar[tuple[str, ...]] = ("self",)

    streams: tuple[str, ...] = flag(("attn_out", "mlp_out"), f"modules, or all: {','.join(MODULE_STREAMS)}")

    def task(self, store: Store) -> EffectsTask:
        return EffectsTask(self, self.groups, store)

    @property
    def groups(self) -> list[Group]:
        """The conditions, in groups that are stored together. Returns them in the table's order."""
        groups: list[Group] = []
        for stream in self.streams:
            for layer in self.chosen_layers:
                every = tuple(range(self.spec.heads)) if stream == "heads" else None
                sets = [(head,) for head in every] if every else [None]
                groups.append(tuple(Condition(layer, stream, heads=heads, transplant=True) for heads in sets))
                groups += [(Condition(layer, stream, heads=every).as_control(control),) for control in self.controls]
        return groups
