"""Where in a prompt does it matter? One state replaced at each token and layer; its effect on the prompt's next token."""

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.engine.intervention import Place
from mechdiff.inputs.prompts import digest
from mechdiff.models.loaded_pair import LoadedPair
from mechdiff.questions.patch import Patch
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.request import prompt_at
from mechdiff.questions.shared.table_tasks import TableTask
from mechdiff.questions.shared.task import Steps

COLUMNS = ["token", "text", "back", "layer", "stream", "kl", "kl_to_donor", "kl_donor_clean"]


@dataclass(frozen=True)
class PositionMap:
    """What to map. run: a patch of some layers and streams. prompt: its index among the prompts."""

    run: Patch
    prompt: int = 0

    def __post_init__(self):
        if not isinstance(self.run, Patch):
            raise UserError("A position map needs a patch request.\nTry:  run patch")

    def task(self, store: Store) -> "PositionMapTask":
        return PositionMapTask(self, store)


class PositionMapTask(TableTask):
    """A row per token, layer and stream; the last token first, since earlier ones have more tokens to run after them."""

    columns: ClassVar[list[str]] = COLUMNS

    def __init__(self, request: "PositionMap | MapTime", store: Store):
        run = request.run
        run.spec.check_same_shape()
        self.request, self.parts, self.conditions = request, [], run.conditions
        self.prompt = prompt_at(run, request.prompt)
        super().__init__(run, store)

    @cached_property
    def key(self) -> str:
        parts = {"what": "position map", "texts": digest([self.prompt]), "direction": self.run.direction}
        parts |= {"conditions": f"[{', '.join(condition.content for condition in self.conditions)}]"}
        parts |= {} if all(c.plain for c in self.conditions) else self.identity.train
        return key(**parts, **self.identity.pair)

    def compute(self) -> Steps[pd.DataFrame]:
        self.entering("loading the models")
        yield
        loaded, ids = yield from self._read()
        work = len(self.conditions)
        self.progress.total = work * len(ids) * (len(ids) + 1) // 2  # in tokens that are run
        for back in range(len(ids)):
            task, before = self._column(back), self.done
            for _ in task.steps():
                self.entering(f"token {len(ids) - back} of {len(ids)}")
                self.progress.done = before + int(work * (back + 1) * task.done / max(1, task.total))
                yield
            self.notices = task.notices or self.notices
            self.progress.done = before + work * (back + 1)
            self.parts.append(self._lines(task.table(), back, ids, loaded))
            yield
        return self.so_far()

    def _read(self) -> Steps[tuple[LoadedPair, list[int]]]:
        """The pair and the prompt's token ids, after one clean pass of both models, which contains what each column needs."""
        loaded = self.identity.load()
        self.entering("reading the prompt")
        ids = loaded.passes.ids("base", (self.prompt.text,))[0]
        for side in SIDES:
            loaded.passes.trace(side, (self.prompt.text,), True, Place(len(ids) - 1))
            yield
        return loaded, ids

    def _column(self, back: int) -> EffectsTask:
        return EffectsTask(replace(self.run, back=back), [(c,) for c in self.conditions], self.store, [self.prompt])

    def _lines(self, table: pd.DataFrame, back: int, ids: list[int], loaded) -> pd.DataFrame:
        token = len(ids) - 1 - back
        return table.assign(token=token, text=loaded.tokenizers.label(ids[token], "base"), back=back)[COLUMNS]

    def so_far(self) -> pd.DataFrame:
        return pd.concat(self.parts, ignore_index=True) if self.parts else pd.DataFrame(columns=COLUMNS)


@dataclass(frozen=True)
class MapTime:
    """How long a position map takes on this computer, to be known before it begins."""

    run: Patch
    prompt: int = 0

    def __post_init__(self):
        PositionMap(self.run, self.prompt)

    def task(self, store: Store) -> "MapTimeTask":
        return MapTimeTask(self, store)


class MapTimeTask(PositionMapTask):
    """One row: seconds, and columns, one per token. A column's work is its layers times the tokens from it to the end, so one in
    the middle is timed, and scaled to the whole map. It is stored, and the map then does not compute it again.
    """

    columns: ClassVar[list[str]] = ["seconds", "columns"]

    @cached_property
    def key(self) -> str:
        return key(mapped=super().key, what="seconds")

    def compute(self) -> Steps[pd.DataFrame]:
        self.entering("loading the models")
        yield
        _, ids = yield from self._read()
        columns = (self._column(back) for back in range(len(ids) // 2, -1, -1))
        fresh = [column for column in columns if column.done < column.total][:2]
        self.entering("timing one column")
        seconds_a_token = 0.0
        for column in fresh:  # the first includes other work: maps, the check against plain hooks
            start = time.monotonic()
            yield from column.steps()
            seconds_a_token = (time.monotonic() - start) / (column.run.back + 1)
        seconds = seconds_a_token * len(ids) * (len(ids) + 1) / 2
        return pd.DataFrame({"seconds": [seconds], "columns": [len(ids)]})

    def so_far(self) -> pd.DataFrame:
        return pd.DataFrame(columns=self.columns)
