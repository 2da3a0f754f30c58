"""Work in the background: one job a request, shared by everyone who asks for it, with its progress.

A job that no page asks for any more stops; what it has finished is in the cache.
"""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import rates
import streamlit as st

from mechdiff.inputs.pair_file import Source
from mechdiff.models.gguf import STEPS, prepare
from mechdiff.questions.shared.task import Task
from mechdiff.study import timings

ABANDONED = 30.0  # seconds after which a job that no page asks for stops


@dataclass
class Job:
    """Work in a thread. done, total, label: its progress. future: its end."""

    label: str
    stage: str = ""
    done: int = 0
    total: int = 1
    task: Task | None = None
    future: Future | None = None
    cancelled: bool = False
    started: float = field(default_factory=time.monotonic)
    touched: float = field(default_factory=time.monotonic)

    def wanted(self) -> bool:
        return not self.cancelled and time.monotonic() - self.touched < ABANDONED

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

    def prepare(self, source: Source) -> None:
        def say(step: int, text: str) -> None:
            self.done, self.total, self.label = step, STEPS, text

        prepare(source, say)

    def time_left(self) -> str:
        """What a progress bar says after its label."""
        return timings.time_left(self.started, self.done / max(1, self.total))


@st.cache_resource
def background() -> tuple[ThreadPoolExecutor, dict, threading.Lock]:
    """The process's workers, and its jobs by request."""
    return ThreadPoolExecutor(max_workers=4, thread_name_prefix="mechdiff"), {}, threading.Lock()


def start(identity, make: callable) -> Job:
    """The job of this identity, started if there is none. make() returns the job and the function to run."""
    pool, jobs, lock = background()
    with lock:
        job = jobs.get(identity)
        if job is not None and job.cancelled and not job.future.done():
            job.cancelled = False  # asked for again before it noticed
        elif job is None or job.cancelled:
            job, work = make()
            jobs[identity] = job
            job.future = pool.submit(work)
        job.touched = time.monotonic()
    return job


def finish(identity) -> None:
    """Forget a job that has ended, and raise what it raised."""
    _, jobs, lock = background()
    with lock:
        job = jobs.pop(identity, None)
    if job is not None:
        rates.remaining.clear()
        job.future.result()


def new_job(request, task: Task) -> tuple[Job, callable]:
    job = Job(timings.label(request), "", task.done, task.total, task)
    return job, job.work
