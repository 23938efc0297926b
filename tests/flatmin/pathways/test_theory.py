"""Closed forms against the full Hessian, random search, and extended precision."""

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatmin.pathways import MultiPathway, theory

# End-to-end strengths (modes, pathways) at zero loss.
POINTS = {
    "one path keeps all": ([5, 5], [[1.0, 0.0], [0.5, 0.0]]),
    "equal split": ([5, 5], [[0.5, 0.5], [0.25, 0.25]]),
    "modes on different paths": ([5, 5], [[0.8, 0.2], [0.1, 0.4]]),
    "unequal depths": ([3, 5, 7], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.1]]),
    "shallow paths": ([1, 2, 3], [[0.5, 0.3, 0.2], [0.1, 0.2, 0.1]]),
    "depth two": ([2, 2], [[0.9, 0.1], [0.3, 0.1]]),
    "three modes": ([4, 4], [[0.7, 0.3], [0.1, 0.5], [0.2, 0.0]]),
    "second mode is the sharpest": ([8, 8], [[0.5, 0.5], [0.9, 0.0]]),
}


def hessian_eigenvalues(depths, strengths):
    """Top d² eigenvalues of the explicit Hessian of the matrix network at an SVS point."""
    strengths = torch.tensor(strengths, dtype=torch.float64)
    width = len(strengths)
    target = torch.diag(strengths.sum(1))
    network = MultiPathway(depths, width)
    with torch.no_grad():
        for weight, depth, values in zip(network.weights, depths, strengths.T, strict=True):
            weight.copy_(torch.diag(values ** (1 / depth)).expand_as(weight))
    shapes = [weight.shape for weight in network.weights]
    flat = torch.cat([weight.detach().reshape(-1) for weight in network.weights])

    def loss(vector):
        total, taken = -target, 0
        for shape in shapes:
            layers = vector[taken : taken + shape.numel()].reshape(shape)
            taken += shape.numel()
            total = total + torch.linalg.multi_dot([*layers.flip(0), torch.eye(width).double()])
        return 0.5 * total.square().sum()

    assert loss(flat) < 1e-28
    return torch.linalg.eigvalsh(torch.func.hessian(loss)(flat)).flip(0)[: width**2].numpy()


@pytest.mark.parametrize("name", POINTS)
def test_cross_mode_sharpness_is_the_spectrum_of_the_full_hessian(name):
    depths, strengths = POINTS[name]
    table = theory.cross_mode_sharpness(depths, strengths)
    expected = hessian_eigenvalues(depths, strengths)
    np.testing.assert_allclose(np.sort(table.ravel())[::-1], expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(np.diag(table), theory.mode_sharpness(depths, strengths), rtol=1e-13)
    assert np.isclose(np.diag(table).max(), expected[0], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "value"),
    [("one path keeps all", 5.0), ("equal split", 3.2988), ("modes on different paths", 3.8795)],
)
def test_values_of_the_digest(name, value):
    assert theory.cross_mode_sharpness(*POINTS[name]).max() == pytest.approx(value, abs=5e-5)


