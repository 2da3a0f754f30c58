"""The conditions of a request that patches one site at a time."""

from mechdiff.engine.intervention import Condition
from mechdiff.questions.shared.request import Question


def site_conditions(request: Question, name: str, controls: tuple[str, ...]) -> list[Condition]:
    """Every chosen layer and stream under the map of this name, each followed by its controls."""
    conditions = []
    for stream in request.streams:
        for layer in request.chosen_layers:
            condition = Condition(layer, stream, name, heads=every_head(request, stream))
            conditions += [condition, *(condition.as_control(control) for control in controls)]
    return conditions


def every_head(request: Question, stream: str) -> tuple[int, ...] | None:
    """All heads, where the stream is split by head."""
    return tuple(range(request.spec.heads)) if stream == "heads" else None
