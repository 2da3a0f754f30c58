"""Running sweeps: each has a small status file, so that the app and the command line see each other's sweeps.

A sweep's own process writes its file, and any process may read it. Stopping a sweep means signalling that process: what it has
finished is in the cache, and the same command resumes from there. Needs no torch.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import filelock
import psutil

from mechdiff.common.errors import UserError
from mechdiff.common.paths import ARTIFACTS, CACHE, PACKAGE
from mechdiff.inputs.pair_file import read_pair

FOLDER = CACHE / "sweeps"
EVERY = 1.0  # seconds between two updates of a status file
PATIENCE = 10.0  # seconds to wait for another process that holds the same status
RUNNING, STOPPED, FINISHED, FAILED = "running", "stopped", "finished", "failed"
WORTH = 500  # computed cells from which a sweep's duration predicts the pace of the next one
KILLED = "Its process ended without a message: it was killed, or memory ran out."
WRITING = "intervals and tables"
FORMER = {"asked": "request", "kept": "cached"}  # names of a status's fields in files of version 0.1


@dataclass(frozen=True)
class SweepRequest:
    """The flags of a sweep's command."""

    pair: str
    domain: str | None = None
    grid: str = "quick"
    dtype: str | None = None
    device: str = "auto"
    seed: int = 0
    out: str | None = None
    offload: str = "auto"
    metrics: str | None = None
    protocol: str | None = None
    min_shared_ratio: float | None = None
    limit: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What every question of the sweep has in common, beside pair and domain."""
        names = ("dtype", "device", "seed", "offload", "protocol", "min_shared_ratio", "limit")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def absolute(self) -> "SweepRequest":
        """The same with absolute paths, so that it can be started from anywhere."""
        pair = str(Path(self.pair).resolve()) if self.pair.endswith(".toml") else self.pair
        return replace(self, pair=pair, out=self.out and str(Path(self.out).resolve()))

    @property
    def arguments(self) -> list[str]:
        """The words after `python -m mechdiff`; optional flags only where they differ from the default."""
        words = ["sweep", "--pair", self.pair, *(["--domain", self.domain] if self.domain else []), "--grid", self.grid]
        for name in ("dtype", "device", "seed", "out", "offload", "metrics", "protocol", "min_shared_ratio", "limit"):
            if (value := getattr(self, name)) != getattr(SweepRequest, name):
                words += [f"--{name.replace('_', '-')}", str(value)]
        return words


@dataclass(frozen=True)
class Status:
    """How far a sweep is. name, domain: of its pair and prompts. pid, born: its process, and when that began (s, epoch).

    done, total: cells of all its parts, later parts as estimated; cached: how many of those done were in the cache already.
    started, updated: s, epoch. error: why it failed.
    """

    request: SweepRequest
    name: str
    domain: str
    pid: int
    born: float
    started: float
    updated: float
    stage: str = "starting"
    done: int = 0
    total: int = 0
    cached: int = 0
    state: str = RUNNING
    error: str = ""

    @property
    def id(self) -> str:
        return quote(f"{self.name}@{self.domain}", safe="@")

    @property
    def log(self) -> Path:
        """The output of a sweep that the app started."""
        return FOLDER / f"{self.id}.log"

    def printed(self, most: int) -> str:
        """The last characters of its output; empty if the log is an earlier sweep's."""
        current = self.log.exists() and self.log.stat().st_mtime >= self.started
        return self.log.read_text(encoding="utf-8", errors="replace")[-most:] if current else ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    def pace(self) -> float | None:
        """Seconds per cell, everything included; None where too few were computed."""
        computed = self.done - self.cached
        return (self.updated - self.started) / computed if computed >= WORTH else None

    def seconds_left(self) -> float | None:
        pace = self.pace()
        return None if pace is None else pace * (self.total - self.done)


