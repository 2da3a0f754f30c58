"""Models from the hub: which of a pair's are not on this machine, how large they are, and how they come here.

Only what mechdiff loads is fetched. Files go into the hub's own cache (HF_HOME), where its other tools find them too. A large
file is written piece by piece under the hash of its content and continued from there by the next download, since the hub's own
client begins such a file anew after an interruption; it is checked against that hash before it is used.
"""

import fnmatch
import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from filelock import Timeout
from httpx2 import TransportError
from huggingface_hub import HfApi, constants, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (
    WeakFileLock,
    build_hf_headers,
    disable_progress_bars,
    hf_raise_for_status,
    http_stream_backoff,
)

from mechdiff.common.errors import UserError
from mechdiff.common.sizes import in_bytes
from mechdiff.common.versions import version_of
from mechdiff.inputs import weight_files
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.inputs.weight_files import ADAPTER, INDEX, SINGLE
from mechdiff.models.hub_errors import AGAIN, hub_errors

HUB_TIMEOUT = 10.0  # seconds
PIECE = 1 << 18  # bytes that are written at once
TOGETHER = 4  # files that are fetched at the same time
TICK = 0.2  # seconds between two steps
RETRIES = 5  # of a connection that breaks without a new byte
PART = ".mechdiff.incomplete"  # how the name of an unfinished file ends
LOADED = ("config.json", "generation_config.json", "adapter_config.json", "tokenizer*.json", "special_tokens_map.json")
LOADED += ("added_tokens.json", "chat_template.*", "vocab.*", "merges.txt", "*.model", "*.tiktoken", "*.py")


class Wanted(NamedTuple):
    """A repository that a pair needs: its id on the hub, a revision, and whether it is a peft adapter."""

    name: str
    revision: str | None
    adapter: bool = False


@dataclass(frozen=True)
class File:
    """A file on the hub. size: bytes. sha256: of its content, for large files; None for small ones."""

    name: str
    size: int
    sha256: str | None


@dataclass(frozen=True)
class Repository:
    """What mechdiff loads of a repository. commit: what its revision is now. parameters: of its weights; None if unknown."""

    name: str
    revision: str | None
    commit: str
    files: tuple[File, ...]
    parameters: int | None

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def here(self) -> int:
        """Bytes that are on this machine, in unfinished files too."""
        return sum(bytes_here(self, file) for file in self.files)


# What is missing


def absent(pair: Pair) -> list[Wanted]:
    """The repositories of a pair that are not complete on this machine, each once. Asks no server."""
    wanted = []
    for source in (pair.base, pair.tuned):
        if source.hub and not has_model(source):
            wanted.append(Wanted(source.hub, source.revision))
        if source.adapter and not Path(source.adapter).is_dir() and not has_adapter(source):
            wanted.append(Wanted(source.adapter, source.adapter_revision, adapter=True))
    return list(dict.fromkeys(wanted))


def has_model(source: Source) -> bool:
    """Whether a model's configuration, weights and tokenizer are here, without its adapter."""
    try:
        weight_files.weight_files(source.local())
        return any(map(weight_files.has_tokenizer, (source.local(), source.tokenizer_folder())))
    except UserError:
        return False


def has_adapter(source: Source) -> bool:
    try:
        folder = source.adapter_folder()
    except UserError:
        return False
    return folder is not None and (folder / ADAPTER).exists()


