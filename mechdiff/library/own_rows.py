"""Interventions and metrics of the user's own, answered by the same engine, plan and cache as every question."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.errors import UserError
from mechdiff.engine.intervention import Condition
from mechdiff.inputs.prompts import Prompt, own_name
from mechdiff.library.interventions import Intervention, check_names
from mechdiff.questions import Question, kind_of
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.fields import flag
from mechdiff.questions.shared.lines import Wide
from mechdiff.questions.shared.metrics import RESERVED, Metric
from mechdiff.questions.shared.request import Count, positions_field
from mechdiff.questions.shared.summary import effect_summary, wide


class RowsTask(EffectsTask):
    """The effects of interventions, each with what tables say of it: a task for a question of one's own.

    run: the question. rows: what tables say of each intervention, in the question's own columns, and the intervention.
    store: where effects are stored.
    Raises UserError for a site that the pair does not have, and for a column that is not the question's.

    Example:
        >>> class Last(md.EffectQuestion, listed=False):
        ...     columns = ("layer",)
        ...     def task(self, store):
        ...         last = self.spec.layers - 1
        ...         return md.RowsTask(self, [({"layer": last}, md.at(last).donor())], store)
        >>> pair.ask(Last(pair=pair.spec.path, limit=4)).table[["prompt", "layer"]].shape
        (4, 2)
    """

    def __init__(self, run: EffectQuestion, rows: Sequence[tuple[Mapping[str, Any], Intervention]], store: Store):
        spec, columns = run.spec, (*run.columns, "control")
        if foreign := [name for labels, _ in rows for name in labels if name not in columns]:
            raise UserError(
                f"'{foreign[0]}' is not among the columns of {run.question or type(run).__name__}.\n"
                f"Try:  columns: ClassVar = {(*run.columns, foreign[0])}"
            )
        self.rows = [(labels, intervention.for_pair(spec.layers, spec.heads)) for labels, intervention in rows]
        super().__init__(run, [(condition,) for _, condition in self.rows], store)

    def labels(self) -> pd.DataFrame:
        row = {condition: index for index, condition in enumerate(self.conditions)}
        lines = [
            {**labels, "control": condition.control if isinstance(condition, Condition) else "none", "row": row[condition]}
            for labels, condition in self.rows
        ]
        return pd.DataFrame(lines)


@dataclass(frozen=True)
class NamedRows(EffectQuestion, listed=False):
    """Interventions by their names, as a result's file holds them: their effects can be shown, but not computed again."""

    question: ClassVar[str] = "rows"
    title: ClassVar[str] = "What do these interventions do?"
    columns: ClassVar[tuple[str, ...]] = ("intervention", "control")
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
        return effect_summary(wide(table, self.ratio, self.columns, self.metrics), self.templates)


def kind_in_file(question: str) -> type[Question]:
    """The class of a question's name in a result's file."""
    return NamedRows if question == NamedRows.question else kind_of(question)


@dataclass(frozen=True)
class OwnRows(EffectQuestion, listed=False):
    """The effects of interventions that Python code describes."""

    question: ClassVar[str] = NamedRows.question
    title: ClassVar[str] = NamedRows.title
    columns: ClassVar[tuple[str, ...]] = NamedRows.columns
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

    @property
    def own_metrics(self) -> dict[str, Metric]:
        """Those that are not measured anyway."""
        return {metric.name: metric for metric in self.metrics if metric.of_tokens is not None}

    @property
    def uses_train(self) -> bool:
        return not all(row.for_pair(self.spec.layers, self.spec.heads).plain for row in self.rows)

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
        return OwnRowsTask(self, [({"intervention": row.name}, row) for row in self.rows], store)


class OwnRowsTask(RowsTask):
    """The effects of the interventions, with the metrics that were asked for; KL in any case, since a line is known by it."""

    def wide(self) -> Wide:
        wide = super().wide()
        named = {metric.name for metric in self.run.metrics}
        hidden = {"kl_to_donor", "kl_donor_clean"} if "kl_to_donor" not in named else set()
        values = {name: values for name, values in wide.values.items() if name not in hidden}
        return replace(wide, values=values)
