"""The questions: a typed request in, one tidy table out. Each file in this folder is a question, and registers itself.

So do the questions of other installed projects.
"""

import importlib
import pkgutil
from typing import Any

import pandas as pd

from mechdiff.common.cache import Store, default
from mechdiff.common.errors import one_of
from mechdiff.common.extensions import import_modules
from mechdiff.questions.shared.effect_question import EffectQuestion
from mechdiff.questions.shared.request import QUESTIONS, Question
from mechdiff.questions.shared.task import Task


def register() -> None:
    """Import every file of this folder, and the extensions: each question adds itself to QUESTIONS."""
    for module in pkgutil.iter_modules(__path__):
        if not module.ispkg:
            importlib.import_module(f"{__name__}.{module.name}")
    import_modules("questions")


register()
__all__ = ["QUESTIONS", "EffectQuestion", "Question", "Run", "kind_of", "run", "summary", "task"]


def kind_of(question: str) -> type[Question]:
    """The dataclass of a question's name. Raises UserError, with the choices, for any other name."""
    if question not in QUESTIONS:
        raise one_of("Question", question, QUESTIONS)
    return QUESTIONS[question]


def Run(question: str, *args: Any, **fields: Any) -> Question:
    """The request of a question by its name: Run("patch", limit=32) is Patch(limit=32)."""
    return kind_of(question)(*args, **fields)


def summary(table: pd.DataFrame, run: Question) -> pd.DataFrame:
    """A run's table with a line per condition: mean effect over prompts, its 95 % interval, and the ratios that apply.

    See shared/summary.py for the columns. A table that is not per prompt (drift, weights) is returned unchanged; behaviour has a
    line per condition and measure.
    """
    return run.summary(table)


def task(request: Any, store: Store | None = None) -> Task:
    """The request as a task, with the results that the store has. Raises UserError for a request that cannot be answered."""
    return request.task(store or default())


def run(request: Any, store: Store | None = None) -> pd.DataFrame:
    """Answer a request, computing what the store does not have.

    Returns a row per prompt and condition (drift: per layer and stream). Raises UserError for a request that cannot be answered.
    """
    work = task(request, store)
    for _ in work.steps():
        pass
    return work.table()
