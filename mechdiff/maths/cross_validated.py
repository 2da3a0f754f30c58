"""Maps whose strength is chosen on templates that are left out: ridge and kernel ridge regression, and a shrinkage.

Ten folds of templates, all rows of a template together. One factorisation serves all folds: with H the matrix that takes the
targets to their fit, the intercept inside it, and e = (I - H) Y, the residual of fold g under the fit without it is
(I - H_gg)^-1 e_g. Source: Cook and Weisberg 1982, Residuals and Influence in Regression, section 3.6.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechdiff.common.errors import UserError
from mechdiff.maths.linalg import descending_eigh, each_site
from mechdiff.maths.linear_maps import (
    ROUNDING,
    Linear,
    Map,
    PcaSpread,
    fit_procrustes_scaled,
    folds,
    inverse_or_zero,
    linear_map,
    pca_spread,
)

LAMBDAS = torch.logspace(-8, 2, 41, dtype=torch.float64)  # times the largest variance along a direction
SHRINKAGES = (0.01, 0.05, 0.2, 0.5, 0.9)
MOST_ROWS = 4096  # of a kernel, whose factorisation takes the cube of them


def fit_ridge_cv(x: PcaSpread, y: PcaSpread, seed: int = 0) -> Linear:
    """Ridge regression on centred states; lambda is the one with the least squared error on templates that are left out.

    seed: of the folds.
    """
    held = held_out(x, seed)
    basis, variance = x.scores * inverse_or_zero(x.scale).unsqueeze(-2), x.scale.square()
    penalty = chosen_lambda(basis, variance, y.scores, held)
    core = x.scores.mT @ y.scores * inverse_or_zero(variance + penalty).unsqueeze(-1)
    return linear_map(x, core, y, torch.full_like(x.scale[..., 0], torch.nan))


@dataclass(frozen=True)
class KernelMap(Map):
    """A smooth map of any shape: (k(x) - mean_k) weights + mean_y, with k_i(x) = exp(-||x - train_i||^2 / (2 width^2)).

    train: [sites, n, d_x]. width: [sites]. mean_k: [sites, n]. weights: [sites, n, d_y]. mean_y: [sites, d_y]. All in float64.
    """

    train: Float[Tensor, "*sites n d_x"]
    width: Float[Tensor, "*sites"]
    mean_k: Float[Tensor, "*sites n"]
    weights: Float[Tensor, "*sites n d_y"]
    mean_y: Float[Tensor, "*sites d_y"]

    def apply(self, x: Float[Tensor, "... b d_x"]) -> Float[Tensor, "... b d_y"]:
        near = torch.exp(-torch.cdist(x, self.train).square() / (2 * self.width.square()[..., None, None]))
        return (near - self.mean_k.unsqueeze(-2)) @ self.weights + self.mean_y.unsqueeze(-2)


def fit_kernel_ridge(x: PcaSpread, y: PcaSpread, seed: int = 0) -> KernelMap:
    """Ridge regression in the features of a Gaussian kernel, whose width is the median distance between train states.

    lambda as in ridge_cv. It can follow any smooth map, so what it gains over ridge_cv is what is not linear. seed: of the folds.
    Raises UserError for more rows than can be factorised.
    """
    rows = x.states.shape[-2]
    if rows > MOST_ROWS:
        raise UserError(f"kernel_ridge takes {MOST_ROWS} train states at most, and there are {rows}.\nTry:  --positions 1")
    train = x.states.double()
    width, mean_k, basis, variance = each_site(kernel_of_site, train)
    penalty = chosen_lambda(basis, variance, y.scores, held_out(x, seed))
    weights = basis @ (basis.mT @ y.scores * inverse_or_zero(variance + penalty).unsqueeze(-1)) @ y.directions.mT
    return KernelMap(train, width, mean_k, weights, y.mean)


def kernel_of_site(states: Float[Tensor, "n d"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The kernel's width, its mean over rows [n], and the centred kernel's eigenvectors [n, r] and eigenvalues [r]."""
    apart = torch.cdist(states, states)
    upper = torch.ones_like(apart, dtype=torch.bool).triu(1)
    width = apart[upper].quantile(0.5).clamp(min=1e-300)
    kernel = torch.exp(-apart.square() / (2 * width.square()))
    mean = kernel.mean(0)
    values, vectors = descending_eigh(kernel - mean - mean[:, None] + mean.mean())
    values, vectors = values[:-1].clamp(min=0), vectors[:, :-1]
    values = values.where(values > ROUNDING * values[0], torch.zeros_like(values))
    return width, mean, vectors * (values > 0), values


