"""Where in a prompt does it matter? Every token of one prompt, under every layer: a state replaced there, read at the end."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pandas as pd

from mechdiff.conditions import Place
from mechdiff.errors import UserError
from mechdiff.experiments.effects import EffectsTask
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.patch import conditions_of
from mechdiff.experiments.request import Run
from mechdiff.models import load_pair
from mechdiff.prompts import digest
from mechdiff.store import Store, key
from mechdiff.terms import SIDES

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
        loaded = load_pair(self.run.spec, self.identity.device, self.identity.dtype)
        ids = loaded.ids("base", (self.prompt.text,))[0]
        texts, whole = (self.prompt.text,), Place(len(ids) - 1)
        for side in SIDES:  # one pass over all tokens: what a single place needs is a part of it
            loaded.trace(side, texts, True, whole)
            yield
        work = len(self.conditions)
        self.total = work * len(ids) * (len(ids) + 1) // 2  # in tokens that are run
        for back in range(len(ids)):
            task = EffectsTask(replace(self.run, back=back), [(c,) for c in self.conditions], self.store, [self.prompt])
            before = self.done
            for _ in task.steps():
                self.stage = task.stage
                self.done = before + int(work * (back + 1) * task.done / max(1, task.total))
                yield
            self.notices = task.notices or self.notices
            self.done = before + work * (back + 1)
            self.parts.append(self._lines(task.table(), back, ids, loaded))
            yield
        self.found = self.table()
        self.store.put_table(self.key, self.found)
        self.done = self.total

    def _lines(self, table: pd.DataFrame, back: int, ids: list[int], loaded) -> pd.DataFrame:
        token = len(ids) - 1 - back
        return table.assign(token=token, text=loaded.tokenizers.label(ids[token], "base"), back=back)[COLUMNS]

    def table(self) -> pd.DataFrame:
        if self.found is not None:
            return self.found
        return pd.concat(self.parts, ignore_index=True) if self.parts else pd.DataFrame(columns=COLUMNS)
