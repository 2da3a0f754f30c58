"""How much of a device's memory work may take, what happens when it runs out, and clean passes that move out of the way.

The budget is 80 % of what is free on a GPU once the models are loaded, or what `MECHDIFF_MEMORY` (GiB, weights included) leaves.
Pieces of work are sized from it. Where memory runs out all the same, what is remembered moves to main memory, the piece is
halved, and later pieces are as small.
"""

import os
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import psutil
import torch

from mechdiff.common.errors import UserError

SHARE = 0.8  # of what is free
PIECES, PASSES = 0.25, 0.5  # shares of the budget: one piece's states and logits; clean passes that are remembered
TRIES = 4  # of a piece that cannot be halved any more
HOST = 0.4  # of main memory, for clean passes that a GPU has no room for
CPU_PASSES = 2 << 30  # bytes of clean passes remembered where everything is in main memory
VARIABLE = "MECHDIFF_MEMORY"


@dataclass
class Budget:
    """What work on one device may take, in bytes, beside the weights. shrunk: how often a piece had to be halved."""

    device: torch.device
    total: int
    shrunk: int = 0
    passes: weakref.WeakSet = field(default_factory=weakref.WeakSet)

    def rows(self, bytes_each: int, most: int, least: int = 16) -> int:
        """How many rows of so many bytes a piece may have: a power of two, so that a little more or less free memory does not
        change it, and with it the last bits of results."""
        fitting = max(1, int(PIECES * self.total) // bytes_each >> self.shrunk)
        return max(least, min(most, 1 << (fitting.bit_length() - 1)))

    def shrink(self) -> None:
        """After memory has run out: smaller pieces from now on, and clean passes out of the way."""
        self.shrunk += 1
        for passes in list(self.passes):
            passes.leave()
        release(self.device)


_budgets: dict[torch.device, Budget] = {}
_expected: dict[torch.device, int] = {}


def budget(device: torch.device) -> Budget:
    """A device's budget; measured when it is first asked for, once the models are there."""
    if device not in _budgets:
        _budgets[device] = Budget(device, allowed(device))
    return _budgets[device]


def forget(weights: bool = False) -> None:
    """Measure anew when a budget is next asked for: models were loaded or dropped. weights: none is expected any more."""
    _budgets.clear()
    if weights:
        _expected.clear()


def expect(device: torch.device, weights: int) -> None:
    """So many bytes of weights will be on a device, though they are not yet."""
    _expected[device] = max(weights, _expected.get(device, 0))
    forget()


def allowed(device: torch.device) -> int:
    """Bytes that work may take now. Raises UserError for a limit that is no number or is below what the weights take."""
    if device.type != "cuda":
        return int(SHARE * psutil.virtual_memory().available)
    held = max(torch.cuda.memory_allocated(device), _expected.get(device, 0))
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
    limit = os.environ.get(VARIABLE)
    if limit is None:
        return int(SHARE * free)
    try:
        left = int(float(limit) * 2**30) - held
    except ValueError:
        raise UserError(f"{VARIABLE} is '{limit}', which is no number of GiB.\nTry:  {VARIABLE}=24") from None
    if left < 1 << 30:
        raise UserError(
            f"{VARIABLE} is {limit} GiB, and the weights alone take {held / 2**30:.1f}.\nTry:  {VARIABLE}={held / 2**30 + 4:.0f}"
        )
    return min(left, free)


def release(device: torch.device) -> None:
    """Give back what torch keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def in_parts(work: Callable, items: list, device: torch.device) -> Iterator[tuple[list, object]]:
    """work(some of the items), for all of them; where memory runs out, in halves. Yields the items and what came of them.

    The error of a single item that does not fit, several times over, is raised.
    """
    waiting, tries = deque([items]), 0
    while waiting:
        some = waiting.popleft()
        try:
            found = work(some)
        except torch.OutOfMemoryError as error:
            tries += len(some) == 1
            if tries >= TRIES:
                raise
            del error
        else:
            tries = 0
            yield some, found
            continue
        budget(device).shrink()
        half = (len(some) + 1) // 2
        waiting.extendleft([part for part in (some[half:], some[:half]) if len(part)])


def patiently(work: Callable, device: torch.device):
    """work(), again where memory ran out and could be freed."""
    return next(in_parts(lambda _: work(), [None], device))[1]


def room_for_passes(device: torch.device) -> int:
    """Bytes that remembered clean passes may take on a device."""
    return CPU_PASSES if device.type == "cpu" else int(PASSES * budget(device).total)


class Passes:
    """Remembered clean passes, by name: on their device while they fit, then in main memory, then forgotten.

    A pass has `nbytes`, `device` and `to(device)`.
    """

    def __init__(self):
        self._near, self._far = OrderedDict(), OrderedDict()

    def names(self) -> list:
        return [*self._near, *self._far]

    def get(self, name):
        """The pass, on its device; None if it is not remembered."""
        if name in self._far:
            device, found = self._far.pop(name)
            self.put(name, found.to(device))
        if name in self._near:
            self._near.move_to_end(name)
        return self._near.get(name)

    def put(self, name, found) -> None:
        """Remember a pass. The least recently used make room, but for the two that are at work."""
        device = found.device
        budget(device).passes.add(self)  # each time: budgets are measured anew when another pair is loaded
        self._near[name] = found
        while sum(one.nbytes for one in self._near.values()) > room_for_passes(device) and len(self._near) > 2:
            self._away(*self._near.popitem(last=False))
        while self._far and sum(one.nbytes for _, one in self._far.values()) > HOST * psutil.virtual_memory().total:
            self._far.popitem(last=False)

    def leave(self) -> None:
        """Everything out of the device's memory."""
        for name in list(self._near):
            self._away(name, self._near.pop(name))

    def _away(self, name, found) -> None:
        if found.device.type != "cpu":
            self._far[name] = found.device, found.to(torch.device("cpu"))

    def clear(self) -> None:
        self._near.clear()
        self._far.clear()
