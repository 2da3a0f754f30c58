"""Before the first computation: does the row engine give what plain hooks give, and how fast is this computer?"""

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import SIDES
from mechdiff.inputs.prompts import digest
from mechdiff.questions.patch import Patch
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps

PROMPTS = 4  # prompts that are read: two for parity, all of them for speed
COLUMNS = ["model", "difference", "limit", "runs by", "seconds a prompt", "seconds a cell"]


@dataclass(frozen=True)
class Parity:
    """What to check. run: the pair, prompts, device and dtype; its first PROMPTS prompts are read."""

    run: Question

    def task(self, store: Store) -> "ParityTask":
        return ParityTask(self, store)


class ParityTask(TableTask):
    """A row per model that runs as the recipient.

    difference: the largest in log-probability between rows and plain hooks over four cells (each stream, at four depths) on two
    prompts; limit: what rounding may do in this number format; runs by: rows, or hooks if they differ by more. seconds a
    prompt: the clean passes of both models; seconds a cell: patching the residual stream, every layer.
    """

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: Parity, store: Store):
        run = request.run.converted(Patch, layers=None, streams=None, limit=PROMPTS, back=0, horizon=1)
        run.spec.check_same_shape()
        self.texts = tuple(prompt.text for prompt in run.chosen_prompts)
        super().__init__(run, store, 2 * len(SIDES))

    @cached_property
    def key(self) -> str:
        return key(what="parity", texts=digest(self.run.chosen_prompts), **self.identity.pair)

    def compute(self) -> Steps[pd.DataFrame]:
        self.entering("loading the models")
        yield
        loaded, lines = self.identity.load(), []
        for side in SIDES:
            self.entering(f"checking the {side} model against plain hooks")
            yield
            loaded.preflight.check(side, self.texts)
            engine = "hooks" if side in loaded.preflight.by_hooks else "rows"
            self.progress.done += 1
            self.entering(f"timing the {side} model")
            yield
            lines.append((side, loaded.parity[side], loaded.preflight.limit(side), engine, *self._seconds(loaded, side)))
            self.progress.done += side != SIDES[-1]
        self.notices = loaded.notices
        return pd.DataFrame(lines, columns=COLUMNS)

    def _seconds(self, loaded, side: str) -> tuple[float, float]:
        from mechdiff.models.parity import pace

        other = side if loaded.placement.offload else SIDES[side == SIDES[0]]  # models that take turns cannot both be on the GPU
        donor, recipient = getattr(loaded, other), getattr(loaded, side)
        donor_ids, recipient_ids = loaded.passes.ids(other, self.texts), loaded.passes.ids(side, self.texts)
        with loaded.placement.at_work(other, side):
            return pace(donor, recipient, donor_ids, recipient_ids, side in loaded.preflight.by_hooks)
