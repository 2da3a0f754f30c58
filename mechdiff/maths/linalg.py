"""Small problems, one per site, over the cores. Factorisations run on the CPU, where LAPACK beats a GPU's batched solvers."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

Item = TypeVar("Item")
Result = TypeVar("Result")

_changing_threads = threading.Lock()
_on_a_gpu = threading.Lock()


def in_parallel(solve: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """solve(item) for every item, over the cores, one thread each: a result does not depend on the others.

    torch's number of threads belongs to the process, so one caller at a time changes it.
    """
    with _changing_threads:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(solve, items))
        finally:
            torch.set_num_threads(threads)


def each_site(solve: Callable[..., tuple[Tensor, ...]], *stacks: Tensor) -> tuple[Tensor, ...]:
    """solve(site of each stack) for every site, its results stacked. stacks: [sites, ...] each."""
    if len(stacks[0]) == 1:
        return tuple(part.unsqueeze(0) for part in solve(*(stack[0] for stack in stacks)))
    solved = in_parallel(lambda site: solve(*site), zip(*stacks))
    return tuple(torch.stack(parts) for parts in zip(*solved))


def descending_eigh(matrix: Float[Tensor, "n n"]) -> tuple[Float[Tensor, " n"], Float[Tensor, "n n"]]:
    """Eigenvalues, largest first, and eigenvectors (columns) of a symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.flip(-1).to(matrix.device), vectors.flip(-1).to(matrix.device)


def orthonormal(columns: Float[Tensor, "d m"]) -> Float[Tensor, "d k"]:
    """The columns made orthonormal, in order, by Householder reflections; k = min(d, m). On their own device: they may be many.

    One caller at a time: torch's solvers on a GPU cannot be set up by two threads at once.
    """
    if columns.device.type == "cpu":
        return torch.linalg.qr(columns).Q
    with _on_a_gpu:
        return torch.linalg.qr(columns).Q


def svd(matrix: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n k"], Float[Tensor, " k"], Float[Tensor, "k m"]]:
    """U, singular values, largest first, and V' of a matrix; k = min(n, m)."""
    left, values, right = torch.linalg.svd(matrix.cpu(), full_matrices=False)
    return left.to(matrix.device), values.to(matrix.device), right.to(matrix.device)
