"""How long a request will take here, from how long the last ones took."""

import json
import time

import streamlit as st

from mechdiff import experiments
from mechdiff.experiments import Run
from mechdiff.experiments.identity import Identity
from mechdiff.experiments.task import Task
from mechdiff.store import default, key
from mechdiff.terms import FITTED

ROWS = ("patching", "reading the prompts")  # how the stages end that compute cells; the others come before them
ENOUGH = 64  # cells from which on a rate is worth keeping


class Clock:
    """Tells a task's time apart: what goes before its first cell, and what the cells take."""

    def __init__(self, task: Task):
        self.task, self.stage, self.done, self.at = task, task.stage, task.done, time.monotonic()
        self.before, self.during, self.cells = 0.0, 0.0, 0

    def tick(self) -> None:
        """A step has ended; its stage was named before it began."""
        now = time.monotonic()
        if self.stage.endswith(ROWS):
            self.during += now - self.at
            self.cells += self.task.done - self.done
        else:
            self.before += now - self.at
        self.stage, self.done, self.at = self.task.stage, self.task.done, now

    def keep(self) -> None:
        """Remember the rate of a task that ended."""
        run = getattr(self.task, "run", None)
        if run is None or self.cells < ENOUGH:
            return
        found = known() | {cells_of(run): self.during / self.cells, start_of(run): self.before}
        default().put_text(place(), json.dumps(found))


def place() -> str:
    return key(what="rates of the app")


def known() -> dict[str, float]:
    """Seconds a cell and seconds before the first one, by what they are of."""
    return json.loads(default().text(place()) or "{}")


def cells_of(run: Run) -> str:
    return f"{run.spec.name} on {Identity(run).device}: a cell of {run.question}"


def start_of(run: Run) -> str:
    return f"{run.spec.name} on {Identity(run).device}: before {run.question} with {run.map} on {run.chosen_domain}"


@st.cache_data(ttl=30, max_entries=64, show_spinner=False)
def remaining(name: str, _run: Run) -> int:
    """The cells that are still to be computed. name: what tells requests apart."""
    task = experiments.task(_run)
    return task.total - task.done


def estimate(*runs: Run) -> str:
    """How long requests will take, in words; honest where nothing of the kind has run here."""
    cells = {run: remaining(repr(run), run) for run in runs}
    if not any(cells.values()):
        return "known already, shown at once"
    rates, seconds, first = known(), 0.0, ""
    for run, left in cells.items():
        if left and cells_of(run) not in rates:
            return "how long is not known here yet"
        seconds += left * rates.get(cells_of(run), 0.0) + rates.get(start_of(run), 0.0) * bool(left)
        if left and run.map in FITTED and start_of(run) not in rates:
            first = ", once the train split is read"
    return f"about {in_words(seconds)} here{first}"


def in_words(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
