"""What fine-tuning did to the weights themselves: each matrix's difference, its size, its rank and its leading directions.

Needs no forward pass. Matrices are read one at a time from the models' files, so that a pair of any size takes the memory of
three matrices.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.inputs.model_config import read_config
from mechdiff.inputs.pair_file import Source
from mechdiff.maths.linalg import descending_eigh

LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.(.+)\.weight$")
ADAPTED = re.compile(r"^base_model\.model\.(.+)\.lora_([AB])\.weight$")
EXACT = 1024  # up to this smaller side every singular value is computed; above it, the leading ones by random projection
LEADING = 128  # singular values that are computed of a larger matrix
POWERS = 4  # power iterations of the random projection
SHARE = 0.9  # of the squared size, for rank_90
NOTHING = 1e-5  # a singular value below this share of the largest is rounding
WRITERS = ("o_proj", "out_proj", "c_proj", "dense", "down_proj", "dense_4h_to_h")  # what writes into the residual stream
TRANSPOSED = ("gpt2",)  # model types that store a matrix as [inputs, outputs]


@dataclass(frozen=True)
class Spectrum:
    """A matrix's size and how it is spread over directions.

    norm: Frobenius. participation_ratio: (sum s^2)^2 / sum s^4, so that k equal singular values give k.
    stable_rank: norm^2 / s_1^2. rank_90: the fewest directions with 90 % of norm^2; None if more than were computed.
    singular: the leading singular values, largest first. left, right: their vectors, [rows, k] and [columns, k].
    """

    norm: float
    participation_ratio: float
    stable_rank: float
    rank_90: int | None
    singular: Tensor
    left: Tensor
    right: Tensor


def spectrum(matrix: Float[Tensor, "rows columns"], seed: int = 0) -> Spectrum:
    """Size, ranks and leading directions of a matrix; all zero for the zero matrix.

    Source: participation ratio, e.g. Gao and Ganguli 2015; random projection, Halko, Martinsson and Tropp 2011, algorithm 4.4.
    """
    matrix = matrix.float()
    energy = sum(float(matrix[rows].double().square().sum()) for rows in chunks(len(matrix)))
    if not energy:
        none = torch.zeros(0)
        return Spectrum(0.0, 0.0, 0.0, 0, none, matrix[:, :0], matrix.mT[:, :0])
    exact = min(matrix.shape) <= EXACT
    left, singular, right = whole(matrix) if exact else leading(matrix, seed)
    squares = singular.double().square()
    fourth = float(squares.square().sum()) if exact else gram_energy(matrix)
    reached = (squares.cumsum(0) >= SHARE * energy * (1 - 1e-6)).nonzero()
    rank_90 = int(reached[0]) + 1 if len(reached) else None
    return Spectrum(energy**0.5, energy**2 / fourth, energy / float(squares[0]), rank_90, singular, left, right.mT)


def whole(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every singular value and vector, from the smaller Gram matrix in float64: far quicker, and exact enough for float32.

    On the longer side a direction of no size is zero.
    """
    if matrix.shape[0] > matrix.shape[1]:
        right, singular, left = whole(matrix.mT)
        return left.mT, singular, right.mT
    double = matrix.double()
    values, left = descending_eigh(double @ double.mT)
    singular = values.clamp(min=0).sqrt()
    some = singular > NOTHING**2 * singular[0]
    right = (left.mT @ double) * torch.where(some, 1 / singular.where(some, torch.ones_like(singular)), 0)[:, None]
    return left.float(), singular.float(), right.float()


def leading(matrix: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular values and vectors, by random projection with power iterations: left, values, right transposed."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(matrix.shape[1], LEADING + LEADING // 4, generator=generator).to(matrix.device)
    basis = torch.linalg.qr(matrix @ start).Q
    for _ in range(POWERS):
        basis = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.mT @ basis).Q).Q
    left, singular, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
    return (basis @ left)[:, :LEADING], singular[:LEADING], right[:LEADING]


def gram_energy(matrix: Tensor) -> float:
    """The sum of the fourth powers of all singular values, from the smaller Gram matrix, without factorising it."""
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT
    scale = float(matrix.abs().max())  # so that no square leaves float32
    matrix = matrix / scale
    return scale**4 * sum(float((matrix[rows] @ matrix.mT).double().square().sum()) for rows in chunks(len(matrix)))


def chunks(count: int, size: int = 1024) -> Iterable[slice]:
    return (slice(start, start + size) for start in range(0, count, size))


