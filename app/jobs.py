"""Work in the background: one job a request, shared by everyone who asks for it, with its progress.

A job that no page has asked for in a while stops; what it finished is in the cache. A job that has ended waits for its page, but
not for ever.
"""

import threading
import time
import traceback
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import rates
import streamlit as st

from mechdiff.common import bounded
from mechdiff.inputs.pair_file import Source
from mechdiff.models.gguf import STEPS, prepare
from mechdiff.questions.shared.task import Task
from mechdiff.study import timings

ABANDONED = 30.0  # seconds after which a job that no page asks for stops
WAITS = 300.0  # seconds that a job which has ended waits for a page to take its result

Kind = TypeVar("Kind", bound="Job")


@dataclass
class Job:
    """Work in a thread. done, total, label: its progress. future: its end, once it has begun."""

    label: str
    stage: str = ""
    done: int = 0
    total: int = 1
    future: Future | None = None
    cancelled: bool = False
    started: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)

    @property
    def ended(self) -> bool:
        return self.future is not None and self.future.done()

    def wanted(self) -> bool:
        return not self.cancelled and time.monotonic() - self.touched < ABANDONED

    def prepare(self, source: Source) -> None:
        def say(step: int, text: str) -> None:
            self.done, self.total, self.label = step, STEPS, text

        prepare(source, say)

    def time_left(self) -> str:
        """What a progress bar says after its label."""
        return timings.time_left(self.started, self.done / max(1, self.total))


@dataclass
class TaskJob(Job):
    """A task that is computed."""

    task: Task = field(kw_only=True)

    def work(self) -> None:
        """Run the task to its end, or until no page asks for it. Its speed is stored for estimates."""
        first, clock = self.task.done, timings.Clock(self.task)
        for _ in self.task.steps():
            clock.tick()
            self.done, self.total, self.stage = self.task.done, self.task.total, self.task.stage
            if not self.wanted():
                self.cancelled = True
                return
        self.done = max(self.task.done, first)
        clock.keep()


class Jobs:
    """The process's jobs by request, and its workers."""

    def __init__(self):
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="mechdiff")
        self._jobs: dict[Hashable, Any] = {}  # an identity always has the same kind of job
        self._lock = threading.RLock()
        bounded.own(self)

    def __len__(self) -> int:
        return len(self._jobs)

    def start(self, identity: Hashable, make: Callable[[], tuple[Kind, Callable[[], None]]]) -> Kind:
        """The job of this identity; started if there is none. make() returns the job and the function to run."""
        with self._lock:
            self._drop_old()
            job = self._jobs.get(identity)
            if job is not None and job.cancelled and not job.ended:
                job.cancelled = False  # a page asked again before the job noticed
            elif job is None or job.cancelled:
                job, work = make()
                self._jobs[identity] = job
                job.future = self._pool.submit(work)
                job.future.add_done_callback(lambda future: self._ended(identity, job, future))
            job.touched = time.monotonic()
        return job

    def take(self, identity: Hashable) -> Job | None:
        """A job, which is forgotten here."""
        with self._lock:
            return self._jobs.pop(identity, None)

    def clear(self) -> None:
        """Forget the jobs that have ended."""
        self._drop_old(0.0)

    def _drop_old(self, age: float = WAITS) -> None:
        now = time.monotonic()
        with self._lock:
            for identity, job in list(self._jobs.items()):
                if job.ended and now - job.touched >= age:
                    del self._jobs[identity]

    def _ended(self, identity: Hashable, job: Job, future: Future) -> None:
        """Let go of what the job held; forget it if nobody waits for it."""
        release_frames(future.exception())
        with self._lock:
            if not job.wanted() and self._jobs.get(identity) is job:
                del self._jobs[identity]


def release_frames(error: BaseException | None) -> None:
    """Let go of the local variables, models and states among them, that an error's traceback holds."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


@st.cache_resource
def background() -> Jobs:
    return Jobs()


def start(identity: Hashable, make: Callable[[], tuple[Kind, Callable[[], None]]]) -> Kind:
    """The job of this identity; started if there is none. make() returns the job and the function to run."""
    return background().start(identity, make)


def finish(identity: Hashable) -> None:
    """Forget a job that has ended, and raise what it raised."""
    job = background().take(identity)
    rates.remaining.clear()
    if job is not None and job.future is not None:
        job.future.result()


def new_job(request, task: Task) -> tuple[TaskJob, Callable[[], None]]:
    job = TaskJob(timings.label(request), "", task.done, task.total, task=task)
    return job, job.work
