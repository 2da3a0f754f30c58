"""Two models that do not fit on a GPU together: one of them at a time.

All weights stay in main memory, and a model's weights are copied to the GPU while it runs. Weights that both models share,
such as those below an adapter, are copied once.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from mechdiff.engine.anatomy import Anatomy
from mechdiff.engine.memory import expect, release


class OneAtATime:
    """Brings the models of a pair to a device in turn. The caller holds the lock of the weights.

    models: side -> its anatomy, with its weights in main memory.
    """

    def __init__(self, models: dict[str, Anatomy], device: torch.device):
        self.device = device
        self.tensors = {side: tensors(anatomy.model) for side, anatomy in models.items()}
        self.master = {name: tensor.data for weights in self.tensors.values() for name, tensor in weights.items()}
        expect(device, max(sum(tensor.nbytes for tensor in weights.values()) for weights in self.tensors.values()))
        self.here: set[int] = set()  # the tensors that are on the device, by identity
        for anatomy in models.values():
            anatomy.home = device
        for weights in self.tensors.values():
            self._leave(weights)

    @contextmanager
    def resident(self, *sides: str) -> Iterator[None]:
        """A context in which these sides are on the device; they stay there until others are needed."""
        wanted = {name: tensor for side in sides for name, tensor in self.tensors[side].items()}
        if not self.here >= wanted.keys():
            for weights in self.tensors.values():
                self._leave({name: tensor for name, tensor in weights.items() if name not in wanted})
            release(self.device.type)
            self._come(wanted)
        yield

    @contextmanager
    def visiting(self, module: torch.nn.Module) -> Iterator[None]:
        """A context in which one module of the absent model is on the device, next to the resident model."""
        guests = {name: tensor for name, tensor in tensors(module).items() if name not in self.here}
        self._come(guests)
        try:
            yield
        finally:
            self._leave(guests)

    def _come(self, wanted: dict[int, torch.Tensor]) -> None:
        for name in wanted.keys() - self.here:
            wanted[name].data = self.master[name].to(self.device, non_blocking=True)
        self.here |= wanted.keys()

    def _leave(self, weights: dict[int, torch.Tensor]) -> None:
        for name, tensor in weights.items():
            tensor.data = away(self.master[name])
        self.here -= weights.keys()


def away(master: torch.Tensor) -> torch.Tensor:
    """The stand-in for weights that are not on the device: those in main memory."""
    return master


def tensors(module: torch.nn.Module) -> dict[int, torch.Tensor]:
    """Weights and buffers, by identity."""
    return {id(t): t for t in (*module.parameters(), *module.buffers())}


def bytes_of(modules: Iterable[torch.nn.Module], kind: str) -> int:
    """The memory that modules' weights take, shared ones once. kind: of this process's GPU (cuda), or main memory (cpu).

    Models that take turns on a GPU stay in main memory too.
    """
    weights = {name: tensor for module in modules for name, tensor in tensors(module).items()}.values()
    if kind == "cuda":
        return sum(t.nbytes for t in weights if t.is_cuda and t.get_device() == torch.cuda.current_device())
    return sum(t.nbytes for t in weights if not t.is_meta)
