"""The experiments: a typed request becomes one tidy table."""

import pandas as pd

from mechdiff.common.cache import Store, default
from mechdiff.questions.diagnostics.map_quality import Diagnostics, DiagnosticsTask
from mechdiff.questions.diagnostics.parity_check import Parity, ParityTask
from mechdiff.questions.diagnostics.weight_overlap import Overlap, OverlapTask
from mechdiff.questions.prompt.continuation import Continuation, ContinuationTask
from mechdiff.questions.prompt.next_tokens import NextTokens, NextTokensTask
from mechdiff.questions.prompt.position_map import MapTime, MapTimeTask, PositionMap, PositionMapTask
from mechdiff.questions.prompt.reading import Reading, ReadingTask
from mechdiff.questions.shared.request import Run
from mechdiff.questions.shared.task import Task

OTHERS = {
    Continuation: ContinuationTask,
    Diagnostics: DiagnosticsTask,
    MapTime: MapTimeTask,
    NextTokens: NextTokensTask,
    Overlap: OverlapTask,
    Parity: ParityTask,
    PositionMap: PositionMapTask,
    Reading: ReadingTask,
}
Request = Run | Continuation | Diagnostics | MapTime | NextTokens | Overlap | Parity | PositionMap | Reading


def task(run: Request, store: Store | None = None) -> Task:
    """The request as a task, with what the store already holds. Raises UserError for a request that cannot be."""
    from mechdiff.questions import behaviour, drift, heads, patch, stack, transport, weights

    if type(run) in OTHERS:
        return OTHERS[type(run)](run, store or default())
    kinds = {
        "drift": drift.DriftTask,
        "patch": patch.patch_task,
        "transport": transport.transport_task,
        "rank": transport.rank_task,
        "heads": heads.heads_task,
        "transplant": patch.transplant_task,
        "stack": stack.StackTask,
        "weights": weights.WeightsTask,
        "behaviour": behaviour.BehaviourTask,
    }
    return kinds[run.question](run, store or default())


def run(request: Request, store: Store | None = None) -> pd.DataFrame:
    """Answer a request, computing what the store does not hold.

    Returns a row per prompt and condition (drift: per layer and stream). Raises UserError for a request that cannot be.
    """
    asked = task(request, store)
    for _ in asked.steps():
        pass
    return asked.table()
