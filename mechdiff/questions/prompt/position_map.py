"""Where in a prompt does it matter? Every token of one prompt, under every layer: a state replaced there, read at the end."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from mechdiff.common.cache import Store, key
from mechdiff.common.errors import UserError
from mechdiff.common.terms import SIDES
from mechdiff.engine.intervention import Place
from mechdiff.inputs.prompts import digest
from mechdiff.questions.patch import conditions_of
from mechdiff.questions.shared.effects import EffectsTask
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Run

COLUMNS = ["token", "text", "back", "layer", "stream", "kl", "kl_to_donor", "kl_donor_clean"]


@dataclass(frozen=True)
class PositionMap:
    """What to map: run is a patch of some layers and streams; prompt is the index among its prompts."""

    run: Run
    prompt: int = 0

    def __post_init__(self):
        count = len(self.run.chosen_prompts)
        if not 0 <= self.prompt < count:
            raise UserError(f"Prompt {self.prompt} does not exist: there are {count}, 0 to {count - 1}.")
        if self.run.question != "patch":
            raise UserError("A position map is one of patches.\nTry:  run patch")


class PositionMapTask:
    """A row per token, layer and stream; the last token first, since earlier ones have more tokens to run after them."""

    def __init__(self, request: PositionMap, store: Store):
        self.request, self.store, self.run, self.notices = request, store, request.run, []
        self.stage, self.identity, self.parts = "", Identity(self.run), []
        self.run.spec.check_same_shape()
        self.prompt = self.run.chosen_prompts[request.prompt]
        self.conditions = conditions_of(self.run)
        asked = {"what": "position map", "texts": digest([self.prompt]), "direction": self.run.direction}
        asked |= {"conditions": repr(self.conditions)}
        asked |= {} if all(c.plain for c in self.conditions) else self.identity.train
        self.key = key(**asked, **self.identity.pair)
        self.found = store.table(self.key)
        self.total, self.done = 1, int(self.found is not None)

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        self.stage = "loading the models"
        yield
        loaded, ids = yield from self._read()
        work = len(self.conditions)
        self.total = work * len(ids) * (len(ids) + 1) // 2  # in tokens that are run
        for back in range(len(ids)):
            task, before = self._column(back), self.done
            for _ in task.steps():
                self.stage = f"token {len(ids) - back} of {len(ids)}"
                self.done = before + int(work * (back + 1) * task.done / max(1, task.total))
                yield
            self.notices = task.notices or self.notices
            self.done = before + work * (back + 1)
            self.parts.append(self._lines(task.table(), back, ids, loaded))
            yield
        self.found = self.table()
        self.store.put_table(self.key, self.found)
        self.done = self.total

    def _read(self) -> Iterator[None]:
        """The pair and the prompt's token ids, after one clean pass of both models: what a column needs is a part of it."""
        loaded = self.identity.load()
        self.stage = "reading the prompt"
        ids = loaded.ids("base", (self.prompt.text,))[0]
        for side in SIDES:
            loaded.trace(side, (self.prompt.text,), True, Place(len(ids) - 1))
            yield
        return loaded, ids

    def _column(self, back: int) -> EffectsTask:
        return EffectsTask(replace(self.run, back=back), [(c,) for c in self.conditions], self.store, [self.prompt])

    def _lines(self, table: pd.DataFrame, back: int, ids: list[int], loaded) -> pd.DataFrame:
        token = len(ids) - 1 - back
        return table.assign(token=token, text=loaded.tokenizers.label(ids[token], "base"), back=back)[COLUMNS]

    def table(self) -> pd.DataFrame:
        if self.found is not None:
            return self.found
        return pd.concat(self.parts, ignore_index=True) if self.parts else pd.DataFrame(columns=COLUMNS)


@dataclass(frozen=True)
class MapTime:
    """How long a position map takes on this machine, asked before it is begun."""

    run: Run
    prompt: int = 0

    def __post_init__(self):
        PositionMap(self.run, self.prompt)


class MapTimeTask(PositionMapTask):
    """One row: seconds, and columns, one a token. A column's work is its layers times the tokens from it to the end, so one in
    the middle is timed, and taken times the map's whole work. It is kept, and the map then has no need to compute it.
    """

    def __init__(self, request: MapTime, store: Store):
        super().__init__(PositionMap(request.run, request.prompt), store)
        self.key = key(mapped=self.key, what="seconds")
        self.found = store.table(self.key)
        self.done = int(self.found is not None)

    def steps(self) -> Iterator[None]:
        if self.found is not None:
            return
        self.stage = "loading the models"
        yield
        _, ids = yield from self._read()
        columns = (self._column(back) for back in range(len(ids) // 2, -1, -1))
        fresh = [column for column in columns if column.done < column.total][:2]
        self.stage, a_token = "timing one column", 0.0
        for column in fresh:  # the first one waits for more: maps, the check against plain hooks
            start = time.monotonic()
            yield from column.steps()
            a_token = (time.monotonic() - start) / (column.run.back + 1)
        seconds = a_token * len(ids) * (len(ids) + 1) / 2
        self.found = pd.DataFrame({"seconds": [seconds], "columns": [len(ids)]})
        self.store.put_table(self.key, self.found)
        self.done = 1

    def table(self) -> pd.DataFrame:
        return pd.DataFrame(columns=["seconds", "columns"]) if self.found is None else self.found
