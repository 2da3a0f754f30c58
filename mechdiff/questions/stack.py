"""Stack: several interventions in one pass, next to each of them alone."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.engine.intervention_text import label, parse_stack, read_stack
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.request import Count, folds_field, positions_field


@dataclass(frozen=True)
class StackedPatch(EffectQuestion):
    """Interventions at rising sites, each acting on the state that the ones before it produced.

    Its table has a row per prompt for the whole stack, its controls, and each intervention alone, which the column stack names;
    kl, kl_to_donor and kl_donor_clean in nats as for `patch`.
    Raises UserError for a value that is not valid, and without a stack.

    Example:
        >>> stack = "layer=0 stream=mlp_out; layer=1 heads=1,2"
        >>> pair.stack(stack=stack, limit=4).summary()["stack"].nunique()
        3
        >>> len(md.run(md.StackedPatch(pair=pair.spec.path, stack=stack, limit=4)))
        12
    """

    question: ClassVar[str] = "stack"
    title: ClassVar[str] = "What do several interventions do together?"
    columns: ClassVar[tuple[str, ...]] = ("control",)
    allowed_controls: ClassVar[tuple[str, ...]] = ("self", "mean")

    stack: str | None = flag(
        None, "a TOML file of interventions, or text as 'layer=26 stream=mlp_out; layer=28 heads=2,5'", read=read_stack
    )
    positions: Count = positions_field()
    folds: str = folds_field()

    def check(self) -> None:
        super().check()
        if self.stack is None:
            raise UserError("No stack of interventions is given.\nTry:  run stack --stack FILE.toml")

    @cached_property
    def chosen_stack(self) -> tuple[Condition, ...]:
        """The stack's interventions, in the order in which a pass meets them."""
        assert self.stack is not None, "a request without a stack is refused"
        return parse_stack(self.stack, self.spec.layers, self.spec.heads)

    @property
    def uses_train(self) -> bool:
        return super().uses_train or not all(part.plain for part in self.chosen_stack)

    def task(self, store: Store) -> "StackTask":
        return StackTask(self, store)


class StackTask(EffectsTask):
    """The stack, its controls, and each intervention alone. The column `stack` says which."""

    def __init__(self, run: StackedPatch, store: Store):
        parts = run.chosen_stack
        whole = parts[0] if len(parts) == 1 else Stack(parts)
        self.controls = {whole: "none"} | {whole.as_control(control): control for control in run.controls}
        super().__init__(run, [(stack,) for stack in (*self.controls, *parts)], store)

    def labels(self) -> pd.DataFrame:
        whole = "; ".join(map(label, self.run.chosen_stack))
        names = [whole if c in self.controls else label(c) for c in self.conditions]
        labels = pd.DataFrame({"stack": names, "control": [self.controls.get(c, "none") for c in self.conditions]})
        return labels.assign(row=range(len(labels)))
