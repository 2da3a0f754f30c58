"""Loaded pairs that stay in memory for the next request, as many as there is room for."""

import gc
import weakref

from mechdiff.common.bounded import Bounded
from mechdiff.common.terms import SIDES
from mechdiff.models.loaded_pair import LoadedPair


class PairsInMemory(Bounded[tuple, LoadedPair]):
    """Pairs in one kind of memory, the GPU's or main memory. Weights that several pairs share count once.

    A pair in use is never lost: as long as anything refers to it, it is found here, so no pair is ever loaded twice.
    """

    def __init__(self, kind: str):
        super().__init__(0, lambda pair: 0)
        self.kind = kind
        self._alive: weakref.WeakValueDictionary[tuple, LoadedPair] = weakref.WeakValueDictionary()

    @property
    def nbytes(self) -> int:
        """Bytes of all pairs' weights, those in use included."""
        from mechdiff.models.offload import bytes_of

        return bytes_of([getattr(pair, side).model for pair in list(self._alive.values()) for side in SIDES], self.kind)

    def get(self, key: tuple) -> LoadedPair | None:
        with self._lock:
            pair = super().get(key)
            if pair is None and (pair := self._alive.get(key)) is not None:
                self.put(key, pair)
            return pair

    def put(self, key: tuple, value: LoadedPair) -> None:
        from mechdiff.engine.memory import room_for_weights

        with self._lock:
            self.limit, self._alive[key] = room_for_weights(self.kind), value
            super().put(key, value)

    def make_room(self, size: int) -> None:
        from mechdiff.engine.memory import room_for_weights

        with self._lock:
            self.limit = room_for_weights(self.kind)
            super().make_room(size)

    def clear(self) -> None:
        with self._lock:
            super().clear()
            self._alive.clear()

    def _trim(self, limit: int, spared: int) -> None:
        from mechdiff.engine import memory

        before = len(self)
        super()._trim(limit, spared)
        if len(self) < before:
            gc.collect()  # modules and their hooks refer to each other
            memory.forget()
            memory.release(self.kind)
