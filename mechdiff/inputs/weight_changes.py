"""What fine-tuning did to the weights: each matrix's difference, read from the models' files without running a model.

Matrices are read one at a time, so that a pair of any size takes the memory of three matrices.
"""

import json
import re
from collections import defaultdict
from functools import cached_property
from pathlib import Path

from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.inputs.model_config import read_config
from mechdiff.inputs.pair_file import Source
from mechdiff.inputs.weight_files import Stored, adapter_tensors, tensors
from mechdiff.maths.spectrum import Factors

Place = tuple[int, str]  # layer, module
Change = Tensor | Factors  # of a matrix [outputs, inputs]

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)\.weight$")
ADAPTED = re.compile(r"^base_model\.model\.(.+)\.(lora_A|lora_B|lora_magnitude_vector|weight)$")
WRITERS = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h")  # what writes into the residual stream
TRANSPOSED = ("gpt2",)  # model types that store a matrix as [inputs, outputs]


class Weights:
    """One model's layer matrices, read from its files on demand."""

    def __init__(self, source: Source):
        self.source, self.folder = source, source.local()
        self.transposed = read_config(self.folder).get("model_type") in TRANSPOSED

    @cached_property
    def places(self) -> dict[Place, Stored]:
        """The layers' matrices, by name. Vectors, such as norms, are left out."""
        matched = ((LAYER.search(name), stored) for name, stored in sorted(tensors(self.folder).items()))
        return {(int(match[1]), match[2]): stored for match, stored in matched if match and len(stored.shape) == 2}

    @cached_property
    def adapter(self) -> "Adapter | None":
        folder = self.source.adapter_folder()
        return None if folder is None else Adapter(folder, self.transposed)

    def modules(self, layer: int) -> list[str]:
        """The names of a layer's matrices, in alphabetical order."""
        return [module for number, module in self.places if number == layer]

    def writers(self, layer: int) -> list[str]:
        """Those of a layer's matrices that write into the residual stream: the outputs of attention and MLP."""
        return [module for module in self.modules(layer) if module.rpartition(".")[2] in WRITERS]

    def read(self, place: Place) -> Float[Tensor, "outputs inputs"]:
        """A matrix as the model uses it, adapter included, in float32. The place must be among `places`."""
        plain = self.plain(place)
        change = self.change(place, plain)
        return plain + (change.dense() if isinstance(change, Factors) else change)

    def plain(self, place: Place) -> Float[Tensor, "outputs inputs"]:
        """The same without the adapter."""
        return read_tensor(self.places[place], self.transposed)

    def change(self, place: Place, plain: Float[Tensor, "outputs inputs"]) -> Change:
        """What the adapter adds to a matrix. plain: the matrix without it."""
        module = self.places[place].name.removesuffix(".weight")
        return no_change(plain) if self.adapter is None else self.adapter.change(module, plain)


class Adapter:
    """A LoRA adapter's changes, from its files: low-rank products, DoRA, and modules that it saves whole.

    transposed: whether the base stores its matrices as [inputs, outputs]. Raises UserError for any other kind of adapter.
    """

    def __init__(self, folder: Path, transposed: bool = False):
        self.folder, self.transposed = folder, transposed
        self.config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        if self.config.get("peft_type") != "LORA" or self.config.get("use_qalora"):
            raise UserError(
                f"The adapter in {folder} is not a LoRA, so its change cannot be read from its files.\n"
                "Try:  merge it with peft's merge_and_unload and give the merged folder as [tuned]"
            )

    @cached_property
    def modules(self) -> dict[str, dict[str, Stored]]:
        """Module -> its tensors by kind: lora_A, lora_B, lora_magnitude_vector, or weight for one that is saved whole."""
        modules = defaultdict(dict)
        for name, stored in adapter_tensors(self.folder).items():
            if match := ADAPTED.match(name.removesuffix(".weight")) or ADAPTED.match(name):
                modules[match[1]][match[2]] = stored
        return dict(modules)

    def change(self, module: str, plain: Float[Tensor, "outputs inputs"]) -> Change:
        """What the adapter adds to one matrix. plain: the base's matrix."""
        key = next((name for name in self.modules if same_module(name, module)), None)
        if key is None:
            return no_change(plain)
        parts = self.modules[key]
        if "weight" in parts:
            return read_tensor(parts["weight"], self.transposed) - plain
        down, up = read_tensor(parts["lora_A"]), read_tensor(parts["lora_B"])
        factors = Factors(self.scale(key, len(down)) * up, down)
        if "lora_magnitude_vector" not in parts:
            return factors
        # DoRA (Liu et al. 2024, arXiv:2402.09353): a learned norm for every output
        adapted = plain + factors.dense()
        magnitude = read_tensor(parts["lora_magnitude_vector"]).flatten()
        return adapted * (magnitude / adapted.norm(dim=1))[:, None] - plain

    def scale(self, module: str, rank: int) -> float:
        pattern = self.config.get("alpha_pattern") or {}
        alpha = next((a for name, a in pattern.items() if re.fullmatch(rf"(.*\.)?({name})", module)), self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def read_tensor(stored: Stored, transposed: bool = False) -> Tensor:
    """One tensor of a file, in float32."""
    with safe_open(stored.file, "pt") as file:
        tensor = file.get_tensor(stored.name).float()
    return tensor.mT if transposed else tensor


def no_change(plain: Float[Tensor, "outputs inputs"]) -> Factors:
    return Factors(plain.new_zeros(len(plain), 0), plain.new_zeros(0, plain.shape[1]))


def same_module(name: str, other: str) -> bool:
    """Whether one module's name is the end of the other's: a model's files may or may not name its outermost part."""
    return name == other or name.endswith("." + other) or other.endswith("." + name)


def difference(base: Weights, tuned: Weights, place: Place) -> tuple[Change, Float[Tensor, "outputs inputs"]] | None:
    """A matrix's change and its base; None if either model lacks it. Raises UserError if their shapes differ.

    With the same weights below an adapter the change is the adapter's own, without rounding, and a plain LoRA's is in factors.
    """
    if place not in base.places or place not in tuned.places:
        return None
    before = base.read(place)
    if base.source == tuned.source.weights:
        return tuned.change(place, before), before
    after = tuned.read(place)
    if after.shape != before.shape:
        shapes = " and ".join("x".join(map(str, matrix.shape)) for matrix in (before, after))
        raise UserError(f"{place[1]} of layer {place[0]} is {shapes} in the two models, so they have no difference.")
    return after - before, before
