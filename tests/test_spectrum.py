"""The spectrum of a matrix: planted ranks, invariances, random projection, products of factors."""

import pytest
import torch
from torch.testing import assert_close

from mechdiff.maths.spectrum import EXACT, Factors, gram_energy, leading, spectrum


def of_rank(k: int, shape=(20, 30), values=None) -> torch.Tensor:
    """A random matrix with k singular values, all 1 unless they are given."""
    left, right = (torch.linalg.qr(torch.randn(size, k, generator=torch.Generator().manual_seed(size))).Q for size in shape)
    return (left * (torch.ones(k) if values is None else values)) @ right.mT


@pytest.mark.parametrize("k", [1, 3, 10])
def test_k_equal_directions_are_k_by_every_measure(k):
    planted = 5 * of_rank(k)
    result = spectrum(planted)
    assert result.norm == pytest.approx(5 * k**0.5, rel=1e-5)
    assert (result.participation_ratio, result.stable_rank) == (pytest.approx(k, rel=1e-4), pytest.approx(k, rel=1e-4))
    assert result.rank_90 == {1: 1, 3: 3, 10: 9}[k]
    assert_close(result.left[:, :k] @ torch.diag(result.singular[:k]) @ result.right[:, :k].mT, planted, atol=1e-5, rtol=1e-5)


def test_a_rotation_of_inputs_or_outputs_changes_no_measure():
    matrix = torch.randn(20, 30, generator=torch.Generator().manual_seed(0))
    plain, rotation = spectrum(matrix), spectrum(of_rank(20, (20, 20)) @ matrix @ of_rank(30, (30, 30)))
    for name in ("norm", "participation_ratio", "stable_rank", "rank_90"):
        assert getattr(plain, name) == pytest.approx(getattr(rotation, name), rel=1e-4)


def test_no_difference_is_nothing():
    result = spectrum(torch.zeros(4, 6))
    assert (result.norm, result.participation_ratio, result.stable_rank, result.rank_90) == (0, 0, 0, 0)


@pytest.mark.slow
def test_a_large_matrix_by_random_projection_equals_the_whole_factorisation():
    values = 0.97 ** torch.arange(EXACT + 30.0)
    matrix = of_rank(EXACT + 30, (EXACT + 30, EXACT + 60), values)
    _, singular, right = leading(matrix, 0)
    assert_close(singular[:64], values[:64], rtol=1e-4, atol=0)
    assert float((right[:16] @ torch.linalg.svd(matrix, full_matrices=False)[2][:16].mT).square().sum()) == pytest.approx(
        16, rel=1e-3
    )
    assert gram_energy(matrix) == pytest.approx(float((values**4).sum()), rel=1e-4)
    result = spectrum(matrix)
    assert result.participation_ratio == pytest.approx(float((values**2).sum() ** 2 / (values**4).sum()), rel=1e-3)
    assert result.rank_90 == int(((values**2).cumsum(0) < 0.9 * (values**2).sum()).sum()) + 1
    assert spectrum(torch.randn(EXACT + 1, EXACT + 1)).rank_90 is None, "more directions than were computed"


def full_finetune(k: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """What random projection finds hard: k planted directions over noise in all others. Returns it and the planted left side."""
    shape = (EXACT + 30, EXACT + 60)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    left, right = (torch.linalg.qr(torch.randn(size, k, generator=torch.Generator().manual_seed(size))).Q for size in shape)
    return noise + (left * torch.linspace(600, 300, k)) @ right.mT, left


@pytest.mark.parametrize("planted", [True, False], ids=["planted", "noise alone"])
def test_a_large_matrix_of_full_rank_is_near_its_exact_factorisation(planted):
    matrix, directions = full_finetune()
    if not planted:
        matrix = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(2))
    exact, result = torch.linalg.svdvals(matrix).double(), spectrum(matrix)
    torch.testing.assert_close(result.singular[:32].double(), exact[:32], rtol=0.01, atol=0)
    squares = exact.square()
    assert result.participation_ratio == pytest.approx(float(squares.sum() ** 2 / squares.square().sum()), rel=1e-3)
    assert result.stable_rank == pytest.approx(float(squares.sum() / squares[0]), rel=0.01)
    if planted:
        assert float((result.left[:, :20].mT @ directions).square().sum()) / 20 > 0.98, "the planted subspace"


@pytest.mark.parametrize("k", [1, 8, 40])
def test_a_large_matrixs_effective_rank_is_the_planted_one(k):
    result = spectrum(of_rank(k, (EXACT + 30, EXACT + 60)))
    assert (result.participation_ratio, result.stable_rank) == (pytest.approx(k, rel=1e-3), pytest.approx(k, rel=1e-3))
    assert result.rank_90 == -(-9 * k // 10)


MEASURES = ("norm", "participation_ratio", "stable_rank", "rank_90", "rank")


@pytest.mark.parametrize(("shape", "inner"), [((40, 90), 5), ((90, 40), 8), ((6, 30), 16)], ids=["wide", "tall", "inner"])
def test_a_product_of_factors_has_its_dense_forms_spectrum(shape, inner):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(shape[0], inner, generator=generator), torch.randn(inner, shape[1], generator=generator)
    factors = Factors(left, right)
    thin, dense = spectrum(factors), spectrum(left.double() @ right.double())
    for name in MEASURES:
        assert getattr(thin, name) == pytest.approx(getattr(dense, name), rel=1e-6), name
    k = min(inner, *shape)
    assert thin.rank == k and factors.shape == shape
    assert_close(thin.singular, dense.singular[:k], rtol=1e-6, atol=0)
    assert_close(thin.left @ torch.diag(thin.singular) @ thin.right.mT, factors.dense(), rtol=1e-5, atol=1e-5)


def test_a_large_product_is_not_formed():
    """As a dense matrix it would take 40 GB."""
    left, right = torch.ones(100_000, 2), torch.ones(2, 100_000)
    assert spectrum(Factors(left, right)).norm == pytest.approx(2e5, rel=1e-6)


def test_factors_without_a_direction_are_nothing():
    for factors in (Factors(torch.zeros(4, 0), torch.zeros(0, 6)), Factors(torch.zeros(4, 2), torch.ones(2, 6))):
        thin = spectrum(factors)
        assert (thin.norm, thin.rank, thin.rank_90, len(thin.singular)) == (0, 0, 0, 0)
