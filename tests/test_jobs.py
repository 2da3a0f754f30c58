"""Work in the background: what has ended, was cancelled or has failed does not stay in memory."""

import threading
import time
import weakref

import jobs as module
import pytest

from mechdiff.common import bounded
from mechdiff.questions.shared.task import Task


class Large:
    """Stands for a pair or its states."""


class Waiting(Task):
    """A task that holds something large while it runs, and ends when it is told to."""

    def __init__(self, error: Exception | None = None):
        self.notices, self.error = [], error
        self.begun, self.go = threading.Event(), threading.Event()

    def steps(self):
        large = Large()
        self.large = weakref.ref(large)
        self.begun.set()
        while not self.go.wait(0.01):
            yield
        if self.error:
            raise self.error

    def table(self):
        raise NotImplementedError


@pytest.fixture
def jobs():
    return module.Jobs()


def begin(jobs, identity, error=None):
    task = Waiting(error)
    job = module.TaskJob("waiting", task=task)
    jobs.start(identity, lambda: (job, job.work))
    assert task.begun.wait(30)
    return job


def end(job):
    job.task.go.set()
    job.future.exception(30)
    deadline = time.monotonic() + 30
    while job.task.large() is not None and time.monotonic() < deadline:  # the worker's own frame may be the last to go
        time.sleep(0.01)


def test_a_finished_job_waits_for_its_page(jobs):
    job = begin(jobs, "a")
    end(job)
    assert jobs.start("a", lambda: pytest.fail("it was there")) is job and jobs.take("a") is job and len(jobs) == 0


def test_jobs_that_finished_long_ago_go_and_running_ones_stay(jobs):
    old, running = begin(jobs, "old"), begin(jobs, "running")
    end(old)
    for job in (old, running):
        job.touched = time.monotonic() - 2 * module.WAITS
    running.touched = time.monotonic()
    new = begin(jobs, "new")
    assert jobs.take("old") is None and jobs.take("running") is running and jobs.take("new") is new
    end(running), end(new)


def test_a_cancelled_job_releases_what_it_holds(jobs):
    job = begin(jobs, "a")
    job.cancelled = True
    job.future.result(30)
    end(job)
    assert job.task.large() is None and jobs.take("a") is None


def test_a_failed_job_keeps_its_error_and_not_its_models(jobs):
    job = begin(jobs, "a", ValueError("too large"))
    end(job)
    assert job.task.large() is None
    with pytest.raises(ValueError, match="too large"):
        jobs.take("a").future.result()


def test_one_call_forgets_the_jobs_that_have_ended(jobs):
    ended, running = begin(jobs, "ended"), begin(jobs, "running")
    end(ended)
    bounded.clear_all()
    assert jobs.take("ended") is None and jobs.take("running") is running
    end(running)
