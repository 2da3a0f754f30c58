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
    """The request of a question by its name: Run("patch", limit=32) is Patch(limit=32).

    question: its name, such as patch. args, fields: what the question's class takes.
    Raises UserError for a question or a field that does not exist, and for a value that is not valid.

    Example:
        >>> md.Run("patch", pair=pair.spec.path, layers=(1,)) == md.Patch(pair=pair.spec.path, layers=(1,))
        True
    """
    return kind_of(question)(*args, **fields)


def summary(table: pd.DataFrame, run: Question) -> pd.DataFrame:
    """A request's table with a row per condition: mean, low, high: the mean effect over prompts in nats and its 95 % interval.

    table: what `md.run` returned for the request. run: the request. Each ratio that applies has a column, and two for its
    interval: recovery, the share of the models' difference that a patch removes; drop (transport, rank), how much smaller the
    effect is than the zscore map's, in per cent; coverage (heads), the share of all heads' effect. prompts, templates: their
    numbers. A table that is not per prompt (drift, weights) is returned unchanged; behaviour has a row per condition and measure.

    Example:
        >>> request = md.Patch(pair=pair.spec.path, layers=(0, 1), limit=4)
        >>> md.summarise(md.run(request), request)[["layer", "mean", "low", "high"]].shape
        (2, 4)
    """
    return run.summary(table)


def task(request: Any, store: Store | None = None) -> Task:
    """The request as a task, with the results that the store has. Raises UserError for a request that cannot be answered."""
    return request.task(store or default())


def run(request: Any, store: Store | None = None) -> pd.DataFrame:
    """Answer a request, computing what was not computed before.

    request: a question, such as `md.Patch(...)`. store: where results are kept; default: the cache on disk.
    Returns a row per prompt and condition, with effects in nats (drift: per layer and stream; weights: per matrix).
    Raises UserError for a request that cannot be answered.

    Example:
        >>> md.run(md.Patch(pair=pair.spec.path, layers=(1,), limit=4))["kl"].shape
        (4,)
    """
    work = task(request, store)
    for _ in work.steps():
        pass
    return work.table()