def look_up(wanted: Wanted) -> Repository:
    """What the hub says of a repository. Fetches its configuration, a few kB, which only those with access can.

    Raises UserError, with what to type, for one that does not exist, is gated, or has nothing that mechdiff loads, and without a
    network.
    """
    if constants.is_offline_mode():
        raise UserError(f"HF_HUB_OFFLINE is set, so {wanted.name} cannot be downloaded.\nTry:  unset HF_HUB_OFFLINE")
    with hub_errors(wanted.name, wanted.revision):
        info = HfApi().model_info(wanted.name, revision=wanted.revision, files_metadata=True, timeout=HUB_TIMEOUT)
        siblings = {sibling.rfilename: sibling for sibling in info.siblings or []}
        config = "adapter_config.json" if wanted.adapter else "config.json"
        weights = ADAPTER if wanted.adapter else INDEX if INDEX in siblings else SINGLE
        for name in (config, weights):
            if name not in siblings:
                raise UserError(unusable(wanted.name, name, list(siblings)))
        fetch_file(wanted.name, config, wanted.revision)
        shards = [weights]
        if weights == INDEX:
            index = fetch_file(wanted.name, INDEX, info.sha)
            shards += sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    if lost := [name for name in shards if name not in siblings]:
        raise UserError(f"{wanted.name} is incomplete on the hub: {lost[0]} is missing.\nTry:  another revision or model")
    chosen = [siblings[name] for name in [*filter(is_loaded, siblings), *shards]]
    files = tuple(File(file.rfilename, file.size or 0, file.lfs.sha256 if file.lfs else None) for file in chosen)
    parameters = info.safetensors.total if info.safetensors else None
    return Repository(wanted.name, wanted.revision, info.sha or "", files, parameters)


def fetch_file(name: str, file: str, revision: str | None) -> Path:
    """A file by the hub's own client."""
    disable_progress_bars()
    return Path(hf_hub_download(name, file, revision=revision))


def is_loaded(name: str) -> bool:
    """Whether mechdiff loads a file that holds no weights. Those in folders are copies in other formats."""
    return "/" not in name and any(fnmatch.fnmatchcase(name, pattern) for pattern in LOADED)


def unusable(name: str, missing: str, files: list[str]) -> str:
    """Why a repository without this file cannot be used."""
    if missing in (SINGLE, ADAPTER) and any(file.endswith(".bin") for file in files):
        return (
            f"{name} holds its weights as .bin files alone: a pickle, which can run code, so mechdiff does not load it.\n"
            "Try:  a revision with safetensors, or another model"
        )
    if any(file.endswith(".gguf") for file in files):
        return f'{name} holds GGUF files.\nTry:  hf download {name} FILE.gguf  and  gguf = "FILE.gguf"  in the pair\'s file'
    return f"{name} has no {missing}, so mechdiff cannot load it.\nTry:  another model, or another revision of it"


# Where files are


def repository_folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")


def blob(repository: Repository, file: File) -> Path:
    """Where a large file's content is, under its hash."""
    return repository_folder(repository.name) / "blobs" / str(file.sha256)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def is_linked(repository: Repository, file: File) -> bool:
    """Whether a file is in the repository's snapshot."""
    return isinstance(try_to_load_from_cache(repository.name, file.name, revision=repository.commit), str)


def bytes_here(repository: Repository, file: File) -> int:
    if is_linked(repository, file):
        return file.size
    if file.sha256 is None:
        return 0
    path = blob(repository, file)
    return file.size if path.exists() else size_of(part_of(path))


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def free_space() -> int:
    """Free bytes on the disk of the hub's cache."""
    place = Path(constants.HF_HUB_CACHE).absolute()
    return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free


def check_space(repositories: list[Repository]) -> None:
    """Raises UserError if what is missing does not fit on the disk."""
    needed, free = sum(repository.size - repository.here for repository in repositories), free_space()
    if needed > free:
        raise UserError(
            f"{in_bytes(needed)} are to be downloaded, and {in_bytes(free)} are free in {constants.HF_HUB_CACHE}.\n"
            "Try:  free some space, or  HF_HUB_CACHE=/a/larger/disk  for this and all later commands"
        )


# Downloading


class Stopped(Exception):
    """The download was asked to stop."""


