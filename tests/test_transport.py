"""The zscore map: exact means and scales, constant dimensions, sites together."""

import pytest
import torch
from torch.testing import assert_close

from mechdiff.transport import fit_zscore


@pytest.fixture
def states():
    torch.manual_seed(0)
    x = torch.randn(3, 20, 7, dtype=torch.float64) * torch.rand(7) * 5 + torch.randn(7)
    return x, torch.randn(3, 20, 7, dtype=torch.float64) * torch.rand(7) - 10 * torch.randn(7)


def test_zscore_gives_the_recipients_mean_and_standard_deviation(states):
    x, y = states
    mapped = fit_zscore(x, y)(x)
    assert_close(mapped.mean(-2), y.mean(-2))
    assert_close(mapped.std(-2), y.std(-2))


def test_zscore_of_states_onto_themselves_changes_nothing(states):
    x, _ = states
    assert_close(fit_zscore(x, x)(x), x)


def test_zscore_is_the_same_map_on_states_it_was_not_fitted_on(states):
    x, y = states
    new = torch.randn(3, 4, 7, dtype=torch.float64)
    expected = (new - x.mean(1, keepdim=True)) / x.std(1, keepdim=True) * y.std(1, keepdim=True) + y.mean(1, keepdim=True)
    assert_close(fit_zscore(x, y)(new), expected)


@pytest.mark.parametrize("constant", [0.0, 0.1, -1e4])
def test_a_dimension_that_is_constant_in_x_goes_to_the_mean_of_y(states, constant):
    x, y = (side.float() for side in states)
    x[:, :, 2] = constant
    mapped = fit_zscore(x, y)(x + 1)
    assert_close(mapped[:, :, 2], y[:, :, 2].mean(1, keepdim=True).expand(-1, 20))


def test_a_dimension_that_is_constant_in_y_stays_constant(states):
    x, y = states
    y[:, :, 4] = 2.5
    assert_close(fit_zscore(x, y)(x)[:, :, 4], torch.full((3, 20), 2.5, dtype=torch.float64))


def test_several_sites_at_once_equal_one_at_a_time(states):
    x, y = states
    together = fit_zscore(x, y)(x)
    for site in range(3):
        assert_close(together[site], fit_zscore(x[site], y[site])(x[site]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_mapped_state_keeps_its_dtype_and_is_computed_in_double(states, dtype):
    x, y = (side.to(dtype) for side in states)
    mapped = fit_zscore(x, y)(x)
    assert mapped.dtype == dtype
    assert_close(mapped, fit_zscore(x.double(), y.double())(x.double()).to(dtype))
