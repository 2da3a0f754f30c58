"""Maps between states: equal to dense references, exact on planted truths, cut and scaled as stated."""

import pytest
import torch
from torch.testing import assert_close

from mechdiff.maths import linear_maps
from mechdiff.maths.linear_maps import FITS, cut, folds, output_directions, pca_spread, random_rotation

LINEAR = ("ridge", "procrustes", "procrustes_scaled")


def fit(name, x, y):
    return FITS[name](pca_spread(x), pca_spread(y))


@pytest.fixture(params=[(20, 48), (64, 64), (90, 24)], ids=["n<d", "n=d", "n>d"])
def states(request):
    """Three sites, correlated and of uneven variance, away from zero."""
    n, d = request.param
    torch.manual_seed(n)
    x = torch.randn(3, n, d, dtype=torch.float64) * torch.rand(d) * 5 + torch.randn(d)
    mixed = x @ torch.randn(d, d, dtype=torch.float64) / d**0.5
    return x, mixed + torch.randn(3, n, d, dtype=torch.float64) * torch.rand(d) - 10 * torch.randn(d)


def dense_ridge(x, y):
    """W of one site by d x d normal equations, lambda by GCV with the residual operator I - H written out."""
    n, d = x.shape
    xc, yc = x - x.mean(0), y - y.mean(0)
    first, best = torch.linalg.svdvals(xc)[0] ** 2, None
    for step in first * torch.logspace(-8, 2, 81, dtype=torch.float64):
        residual = step * torch.linalg.inv(xc @ xc.T + step * torch.eye(n, dtype=x.dtype)) - 1 / n
        score = ((residual @ y).square().sum() / n / (residual.trace() / n) ** 2).item()
        if best is None or score < best[0]:
            best = score, torch.linalg.inv(xc.T @ xc + step * torch.eye(d, dtype=x.dtype)) @ xc.T @ yc
    return best[1]


def polar(matrix, rank):
    u, s, v = torch.linalg.svd(matrix)
    return u[:, :rank] @ v[:rank], s.sum()


def dense_procrustes(x, y):
    xc, yc = x - x.mean(0), y - y.mean(0)
    rotation, total = polar(xc.T @ yc, min(len(x) - 1, x.shape[1]))
    return rotation * total / xc.square().sum()


def root(matrix, power):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values**power @ vectors.T


def dense_procrustes_scaled(x, y):
    n, d = x.shape
    xc, yc = x - x.mean(0), y - y.mean(0)

    def shrunk(c):
        return 0.95 * c + 0.05 * c.trace() / d * torch.eye(d, dtype=c.dtype)

    cx, cy = shrunk(xc.T @ xc / n), shrunk(yc.T @ yc / n)
    xw, yw = xc @ root(cx, -0.5), yc @ root(cy, -0.5)
    rotation, total = polar(xw.T @ yw, min(n - 1, d))
    return root(cx, -0.5) @ rotation @ root(cy, 0.5) * total / xw.square().sum()


DENSE = {"ridge": dense_ridge, "procrustes": dense_procrustes, "procrustes_scaled": dense_procrustes_scaled}


@pytest.mark.parametrize("name", LINEAR)
def test_maps_equal_a_dense_reference(name, states):
    x, y = states
    new = torch.randn(3, 7, x.shape[-1], dtype=torch.float64) * 4
    mapped = fit(name, x, y)(new)
    for site in range(3):
        expected = (new[site] - x[site].mean(0)) @ DENSE[name](x[site], y[site]) + y[site].mean(0)
        assert (mapped[site] - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("name", ["procrustes", "ridge"])
def test_a_planted_rotation_and_scale_is_found_on_its_span(name, states):
    x, _ = states
    d = x.shape[-1]
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q
    y = 1.7 * x @ rotation + torch.randn(d, dtype=torch.float64)
    weights = torch.rand(3, 5, x.shape[1], dtype=torch.float64)
    inside = weights / weights.sum(-1, keepdim=True) @ x  # new states in the span of the old
    expected = weights / weights.sum(-1, keepdim=True) @ y
    assert_close(
        fit(name, x, y)(inside), expected, rtol=1e-4 if name == "ridge" else 1e-8, atol=1e-3 if name == "ridge" else 1e-8
    )


def test_the_scaled_map_is_exact_where_rotation_keeps_the_spectrum(states):
    x, _ = states
    d = x.shape[-1]
    y = x @ torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q - 3
    assert_close(fit("procrustes_scaled", x, y)(x), y)


@pytest.mark.parametrize("name", FITS)
def test_several_sites_at_once_equal_one_at_a_time(name, states):
    x, y = states
    together = fit(name, x, y)
    for site in range(3):
        alone = fit(name, x[site : site + 1], y[site : site + 1])
        assert_close(together[site](x[site]), alone[0](x[site]))


@pytest.mark.parametrize("name", LINEAR)
def test_moving_and_rotating_the_recipient_moves_and_rotates_the_map(name, states):
    x, y = states
    d = x.shape[-1]
    turn, shift = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64)).Q, torch.randn(d, dtype=torch.float64)
    assert_close(fit(name, x, y @ turn + shift)(x), fit(name, x, y)(x) @ turn + shift, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FITS)
def test_repeated_train_rows_and_idle_dimensions_do_no_harm(name, states):
    x, y = (side.clone() for side in states)
    x[:, 1], y[:, 1] = x[:, 0], y[:, 0]
    x[:, :, 3], y[:, :, 3] = 2.5, -1.0
    mapped = fit(name, x, y)(x)
    assert mapped.isfinite().all()
    assert name == "none" or (mapped[:, :, 3] + 1).abs().max() < 1e-6


