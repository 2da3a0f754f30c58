"""The experiments: a typed request becomes one tidy table."""

import pandas as pd

from mechdiff.experiments.continuation import Continuation, ContinuationTask
from mechdiff.experiments.diagnostics import Diagnostics, DiagnosticsTask
from mechdiff.experiments.next_tokens import NextTokens, NextTokensTask
from mechdiff.experiments.overlap import Overlap, OverlapTask
from mechdiff.experiments.parity import Parity, ParityTask
from mechdiff.experiments.position_map import MapTime, MapTimeTask, PositionMap, PositionMapTask
from mechdiff.experiments.reading import Reading, ReadingTask
from mechdiff.experiments.request import Run
from mechdiff.experiments.task import Task
from mechdiff.store import Store, default

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
    from mechdiff.experiments import behaviour, drift, heads, patch, stack, transport, weights

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
