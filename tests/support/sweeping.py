"""Sweeps of tiny pairs: run here or in processes of their own, waited for, and their tables compared."""

import os
import signal
import time
from dataclasses import asdict

import pandas as pd
import pytest

from mechdiff.inputs.prompts import domains
from mechdiff.study import sweep_plan, sweep_process, sweeps
from mechdiff.study.sweep_process import RUNNING

DOMAIN = domains()[0]
PATIENCE = 300.0
SMALL = sweep_plan.Grid(ranks=("1", "4", "full"), alphas=("0.5",), maps=("ridge_cv", "procrustes_scaled"))


@pytest.fixture
def small(study, monkeypatch):
    """A sweep of the tiny pair. Returns what runs it, and its settings."""
    monkeypatch.setitem(sweep_plan.GRIDS, "small", SMALL)
    settings = {name: value for name, value in study.items() if name not in ("pair", "limit")}

    def run(out, **more):
        for task, _ in sweeps.sweep(study["pair"], "none", "small", out, ["sweep"], **settings, **more):
            for _ in task.steps():
                pass

    return run, study


@pytest.fixture
def sweep_cache(tmp_path, monkeypatch):
    """A cache folder of one's own, whose sweeps end with the test."""
    monkeypatch.setattr(sweep_process, "FOLDER", tmp_path / "cache" / "sweeps")
    yield tmp_path / "cache"
    for status in sweep_process.statuses():
        if status.state == RUNNING and status.pid != os.getpid():
            os.kill(status.pid, signal.SIGKILL)


def until(what, patience=PATIENCE):
    """What a function finds, as soon as it finds it."""
    deadline = time.monotonic() + patience
    while not (outcome := what()):
        assert time.monotonic() < deadline, [asdict(status) for status in sweep_process.statuses()]
        time.sleep(0.02)
    return outcome


def seen(*states):
    """The one known sweep, once it is in one of these states."""
    return until(lambda: next((status for status in sweep_process.statuses() if status.state in states), None))


def working():
    """The one known sweep, once it has computed something. Its later statuses say so too: a fast one is not missed."""
    status = until(lambda: next((status for status in sweep_process.statuses() if status.done > status.cached), None))
    assert status.state == RUNNING, "it ended before it could be disturbed"
    return status


def tables(folder):
    return {str(path.relative_to(folder)): pd.read_parquet(path) for path in sorted(folder.rglob("*.parquet"))}


def assert_same(left, right):
    left, right = tables(left), tables(right)
    assert left.keys() == right.keys() and len(left) > 8
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)
