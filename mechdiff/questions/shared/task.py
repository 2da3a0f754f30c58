"""A request at work: the steps it still needs, how far it is, and the table of what is known so far."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd


@dataclass
class Progress:
    """Work in cells (a prompt under a condition), and what is being done. A task tells it; pages and bars read it."""

    total: int = 0
    done: int = 0
    stage: str = ""


class Task(ABC):
    """What every question offers. run: the question asked; notices: what a reader should know of the answer."""

    run: Any
    notices: list[str]

    @cached_property
    def progress(self) -> Progress:
        return Progress()

    @property
    def total(self) -> int:
        return self.progress.total

    @property
    def done(self) -> int:
        return self.progress.done

    @property
    def stage(self) -> str:
        return self.progress.stage

    def entering(self, stage: str) -> None:
        self.progress.stage = stage

    @abstractmethod
    def steps(self) -> Iterator[None]:
        """Compute what is missing, keeping each finished chunk on disk: whoever stops iterating loses nothing finished."""

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The lines that are known so far."""
