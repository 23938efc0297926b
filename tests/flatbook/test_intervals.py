import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from flatbook import interval, seeds_needed, told


def test_the_interval_is_that_of_a_t_test():
    values = np.random.default_rng(0).normal(0.3, 2.0, 11)
    mean, ends = interval(values)
    assert mean == pytest.approx(values.mean(), rel=1e-12)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert ends == pytest.approx((expected.low, expected.high), rel=1e-12)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20), st.floats(-1e3, 1e3))
def test_it_holds_the_mean_and_moves_with_the_values(values, shift):
    mean, (low, high) = interval(values)
    assert low <= mean <= high
    moved, ends = interval(np.array(values) + shift)
    assert (moved, *ends) == pytest.approx((mean + shift, low + shift, high + shift), abs=1e-8)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_what_has_no_interval_is_refused(values):
    with pytest.raises(ValueError, match="n >= 2"):
        interval(values)


def test_a_difference_is_told_with_its_signs():
    assert told(np.array([-1.0, -2.0, -3.0])) == "-2.00 [-4.48, +0.48]"


def test_with_the_seeds_needed_an_interval_just_leaves_zero_out():
    # As many pairs of values as needed, whose mean is 1 and whose standard deviation is 10.
    n = seeds_needed(np.array([1 - 10 / np.sqrt(2), 1 + 10 / np.sqrt(2)]))
    assert n == pytest.approx((1.959963985 * 10) ** 2, rel=1e-8)
    half = np.sqrt((round(n) - 1) / round(n)) * 10  # the sample's own deviation is then 10
    mean, (low, _) = interval(1 + half * np.resize([-1.0, 1.0], round(n)))
    assert abs(low) < 0.01 * mean
    assert seeds_needed([-3.0, -1.0]) == seeds_needed([1.0, 3.0])
    assert seeds_needed([-1.0, 1.0]) == np.inf
