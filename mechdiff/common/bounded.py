"""Values that stay in memory while the process runs: every collection of them has a limit in bytes, and one call empties all."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Clearable(Protocol):
    def clear(self) -> None: ...


_owners: "weakref.WeakSet[Clearable]" = weakref.WeakSet()


def own(owner: Clearable) -> None:
    """Let `clear_all` empty this collection too."""
    _owners.add(owner)


def clear_all() -> None:
    """Drop everything that is kept in memory only to be faster."""
    for owner in list(_owners):
        owner.clear()


class Bounded(Generic[Key, Value]):
    """Values by key, up to a limit in bytes: the least recently used make room. The newest stays, however large it is.

    size: a value's bytes. Safe for several threads. A value that was dropped lives on with whoever holds it.
    """

    def __init__(self, limit: int, size: Callable[[Value], int]):
        self.limit, self._size = limit, size
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._sizes: dict[Key, int] = {}
        self._total = 0
        self._lock = threading.RLock()
        own(self)

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._total

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """The value, which becomes the most recently used; None if there is none."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: Key, value: Value) -> None:
        with self._lock:
            self._drop(key)
            self._values[key], self._sizes[key] = value, self._size(value)
            self._total += self._sizes[key]
            self._trim(self.limit, spared=1)

    def make_room(self, size: int) -> None:
        """Drop the least recently used until so many more bytes would be within the limit."""
        with self._lock:
            self._trim(self.limit - size, spared=0)

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._sizes.clear()
            self._total = 0

    def _trim(self, limit: int, spared: int) -> None:
        while len(self._values) > spared and self.nbytes > limit:
            self._drop(next(iter(self._values)))

    def _drop(self, key: Key) -> None:
        self._values.pop(key, None)
        self._total -= self._sizes.pop(key, 0)