class Weights:
    """One model's layer matrices, read from its files when they are asked for. places: (layer, module) -> the tensor's name."""

    def __init__(self, source: Source):
        self.source, self.folder = source, source.local()
        self.transposed = read_config(self.folder).get("model_type") in TRANSPOSED

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name -> its file."""
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            return {name: self.folder / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        single = self.folder / "model.safetensors"
        if not single.exists():
            raise UserError(
                f"{self.folder} has no .safetensors file, and other formats are not read without running a model.\n"
                "Try:  transformers' save_pretrained, which writes that format"
            )
        from safetensors import safe_open

        with safe_open(single, "pt") as file:
            return dict.fromkeys(file.keys(), single)

    @cached_property
    def places(self) -> dict[tuple[int, str], str]:
        """Matrices alone: vectors, such as norms', are left out."""
        from safetensors import safe_open

        shapes = {}
        for path in set(self.files.values()):
            with safe_open(path, "pt") as file:
                shapes |= {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no dict)
        found = ((LAYER.search(name), name) for name in self.files)
        return {(int(match[1]), match[2]): name for match, name in found if match and len(shapes.get(name, ())) == 2}

    @cached_property
    def adapter(self) -> "Adapter | None":
        folder = self.source.adapter_folder()
        return None if folder is None else Adapter(folder)

    def modules(self, layer: int) -> list[str]:
        """The names of a layer's matrices, in the order of the files."""
        return [module for number, module in self.places if number == layer]

    def writers(self, layer: int) -> list[str]:
        """Those of a layer's matrices that write into the residual stream: the outputs of attention and MLP."""
        return [module for module in self.modules(layer) if module.rpartition(".")[2] in WRITERS]

    def read(self, place: tuple[int, str]) -> Float[Tensor, "outputs inputs"] | None:
        """A matrix as it acts, adapter and all; None for one that the model has not."""
        plain, change = self.plain(place), self.change(place)
        return plain if plain is None or change is None else plain + change

    def plain(self, place: tuple[int, str]) -> Tensor | None:
        """The same without the adapter."""
        from safetensors import safe_open

        name = self.places.get(place)
        if name is None:
            return None
        with safe_open(self.files[name], "pt") as file:
            found = file.get_tensor(name).float()
        return found.mT if self.transposed else found

    def change(self, place: tuple[int, str]) -> Tensor | None:
        """What the adapter adds; None where it adds nothing."""
        return None if self.adapter is None else self.adapter.change(self.places[place].removesuffix(".weight"))


class Adapter:
    """A LoRA adapter's changes, from its files. Raises UserError for a kind that is more than a sum of two factors."""

    def __init__(self, folder: Path):
        self.folder, self.config = folder, json.loads((folder / "adapter_config.json").read_text())
        kind = self.config.get("peft_type")
        if kind != "LORA" or self.config.get("use_dora") or self.config.get("modules_to_save"):
            raise UserError(
                f"The adapter in {folder} is more than a plain LoRA, so its change cannot be read from its files.\n"
                "Try:  merge it with peft's merge_and_unload and give the merged folder as [tuned]"
            )

    @cached_property
    def names(self) -> dict[tuple[str, str], str]:
        """(module, A or B) -> the tensor's name."""
        from safetensors import safe_open

        with safe_open(self.folder / "adapter_model.safetensors", "pt") as file:
            found = ((ADAPTED.match(name), name) for name in file.keys())  # noqa: SIM118 (no dict)
            return {(match[1], match[2]): name for match, name in found if match}

    def change(self, module: str) -> Tensor | None:
        from safetensors import safe_open

        key = next((name for name, part in self.names if part == "A" and ends_alike(name, module)), None)
        if key is None:
            return None
        with safe_open(self.folder / "adapter_model.safetensors", "pt") as file:
            into, out = (file.get_tensor(self.names[key, part]).float() for part in "AB")
        return self.scale(key, len(into)) * out @ into

    def scale(self, module: str, rank: int) -> float:
        pattern = self.config.get("alpha_pattern") or {}
        alpha = next((a for name, a in pattern.items() if re.fullmatch(rf"(.*\.)?({name})", module)), self.config["lora_alpha"])
        return alpha / (rank**0.5 if self.config.get("use_rslora") else rank)


def ends_alike(one: str, other: str) -> bool:
    """Whether one module's name is the end of the other's: a model's files may or may not name its outermost part."""
    return one == other or one.endswith("." + other) or other.endswith("." + one)


def difference(base: Weights, tuned: Weights, place: tuple[int, str]) -> tuple[Tensor, Tensor] | None:
    """A matrix's change and its base; None if either model lacks it. Raises UserError if their shapes differ.

    With the same weights below an adapter the change is the adapter's own, without rounding.
    """
    before = base.read(place)
    if before is None or place not in tuned.places:
        return None
    if base.source == tuned.source.weights:
        change = tuned.change(place)
        return (torch.zeros_like(before) if change is None else change), before
    after = tuned.read(place)
    if after.shape != before.shape:
        shapes = " and ".join("x".join(map(str, one.shape)) for one in (before, after))
        raise UserError(f"{place[1]} of layer {place[0]} is {shapes} in the two models, so there is no difference of them.")
    return after - before, before
