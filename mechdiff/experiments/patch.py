"""RQ1, patching: where does it matter? One layer's state from the other model, and what that does to the next token."""

from mechdiff.conditions import Condition
from mechdiff.experiments.effects import EffectsTask
from mechdiff.experiments.request import Run
from mechdiff.store import Store


def patch_task(run: Run, store: Store) -> EffectsTask:
    """Every chosen layer and stream, with the controls asked for."""
    conditions = []
    for stream in run.streams:
        for layer in run.chosen_layers:
            heads = tuple(range(run.spec.heads)) if stream == "heads" else None
            condition = Condition(layer, stream, run.map, heads=heads)
            conditions += [condition, *(condition.as_control(control) for control in run.controls)]
    return EffectsTask(run, [(condition,) for condition in conditions], store)
