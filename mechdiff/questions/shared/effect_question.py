"""What the questions about patches share: controls, a target token, where states are replaced and where effects are read."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import pandas as pd
from msgspec import Meta

from mechdiff.common.errors import UserError
from mechdiff.common.terms import CONTROLS, VOCABULARIES
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.metrics import METRICS, Metric, metric_named
from mechdiff.questions.shared.request import Index, Question, check_controls
from mechdiff.questions.shared.summary import effect_summary, wide


@dataclass(frozen=True)
class EffectQuestion(Question):
    """A question whose answer is the effects of patches: KL(patched || clean), a line per prompt and condition.

    ratio: what kl / kl_reference means in its summary: drop, coverage, or nothing. allowed_controls: the controls that it can be
    asked for.
    Raises UserError for a value that is not valid, and for a target together with a horizon above 1.

    Example:
        >>> class Last(md.EffectQuestion, listed=False):
        ...     def task(self, store):
        ...         return md.RowsTask(self, [({}, md.at(self.spec.layers - 1).donor())], store)
        >>> len(pair.ask(Last(pair=pair.spec.path, limit=4)).table)
        4
    """

    averages: ClassVar[bool] = True
    ratio: ClassVar[str] = ""
    allowed_controls: ClassVar[tuple[str, ...]] = CONTROLS

    controls: tuple[str, ...] = flag((), f"controls, computed with the rest: {','.join(CONTROLS)}")
    target: str | None = flag(None, "a token whose log-probability is reported too, as ' yes'", key=True)
    foil: str | None = flag(None, "a token to compare the target with", key=True)
    vocabulary: str = flag(
        "shared",
        "where the two tokenizers differ, the tokens that effects are over: those that both models have, or the recipient's own, "
        "all of them (recovery is then still over the shared ones)",
        choices=VOCABULARIES,
    )
    metrics: tuple[str, ...] = flag((), f"further measures of the next token: {','.join(METRICS)}", choices=METRICS)
    back: Index = flag(
        0,
        "tokens before the decision token at which states are replaced",
        must="a number of tokens before the decision token, from 0",
        example="3",
        key=True,
    )
    horizon: Annotated[int, Meta(ge=1, le=10_000)] = flag(
        1,
        "next tokens, of the donor's own greedy answer, over which the effect is averaged",
        must="a number of next tokens, at least 1",
        example="8",
        key=True,
    )

    def check(self) -> None:
        check_controls(self.question, self.controls, self.allowed_controls)
        if self.foil is not None and self.target is None:
            raise UserError("A foil needs a target to be compared with.\nTry:  --target ' yes' --foil ' no'")
        if self.target is not None and self.horizon > 1:
            raise UserError("A target is one next token, so it needs a horizon of 1.\nTry:  --horizon 1")

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """What is measured in addition to what every effect has, by column."""
        return {name: metric_named(name) for name in self.metrics}

    @property
    def uses_train(self) -> bool:
        return bool(set(self.controls) - {"self"})

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """A line per condition: mean effect over prompts, its interval, the ratios that apply, and the mean of each metric.

        table: the whole table of this request.
        """
        return effect_summary(wide(table, self.ratio, self.columns, self.own_metrics), self.templates)
