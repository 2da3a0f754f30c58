"""A request being computed: the steps that it still needs, its progress, and the table of what is known so far."""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd

Result = TypeVar("Result")
Steps = Generator[None, None, Result]  # yields while it computes, and returns its result


@dataclass
class Progress:
    """Work in cells (a prompt under a condition), and what is being done. A task updates it; pages and bars read it."""

    total: int = 0
    done: int = 0
    stage: str = ""


class Task(ABC):
    """What every question offers. run: the question; notices: what a reader should know about the answer."""

    run: Any
    notices: list[str]

    @cached_property
    def progress(self) -> Progress:
        """What is done, of how much, and what is being done."""
        return Progress()

    @property
    def total(self) -> int:
        """The cells of the whole answer."""
        return self.progress.total

    @property
    def done(self) -> int:
        """The cells that are known."""
        return self.progress.done

    @property
    def stage(self) -> str:
        """What is being done now."""
        return self.progress.stage

    def entering(self, stage: str) -> None:
        """Say what is done next. stage: its words."""
        self.progress.stage = stage

    @abstractmethod
    def steps(self) -> Iterator[None]:
        """Compute what is missing, storing each finished chunk on disk: to stop iterating loses nothing that is finished.

        Returns an iterator; progress may have moved after each of its steps.
        """

    @abstractmethod
    def table(self) -> pd.DataFrame:
        """The lines that are known so far."""
