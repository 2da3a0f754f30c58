"""Interventions and metrics of the user's own, answered by the same engine, plan and cache as every question."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition, Stack
from mechdiff.inputs.prompts import Prompt, own_name
from mechdiff.library.interventions import Intervention, check_names
from mechdiff.questions import Question, kind_of
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.lines import MEASURES, Wide
from mechdiff.questions.shared.metrics import Metric
from mechdiff.questions.shared.request import Count, positions_field
from mechdiff.questions.shared.summary import effect_summary, wide


@dataclass(frozen=True)
class NamedRows(EffectQuestion, listed=False):
    """Interventions by their names, as a result's file holds them: their effects can be shown, but not computed again."""

    question: ClassVar[str] = "rows"
    title: ClassVar[str] = "What do these interventions do?"
    columns: ClassVar[tuple[str, ...]] = ("control",)
    allowed_controls: ClassVar[tuple[str, ...]] = ()

    rows: tuple[str, ...] = flag((), "the interventions' names")
    metrics: tuple[str, ...] = flag((), "the names of the metrics that are not measured anyway")
    clusters: tuple[str, ...] = flag((), "the template of each prompt")
    positions: Count = positions_field()

    @property
    def templates(self) -> list[str]:
        return list(self.clusters)

    def task(self, store: Store) -> "OwnRowsTask":
        raise UserError(
            f"A file names its interventions ({', '.join(self.rows)}), and does not say what they do: they cannot be run again.\n"
            "Try:  pair.run, with the interventions themselves"
        )

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        return effect_summary(wide(table, self.ratio), self.templates, self.metrics)


def kind_in_file(question: str) -> type[Question]:
    """The class of a question's name in a result's file."""
    return NamedRows if question == NamedRows.question else kind_of(question)


@dataclass(frozen=True)
class OwnRows(EffectQuestion, listed=False):
    """The effects of interventions that Python code describes."""

    question: ClassVar[str] = NamedRows.question
    title: ClassVar[str] = NamedRows.title
    columns: ClassVar[tuple[str, ...]] = ("control",)
    allowed_controls: ClassVar[tuple[str, ...]] = ()

    rows: tuple[Any, ...] = flag((), "the interventions")
    metrics: tuple[Any, ...] = flag((), "what is measured")
    texts: tuple[Any, ...] = flag((), "prompts, in place of a file's or a domain's")
    positions: Count = positions_field()

    def check(self) -> None:
        super().check()
        if not self.rows:
            raise UserError("There is no intervention.\nTry:  [md.at(8).donor()]")
        if wrong := next((row for row in self.rows if not isinstance(row, Intervention)), None):
            raise UserError(f"{wrong!r:.60} is no intervention.\nTry:  md.at(8).donor()")
        check_names(self.rows)
        if self.target is not None:
            raise UserError("A target is a metric here.\nTry:  metrics=[md.target_logprob(' yes')]")
        names = [metric.name for metric in self.metrics]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"Two metrics are named '{twice}'.\nTry:  name='...' for one of them")
        if (wrong := next((name for name in names if name in RESERVED), None)) and self.own_metrics.get(wrong):
            raise UserError(f"The name '{wrong}' belongs to another column.\nTry:  name='my_{wrong}'")

    @cached_property
    def conditions(self) -> dict[str, Condition | Stack]:
        """What the engine runs, by the intervention's name."""
        return {row.name: row.for_pair(self.spec.layers, self.spec.heads) for row in self.rows}

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """Those that are not measured anyway."""
        return {metric.name: metric for metric in self.metrics if metric.of_tokens is not None}

    @property
    def uses_train(self) -> bool:
        return not all(condition.plain for condition in self.conditions.values())

    @property
    def named(self) -> NamedRows:
        """What a file can hold of it: names in place of interventions and metrics, and in place of the texts their hash."""
        names = {"rows": tuple(row.name for row in self.rows), "metrics": tuple(self.own_metrics)}
        prompts = own_name(list(self.texts)) if self.texts else self.prompts
        return self.converted(NamedRows, **names, prompts=prompts, clusters=tuple(self.templates))

    @cached_property
    def chosen_prompts(self) -> list[Prompt]:
        return list(self.texts[: self.limit]) if self.texts else super().chosen_prompts

    def task(self, store: Store) -> "OwnRowsTask":
        return OwnRowsTask(self, store)

    def summary(self, table: pd.DataFrame) -> pd.DataFrame:
        """A line per intervention: mean KL, its interval and recovery; the mean of each own metric, and its interval."""
        return effect_summary(wide(table, self.ratio), self.templates, list(self.own_metrics))


RESERVED = ("prompt", "intervention", "pair", "domain", "question", "direction", "mean", "low", "high", *MEASURES)


class OwnRowsTask(EffectsTask):
    """The effects of the interventions, with the metrics as columns."""

    def __init__(self, run: OwnRows, store: Store):
        super().__init__(run, [(condition,) for condition in run.conditions.values()], store)
        self.plan.metrics = tuple(run.own_metrics.values())

    def labels(self) -> pd.DataFrame:
        row = {condition: index for index, condition in enumerate(self.conditions)}
        names, conditions = list(self.run.conditions), list(self.run.conditions.values())
        controls = [c.control if isinstance(c, Condition) else "none" for c in conditions]
        return pd.DataFrame({"intervention": names, "control": controls, "row": [row[condition] for condition in conditions]})

    def wide(self) -> Wide:
        """The measures that were asked for; KL in any case, since a line is known if its KL is."""
        wide = super().wide()
        named = {metric.name for metric in self.run.metrics}
        hidden = {"kl_to_donor", "kl_donor_clean"} if "kl_to_donor" not in named else set()
        return Wide(wide.conditions, {name: values for name, values in wide.values.items() if name not in hidden}, wide.ratio)
