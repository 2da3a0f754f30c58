"""A request on its way: the steps it still needs, and the table of what is there so far."""

from collections.abc import Iterator
from typing import Protocol

import pandas as pd


class Task(Protocol):
    """What every experiment offers.

    total, done: work in cells (a prompt under a condition). stage: what is being done. steps: compute what is missing, keeping
    each finished chunk on disk; stop iterating to cancel, and nothing finished is lost. table: a row a prompt and condition,
    of what is there.
    """

    total: int
    done: int
    stage: str
    notices: list[str]

    def steps(self) -> Iterator[None]: ...

    def table(self) -> pd.DataFrame: ...
