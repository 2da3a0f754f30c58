"""Maps whose strength is chosen on templates left out: equal to refitting without each fold; planted truths."""

import pytest
import torch
from torch.testing import assert_close

from mechdiff.common.errors import UserError
from mechdiff.maths import cross_validated
from mechdiff.maths.cross_validated import (
    LAMBDAS,
    SHRINKAGES,
    fit_kernel_ridge,
    fit_procrustes_shrunk,
    fit_ridge_cv,
    held_out_errors,
)
from mechdiff.maths.linear_maps import FITS, difference_cut, fit_procrustes_scaled, fit_ridge, folds, pca_spread


def templated(templates, each, d, noise, seed=0, change=lambda x: x):
    """x, y and the template of each row: the rows of a template are near copies, y = change(x) plus noise of the template."""
    random = torch.Generator().manual_seed(seed)
    centre = torch.randn(templates, 1, d, generator=random, dtype=torch.float64)
    x = (centre + 0.05 * torch.randn(templates, each, d, generator=random, dtype=torch.float64)).flatten(0, 1)
    of_template = noise * torch.randn(templates, 1, d, generator=random, dtype=torch.float64).expand(-1, each, -1).flatten(0, 1)
    return x, change(x) + of_template, torch.arange(templates).repeat_interleave(each)


def spreads(x, y, groups):
    return pca_spread(x[None], groups), pca_spread(y[None])


@pytest.mark.parametrize(("templates", "each", "d"), [(12, 2, 40), (30, 3, 8)], ids=["n<d", "n>d"])
def test_held_out_errors_equal_refitting_without_each_fold(templates, each, d):
    x, y, groups = templated(templates, each, d, 0.3)
    side, other = spreads(x, y, groups)
    basis, variance = side.scores[0] / side.scale[0].clamp(min=1e-300), side.scale[0].square()
    basis = basis * (side.scale[0] > 0)
    lambdas = variance[0] * torch.logspace(-6, 1, 8, dtype=torch.float64)
    splits = list(folds(groups, 0))
    errors = held_out_errors(basis, variance, other.scores[0], [held for _, held in splits], lambdas)
    for step, error in zip(lambdas, errors):
        expected = 0.0
        for rest, held in splits:
            xc, yc = x[rest] - x[rest].mean(0), y[rest] - y[rest].mean(0)
            weights = torch.linalg.solve(xc.T @ xc + step * torch.eye(d, dtype=x.dtype), xc.T @ yc)
            expected += (y[held] - y[rest].mean(0) - (x[held] - x[rest].mean(0)) @ weights).square().sum()
        assert_close(error, expected, rtol=1e-6, atol=0)


def test_folds_keep_templates_whole():
    groups = torch.arange(37).repeat_interleave(3)
    splits = list(folds(groups, seed=1))
    assert len(splits) == 10
    assert torch.cat([held for _, held in splits]).sort().values.equal(torch.arange(len(groups)))
    assert all(not set(groups[rest].tolist()) & set(groups[held].tolist()) for rest, held in splits)


def test_lambda_from_templates_does_not_overfit_near_copies():
    x, y, groups = templated(40, 3, 80, 2.0, change=lambda x: 0.5 * x)
    new_x, new_y, _ = templated(40, 3, 80, 2.0, seed=9, change=lambda x: 0.5 * x)

    def missed(fitted):
        return (fitted(new_x[None])[0] - new_y).square().sum().item()

    by_template, by_row = (missed(fit_ridge_cv(*spreads(x, y, of))) for of in (groups, None))
    assert by_template < by_row
    assert by_template < missed(fit_ridge(*spreads(x, y, None)))
    assert by_template <= 1.02 * missed(FITS["shift"](*spreads(x, y, None)))