def fit_procrustes_shrunk(x: PcaSpread, y: PcaSpread, seed: int = 0) -> Linear:
    """procrustes_scaled with the shrinkage of SHRINKAGES that has the least squared error on templates that are left out."""
    errors = torch.zeros(len(SHRINKAGES), len(x.mean), dtype=torch.float64)
    for rest, held in folds(groups_of(x), seed):
        part_x, part_y = (pca_spread(side.states[:, rest]) for side in (x, y))
        for row, weight in enumerate(SHRINKAGES):
            missed = fit_procrustes_scaled(part_x, part_y, weight).apply(x.states[:, held].double()) - y.states[:, held].double()
            errors[row] += missed.square().sum((-2, -1)).cpu()
    best = torch.tensor(SHRINKAGES, dtype=torch.float64)[errors.argmin(0)]
    return fit_procrustes_scaled(x, y, best.to(x.mean.device).unsqueeze(-1))


def groups_of(side: PcaSpread) -> Int[Tensor, " n"]:
    """The template of each row; each row its own where none is known."""
    return torch.arange(side.states.shape[-2]) if side.groups is None else side.groups


def held_out(side: PcaSpread, seed: int) -> list[Int[Tensor, " k"]]:
    """The rows of each fold."""
    return [held for _, held in folds(groups_of(side), seed)]


def chosen_lambda(
    basis: Float[Tensor, "sites n r"],
    variance: Float[Tensor, "sites r"],
    targets: Float[Tensor, "sites n m"],
    held: Sequence[Int[Tensor, " k"]],
) -> Float[Tensor, "sites 1"]:
    """The lambda of the least squared error on rows held out. basis: orthonormal and centred, or zero where the variance is."""

    def of_site(basis: Tensor, variance: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
        lambdas = variance[:1] * LAMBDAS
        return (lambdas[held_out_errors(basis, variance, targets, held, lambdas).argmin()].unsqueeze(0),)

    parts = (basis.cpu(), variance.cpu(), targets.cpu())  # small batched solves, which a GPU does one thread at a time
    (penalty,) = each_site(of_site, *parts)
    return penalty.to(variance.device)


def held_out_errors(
    basis: Float[Tensor, "n r"],
    variance: Float[Tensor, " r"],
    targets: Float[Tensor, "n m"],
    held: Sequence[Tensor],
    lambdas: Float[Tensor, " l"],
) -> Float[Tensor, " l"]:
    """The summed squared error of each lambda on the rows of each fold, fitted without them. targets: centred.

    I - H = P + U diag(s) U', with s = lambda / (variance + lambda), and P what the intercept and the basis U leave.
    """
    shrink = lambdas[:, None] / (variance + lambdas[:, None]).clamp(min=1e-300)
    along = basis.mT @ targets
    left = targets - basis @ along
    errors = torch.zeros_like(lambdas)
    for rows in held:
        part = basis[rows]
        apart = torch.eye(len(rows), dtype=basis.dtype) - 1 / len(targets) - part @ part.mT
        scaled = part * shrink[:, None]
        leverage = apart + scaled @ part.mT
        residuals = left[rows] + scaled @ along
        solved, failed = torch.linalg.solve_ex(leverage, residuals)
        errors += torch.where(failed == 0, solved.square().sum((-2, -1)), torch.inf)
    return errors
