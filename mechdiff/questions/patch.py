"""RQ1, patching: where does it matter? One layer's state from the other model, and what that does to the next token."""

from mechdiff.common.cache import Store
from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.request import Run


def patch_task(run: Run, store: Store) -> EffectsTask:
    """Every chosen layer and stream, with the controls asked for."""
    return EffectsTask(run, [(condition,) for condition in conditions_of(run)], store)


def conditions_of(run: Run) -> list[Condition]:
    conditions = []
    for stream in run.streams:
        for layer in run.chosen_layers:
            heads = tuple(range(run.spec.heads)) if stream == "heads" else None
            condition = Condition(layer, stream, run.map, heads=heads)
            conditions += [condition, *(condition.as_control(control) for control in run.controls)]
    return conditions


def transplant_task(run: Run, store: Store) -> EffectsTask:
    """Every chosen layer's attention, MLP or single heads: the donor's weights on the recipient's own input."""
    groups = []
    for stream in run.streams:
        for layer in run.chosen_layers:
            sets = [(head,) for head in range(run.spec.heads)] if stream == "heads" else [None]
            groups.append(tuple(Condition(layer, stream, heads=heads, transplant=True) for heads in sets))
            whole = tuple(range(run.spec.heads)) if stream == "heads" else None
            groups += [(Condition(layer, stream, heads=whole).as_control(control),) for control in run.controls]
    return EffectsTask(run, groups, store)
