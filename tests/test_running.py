"""Sweeps in processes of their own: what others see of them, and what becomes of one that is stopped, killed or cannot be."""

import json
import os
import signal
import time

import pytest
from support.sweeping import DOMAIN, PATIENCE, assert_same, seen, tables, until, working
from support.swept_pair import sweep, write_pair

from mechdiff import UserError
from mechdiff.cli import build_parser
from mechdiff.study import sweep_process
from mechdiff.study.sweep_process import FAILED, FINISHED, KILLED, RUNNING, STOPPED, Record, Status, SweepRequest


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return str(write_pair(tmp_path_factory.mktemp("pair"), DOMAIN))


@pytest.mark.slow
def test_a_sweep_is_seen_from_its_start_to_its_end(pair, sweep_cache, tmp_path):
    process = sweep(sweep_cache, "--pair", pair, "--out", str(tmp_path / "out"))
    status = seen(RUNNING)
    assert (status.name, status.domain, status.pid) == ("tiny", DOMAIN, process.pid)
    begun = until(lambda: next((s for s in sweep_process.statuses() if s.total), None))
    assert 0 <= begun.done <= begun.total and begun.request.grid == "quick"
    process.wait(PATIENCE)
    ended = seen(FINISHED)
    assert ended.done == ended.total > 10_000 and ended.pace() > 0 and ended.error == ""
    assert sweep_process.pace(SweepRequest(pair), "tiny") == ended.pace() and sweep_process.find("tiny", DOMAIN) == ended


@pytest.mark.slow
def test_the_same_sweep_does_not_run_twice(pair, sweep_cache, tmp_path):
    sweep_process.start(SweepRequest(pair, DOMAIN, out=str(tmp_path / "out")))
    with pytest.raises(UserError, match="is running since"):
        sweep_process.start(SweepRequest(pair, DOMAIN, out=str(tmp_path / "out")))
    first = seen(RUNNING)
    os.kill(first.pid, signal.SIGSTOP)  # it does not end before the second one looks
    second = sweep(sweep_cache, "--pair", pair, "--out", str(tmp_path / "out"))
    said = second.communicate()[0]
    os.kill(first.pid, signal.SIGCONT)
    assert second.returncode == 2 and "is running since" in said and str(seen(RUNNING, FINISHED).pid) in said
    assert seen(FINISHED).error == ""


@pytest.mark.slow
def test_stopped_and_gone_on_with_it_ends_in_the_same_tables(pair, sweep_cache, tmp_path):
    whole = sweep(tmp_path / "other cache", "--pair", pair, "--out", str(tmp_path / "whole"))
    whole.communicate()
    assert whole.returncode == 0
    request = SweepRequest(pair, out=str(tmp_path / "out"))
    sweep_process.start(request)
    sweep_process.stop(working())
    stopped = seen(STOPPED, FINISHED)
    assert stopped.state == STOPPED and stopped.error == "", "SIGTERM was heard"
    until(lambda: "goes on from there" in stopped.printed(1000))  # said after the status is written
    assert not tables(tmp_path / "out")
    assert sweep_process.start(stopped.request).pid != stopped.pid
    seen(FINISHED)
    assert_same(tmp_path / "whole", tmp_path / "out")


@pytest.mark.slow
def test_a_killed_sweep_is_noticed(pair, sweep_cache, tmp_path):
    process = sweep(sweep_cache, "--pair", pair, "--out", str(tmp_path / "out"))
    status = seen(RUNNING)
    process.send_signal(signal.SIGKILL)
    process.wait()
    gone = seen(STOPPED)
    assert gone.error == KILLED and gone.pid == status.pid
    assert json.loads((sweep_process.FOLDER / f"{gone.id}.json").read_text())["state"] == RUNNING, "nobody could write it down"


def note(**changes) -> Status:
    """A status of this test's own process, in its file."""
    me, now = sweep_process.psutil.Process(), time.time()
    status = Status(SweepRequest("tiny", DOMAIN), "tiny", DOMAIN, me.pid, me.create_time(), now, now)
    status = sweep_process.replace(status, **changes)
    sweep_process.FOLDER.mkdir(parents=True, exist_ok=True)
    sweep_process.write(status)
    return status


def test_another_process_with_the_same_number_is_not_the_sweep(sweep_cache):
    assert sweep_process.read(sweep_process.FOLDER / f"{note().id}.json").state == RUNNING
    assert sweep_process.read(sweep_process.FOLDER / f"{note(born=time.time() - 9000).id}.json").state == STOPPED


