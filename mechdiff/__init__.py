"""mechdiff: where and how did fine-tuning change this language model?

    import mechdiff as md

    pair = md.load("demo-cultural")
    result = pair.patch(layers=range(30), limit=32)
    result.summary(), result.chart()

This import takes no torch, pandas or altair with it; each comes with the first name that needs it. The interface is provisional:
names may still change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechdiff import questions as questions
    from mechdiff.common.cache import key as key
    from mechdiff.common.errors import UserError as UserError
    from mechdiff.engine.build_rows import Clean as Clean
    from mechdiff.inputs.prompts import Prompt as Prompt
    from mechdiff.inputs.prompts import keep_prompts as keep_prompts
    from mechdiff.library.interventions import Intervention as Intervention
    from mechdiff.library.interventions import Site as Site
    from mechdiff.library.interventions import at as at
    from mechdiff.library.own_rows import RowsTask as RowsTask
    from mechdiff.library.pair import ModelPair as ModelPair
    from mechdiff.library.pair import load as load
    from mechdiff.library.result import Result as Result
    from mechdiff.maths.linear_maps import Linear as Linear
    from mechdiff.maths.linear_maps import Map as Map
    from mechdiff.maths.linear_maps import PcaSpread as PcaSpread
    from mechdiff.maths.linear_maps import Scaling as Scaling
    from mechdiff.models.loaded_pair import LoadedPair as LoadedPair
    from mechdiff.models.registry import load_pair as load_pair
    from mechdiff.questions import Run as Run
    from mechdiff.questions import run as run
    from mechdiff.questions.behaviour import Behaviour as Behaviour
    from mechdiff.questions.drift import Drift as Drift
    from mechdiff.questions.heads import Heads as Heads
    from mechdiff.questions.patch import Patch as Patch
    from mechdiff.questions.rank import Rank as Rank
    from mechdiff.questions.shared.effect_question import EffectQuestion as EffectQuestion
    from mechdiff.questions.shared.fields import flag as flag
    from mechdiff.questions.shared.metrics import Metric as Metric
    from mechdiff.questions.shared.metrics import kl as kl
    from mechdiff.questions.shared.metrics import kl_to_donor as kl_to_donor
    from mechdiff.questions.shared.metrics import logit_difference as logit_difference
    from mechdiff.questions.shared.metrics import metric as metric
    from mechdiff.questions.shared.metrics import target_logprob as target_logprob
    from mechdiff.questions.shared.request import Question as Question
    from mechdiff.questions.shared.table_tasks import TableTask as TableTask
    from mechdiff.questions.stack import StackedPatch as StackedPatch
    from mechdiff.questions.transplant import Transplant as Transplant
    from mechdiff.questions.transport import Transport as Transport
    from mechdiff.questions.weights import Weights as Weights
    from mechdiff.reporting import charts as charts
    from mechdiff.study.compare_sweeps import compare_sweeps as compare_sweeps

    summarise = questions.summary

MODULES = {  # where each public name is
    "common.cache": "key",
    "common.errors": "UserError",
    "engine.build_rows": "Clean",
    "inputs.prompts": "Prompt keep_prompts",
    "library.interventions": "Intervention Site at",
    "library.own_rows": "RowsTask",
    "library.pair": "ModelPair load",
    "library.result": "Result",
    "maths.linear_maps": "Linear Map PcaSpread Scaling",
    "models.loaded_pair": "LoadedPair",
    "models.registry": "load_pair",
    "questions": "Run run",
    "questions.behaviour": "Behaviour",
    "questions.drift": "Drift",
    "questions.heads": "Heads",
    "questions.patch": "Patch",
    "questions.rank": "Rank",
    "questions.shared.effect_question": "EffectQuestion",
    "questions.shared.fields": "flag",
    "questions.shared.metrics": "Metric kl kl_to_donor logit_difference metric target_logprob",
    "questions.shared.request": "Question",
    "questions.shared.table_tasks": "TableTask",
    "questions.stack": "StackedPatch",
    "questions.transplant": "Transplant",
    "questions.transport": "Transport",
    "questions.weights": "Weights",
    "study.compare_sweeps": "compare_sweeps",
}
HOMES = {name: f"mechdiff.{module}" for module, names in MODULES.items() for name in names.split()}
__all__ = [*HOMES, "charts", "summarise"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used; and the version."""
    if name in HOMES:
        value = getattr(import_module(HOMES[name]), name)
    elif name == "charts":
        value = import_module("mechdiff.reporting.charts")
    elif name == "summarise":
        value = import_module("mechdiff.questions").summary
    elif name == "__version__":
        value = import_module("mechdiff.common.versions").version_of("mechdiff")
    else:
        raise AttributeError(f"module 'mechdiff' has no attribute '{name}'")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
