"""The disk cache: arrays and tables by content key, over diskcache. Nothing is ever pickled.

A key is the hash of everything a value depends on (see `key`); a value is safetensors or parquet bytes after their own checksum.
A damaged value is dropped and reads as missing; if the disk is full, results are computed but not stored.
"""

import contextlib
import hashlib
import io
import json
import sqlite3
import threading
import warnings
from pathlib import Path
from typing import Any

import diskcache
import numpy as np
import pandas as pd
from diskcache.core import MODE_BINARY, MODE_RAW

from mechdiff.common.bounded import Bounded
from mechdiff.common.errors import UserError
from mechdiff.common.paths import CACHE

FORMAT = 1  # raise it when the meaning of stored values changes
SIZE_LIMIT = 8 << 30
POLICY = "least-recently-stored"  # reads then write nothing, so they stay fast and safe with other processes
CHECKSUM = 16  # bytes
IN_MEMORY = 1 << 30


class BytesDisk(diskcache.Disk):
    """diskcache's disk, restricted to text keys and bytes values: the default would unpickle whatever is in the folder."""

    def put(self, key):
        if not isinstance(key, str):
            raise TypeError("cache keys are text")
        return key, True

    def get(self, key, raw):
        if not raw:
            raise ValueError("the cache folder holds a key that mechdiff did not write")
        return key

    def store(self, value, read, key=diskcache.UNKNOWN):
        if not isinstance(value, bytes):
            raise TypeError("cache values are bytes")
        return super().store(value, read, key)

    def fetch(self, mode, filename, value, read):
        if (mode == MODE_RAW and isinstance(value, bytes)) or (mode == MODE_BINARY and isinstance(filename, str)):
            return super().fetch(mode, filename, value, read)
        raise ValueError("the cache folder holds a value that mechdiff did not write")


def key(**parts: Any) -> str:
    """The key under which a result is stored: a hash over everything that its value depends on.

    parts: numbers, texts, and lists or dictionaries of them. Raises TypeError for what JSON cannot hold, such as a tensor.

    Example:
        >>> md.key(what="norms", layer=3) == md.key(layer=3, what="norms") != md.key(what="norms", layer=4)
        True
    """
    text = json.dumps({"format": FORMAT} | parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()


class Store:
    """A cache folder. Safe for several threads and processes."""

    def __init__(self, folder: Path = CACHE / "results", size_limit: int = SIZE_LIMIT):
        self.folder, self.full = Path(folder), False
        self._cache: Any  # diskcache is not typed
        self._lock = threading.Lock()
        try:
            try:
                self._cache = self._open(size_limit)
            except sqlite3.OperationalError:  # locked, full or read-only: the index itself is intact
                raise
            except sqlite3.DatabaseError:
                self._set_aside()
                self._cache = self._open(size_limit)
        except (OSError, sqlite3.DatabaseError, diskcache.Timeout) as error:
            raise UserError(f"The cache folder {folder} cannot be used: {error}\nTry:  MECHDIFF_CACHE=/some/folder") from None

    def _open(self, size_limit: int) -> diskcache.Cache:
        return diskcache.Cache(str(self.folder), disk=BytesDisk, size_limit=size_limit, eviction_policy=POLICY)

    def _set_aside(self) -> None:
        """Rename a damaged index, so that a new one is created."""
        for path in self.folder.glob("cache.db*"):
            path.rename(path.with_name(f"damaged-{path.name}"))

    def _get(self, name: str) -> bytes | None:
        try:
            stored = self._cache.get(name)
        except (ValueError, OSError, sqlite3.DatabaseError):
            stored = b""
        if stored is None:
            return None
        checksum, value = stored[:CHECKSUM], stored[CHECKSUM:]
        if not value or checksum != hashlib.blake2b(value, digest_size=CHECKSUM).digest():
            self._drop(name)
            return None
        return value

    def _drop(self, name: str) -> None:
        with contextlib.suppress(ValueError, OSError, sqlite3.DatabaseError):
            self._cache.delete(name)

    def _put(self, name: str, value: bytes) -> None:
        try:
            self._cache.set(name, hashlib.blake2b(value, digest_size=CHECKSUM).digest() + value)
        except (OSError, sqlite3.DatabaseError, diskcache.Timeout) as error:
            with self._lock:
                if not self.full:
                    warnings.warn(f"Results are not stored on disk: {error}. Free space in {self.folder}.", stacklevel=3)
                self.full = True

    def has(self, name: str) -> bool:
        """Whether something is stored under a key. Its content is only checked when it is read."""
        try:
            return name in self._cache
        except (OSError, sqlite3.DatabaseError):
            return False

    def arrays(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays stored under a key, or None."""
        from safetensors.numpy import load

        value = self._get(name)
        return None if value is None else load(value)

    def put_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        from safetensors.numpy import save

        self._put(name, save({label: np.ascontiguousarray(array) for label, array in arrays.items()}))

    def table(self, name: str) -> pd.DataFrame | None:
        """The table stored under a key, or None."""
        value = self._get(name)
        return None if value is None else pd.read_parquet(io.BytesIO(value))

    def put_table(self, name: str, table: pd.DataFrame) -> None:
        self._put(name, table.to_parquet(index=False))

    def text(self, name: str) -> str | None:
        """The text stored under a key, or None."""
        value = self._get(name)
        return None if value is None else value.decode()

    def put_text(self, name: str, value: str) -> None:
        self._put(name, value.encode())

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._cache.volume()

    @property
    def size_limit(self) -> int:
        return self._cache.size_limit

    def clear(self) -> None:
        self._cache.clear()


class MemoryStore(Store):
    """The same in memory alone: for results that must leave nothing on disk."""

    def __init__(self, limit: int = IN_MEMORY):
        self.folder, self.full = Path(), False
        self._values: Bounded[str, bytes] = Bounded(limit, len)

    def _get(self, name: str) -> bytes | None:
        return self._values.get(name)

    def _put(self, name: str, value: bytes) -> None:
        self._values.put(name, value)

    def has(self, name: str) -> bool:
        return self._values.get(name) is not None

    @property
    def size(self) -> int:
        return self._values.nbytes

    @property
    def size_limit(self) -> int:
        return self._values.limit

    def clear(self) -> None:
        self._values.clear()


_default: Store | None = None
_default_lock = threading.Lock()


def default() -> Store:
    """The process's store, in the cache folder."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Store()
        return _default
