"""How much of a device's memory work may take, what happens when it runs out, and the cache of clean passes.

The budget is 80 % of the GPU memory that is free once the models are loaded, or what `MECHDIFF_MEMORY` (GiB, weights included)
leaves. Pieces of work are sized from it. If memory still runs out, cached clean passes move to main memory, the piece is halved,
and later pieces stay that small.
"""

import os
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import psutil
import torch
from torch import Tensor

from mechdiff.common.bounded import own
from mechdiff.common.errors import UserError

SHARE = 0.8  # of what is free
WEIGHTS = 0.5  # of a device's memory, for the weights of all loaded pairs; a pair that needs more is alone
PIECES, PASSES = 0.25, 0.5  # shares of the budget: one piece's states and logits; cached clean passes
TRIES = 4  # of a piece that cannot be halved any more
HOST = 0.4  # share of main memory for clean passes that do not fit on a GPU
CPU_PASSES = 2 << 30  # bytes of cached clean passes if the models run in main memory
VARIABLE = "MECHDIFF_MEMORY"

Items = TypeVar("Items", list[Any], Tensor)
Result = TypeVar("Result")


@dataclass
class Budget:
    """Bytes that work on one device may take in addition to the weights. shrunk: how often a piece had to be halved."""

    device: torch.device
    total: int
    shrunk: int = 0
    passes: weakref.WeakSet = field(default_factory=weakref.WeakSet)

    def rows(self, bytes_each: int, most: int, least: int = 16) -> int:
        """How many rows of a size in bytes a piece may have.

        A power of two, so that slightly more or less free memory does not change it, and with it the last bits of results.
        """
        fitting = max(1, int(PIECES * self.total) // bytes_each >> self.shrunk)
        return max(least, min(most, 1 << (fitting.bit_length() - 1)))

    def shrink(self) -> None:
        """After memory has run out: smaller pieces from now on, and cached clean passes off the device."""
        self.shrunk += 1
        for passes in list(self.passes):
            passes.leave()
        release(self.device.type)


_budgets: dict[torch.device, Budget] = {}
_expected: dict[torch.device, int] = {}


def budget(device: torch.device) -> Budget:
    """A device's budget; measured at its first use, after the models are loaded."""
    if device not in _budgets:
        _budgets[device] = Budget(device, allowed(device))
    return _budgets[device]


def forget(weights: bool = False) -> None:
    """Measure budgets again at their next use, since models were loaded or dropped. weights: no more weights are expected."""
    _budgets.clear()
    if weights:
        _expected.clear()


def expect(device: torch.device, weights: int) -> None:
    """Reserve bytes of a device for weights that are not loaded yet."""
    _expected[device] = max(weights, _expected.get(device, 0))
    forget()


def allowed(device: torch.device) -> int:
    """Bytes that work may take now. Raises UserError for a limit that is not a number, or is smaller than the weights."""
    if device.type != "cuda":
        return int(SHARE * psutil.virtual_memory().available)
    held = max(torch.cuda.memory_allocated(device), _expected.get(device, 0))
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - held
    limit = stated_limit()
    if limit is None:
        return int(SHARE * free)
    left = limit - held
    if left < 1 << 30:
        raise UserError(
            f"{VARIABLE} is {limit / 2**30:g} GiB, and the weights alone take {held / 2**30:.1f}.\n"
            f"Try:  {VARIABLE}={held / 2**30 + 4:.0f}"
        )
    return min(left, free)


def stated_limit() -> int | None:
    """The bytes that `MECHDIFF_MEMORY` allows on a GPU; None if it is not set. Raises UserError if it is not a number."""
    limit = os.environ.get(VARIABLE)
    try:
        return None if limit is None else int(float(limit) * 2**30)
    except ValueError:
        raise UserError(f"{VARIABLE} is '{limit}', which is not a number of GiB.\nTry:  {VARIABLE}=24") from None


def room_for_weights(kind: str) -> int:
    """Bytes that the weights of all loaded pairs may take together. kind: `cuda` for the GPU's memory, `cpu` for main memory."""
    if kind == "cuda":
        return int(WEIGHTS * (stated_limit() or torch.cuda.mem_get_info()[1]))
    return int(WEIGHTS * psutil.virtual_memory().total)


def release(kind: str) -> None:
    """Free the memory of a kind of device that torch keeps for later."""
    if kind == "cuda":
        torch.cuda.empty_cache()


def in_parts(work: Callable[[Items], Result], items: Items, device: torch.device) -> Iterator[tuple[Items, Result]]:
    """work(items), in halves if memory runs out. Yields each part of the items with its result.

    The error of a single item that does not fit, after several tries, is raised.
    """
    waiting, tries = deque([items]), 0
    while waiting:
        part = waiting.popleft()
        try:
            result = work(part)
        except torch.OutOfMemoryError as error:
            tries += len(part) == 1
            if tries >= TRIES:
                raise
            del error
        else:
            tries = 0
            yield part, result
            continue
        budget(device).shrink()
        middle = (len(part) + 1) // 2
        waiting.extendleft([half for half in (part[middle:], part[:middle]) if len(half)])


def patiently(work: Callable[[], Result], device: torch.device) -> Result:
    """work(), repeated if memory ran out and could be freed."""
    return next(in_parts(lambda _: work(), [None], device))[1]


def room_for_passes(device: torch.device) -> int:
    """Bytes that cached clean passes may take on a device."""
    return CPU_PASSES if device.type == "cpu" else int(PASSES * budget(device).total)


class Pass(Protocol):
    """A clean pass that can move to another device's memory."""

    @property
    def nbytes(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def to(self, device: torch.device) -> "Pass": ...


class PassCache:
    """A cache of clean passes, by name: on their device while they fit, then in main memory, then dropped."""

    def __init__(self):
        own(self)
        self._near: OrderedDict[Hashable, Any] = OrderedDict()
        self._far: OrderedDict[Hashable, tuple[torch.device, Any]] = OrderedDict()

    def names(self) -> list[Any]:
        return [*self._near, *self._far]

    def get(self, name: Hashable) -> Any:
        """The pass, on its device; None if it is not cached."""
        if name in self._far:
            device, moved = self._far.pop(name)
            self.put(name, moved.to(device))
        if name in self._near:
            self._near.move_to_end(name)
        return self._near.get(name)

    def put(self, name: Hashable, clean: Pass) -> None:
        """Cache a pass. The least recently used make room, except the two that are in use."""
        device = clean.device
        budget(device).passes.add(self)  # every time, since budgets are measured again when another pair is loaded
        self._near[name] = clean
        while sum(near.nbytes for near in self._near.values()) > room_for_passes(device) and len(self._near) > 2:
            self._move_away(*self._near.popitem(last=False))
        while self._far and sum(far.nbytes for _, far in self._far.values()) > HOST * psutil.virtual_memory().total:
            self._far.popitem(last=False)

    def leave(self) -> None:
        """Move everything out of the device's memory."""
        for name in list(self._near):
            self._move_away(name, self._near.pop(name))

    def _move_away(self, name: Hashable, clean: Pass) -> None:
        if clean.device.type != "cpu":
            self._far[name] = clean.device, clean.to(torch.device("cpu"))

    def clear(self) -> None:
        self._near.clear()
        self._far.clear()


def sent(values: Tensor, device: torch.device) -> Tensor:
    """The values on a device. From pinned memory: a copy from other memory would wait for all work that a GPU still has to do."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" and not values.is_cuda else values