def alive(pid: int, born: float) -> bool:
    """Whether a process is still running, and not another one under the same number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def read(path: Path) -> Status | None:
    """A status from its file; None if it cannot be read. A sweep whose process is gone counts as stopped."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields = {FORMER.get(name, name): value for name, value in content.items()}
        fields["request"] = SweepRequest(**fields["request"])
        status = Status(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    gone = status.state == RUNNING and not alive(status.pid, status.born)
    return replace(status, state=STOPPED, error=KILLED) if gone else status


def statuses() -> list[Status]:
    """All sweeps that have a status file, the latest first."""
    readable = [status for path in FOLDER.glob("*.json") if (status := read(path))]
    return sorted(readable, key=lambda status: status.started, reverse=True)


def find(name: str, domain: str) -> Status | None:
    return next((status for status in statuses() if (status.name, status.domain) == (name, domain)), None)


def pace(request: SweepRequest, name: str) -> float | None:
    """Seconds per cell in the latest sweep of the same pair with the same format and device; None if there is none."""
    settings = request.dtype, request.device
    similar = [s for s in statuses() if s.name == name and (s.request.dtype, s.request.device) == settings]
    return next((seconds for status in similar if (seconds := status.pace()) is not None), None)


def write(status: Status) -> None:
    """Replace the status file in one step, so that no reader sees half of it."""
    path = FOLDER / f"{status.id}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(status), indent=1), encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def claimed(name: str, domain: str, pid: int | None = None) -> Iterator[None]:
    """Hold a sweep's lock while its process is recorded. Raises UserError if a process other than pid is running it."""
    place = quote(f"{name}@{domain}", safe="@")
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(FOLDER / f"{place}.lock", timeout=PATIENCE):
            other = read(FOLDER / f"{place}.json")
            if other and other.state == RUNNING and other.pid != pid:
                since = time.strftime("%H:%M", time.localtime(other.started))
                raise UserError(
                    f"A sweep of {name} on {domain} is running since {since}, {other.share:.0%} done (process {other.pid}).\n"
                    f"Try:  kill {other.pid}  to stop it; finished cells stay in the cache"
                )
            yield
    except filelock.Timeout:
        raise UserError(f"Another sweep of {name} on {domain} is starting.\nTry:  again in a moment") from None
    except OSError as error:
        raise unwritable(FOLDER, error, "MECHDIFF_CACHE=/some/folder") from None


def unwritable(folder: Path, error: OSError, remedy: str) -> UserError:
    return UserError(f"Cannot write to {folder}: {error.strerror or error}.\nTry:  {remedy}")


def check_place(request: SweepRequest) -> None:
    """Raises UserError if the tables cannot be written where they should go."""
    place = Path(request.out or ARTIFACTS)
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / f".{os.getpid()}.probe"
        probe.write_text("written")
        probe.unlink()
    except OSError as error:
        raise unwritable(place, error, "--out /some/folder") from None


class Record:
    """The status of this process's own sweep, from its first to its last step. A context manager."""

    def __init__(self, request: SweepRequest):
        spec, now = read_pair(request.pair), time.time()
        process = psutil.Process()
        domain = request.domain or spec.domain
        self.status = Status(request.absolute(), spec.name, domain, process.pid, process.create_time(), now, now)
        self.warned = False  # whether it was printed that the status cannot be written

    def __enter__(self) -> "Record":
        with claimed(self.status.name, self.status.domain, self.status.pid):
            write(self.status)
        return self

    def begin(self, parts: dict[str, tuple[int, int]]) -> None:
        """parts: label -> the part's cells, and how many of them are cached."""
        self.parts = parts
        total, cached = map(sum, zip(*parts.values()))
        self._note(total=total, done=cached, cached=cached)

    def part(self, label: str, task) -> None:
        self.label, self.task = label, task

    def tell(self, stage: str = "") -> None:
        """Write how far the sweep is, at most once in EVERY seconds. stage: instead of the task's own."""
        self.parts[self.label] = self.task.total, self.task.done
        if time.time() - self.status.updated >= EVERY:
            total, done = map(sum, zip(*self.parts.values()))
            self._note(stage=f"{self.label}: {stage or self.task.stage}", done=done, total=total)

    def _note(self, **changes) -> None:
        self.status = replace(self.status, updated=time.time(), **changes)
        try:
            write(self.status)
        except OSError as error:
            if not self.warned:
                problem = unwritable(FOLDER, error, "free space")
                print(f"{problem}\nThe sweep continues, but its status is not shown.", file=sys.stderr)
            self.warned = True

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._note(state=FINISHED, stage="", done=self.status.total)
        elif issubclass(kind, KeyboardInterrupt):
            self._note(state=STOPPED)
        else:
            self._note(state=FAILED, error=str(error) if issubclass(kind, UserError) else f"{kind.__name__}: {error}")


def start(request: SweepRequest) -> Status:
    """Run a sweep's command in a process of its own, which outlives this one. Raises UserError if it is running already."""
    spec = read_pair(request.pair)
    request, domain, now = request.absolute(), request.domain or spec.domain, time.time()
    if missing := spec.missing():
        raise UserError(missing)
    check_place(request)
    modules = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    places = {"MECHDIFF_CACHE": str(FOLDER.parent), "PYTHONPATH": modules.rstrip(os.pathsep)}
    with claimed(spec.name, domain):
        log = FOLDER / f"{quote(f'{spec.name}@{domain}', safe='@')}.log"
        with log.open("w", encoding="utf-8") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "mechdiff", *request.arguments],
                env=os.environ | places,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        born = psutil.Process(process.pid).create_time()
        status = Status(request, spec.name, domain, process.pid, born, now, now)
        write(status)
    return status


def stop(status: Status) -> None:
    """Ask a sweep's process to stop. What it finished stays in the cache, and its status says stopped."""
    if alive(status.pid, status.born):
        os.kill(status.pid, signal.SIGTERM)
