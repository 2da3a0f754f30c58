"""Locks over weights: whoever runs a model holds its lock, and releases it between chunks."""

import threading
from collections import deque


class FairLock:
    """A lock that serves waiting threads in order, so that a long computation lets a short one in between its chunks."""

    def __init__(self):
        self._guard, self._queue, self._held = threading.Lock(), deque(), False

    def __enter__(self):
        with self._guard:
            if not self._held and not self._queue:
                self._held = True
                return self
            turn = threading.Event()
            self._queue.append(turn)
        turn.wait()
        return self

    def __exit__(self, *_):
        with self._guard:
            if self._queue:
                self._queue.popleft().set()
            else:
                self._held = False


class Together:
    """Several locks held as one. All threads take them in the same order, so no two threads wait for each other."""

    def __init__(self, locks: list[FairLock]):
        self.locks = locks

    def __enter__(self):
        for lock in self.locks:
            lock.__enter__()
        return self

    def __exit__(self, *error):
        for lock in reversed(self.locks):
            lock.__exit__(*error)
