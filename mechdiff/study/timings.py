"""How long a request will take here, from how long the last ones took."""

import json
import re
import time
from collections.abc import Mapping

from mechdiff.common.cache import default, key
from mechdiff.common.terms import FITTED
from mechdiff.inputs.prompts import BLOCK
from mechdiff.questions import Question
from mechdiff.questions.behaviour import Behaviour
from mechdiff.questions.shared.identity import Identity
from mechdiff.questions.shared.request import map_of
from mechdiff.questions.shared.task import Task

READING, PATCHING, WRITING = "reading the prompts", "patching", "writing"  # how stages end; others come before the first of these
ENOUGH = 200  # cells from which on what one takes is worth keeping: a few alone take longer


class Clock:
    """Tells a task's time apart: what goes before, what reading a block of prompts takes, and what the cells take."""

    def __init__(self, task: Task):
        self.task, self.stage, self.done, self.at = task, task.stage, task.done, time.monotonic()
        self.spent: dict[str, float] = dict.fromkeys((READING, PATCHING, WRITING, ""), 0.0)
        self.reads, self.cells = 0, 0

    def tick(self) -> None:
        """A step has ended; its stage was named before it began."""
        now, part = time.monotonic(), next((part for part in (READING, PATCHING, WRITING) if self.stage.endswith(part)), "")
        self.spent[part] += now - self.at
        self.reads += part == READING
        self.cells += (self.task.done - self.done) if part in (PATCHING, WRITING) else 0
        self.stage, self.done, self.at = self.task.stage, self.task.done, now

    def keep(self) -> None:
        """Remember how fast a task went that ended."""
        run = getattr(self.task, "run", None)
        if run is None or not self.cells:
            return
        rates = {before(run): self.spent[""]}
        if self.reads:
            rates[read_of(run)] = self.spent[READING] / self.reads
        if self.spent[WRITING]:
            rates[cell_of(run, kind(run))] = self.spent[WRITING] / self.cells
        elif self.cells >= ENOUGH:
            rates |= dict.fromkeys((cell_of(run), cell_of(run, run.question)), self.spent[PATCHING] / self.cells)
        default().put_text(place(), json.dumps(known() | rates))


def place() -> str:
    return key(what="rates of the app")


def known() -> dict[str, float]:
    """Seconds, by what took them."""
    return json.loads(default().text(place()) or "{}")


def cell_of(run: Question, question: str = "any question") -> str:
    return f"{run.spec.name} on {Identity(run).device}: a cell of {question}"


def kind(run: Question) -> str:
    """What a cell of a run is a cell of: to write takes the longer the more is written, and scoring phrases takes passes."""
    if not isinstance(run, Behaviour):
        return run.question
    return f"{run.question} of {run.new_tokens} tokens{' and soft refusal' if run.measures_soft_refusal else ''}"


def cell_time(run: Question, rates: dict[str, float]) -> float | None:
    """Seconds a cell, from the same question, or from any other that does not write; None if nothing of the kind has run."""
    return rates.get(cell_of(run, kind(run)), rates.get(cell_of(run)) if kind(run) == run.question else None)


def read_of(run: Question) -> str:
    return f"{run.spec.name} on {Identity(run).device}: a block of prompts"


def before(run: Question) -> str:
    return f"{run.spec.name} on {Identity(run).device}: before {run.question} with {map_of(run)} on {run.chosen_domain}"


def estimate(remaining: Mapping[Question, int]) -> str:
    """How long requests will take, in words; says so where nothing similar has run here. remaining: their missing cells."""
    lacking = {run: left for run, left in remaining.items() if left}
    if not lacking:
        return "cached, shown at once"
    rates = known()
    times = [seconds_of(run, left, rates) for run, left in lacking.items()]
    if None in times:
        return "no time estimate yet"
    unread = any(map_of(run) in FITTED and before(run) not in rates for run in lacking)
    return f"about {in_words(sum(filter(None, times)))} here{', after reading the train prompts' if unread else ''}"


def seconds_of(run: Question, cells: int, rates: dict[str, float]) -> float | None:
    """Seconds of a request with so many cells to compute; None if nothing of the kind has run."""
    cell = cell_time(run, rates)
    if cell is None:
        return None
    prompts = len(run.chosen_prompts) + (len(run.train_prompts) if run.chooses_on_train else 0)
    blocks = -(-prompts // BLOCK)
    return rates.get(before(run), 0.0) + blocks * rates.get(read_of(run), 0.0) + cells * cell


def in_words(seconds: float) -> str:
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"


def time_left(started: float, share: float) -> str:
    """What a line of progress says after its label. started: by time.monotonic. share: of the work that is done, 0 to 1."""
    spent = time.monotonic() - started
    if share < 0.02 or spent < 2:
        return ""
    return f", about {max(1, round(spent * (1 - share) / share))} s left"


def label(request: object) -> str:
    """What is being computed, for a line of progress."""
    if not isinstance(request, Question):
        return "Computing the " + re.sub("(?<=[a-z])(?=[A-Z])", " ", type(request).__name__).lower()
    where = "" if request.layers is None else f" at layer {', '.join(map(str, request.layers))}"
    count = len(request.chosen_prompts) if request.reads_prompts else 0
    return f"Computing {request.question}{where}" + (f" on {count} prompt{'s' * (count != 1)}" if count else "")