@given(
    depths=st.lists(st.integers(1, 30), min_size=1, max_size=5),
    modes=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_no_cross_mode_eigenvalue_exceeds_the_mean_of_its_modes(depths, modes, seed):
    strengths = np.random.default_rng(seed).exponential(size=(modes, len(depths)))
    table = theory.cross_mode_sharpness(depths, strengths)
    top = np.diag(table)
    assert np.all(table <= (top[:, None] + top) / 2 * (1 + 1e-12))


@settings(deadline=None)
@given(
    depths=st.lists(st.integers(2, 30), min_size=1, max_size=6),
    target=st.floats(0.01, 10),
    seed=st.integers(0, 2**31),
)
def test_no_random_split_is_flatter(depths, target, seed):
    best = theory.flattest_split(depths, target)
    assert best.sum() == pytest.approx(target, rel=1e-12)
    draws = np.random.default_rng(seed).dirichlet(np.ones(len(depths)), 200)
    near = 0.999 * best + 0.001 * target * draws
    least = theory.mode_sharpness(depths, best)
    assert np.all(theory.mode_sharpness(depths, target * draws) >= least * (1 - 1e-12))
    assert np.all(theory.mode_sharpness(depths, near) >= least * (1 - 1e-12))


@given(st.lists(st.integers(3, 40), min_size=2, max_size=5), st.floats(0.01, 10))
def test_the_flattest_split_has_one_price(depths, target):
    depth = np.array(depths)
    price = 2 * (depth - 1) * theory.flattest_split(depths, target) ** (1 - 2 / depth)
    np.testing.assert_allclose(price, price[0], rtol=1e-10)


@pytest.mark.parametrize(
    ("depths", "target", "expected"),
    [
        ([6, 6, 6], 1.5, [0.5, 0.5, 0.5]),
        ([30] * 6, 3.0, [0.5] * 6),
        ([2, 2], 1.0, [0.5, 0.5]),
        ([2, 2, 3], 1.0, [0.4375, 0.4375, 0.125]),
        ([2, 3], 1.0, [0.875, 0.125]),  # 4 σ^{1/3} reaches depth two's price 2 at σ = 1/8
        ([2, 3], 0.1, [0.0, 0.1]),
    ],
)
def test_flattest_split_in_closed_form(depths, target, expected):
    np.testing.assert_allclose(theory.flattest_split(depths, target), expected, atol=1e-12)


def test_flattest_split_takes_a_batch_of_targets():
    target = np.array([[0.5, 1.0], [2.0, 4.0]])
    split = theory.flattest_split([3, 5], target)
    assert split.shape == (2, 2, 2)
    np.testing.assert_allclose(split[1, 0], theory.flattest_split([3, 5], 2.0))


@pytest.mark.parametrize("depth", [2, 3, 5, 20])
@pytest.mark.parametrize("pathways", [1, 2, 4])
@pytest.mark.parametrize("target", [0.3, 1.0, 2.0])
def test_single_path_and_balanced_are_the_ends_of_mode_sharpness(depth, pathways, target):
    single = [target] + [0.0] * (pathways - 1)
    depths, equal = [depth] * pathways, [target / pathways] * pathways
    sharpest = theory.mode_sharpness(depths, single)
    flattest = theory.mode_sharpness(depths, equal)
    assert theory.single_path_sharpness(depth, target) == pytest.approx(sharpest, rel=1e-13)
    assert theory.balanced_sharpness(depth, pathways, target) == pytest.approx(flattest, rel=1e-13)
    assert flattest / sharpest == pytest.approx(pathways ** (2 / depth - 1), rel=1e-13)


def bisect(positive_until, low, high):
    """Where a condition that holds at ``low`` and not at ``high`` ends, to 40 digits."""
    while high - low > mpmath.mpf(10) ** -40:
        middle = (low + high) / 2
        low, high = (middle, high) if positive_until(middle) else (low, middle)
    return low


def extended_wcr_ratio(depth):
    """The definition word by word in 60 digits: the γ at which f_γ(max f_γ) reaches zero."""
    with mpmath.workdps(60):
        depth = mpmath.mpf(depth)

        def step(x, gamma):
            return x - gamma / depth * x ** (depth - 1) * (x**depth - 1)

        def returns(gamma):
            def rising(x):
                slope = (2 * depth - 1) * x ** (2 * depth - 2) - (depth - 1) * x ** (depth - 2)
                return gamma / depth * slope < 1

            steepest = ((depth - 1) / (2 * depth - 1)) ** (1 / depth)
            return step(step(bisect(rising, steepest, mpmath.mpf(1)), gamma), gamma) > 0

        return bisect(returns, mpmath.mpf(2), 2 * mpmath.log(depth) + 4)


@pytest.mark.parametrize("depth", [2, 3, 4, 7, 20, 100, 1000, 31_622, 10**5, 10**6])
def test_wcr_ratio_to_nine_digits(depth):
    exact = extended_wcr_ratio(depth)
    assert abs(theory.wcr_ratio(depth) / exact - 1) < 1e-9


def test_wcr_ratio_of_depth_two_and_the_digest():
    assert theory.wcr_ratio(2) == pytest.approx(3 * np.sqrt(3) - 2, abs=1e-12)
    depths = [2, 3, 4, 5, 6, 8, 10, 20, 50, 100, 1000]
    expected = [3.196152, 3.660996, 3.978578, 4.224495, 4.426951, 4.751329, 5.008329, 5.843603]
    expected += [7.042411, 8.019467, 11.613611]
    np.testing.assert_allclose(theory.wcr_ratio(depths), expected, rtol=0, atol=5e-7)


def test_wcr_ratio_is_where_a_dense_grid_first_crosses_zero():
    x = np.linspace(0, 1, 200_001)
    for depth in (2, 3, 6, 20):
        gamma = theory.wcr_ratio(depth)
        for factor, safe in ((0.999, True), (1.001, False)):
            first = x - factor * gamma / depth * x ** (depth - 1) * (x**depth - 1)
            second = first - factor * gamma / depth * first ** (depth - 1) * (first**depth - 1)
            assert bool(np.all(second >= 0)) == safe


def test_thresholds_of_the_digest():
    low, high = theory.stability_window(20, 2, 1.0)
    assert low == pytest.approx(0.1, abs=1e-14)
    assert high == pytest.approx(0.18661, abs=5e-6)
    assert theory.wcr_step_size(20, 1.0) == pytest.approx(0.29218, abs=5e-6)
    low, high = theory.stability_window(2, [1, 2, 3], 1.0)
    np.testing.assert_allclose(low, high)
    assert low.shape == high.shape == (3,)
    _, high = theory.stability_window(6, 8, 1.0)  # many paths: the worst-case return is the border
    assert high == theory.wcr_step_size(6, 1.0) < 2 / theory.balanced_sharpness(6, 8, 1.0)


def test_reversal_threshold_in_closed_form_and_in_the_limit():
    assert theory.reversal_threshold(3) == pytest.approx(2 - np.sqrt(2), abs=1e-14)
    limit = float(mpmath.findroot(lambda x: x - 1 - mpmath.exp(-x), 1.28))
    assert theory.reversal_threshold(10**7) * 1e7 == pytest.approx(limit, rel=1e-6)
    depth = np.arange(3, 60)
    t = theory.reversal_threshold(depth)
    np.testing.assert_allclose((depth - 1) * t - 1, (1 - t) ** (depth - 1), rtol=1e-11)


@given(depth=st.integers(3, 60), seed=st.integers(0, 2**31))
def test_differences_grow_only_above_the_reversal_threshold(depth, seed):
    generator = np.random.default_rng(seed)
    u = 10 ** generator.uniform(-1, 3, (200, 3))  # s^{2 − L}
    most = generator.uniform(-3, 1, (200, 1))  # t of the strongest path
    t = most * u.min(-1, keepdims=True) / u
    after = u * (1 - t) ** (2.0 - depth)
    before, after = (x[:, [1, 2, 2]] - x[:, [0, 0, 1]] for x in (u, after))
    assert np.all(after * np.sign(before) < np.abs(before) * (1 + 1e-9))
    rises = np.abs(after) > np.abs(before) * (1 + 1e-9)
    assert not np.any(rises & (most <= theory.reversal_threshold(depth)))


def test_the_deepest_path_that_there_can_be():
    deepest = 2**63 - 1024  # the float64 below 2⁶³
    assert theory.single_path_sharpness(deepest, 1.0) == deepest
    first, second = theory.flattest_split([deepest, 3], 1.0)
    assert 0 < first < 1e-18
    assert second == 1


def test_the_reversal_threshold_cannot_be_raised():
    depth, t = 8, theory.reversal_threshold(8)
    for factor, grows in ((0.999, False), (1.001, True)):
        u = np.array([1.0, 1.0 + 1e-7])
        after = u * (1 - factor * t / u) ** (2.0 - depth)
        assert bool(abs(after[1] - after[0]) > u[1] - u[0]) == grows


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.reversal_threshold(2), "depths must be at least 3"),
        (lambda: theory.reversal_threshold([3, 4.5]), "whole numbers"),
        (lambda: theory.wcr_ratio(1), "depths must be at least 2"),
        (lambda: theory.wcr_ratio([3, 2.5]), "whole numbers"),
        (lambda: theory.single_path_sharpness(0, 1.0), "depths must be at least 1"),
        (lambda: theory.single_path_sharpness(3, 0.0), "target must be finite and positive"),
        (lambda: theory.single_path_sharpness(3, -1.0), "target must be finite and positive"),
        (lambda: theory.wcr_step_size(3, float("nan")), "target must be finite and positive"),
        (lambda: theory.balanced_sharpness(3, 0, 1.0), "pathways must be at least 1"),
        (lambda: theory.flattest_split([1, 3], 1.0), "depths must be at least 2"),
        (lambda: theory.flattest_split([], 1.0), "at least one pathway"),
        (lambda: theory.flattest_split(3, 1.0), r"shape \(pathways,\)"),
        (lambda: theory.mode_sharpness([3, 3], [0.5, -0.1]), "strengths must be finite"),
        (lambda: theory.mode_sharpness([3, 3], [0.5, float("nan")]), "strengths must be finite"),
        (lambda: theory.mode_sharpness([3, 3], [0.5, 0.3, 0.2]), "one entry per pathway"),
        (lambda: theory.cross_mode_sharpness([3, 3], [0.5, 0.5]), "modes, pathways"),
        (lambda: theory.cross_mode_sharpness([[3]], [[0.5], [0.5]]), r"depths of shape"),
    ],
)
def test_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
