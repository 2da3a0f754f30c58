"""Small problems, one a site, over the cores. Factorisations run on the CPU: LAPACK beats a GPU's batched solvers there."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

_alone = threading.Lock()


def in_parallel(solve: Callable, items: Iterable) -> list:
    """solve(item) for every item, over the cores, one thread each: a result does not depend on the others.

    torch's number of threads is the process's, so one caller at a time changes it.
    """
    with _alone:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                return list(pool.map(solve, items))
        finally:
            torch.set_num_threads(threads)


def each_site(solve: Callable[..., tuple[Tensor, ...]], *stacks: Tensor) -> tuple[Tensor, ...]:
    """solve(site of each stack) for every site, stacked."""
    if len(stacks[0]) == 1:
        return tuple(part.unsqueeze(0) for part in solve(*(stack[0] for stack in stacks)))
    solved = in_parallel(lambda site: solve(*site), zip(*stacks))
    return tuple(torch.stack(parts) for parts in zip(*solved))


def descending_eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, largest first, and eigenvectors of one symmetric matrix."""
    values, vectors = torch.linalg.eigh(matrix.cpu())
    return values.flip(-1).to(matrix.device), vectors.flip(-1).to(matrix.device)


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U, singular values and V' of one matrix, thin."""
    return tuple(part.to(matrix.device) for part in torch.linalg.svd(matrix.cpu(), full_matrices=False))
