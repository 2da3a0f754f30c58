"""Two models that do not fit on a GPU together: one of them at a time.

Weights stay in main memory, and a model's come to the GPU while it runs. What both models share, such as the weights below an
adapter, comes once.
"""

from contextlib import contextmanager

import torch

from mechdiff.anatomy import Anatomy
from mechdiff.memory import release


class OneAtATime:
    """Brings the models of a pair to a device in turn. The caller holds the lock of the weights.

    models: side -> its anatomy, with its weights in main memory.
    """

    def __init__(self, models: dict[str, Anatomy], device: torch.device):
        self.device, self.models, self.here = device, models, frozenset()
        self.master = {id(t): t.data for anatomy in models.values() for t in tensors(anatomy)}
        for anatomy in models.values():
            anatomy.home = device

    @contextmanager
    def resident(self, *sides: str):
        """These sides are on the device in here, and stay there until others are asked for."""
        if not self.here >= frozenset(sides):
            wanted = {id(t): t for side in sides for t in tensors(self.models[side])}
            for anatomy in self.models.values():
                for tensor in tensors(anatomy):
                    if id(tensor) not in wanted:
                        tensor.data = self.master[id(tensor)]
            release(self.device)
            for name, tensor in wanted.items():
                if tensor.device != self.device:
                    tensor.data = self.master[name].to(self.device, non_blocking=True)
            self.here = frozenset(sides)
        yield

    @contextmanager
    def visiting(self, module: torch.nn.Module):
        """One module of the model that is away, on the device in here, beside the one that is there."""
        guests = [t for t in (*module.parameters(), *module.buffers()) if t.device != self.device]
        for tensor in guests:
            tensor.data = self.master[id(tensor)].to(self.device)
        try:
            yield
        finally:
            for tensor in guests:
                tensor.data = self.master[id(tensor)]


def tensors(anatomy: Anatomy) -> list[torch.Tensor]:
    """Weights and buffers of a model, each once."""
    return list({id(t): t for t in (*anatomy.model.parameters(), *anatomy.model.buffers())}.values())
