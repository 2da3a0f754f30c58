"""Tasks whose answer is a table that is stored whole, under one key, or under one key per stream."""

from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import pandas as pd

from mechdiff.common.cache import Store
from mechdiff.common.cache import key as key_of
from mechdiff.common.extensions import code_of
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import Question
from mechdiff.questions.shared.task import Steps, Task


class TableTask(Task):
    """A task whose whole answer is one table, stored under one key.

    A subclass has `key`, which needs no model, and `compute`, a generator that yields now and then, so that a page can show
    progress and a user can stop it, and returns the table. run: the question. store: where tables are stored. total: the cells of
    its progress bar; stage: what the bar says first.

    Example:
        >>> class Count(md.TableTask):
        ...     key = md.key(what="count")
        ...     def compute(self):
        ...         yield
        ...         return pd.DataFrame({"prompts": [len(self.run.chosen_prompts)]})
        >>> class HowMany(md.Question, listed=False):
        ...     def task(self, store):
        ...         return Count(self, store)
        >>> int(pair.ask(HowMany(pair=pair.spec.path, limit=4)).table["prompts"][0])
        4
    """

    columns: ClassVar[list[str]] = []

    def __init__(self, run: Question, store: Store, total: int = 1, stage: str = ""):
        self.run, self.store, self.identity = run, store, Identity(run)
        self.answer: pd.DataFrame | None = store.table(self.stored_key)
        self.notices = [*run.notices]
        self.progress.total, self.progress.stage = total, stage
        self.progress.done = 0 if self.answer is None else self.progress.total

    @cached_property
    @abstractmethod
    def key(self) -> str:
        """The key under which the table is stored."""

    @cached_property
    def stored_key(self) -> str:
        """The same, with the code of the project that the task is from, where that is not mechdiff."""
        code = code_of(type(self).__module__)
        return key_of(of=self.key, code=code) if code else self.key

    @abstractmethod
    def compute(self) -> Steps[pd.DataFrame]:
        """A generator that yields while it computes, and returns the table. `self.progress` tells how far it is."""

    def steps(self) -> Iterator[None]:
        """Compute the table, if it is not stored. Returns an iterator; progress may have moved after each of its steps."""
        if self.answer is not None:
            return
        answer = yield from self.compute()
        self.answer = answer
        self.store.put_table(self.stored_key, answer)
        self.progress.done = self.progress.total

    def so_far(self) -> pd.DataFrame:
        """What is known before the answer is complete."""
        return pd.DataFrame(columns=self.columns)

    def table(self) -> pd.DataFrame:
        return self.so_far() if self.answer is None else self.answer


class StreamTablesTask(Task):
    """A task whose answer is a table for each of the run's streams, each stored under its own key."""

    def __init__(self, run: Question, store: Store, prompts_to_read: int):
        self.run, self.store, self.identity = run, store, Identity(run)
        self.tables = {stream: store.table(self.stream_key(stream)) for stream in run.streams}
        self.progress.total = 0 if self.complete else prompts_to_read

    @abstractmethod
    def stream_key(self, stream: str) -> str:
        """The key under which a stream's table is stored."""

    @property
    def complete(self) -> bool:
        return all(table is not None for table in self.tables.values())

    @property
    def missing(self) -> list[str]:
        return [stream for stream, table in self.tables.items() if table is None]

    def keep(self, stream: str, table: pd.DataFrame) -> None:
        self.tables[stream] = table
        self.store.put_table(self.stream_key(stream), table)

    def joined(self, columns: list[str]) -> pd.DataFrame:
        """The tables that are known, one after the other."""
        known = [table for table in self.tables.values() if table is not None]
        return pd.concat(known, ignore_index=True) if known else pd.DataFrame(columns=columns)
