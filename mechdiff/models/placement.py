"""Where a pair's weights are, and who may run them.

Hooks on a shared model are seen by every thread, so whoever runs a model holds the lock of its weights, and releases it between
chunks.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.inputs.pair_file import Pair
from mechdiff.models.locks import FairLock, Together
from mechdiff.models.offload import OneAtATime


class Placement:
    """The lock and the device of a pair's weights.

    lock: hold it around every forward pass. offload: if the models take turns on the GPU. weights: what the pair shares with
    other pairs, which stays in memory as long as this pair does.
    """

    def __init__(self, pair: Pair, models: dict[str, Anatomy], lock: FairLock | Together, weights: Sequence[object] = ()):
        self.pair, self.models, self.lock, self.weights = pair, models, lock, weights
        self.offload: OneAtATime | None = None
        self.notices: list[str] = []

    @property
    def device(self) -> torch.device:
        return self.models["base"].device

    def take_turns(self, device: str) -> None:
        """Keep one model on the GPU at a time from now on."""
        here = torch.device(device, torch.cuda.current_device()) if device == "cuda" else torch.device(device)
        self.offload = OneAtATime(self.models, here)
        self.notices.append("The two models take turns on the GPU: each comes when it is needed, and a request waits for it.")

    def resident(self, *sides: str) -> AbstractContextManager:
        """A context in which these sides' weights are on their device. The caller holds the lock."""
        return nullcontext() if self.offload is None else self.offload.resident(*sides)

    def visiting(self, module: torch.nn.Module) -> AbstractContextManager:
        """A context in which one module of the other model is on the device too. The caller holds the lock."""
        return nullcontext() if self.offload is None else self.offload.visiting(module)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """The lock, and a UserError if memory runs out."""
        with self.lock, memory_errors(self.pair, self.device.type):
            yield

    @contextmanager
    def at_work(self, *sides: str) -> Iterator[None]:
        """For a chunk of forward passes: the lock, these sides' weights on their device, and a UserError if memory runs out."""
        with self.locked(), self.resident(*sides):
            yield


@contextmanager
def memory_errors(pair: Pair, device: str) -> Iterator[None]:
    """Turn running out of memory into a UserError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            where = "GPU" if device == "cuda" else "main"
            raise UserError(
                f"{pair.name} does not fit in the {where} memory.\nTry:  --device cpu, --dtype bfloat16, or --limit 8"
            ) from error
        raise