def test_stopping_hits_no_other_process(sweep_cache, monkeypatch):
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a stranger was signalled"))
    sweep_process.stop(note(born=time.time() - 9000))


@pytest.mark.slow
def test_a_pair_that_is_not_here_fails_with_its_sentence(sweep_cache, tmp_path):
    folder = tmp_path / "elsewhere"
    path = tmp_path / "gone.toml"
    path.write_text(f'domain = "{DOMAIN}"\n[base]\nfolder = "{folder}"\n[tuned]\nfolder = "{folder}"\n')
    process = sweep(sweep_cache, "--pair", str(path), "--out", str(tmp_path / "out"))
    said = process.communicate()[0]
    failed = seen(FAILED)
    assert process.returncode == 2 and failed.error in said
    assert f"There is no model in {folder}" in failed.error and "Try:" in failed.error
    with pytest.raises(UserError, match="There is no model"):
        sweep_process.start(SweepRequest(str(path), DOMAIN))


@pytest.mark.parametrize("what", ["out", "status"])
def test_a_folder_that_cannot_be_written_is_a_sentence(pair, sweep_cache, tmp_path, monkeypatch, what):
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "folder"
    if what == "status":
        monkeypatch.setattr(sweep_process, "FOLDER", blocked)
    with pytest.raises(UserError, match=r"Cannot write[^$]*Try:"):
        sweep_process.start(SweepRequest(pair, DOMAIN, out=str(blocked if what == "out" else tmp_path / "out")))


class Step:
    """A task's progress."""

    total, done, stage = 1000, 0, "patching"


def test_a_status_is_written_whole_and_about_once_a_second(pair, sweep_cache, monkeypatch):
    written, clock, real = [], [1000.0], sweep_process.write
    monkeypatch.setattr(sweep_process, "write", lambda status: (written.append(status), real(status)))
    monkeypatch.setattr(sweep_process.time, "time", lambda: clock[0])
    with Record(SweepRequest(pair)) as record:
        record.begin({"one": (1000, 0), "two": (1000, 200)})
        record.part("one", Step)
        for Step.done in range(1000):
            clock[0] += 0.01
            record.tell()
            statuses = [sweep_process.read(path) for path in sweep_process.FOLDER.glob("*") if path.suffix == ".json"]
            assert None not in statuses
    assert 9 <= len(written) - 3 <= 10, "the first, the beginning, the end, and ten seconds"
    assert written[-2].done > 1000 and written[-2].total == 2000 and written[-2].cached == 200
    assert written[-1].state == FINISHED


def test_a_full_disk_costs_the_status_and_not_the_sweep(pair, sweep_cache, monkeypatch, capsys):
    with Record(SweepRequest(pair)) as record:

        def full(status):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(sweep_process, "write", full)
        monkeypatch.setattr(sweep_process, "EVERY", 0.0)
        record.begin({"one": (1000, 0)})
        record.part("one", Step)
        record.tell()
    assert capsys.readouterr().err.count("No space left on device") == 1


def test_what_ends_a_sweep_is_kept(pair, sweep_cache):
    for error, state, text in (
        (KeyboardInterrupt(), STOPPED, ""),
        (UserError("No.\nTry:  yes"), FAILED, "No.\nTry:  yes"),
        (ValueError("a bug"), FAILED, "ValueError: a bug"),
    ):
        with pytest.raises(type(error)), Record(SweepRequest(pair)):
            raise error
        assert (seen(state).error, seen(state).state) == (text, state)


def test_files_of_others_are_no_sweeps(sweep_cache):
    sweep_process.FOLDER.mkdir(parents=True)
    for name, text in (("half", '{"request": '), ("list", "[]"), ("other", '{"request": {"pair": "x"}, "surprise": 1}')):
        (sweep_process.FOLDER / f"{name}.json").write_text(text)
    assert sweep_process.statuses() == []


@pytest.mark.parametrize(
    "sweep_request",
    [SweepRequest("demo-cultural"), SweepRequest("a/b.toml", DOMAIN, "full", "float32", "cpu", 3, "some where", "on")],
    ids=["plain", "everything"],
)
def test_the_arguments_are_the_request(sweep_request):
    args = build_parser().parse_args(sweep_request.arguments)
    given = {name: getattr(args, name) for name in ("pair", "domain", "grid", "dtype", "device", "seed", "out", "offload")}
    assert SweepRequest(**given | {"out": given["out"] and str(given["out"])}) == sweep_request
