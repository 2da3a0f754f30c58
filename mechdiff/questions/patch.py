"""Patch (RQ1): where does the difference matter? One layer's state from the other model, and its effect on the next token."""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.common.terms import FITTED
from mechdiff.engine.intervention import EMBEDDING, Condition
from mechdiff.inputs.prompts import Prompt
from mechdiff.questions.shared.conditions import site_conditions
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import ALL, flag
from mechdiff.questions.shared.request import TOKEN, Count, check_map_controls, map_field, positions_field


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
    columns: ClassVar[tuple[str, ...]] = ("layer", "stream", "map", "heads", "blend", "replace", "control")

    map: str = map_field("none")
    statistics: str = flag(
        "train",
        "the prompts that a map and the controls are fitted on: the train split, or, as in the original study's layer patch "
        "(--map zscore), the prompts themselves",
        choices=("train", "prompts"),
    )
    replace: str = flag(
        TOKEN,
        "token: the state of the decision token. all: those of all tokens of the prompt, from the embedding (layer -1) on; the "
        "recovery is then the share of the change that lies at or below the layer",
        choices=(TOKEN, ALL),
    )
    positions: Count = positions_field()

    def check(self) -> None:
        super().check()
        check_map_controls(self.map, self.controls)
        if self.statistics == "prompts" and self.map in FITTED:
            problem = f"The map {self.map} would be fitted on the prompts that it is judged by."
            raise UserError(f"{problem}\nTry:  --map zscore, or --statistics train")
        if self.statistics == "prompts" and self.train is not None and "statistics" in self._given:
            raise UserError("The train file is not used with statistics of the prompts.\nTry:  --statistics train")
        if self.replace == ALL:
            self.check_all()

    def check_all(self) -> None:
        """Raises UserError for what does not go together with states at every token."""
        if self.streams != ("resid_post",):
            raise UserError("All tokens' states are replaced between layers.\nTry:  --replace all --streams resid_post")
        if self.map != "none" or self.controls:
            raise UserError("Maps and controls are of the decision token.\nTry:  --replace all without --map and --controls")
        if self.back or self.horizon > 1:
            raise UserError("With all tokens' states the next token is read.\nTry:  --replace all --back 0 --horizon 1")

    @cached_property
    def train_prompts(self) -> list[Prompt]:
        """What maps and controls are fitted on."""
        return self.chosen_prompts if self.statistics == "prompts" else super().train_prompts

    @property
    def uses_train(self) -> bool:
        return super().uses_train or self.map != "none"

    @property
    def conditions(self) -> list[Condition]:
        """What is run on every prompt: the patch at each site, followed by its controls. Returns them in the table's order."""
        if self.replace == ALL:
            layers = self.chosen_layers if self.layers else (EMBEDDING, *self.chosen_layers)
            return [Condition(layer, "resid_post", every=True) for layer in layers]
        return site_conditions(self, self.map, self.controls)

    def task(self, store: Store) -> EffectsTask:
        return EffectsTask(self, [(condition,) for condition in self.conditions], store)
