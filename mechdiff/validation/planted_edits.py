"""Known edits of a model, for planted pairs: one head, a rank-k change of one MLP, an adapter from one layer on, noise, nothing.

The edited model is a second module tree over the base's parameters in which only the edited ones are replaced; the base is never
touched.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mechdiff.engine.anatomy import Anatomy

KINDS = ("head", "mlp", "adapter", "noise", "none")
MODULES = ("attn_out", "mlp_out")
HEAD_SIZE, MLP_SIZE, ADAPTER_SIZE = (0.5, 1.0), (0.1, 0.3), (0.02, 0.1)  # of an edit, as a share of the weights' norm
RANKS, ADAPTER_RANK = (1, 2, 4, 8), 4
NOISE, NOISY = 1e-9, 0.01  # relative size; and the share of entries that change by one unit in the last place


@dataclass(frozen=True)
class Plant:
    """A known edit. layer: the first that it touches. modules: (layer, stream) of every module whose weights differ."""

    kind: str
    layer: int | None = None
    head: int | None = None
    rank: int | None = None
    modules: frozenset[tuple[int, str]] = frozenset()

    def __str__(self) -> str:
        where = [f"{name} {value}" for name in ("layer", "head", "rank") if (value := getattr(self, name)) is not None]
        return ", ".join([self.kind, *where])


Changes = dict[nn.Parameter, Tensor]


def twin(base: Anatomy, changes: Changes) -> Anatomy:
    """A second module tree over the base's parameters, with new values for some."""
    shared = {id(tensor): tensor for tensor in (*base.model.parameters(), *base.model.buffers())}
    shared |= {id(old): nn.Parameter(new, requires_grad=False) for old, new in changes.items()}
    return Anatomy(copy.deepcopy(base.model, shared))


def noise_like(weight: Tensor, size: tuple[float, float], rng: torch.Generator, rank: int | None = None) -> Tensor:
    """A random matrix of that rank whose norm is a random share of the weight's, between the two sizes."""
    rows, columns = weight.shape
    noise = torch.randn(rows, rank or columns, generator=rng)
    if rank is not None:
        noise = noise @ torch.randn(rank, columns, generator=rng)
    share = size[0] + (size[1] - size[0]) * torch.rand((), generator=rng)
    return (noise * (share / noise.norm())).to(weight) * weight.norm()


def last_linear(module: nn.Module) -> nn.Module:
    return [m for m in module.modules() if getattr(m, "weight", None) is not None and m.weight.ndim == 2][-1]


def added(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Changes:
    """The module's weight plus change(its weight as [out, in])."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter), "a linear module has a weight"
    if isinstance(module, Conv1D):
        return {weight: weight + change(weight.T).T}
    return {weight: weight + change(weight)}


def plant_head(base: Anatomy, number: int, rng: torch.Generator) -> tuple[Plant, Changes]:
    """One head's output weights."""
    layer, head = (int(torch.randint(n, (), generator=rng)) for n in (len(base.layers), base.heads))
    columns = slice(head * base.head_width, (head + 1) * base.head_width)

    def change(weight: Tensor) -> Tensor:
        zeros = torch.zeros_like(weight)
        zeros[:, columns] = noise_like(weight[:, columns], HEAD_SIZE, rng)
        return zeros

    modules = frozenset({(layer, "attn_out")})
    return Plant("head", layer, head=head, modules=modules), added(base.layers[layer].projection, change)


def plant_mlp(base: Anatomy, number: int, rng: torch.Generator) -> tuple[Plant, Changes]:
    """A change of rank 1, 2, 4 or 8 in the last weight of one MLP."""
    layer, rank = int(torch.randint(len(base.layers), (), generator=rng)), RANKS[number % len(RANKS)]
    changes = added(last_linear(base.layers[layer].mlp), lambda weight: noise_like(weight, MLP_SIZE, rng, rank))
    return Plant("mlp", layer, rank=rank, modules=frozenset({(layer, "mlp_out")})), changes


def plant_adapter(base: Anatomy, number: int, rng: torch.Generator) -> tuple[Plant, Changes]:
    """A low-rank change of every matrix from one layer on."""
    first = int(torch.randint(len(base.layers), (), generator=rng))
    weights = [p for part in base.layers[first:] for p in part.block.parameters() if p.ndim == 2]
    modules = frozenset((layer, stream) for layer in range(first, len(base.layers)) for stream in MODULES)
    return Plant("adapter", first, modules=modules), {p: p + noise_like(p, ADAPTER_SIZE, rng, ADAPTER_RANK) for p in weights}


def plant_noise(base: Anatomy, number: int, rng: torch.Generator) -> tuple[Plant, Changes]:
    """Every matrix of every layer: a relative 1e-9, and in every other pair one unit in the last place of some entries."""
    changes = {}
    for weight in (p for part in base.layers for p in part.block.parameters() if p.ndim == 2):
        if number % 2:
            is_noisy = torch.rand(weight.shape, generator=rng).to(weight.device) < NOISY
            changes[weight] = torch.where(is_noisy, torch.nextafter(weight, torch.full_like(weight, torch.inf)), weight)
        else:
            factor = torch.randn(weight.shape, generator=rng, dtype=torch.float64).mul_(NOISE).add_(1)
            changes[weight] = (weight.double() * factor.to(weight.device)).to(weight)
    return Plant("noise"), changes


def plant_none(base: Anatomy, number: int, rng: torch.Generator) -> tuple[Plant, Changes]:
    return Plant("none"), {}


PLANTERS = dict(zip(KINDS, (plant_head, plant_mlp, plant_adapter, plant_noise, plant_none)))


def plant(base: Anatomy, index: int, seed: int) -> tuple[Plant, Anatomy]:
    """The index-th planted pair of a seed: the edit, and the edited model. The kinds alternate."""
    rng = torch.Generator().manual_seed(seed * 1_000_003 + index)
    truth, changes = PLANTERS[KINDS[index % len(KINDS)]](base, index // len(KINDS), rng)
    return truth, twin(base, changes)
