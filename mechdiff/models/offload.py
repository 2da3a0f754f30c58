"""Two models that do not fit on a GPU together: one of them at a time.

Weights stay in main memory, and a model's come to the GPU while it runs. What both models share, such as the weights below an
adapter, comes once.
"""

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
        self.master = {name: tensor.data for found in self.tensors.values() for name, tensor in found.items()}
        expect(device, max(sum(tensor.nbytes for tensor in found.values()) for found in self.tensors.values()))
        self.here: set[int] = set()  # the tensors that are on the device, by identity
        for anatomy in models.values():
            anatomy.home = device
        for found in self.tensors.values():
            self._leave(found)

    @contextmanager
    def resident(self, *sides: str):
        """These sides are on the device in here, and stay there until others are asked for."""
        wanted = {name: tensor for side in sides for name, tensor in self.tensors[side].items()}
        if not self.here >= wanted.keys():
            for found in self.tensors.values():
                self._leave({name: tensor for name, tensor in found.items() if name not in wanted})
            release(self.device.type)
            self._come(wanted)
        yield

    @contextmanager
    def visiting(self, module: torch.nn.Module):
        """One module of the model that is away, on the device in here, beside the one that is there."""
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

    def _leave(self, found: dict[int, torch.Tensor]) -> None:
        for name, tensor in found.items():
            tensor.data = away(self.master[name])
        self.here -= found.keys()


def away(master: torch.Tensor) -> torch.Tensor:
    """What stands in for weights that are not on the device: those in main memory."""
    return master


def tensors(module: torch.nn.Module) -> dict[int, torch.Tensor]:
    """Weights and buffers, by identity."""
    return {id(t): t for t in (*module.parameters(), *module.buffers())}