class Download:
    """Fetches repositories. Like a question's task it has steps, done and total (bytes), stage and notices.

    To stop iterating over its steps stops it; what is on the disk stays, and another download continues there.
    """

    def __init__(self, repositories: list[Repository]):
        self.files = [(repository, file) for repository in repositories for file in repository.files]
        self.received = {pair: bytes_here(*pair) for pair in self.files}
        self.total = sum(repository.size for repository in repositories)
        self.stage, self.notices = "connecting", list[str]()
        self._stopping = threading.Event()

    @property
    def done(self) -> int:
        return sum(self.received.values())

    @cached_property
    def headers(self) -> dict[str, str]:
        """With the hub's own token, if there is one; the server's own bytes, so that a range of them is what it says."""
        client = build_hf_headers(library_name="mechdiff", library_version=version_of("mechdiff"))
        return client | {"Accept-Encoding": "identity"}

    def steps(self) -> Iterator[None]:
        """Fetch what is missing. Raises UserError, with what to type, for whatever prevents it."""
        self._stopping.clear()
        pool = ThreadPoolExecutor(TOGETHER, thread_name_prefix="download")
        try:
            waiting = {pool.submit(self.fetch, *pair) for pair in sorted(self.files, key=lambda pair: pair[1].size)}
            while waiting:
                ended, waiting = wait(waiting, TICK, FIRST_EXCEPTION)
                for future in ended:
                    future.result()
                yield
        finally:
            self._stopping.set()
            pool.shutdown(cancel_futures=True)

    def fetch(self, repository: Repository, file: File) -> None:
        """One file, in a thread."""
        if is_linked(repository, file):
            return
        with hub_errors(repository.name, repository.revision):
            if file.sha256 is not None:
                self.fetch_large(repository, file)
            self.check_stop()
            fetch_file(repository.name, file.name, repository.commit)  # of a large file: only its link
        self.received[repository, file] = file.size

    def fetch_large(self, repository: Repository, file: File) -> None:
        """A file's content, under its hash. Only one process at a time fetches it, the hub's own client included."""
        path = blob(repository, file)
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = Path(constants.HF_HUB_CACHE) / ".locks" / repository_folder(repository.name).name / f"{path.name}.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            while True:
                self.check_stop()
                try:
                    stack.enter_context(WeakFileLock(lock, timeout=1))
                    break
                except Timeout:
                    self.stage = f"waiting for another download of {file.name}"
            if not path.exists():
                self.append(repository, file, part_of(path))
                self.check(repository, file, part_of(path))
                part_of(path).rename(path)

    def append(self, repository: Repository, file: File, part: Path) -> None:
        """Continue an unfinished file to its end, over broken connections too."""
        failures = 0
        while (size := size_of(part)) < file.size:
            try:
                self.receive(repository, file, part)
            except TransportError:
                if failures == RETRIES:
                    raise
            failures = 0 if size_of(part) > size else failures + 1
            if failures > RETRIES:
                raise UserError(f"{file.name} of {repository.name} ends after {size:,} of {file.size:,} bytes.\n{AGAIN}")
            if failures:
                self._stopping.wait(1)

    def receive(self, repository: Repository, file: File, part: Path) -> None:
        """Append one answer of the server's, from where the file ends; if the server sends all of it, from its beginning."""
        self.stage = f"{file.name} of {repository.name}"
        url = hf_hub_url(repository.name, file.name, revision=repository.commit)
        headers = self.headers | {"Range": f"bytes={size_of(part)}-"}
        with (
            part.open("ab") as out,
            http_stream_backoff(
                "GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, retry_on_exceptions=()
            ) as answer,
        ):
            hf_raise_for_status(answer)
            if answer.status_code != 206:
                out.truncate(0)
            size = size_of(part)
            for piece in answer.iter_bytes(PIECE):
                self.check_stop()
                out.write(piece)
                size += len(piece)
                self.received[repository, file] = size

    def check(self, repository: Repository, file: File, part: Path) -> None:
        """Raises UserError for content that is not what the hub describes; it is deleted."""
        self.stage = f"checking {file.name} of {repository.name}"
        with part.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != file.sha256:
            part.unlink()
            self.received[repository, file] = 0
            raise UserError(f"{file.name} of {repository.name} arrived damaged, and was deleted: its hash is wrong.\n{AGAIN}")

    def check_stop(self) -> None:
        if self._stopping.is_set():
            raise Stopped
