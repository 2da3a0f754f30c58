"""The layers' matrices of both models of a pair: read from files or, where the models are only in memory, from their modules."""

import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from mechdiff.common.errors import UserError
from mechdiff.engine.anatomy import Anatomy
from mechdiff.inputs.pair_file import Pair, Source
from mechdiff.inputs.weight_changes import Place, Weights
from mechdiff.models.peft_modules import adapted, below
from mechdiff.models.registry import load_pair

AT_ONCE = 1024  # inputs of an adapted module whose outputs are computed together
FILES = "Try:  md.load(folder, folder), with the folders that they came from, or that save_pretrained writes"


def weights_of(pair: Pair, device: str, dtype: str | None) -> tuple[Weights, Weights]:
    """Both models' matrices, base first. device, dtype: of models in memory.

    Raises UserError for models in memory that do not hold their matrices as such.
    """
    if pair.base.content is None:
        return Weights(pair.base), Weights(pair.tuned)
    loaded = load_pair(pair, device, dtype)
    return WeightsInMemory(pair.base, loaded.base), WeightsInMemory(pair.tuned, loaded.tuned)


class WeightsInMemory(Weights):
    """One model's layer matrices, under the names that its files would have."""

    def __init__(self, source: Source, anatomy: Anatomy):
        self.source, self.blocks = source, [part.block for part in anatomy.layers]
        if getattr(anatomy.model, "is_quantized", False):
            raise UserError(f"Weights that are quantized in memory cannot be compared there.\n{FILES}")
        for layer, block in enumerate(self.blocks):
            refuse_stacks(block, layer)

    @cached_property
    def adapter(self) -> None:
        """None apart: its change is in the matrices."""

    @cached_property
    def places(self) -> dict[Place, Any]:
        """The modules that have the matrices, by layer and name."""
        named = {(layer, name): module for layer, block in enumerate(self.blocks) for name, module in matrices(block).items()}
        return dict(sorted(named.items()))

    def read(self, place: Place) -> Float[Tensor, "outputs inputs"]:
        """A matrix as the model uses it: in float32, or in float64 where an adapter changes it."""
        module = self.places[place]
        if adapted(module):
            return applied(module)
        weight = module.weight.detach().float()
        return weight.mT if transposed(module) else weight


def matrices(block: nn.Module) -> dict[str, nn.Module]:
    """A layer's modules that multiply by a matrix, by name; one with adapters counts as a whole."""
    found: dict[str, nn.Module] = {}
    for name, module in block.named_modules():
        inside = any(name.startswith(f"{other}.") for other, part in found.items() if adapted(part))
        weight = getattr(module, "weight", None)
        if not inside and isinstance(weight, Tensor) and weight.ndim == 2:
            found[name] = module
    return found


def refuse_stacks(block: nn.Module, layer: int) -> None:
    """Raises UserError if a layer has several matrices in one tensor, as of experts, which its files have one by one."""
    for name, module in block.named_modules():
        for label, parameter in module.named_parameters(recurse=False):
            if parameter.ndim > 2 and not isinstance(module, _ConvNd):
                raise UserError(f"{name}.{label} of layer {layer} is several matrices in one tensor in memory.\n{FILES}")


def transposed(module: nn.Module) -> bool:
    """Whether it has its matrix as [inputs, outputs]."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


@torch.no_grad()
def applied(module: Any) -> Float[Tensor, "outputs inputs"]:
    """The matrix that a module with adapters multiplies by, in float64: what it makes of every unit vector, less its bias."""
    inner = below(module)
    inputs, double = inner.weight.shape[0 if transposed(inner) else 1], copy.deepcopy(module).double()
    zero = torch.zeros(1, inputs, dtype=torch.float64, device=inner.weight.device)
    columns = []
    for start in range(0, inputs, AT_ONCE):
        count = min(AT_ONCE, inputs - start)
        units = zero.repeat(count, 1)
        units[torch.arange(count), torch.arange(start, start + count)] = 1
        columns.append(double(units) - double(zero))
    return torch.cat(columns).mT
