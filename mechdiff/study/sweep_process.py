"""Sweeps on their way: a small status file each, so that the app and the command line see one another's.

The sweep's own process keeps its file, and anybody may read it. To stop a sweep is a signal to that process: what it finished
is in the cache, and the same command goes on from there. Needs no torch.
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
from urllib.parse import quote

import filelock
import psutil

from mechdiff.common.errors import UserError
from mechdiff.common.paths import ARTIFACTS, CACHE, PACKAGE
from mechdiff.inputs.pair_file import read_pair

FOLDER = CACHE / "sweeps"
EVERY = 1.0  # seconds between two writings of a status
PATIENCE = 10.0  # seconds to wait for another process that is reading or writing the same status
RUNNING, STOPPED, FINISHED, FAILED = "running", "stopped", "finished", "failed"
WORTH = 500  # cells from which on the time that a sweep took says how fast the next one will be
KILLED = "Its process ended without a word: it was killed, or there was not enough memory."
WRITING = "intervals and tables"


@dataclass(frozen=True)
class Asked:
    """What a sweep was asked for: the flags of its command. Paths are absolute, so that it can be started from anywhere."""

    pair: str
    domain: str | None = None
    grid: str = "quick"
    dtype: str | None = None
    device: str = "auto"
    seed: int = 0
    out: str | None = None
    offload: str = "auto"

    def absolute(self) -> "Asked":
        pair = str(Path(self.pair).resolve()) if self.pair.endswith(".toml") else self.pair
        return replace(self, pair=pair, out=self.out and str(Path(self.out).resolve()))

    @property
    def arguments(self) -> list[str]:
        """The words after `python -m mechdiff`; of the other flags those that are not the default."""
        words = ["sweep", "--pair", self.pair, *(["--domain", self.domain] if self.domain else []), "--grid", self.grid]
        for name in ("dtype", "device", "seed", "out", "offload"):
            if (value := getattr(self, name)) != getattr(Asked, name):
                words += [f"--{name}", str(value)]
        return words


@dataclass(frozen=True)
class Status:
    """How far a sweep is. name, domain: of its pair and prompts. pid, born: its process, and when that began (s, epoch).

    done, total: cells of all its parts, the later ones as expected; kept: of those done, what an earlier sweep had left in the
    cache. started, updated: seconds since the epoch. error: the sentence of one that failed.
    """

    asked: Asked
    name: str
    domain: str
    pid: int
    born: float
    started: float
    updated: float
    stage: str = "starting"
    done: int = 0
    total: int = 0
    kept: int = 0
    state: str = RUNNING
    error: str = ""

    @property
    def id(self) -> str:
        return quote(f"{self.name}@{self.domain}", safe="@")

    @property
    def log(self) -> Path:
        """What a sweep that the app started has printed."""
        return FOLDER / f"{self.id}.log"

    def printed(self, most: int) -> str:
        """The end of that; nothing if it is of an earlier sweep."""
        there = self.log.exists() and self.log.stat().st_mtime >= self.started
        return self.log.read_text(encoding="utf-8", errors="replace")[-most:] if there else ""

    @property
    def share(self) -> float:
        return min(1.0, self.done / self.total) if self.total else 0.0

    def pace(self) -> float | None:
        """Seconds a cell took, everything included; None where too few were computed to tell."""
        return (self.updated - self.started) / (self.done - self.kept) if self.done - self.kept >= WORTH else None

    def seconds_left(self) -> float | None:
        return None if self.pace() is None else self.pace() * (self.total - self.done)


def alive(pid: int, born: float) -> bool:
    """Whether a process still runs, and is not another one that has got its number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - born) < 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def read(path: Path) -> Status | None:
    """A status from its file; None if there is none to be read. One whose process is gone was stopped."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        status = Status(**found | {"asked": Asked(**found["asked"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    gone = status.state == RUNNING and not alive(status.pid, status.born)
    return replace(status, state=STOPPED, error=KILLED) if gone else status


def every() -> list[Status]:
    """All sweeps of which something is known, the latest first."""
    found = [status for path in FOLDER.glob("*.json") if (status := read(path))]
    return sorted(found, key=lambda status: status.started, reverse=True)


def find(name: str, domain: str) -> Status | None:
    return next((status for status in every() if (status.name, status.domain) == (name, domain)), None)


def pace(asked: Asked, name: str) -> float | None:
    """Seconds a cell took in the latest sweep of the same pair with the same settings; None if that is not known."""
    like = [s for s in every() if s.name == name and (s.asked.dtype, s.asked.device) == (asked.dtype, asked.device)]
    return next((found for status in like if (found := status.pace()) is not None), None)


def write(status: Status) -> None:
    """Replace the status file as a whole, so that no reader sees half of one."""
    path = FOLDER / f"{status.id}.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(asdict(status), indent=1), encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def claimed(name: str, domain: str, pid: int | None = None) -> Iterator[None]:
    """Hold a sweep's place while its process is noted. Raises UserError if another process than pid is at it."""
    place = quote(f"{name}@{domain}", safe="@")
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(FOLDER / f"{place}.lock", timeout=PATIENCE):
            other = read(FOLDER / f"{place}.json")
            if other and other.state == RUNNING and other.pid != pid:
                since = time.strftime("%H:%M", time.localtime(other.started))
                raise UserError(
                    f"A sweep of {name} on {domain} is running since {since}, {other.share:.0%} done (process {other.pid}).\n"
                    f"Try:  kill {other.pid}  to stop it; what it finished is kept"
                )
            yield
    except filelock.Timeout:
        raise UserError(f"Another sweep of {name} on {domain} is starting.\nTry:  the same again in a moment") from None
    except OSError as error:
        raise unwritable(FOLDER, error, "MECHDIFF_CACHE=/some/folder") from None


