"""Before the first computation: does the row engine give what plain hooks give, and how fast does this machine go?"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.terms import SIDES
from mechdiff.inputs.prompts import digest
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run

PROMPTS = 4  # that are read: two for parity, all of them for how fast it goes
COLUMNS = ["model", "difference", "limit", "runs by", "seconds a prompt", "seconds a cell"]


@dataclass(frozen=True)
class Parity:
    """What to check: run gives the pair, its prompts, device and dtype; its first PROMPTS prompts are read."""

    run: Run


class ParityTask:
    """A row per model that runs as the recipient.

    difference: the largest in log-probability between rows and plain hooks over four cells (each stream, at four depths) on two
    prompts; limit: what rounding may do in this number format; runs by: rows, or hooks where they differ by more. seconds a
    prompt: the clean passes of both models; seconds a cell: patching the residual stream, every layer.
    """

    def __init__(self, request: Parity, store: Store):
        self.run = replace(request.run, question="patch", layers=None, streams=None, stack=None, limit=PROMPTS, back=0, horizon=1)
        self.store, self.notices, self.stage, self.identity = store, [], "", Identity(self.run)
        self.run.spec.check_same_shape()
        self.texts = tuple(prompt.text for prompt in self.run.chosen_prompts)
        self.key = key(what="parity", texts=digest(self.run.chosen_prompts), **self.identity.pair)
        self.found = store.table(self.key)
        self.total = 2 * len(SIDES)
        self.done = 0 if self.found is None else self.total

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        self.stage = "loading the models"
        yield
        loaded, lines = self.identity.load(), []
        for side in SIDES:
            self.stage = f"checking the {side} model against plain hooks"
            yield
            loaded.check_parity(side, self.texts)
            engine = "hooks" if side in loaded.by_hooks else "rows"
            self.done += 1
            self.stage = f"timing the {side} model"
            yield
            lines.append((side, loaded.parity[side], loaded.parity_limit(side), engine, *self._seconds(loaded, side)))
            self.done += side != SIDES[-1]
        self.found, self.notices = pd.DataFrame(lines, columns=COLUMNS), loaded.notices
        self.store.put_table(self.key, self.found)
        self.done = self.total

    def _seconds(self, loaded, side: str) -> tuple[float, float]:
        from mechdiff.models.parity import pace

        other = side if loaded.offload else SIDES[side == SIDES[0]]  # two that take turns cannot both be there
        donor, recipient = (getattr(loaded, one) for one in (other, side))
        ids = [loaded.ids(one, self.texts) for one in (other, side)]
        with loaded.at_work(other, side):
            return pace(donor, recipient, *ids, side in loaded.by_hooks)

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(columns=COLUMNS) if self.found is None else self.found