def test_a_linear_truth_is_found_and_the_kernel_gains_nothing():
    turn = torch.linalg.qr(torch.randn(10, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q
    x, y, groups = templated(150, 2, 10, 0.05, change=lambda x: x @ turn + 3)
    new_x, new_y, _ = templated(60, 1, 10, 0.05, seed=5, change=lambda x: x @ turn + 3)
    linear, kernel = (fit(*spreads(x, y, groups))(new_x[None])[0] for fit in (fit_ridge_cv, fit_kernel_ridge))
    total = (new_y - y.mean(0)).square().sum()
    assert 1 - (linear - new_y).square().sum() / total > 0.99
    assert (linear - new_y).square().sum() < (kernel - new_y).square().sum()


def test_a_bent_truth_is_followed_by_the_kernel_alone():
    x, y, groups = templated(200, 2, 3, 0.02, change=lambda x: x.square())
    new_x, new_y, _ = templated(60, 1, 3, 0.02, seed=5, change=lambda x: x.square())
    total = (new_y - y.mean(0)).square().sum()
    linear, kernel = (1 - (fit(*spreads(x, y, groups))(new_x[None])[0] - new_y).square().sum() / total for fit in FITTED)
    assert linear < 0.2 < 0.8 < kernel


FITTED = (fit_ridge_cv, fit_kernel_ridge)


def test_the_kernel_map_equals_kernel_ridge_written_out():
    x, y, groups = templated(15, 2, 6, 0.1)
    side, other = spreads(x, y, groups)
    made, new = fit_kernel_ridge(side, other), torch.randn(5, 6, dtype=torch.float64)
    apart = torch.cdist(x, x)
    width = apart[torch.ones(30, 30).triu(1).bool()].quantile(0.5)
    assert_close(made.width[0], width)
    centring = torch.eye(30, dtype=x.dtype) - 1 / 30
    kernel = torch.exp(-apart.square() / (2 * width**2))
    near = torch.exp(-torch.cdist(new, x).square() / (2 * width**2))
    splits = [held for _, held in folds(groups, 0)]
    values, vectors = torch.linalg.eigh(centring @ kernel @ centring)
    candidates = values[-1] * LAMBDAS
    errors = []
    for step in candidates:
        hat = vectors @ torch.diag(values.clamp(min=0) / (values.clamp(min=0) + step)) @ vectors.T + 1 / 30
        residual = y - hat @ y
        parts = [torch.linalg.solve(torch.eye(len(g), dtype=x.dtype) - hat[g][:, g], residual[g]) for g in splits]
        errors.append(torch.cat(parts).square().sum())
    step = candidates[torch.stack(errors).argmin()]
    weights = torch.linalg.solve(centring @ kernel @ centring + step * torch.eye(30, dtype=x.dtype), centring @ y)
    assert_close(made(new[None])[0], (near - kernel.mean(0)) @ centring @ weights + y.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fit", FITTED)
def test_sites_are_fitted_alone_and_a_constant_partner_maps_to_its_mean(fit):
    x, y, groups = templated(12, 2, 6, 0.5)
    both, other = torch.stack([x, 2 * x + 1]), torch.stack([y, torch.full_like(y, 4.0)])
    together = fit(pca_spread(both, groups), pca_spread(other))
    assert_close(together[0](x), fit(*spreads(x, y, groups))[0](x))
    assert_close(together[1](x), other[1])


def test_a_kernel_of_too_many_rows_says_so(monkeypatch):
    monkeypatch.setattr(cross_validated, "MOST_ROWS", 10)
    with pytest.raises(UserError, match="10 train states at most, and there are 24"):
        fit_kernel_ridge(*spreads(*templated(12, 2, 6, 0.5)))


def test_the_shrinkage_is_the_one_of_the_least_error_left_out():
    x, y, groups = templated(30, 3, 50, 1.0)
    sides = spreads(x, y, groups)
    errors = []
    for weight in SHRINKAGES:
        parts = ((pca_spread(x[None, rest]), pca_spread(y[None, rest]), held) for rest, held in folds(groups, 0))
        errors.append(sum((fit_procrustes_scaled(a, b, weight)(x[None, h])[0] - y[h]).square().sum() for a, b, h in parts))
    best = SHRINKAGES[torch.stack(errors).argmin()]
    assert_close(fit_procrustes_shrunk(*sides)(x[None]), fit_procrustes_scaled(*sides, best)(x[None]))
    assert best > 0.05


@pytest.mark.parametrize("rank", [0, 1, 3, 100])
def test_a_cut_of_the_difference_is_the_formula_written_out(rank):
    x, y, _ = templated(9, 1, 5, 0.4)
    mean, directions = (x - y).mean(0), pca_spread((x - y)[None]).directions[0]
    donor, own = torch.randn(2, 4, 5, dtype=torch.float64)
    projector = directions[:, :rank] @ directions[:, :rank].T
    state = difference_cut(donor, own, mean, directions, [rank])[:, 0]
    assert_close(state, own + mean + (donor - own - mean) @ projector)
    if rank == 100:
        assert_close(state, donor)