def unwritable(folder: Path, error: OSError, way_out: str) -> UserError:
    return UserError(f"{folder} cannot be written: {error.strerror or error}.\nTry:  {way_out}")


def check_place(asked: Asked) -> None:
    """Raises UserError if the tables could not be written at the end."""
    place = Path(asked.out or ARTIFACTS)
    try:
        place.mkdir(parents=True, exist_ok=True)
        probe = place / f".{os.getpid()}.probe"
        probe.write_text("written")
        probe.unlink()
    except OSError as error:
        raise unwritable(place, error, "--out /some/folder") from None


class Record:
    """The status of this process's own sweep, from its first to its last step. A context manager."""

    def __init__(self, asked: Asked):
        spec, now = read_pair(asked.pair), time.time()
        me = psutil.Process()
        domain = asked.domain or spec.domain
        self.status = Status(asked.absolute(), spec.name, domain, me.pid, me.create_time(), now, now)
        self.silent = False  # whether it was said that the status cannot be kept

    def __enter__(self) -> "Record":
        with claimed(self.status.name, self.status.domain, self.status.pid):
            write(self.status)
        return self

    def begin(self, parts: dict[str, tuple[int, int]]) -> None:
        """parts: the cells of each part by its label, and how many of them the cache holds."""
        self.parts = parts
        total, kept = map(sum, zip(*parts.values()))
        self._note(total=total, done=kept, kept=kept)

    def part(self, label: str, task) -> None:
        self.label, self.task = label, task

    def tell(self, stage: str = "") -> None:
        """Note how far the sweep is, if the last note is not from just now. stage: in place of the task's own."""
        self.parts[self.label] = self.task.total, self.task.done
        if time.time() - self.status.updated >= EVERY:
            total, done = map(sum, zip(*self.parts.values()))
            self._note(stage=f"{self.label}: {stage or self.task.stage}", done=done, total=total)

    def _note(self, **changes) -> None:
        self.status = replace(self.status, updated=time.time(), **changes)
        try:
            write(self.status)
        except OSError as error:
            if not self.silent:
                print(f"{unwritable(FOLDER, error, 'free space')}. The sweep goes on unseen.", file=sys.stderr)
            self.silent = True

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self._note(state=FINISHED, stage="", done=self.status.total)
        elif issubclass(kind, KeyboardInterrupt):
            self._note(state=STOPPED)
        else:
            self._note(state=FAILED, error=str(error) if issubclass(kind, UserError) else f"{kind.__name__}: {error}")


def start(asked: Asked) -> Status:
    """Run a sweep's command in a process of its own, which outlives this one. Raises UserError if it runs already."""
    spec = read_pair(asked.pair)
    asked, domain, now = asked.absolute(), asked.domain or spec.domain, time.time()
    if missing := spec.missing():
        raise UserError(missing)
    check_place(asked)
    modules = os.pathsep.join([str(PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    places = {"MECHDIFF_CACHE": str(FOLDER.parent), "PYTHONPATH": modules.rstrip(os.pathsep)}
    with claimed(spec.name, domain):
        log = FOLDER / f"{quote(f'{spec.name}@{domain}', safe='@')}.log"
        with log.open("w", encoding="utf-8") as printed:
            process = subprocess.Popen(
                [sys.executable, "-m", "mechdiff", *asked.arguments],
                env=os.environ | places,
                stdin=subprocess.DEVNULL,
                stdout=printed,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        born = psutil.Process(process.pid).create_time()
        status = Status(asked, spec.name, domain, process.pid, born, now, now)
        write(status)
    return status


def stop(status: Status) -> None:
    """Ask a sweep's process to stop. It keeps what is finished, and says so in its status."""
    if alive(status.pid, status.born):
        os.kill(status.pid, signal.SIGTERM)