def test_none_is_the_donors_state(states):
    x, y = states
    assert_close(fit("none", x, y)(x), x, rtol=0, atol=0)


def test_zscore_gives_the_recipients_mean_and_standard_deviation(states):
    x, y = states
    mapped = fit("zscore", x, y)(x)
    assert_close(mapped.mean(-2), y.mean(-2))
    assert_close(mapped.std(-2), y.std(-2))


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e4])
def test_zscore_sends_a_dimension_that_is_constant_in_x_to_the_mean_of_y(states, constant):
    x, y = (side.float() for side in states)
    x[:, :, 2] = constant
    mapped = fit("zscore", x, y)(x + 1)
    assert_close(mapped[:, :, 2], y[:, :, 2].mean(1, keepdim=True).expand(-1, x.shape[1]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_mapped_state_keeps_its_dtype_and_is_computed_in_double(states, dtype):
    x, y = (side.to(dtype) for side in states)
    mapped = fit("ridge", x, y)(x)
    assert mapped.dtype == dtype
    assert_close(mapped, fit("ridge", x.double(), y.double())(x.double()).to(dtype))


def test_a_random_rotation_spreads_as_far_and_knows_nothing(states):
    x, y = map(pca_spread, states)
    fitted = FITS["procrustes"](x, y)
    control = random_rotation(fitted, x, y, seed=1)
    outputs, random_outputs = (m.apply(x.states) - y.mean.unsqueeze(1) for m in (fitted, control))
    assert_close(outputs.square().sum((1, 2)), random_outputs.square().sum((1, 2)))
    assert_close(control.matrix[0] @ control.matrix[0].T, torch.eye(x.states.shape[-1], dtype=torch.float64))
    assert not torch.equal(control.matrix, random_rotation(fitted, x, y, seed=2).matrix)


# Ranks


@pytest.fixture
def site(states):
    """Mapped, own, mean and directions of ridge at the first site."""
    x, y = map(pca_spread, states)
    fitted = FITS["ridge"](x, y)
    return fitted[0](x.states[0]), y.states[0], y.mean[0], output_directions(fitted, x)[0]


def test_directions_are_orthonormal_in_order_of_output_variance(site):
    mapped, _, mean, directions = site
    alive = directions.norm(dim=0) > 0
    basis = directions[:, alive]
    lengths = ((mapped - mean) @ basis).norm(dim=0)
    rounding = 1e-15 * (lengths[0] / lengths.min()).item() ** 2  # they come from a Gram matrix, whose condition is the square
    assert_close(basis.T @ basis, torch.eye(basis.shape[1], dtype=torch.float64), atol=1e-6 + rounding, rtol=0)
    assert_close(lengths, torch.linalg.svdvals(mapped - mean)[: len(lengths)], rtol=1e-6, atol=1e-6 * lengths[0].item())


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
@pytest.mark.parametrize("alpha", [1.0, 0.4])
def test_a_cut_is_the_formula_written_out(site, rank, alpha):
    mapped, own, mean, directions = site
    projector = directions[:, :rank] @ directions[:, :rank].T
    by_mean, by_own = cut(mapped, own, mean, directions, [(alpha, rank, "mean"), (alpha, rank, "own")]).unbind(1)
    assert_close(by_mean, mean + (alpha * mapped - mean) @ projector)
    assert_close(by_own, own + (alpha * mapped - own) @ projector)


def test_rank_nought_is_mean_ablation_or_nothing(site):
    mapped, own, mean, directions = site
    by_mean, by_own = cut(mapped, own, mean, directions, [(1.3, 0, "mean"), (1.3, 0, "own")]).unbind(1)
    assert torch.equal(by_own, own) and torch.equal(by_mean, mean.expand_as(own))


def test_full_rank_is_the_uncut_map(site):
    mapped, own, mean, directions = site
    ways = [(1.0, None, "mean"), (1.0, None, "own"), (1.0, 10_000, "mean")]
    whole, also, every = cut(mapped, own, mean, directions, ways).unbind(1)
    assert torch.equal(whole, mapped) and torch.equal(also, mapped)
    assert_close(every, mapped, rtol=1e-6, atol=1e-6)


def test_the_lost_variance_is_that_of_the_dropped_directions(site):
    mapped, own, mean, directions = site
    lengths = ((mapped - mean) @ directions).square().sum(0)
    for rank in (1, 4):
        low_rank = cut(mapped, own, mean, directions, [(1.0, rank, "mean")])[:, 0]
        assert_close((mapped - low_rank).square().sum(), lengths[rank:].sum(), rtol=1e-6, atol=1e-6)


# Folds


def test_folds_hold_every_row_out_once_and_keep_a_prompts_positions_together():
    groups = torch.arange(23).repeat_interleave(3)
    held = []
    for rest, out in folds(groups, seed=0):
        assert not set(groups[rest].tolist()) & set(groups[out].tolist())
        assert sorted([*rest.tolist(), *out.tolist()]) == list(range(69))
        held += out.tolist()
    assert sorted(held) == list(range(69))


def test_in_its_own_rows_a_map_of_few_prompts_interpolates_and_out_of_fold_it_does_not():
    torch.manual_seed(0)
    x = torch.randn(1, 20, 48, dtype=torch.float64)
    y = 2 * x @ torch.linalg.qr(torch.randn(48, 48, dtype=torch.float64)).Q
    inside = linear_maps.size_ratios(fit("procrustes", x, y), x, y).median()
    out = linear_maps.size_ratios(fit("procrustes", x[:, :15], y[:, :15]), x[:, 15:], y[:, 15:]).median()
    assert abs(inside - 1) < 0.05 and out > 1.2
