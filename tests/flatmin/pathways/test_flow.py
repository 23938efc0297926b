"""The flow against its conserved quantity, an explicit solver, and gradient descent."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from flatmin.pathways import flow_landing, flow_potential, gradient_flow, simulate_modes

pytestmark = pytest.mark.filterwarnings("error")


@settings(deadline=None, max_examples=25)
@given(
    depths=st.lists(st.integers(1, 20), min_size=2, max_size=4),
    target=st.floats(0.2, 3.0),
    seed=st.integers(0, 2**31),
)
def test_conserves_the_imbalance(depths, target, seed):
    init = np.random.default_rng(seed).uniform(0.02, 0.2, len(depths))
    flow = gradient_flow(depths, target, init, np.linspace(0, 50, 21))
    np.testing.assert_array_equal(flow.times, np.linspace(0, 50, 21))
    drift = np.abs(flow.conserved - flow.conserved[0]).max(0)
    assert np.all(drift <= 1e-8 * (1 + np.abs(flow.conserved[0])))
    np.testing.assert_allclose(flow.strengths[0], init, rtol=1e-12)
    assert np.all(np.diff(flow.loss) <= 1e-12)
    np.testing.assert_allclose(flow.loss, (flow.strengths.sum(1) - target) ** 2 / 2, atol=1e-14)


def test_the_conserved_quantity_in_its_three_forms():
    # s = σ^{1/L}: 2 log s at depth 2, s itself at depth 1, −1/s at depth 3.
    flow = gradient_flow([2, 1, 3], 1.0, [0.25, 0.5, 0.125], [0.0])
    np.testing.assert_allclose(
        flow.conserved[0], [0.5 - np.log(0.5), -2.0 - np.log(0.5)], rtol=1e-13
    )


def test_depth_one_relaxes_exponentially():
    times = np.linspace(0, 3, 7)
    flow = gradient_flow([1], 1.0, [0.2], times)
    np.testing.assert_allclose(flow.strengths[:, 0], 1 - 0.8 * np.exp(-times), rtol=1e-9)


def test_agrees_with_an_explicit_solver():
    depth, start, times = np.array([3, 5, 7]), np.array([0.05, 0.04, 0.06]), np.linspace(0, 20, 11)
    other = solve_ivp(
        lambda _, s: -(s ** (depth - 1)) * ((s**depth).sum() - 1.2),
        (0, 20),
        start ** (1 / depth),
        method="DOP853",
        t_eval=times,
        rtol=1e-12,
        atol=1e-14,
    )
    flow = gradient_flow([3, 5, 7], 1.2, start, times)
    np.testing.assert_allclose(flow.strengths, other.y.T**depth, atol=1e-9)


def test_a_path_of_one_layer_may_cross_zero():
    flow = gradient_flow([1, 3], 1.0, [0.1, 2.0], [0.0, 0.2, 5.0])
    assert flow.strengths[0, 0] > 0 > flow.strengths[-1, 0]
    np.testing.assert_allclose(flow.conserved, flow.conserved[0, 0], rtol=1e-9)


@pytest.mark.parametrize("depths", [(20, 20), (3, 5, 7)])
def test_gradient_descent_approaches_it_linearly_in_the_step(depths):
    init = [0.05, 0.04, 0.03][: len(depths)]
    flow = gradient_flow(depths, 1.0, init, [0.0, 20.0])
    errors = []
    for step_size in (4e-3, 2e-3):
        steps = round(20 / step_size)
        end = simulate_modes(depths, 1.0, step_size, init, steps, steps).strengths[-1]
        errors.append(np.abs(end.numpy() - flow.strengths[-1]).max())
    assert errors[0] < 5e-3
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)


def test_the_solver_is_given_the_jacobian_of_the_velocity(monkeypatch):
    """Against complex steps, which have no rounding of their own."""
    given = []

    def spy(velocity, *rest, jac, **options):
        given.append((velocity, jac))
        return solve_ivp(velocity, *rest, jac=jac, **options)

    monkeypatch.setattr("flatmin.pathways.flow.solve_ivp", spy)
    gradient_flow([1, 2, 5], 1.2, [0.1, 0.2, 0.3], [0.0, 1.0])
    velocity, jacobian = given[0]
    s = np.array([0.3, 0.7, 0.9])
    columns = [velocity(0.0, s + 1e-30j * e).imag / 1e-30 for e in np.eye(3)]
    np.testing.assert_allclose(jacobian(0.0, s), np.stack(columns, axis=1), rtol=1e-13)


def test_a_solver_that_fails_is_an_error(monkeypatch):
    failed = SimpleNamespace(success=False, message="step too small")
    monkeypatch.setattr("flatmin.pathways.flow.solve_ivp", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="the solver gave up: step too small"):
        gradient_flow([3, 3], 1.0, [0.2, 0.1], [0.0, 1.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": [0, 3]}, "depths must be at least 1"),
        ({"depths": []}, "at least one pathway"),
        ({"target": 0.0}, "target must be finite and positive"),
        ({"target": float("nan")}, "target must be finite and positive"),
        ({"target": [1.0, 2.0]}, "one mode"),
        ({"init": [0.1, 0.0]}, "init must be finite and positive"),
        ({"init": [0.1, 0.1, 0.1]}, "one mode"),
        ({"times": [1.0, 0.5]}, "times must be"),
        ({"times": [1.0, 1.0]}, "times must be"),
        ({"times": [-1e-9, 0.5]}, "times must be"),
        ({"times": []}, "times must be"),
        ({"times": 5.0}, "times must be"),
        ({"depths": 3, "init": 0.1}, "one mode"),
        ({"times": [0.0, float("nan")]}, "times must be"),
    ],
)
def test_refuses_bad_input(change, message):
    good = {"depths": [3, 3], "target": 1.0, "init": [0.2, 0.1], "times": [0.0, 1.0]}
    with pytest.raises(ValueError, match=message):
        gradient_flow(**(good | change))


def test_the_potential_in_its_four_forms():
    phi = flow_potential([1, 2, 3, 4], [[0.5, 0.25, 0.125, 0.0625]])
    np.testing.assert_allclose(phi, [[0.5, np.log(0.5), -2.0, -2.0]], rtol=1e-14)


@settings(deadline=None, max_examples=25)
@given(
    depths=st.lists(st.integers(2, 20), min_size=1, max_size=4),
    target=st.floats(0.2, 3.0),
    seed=st.integers(0, 2**31),
)
def test_the_flow_lands_where_the_solver_ends(depths, target, seed):
    init = np.random.default_rng(seed).uniform(0.02, 0.5, len(depths))
    end = gradient_flow(depths, target, init, [1e4]).strengths[-1]
    np.testing.assert_allclose(flow_landing(depths, target, init), end, atol=1e-8)


@given(
    depths=st.lists(st.integers(2, 60), min_size=2, max_size=5),
    seed=st.integers(0, 2**31),
)
def test_landing_keeps_the_differences_and_reaches_the_target(depths, seed):
    generator = np.random.default_rng(seed)
    now = 10 ** generator.uniform(-4, 0.5, (50, len(depths)))
    target = 10 ** generator.uniform(-0.5, 0.5, 50)
    ends = flow_landing(depths, target, now)
    np.testing.assert_allclose(ends.sum(-1), target, rtol=1e-10)
    before, after = (np.diff(flow_potential(depths, x)) for x in (now, ends))
    scale = 1 + np.abs(flow_potential(depths, ends)).max(-1, keepdims=True)
    np.testing.assert_allclose(after / scale, before / scale, atol=1e-9)


@pytest.mark.parametrize("target", [1e-30, 1e-9, 1.0, 1e3])
def test_landing_is_relative_to_the_target(target):
    ends = flow_landing([2, 3, 60], target, target * np.array([1e-3, 1e-5, 0.4]))
    assert ends.sum() == pytest.approx(target, rel=1e-12)
    ends = flow_landing([3, 3], target, target * np.array([0.2, 0.2]))
    np.testing.assert_allclose(ends, target / 2, rtol=1e-12)


@pytest.mark.parametrize("alpha", [1e-6, 1e-16, 1e-30, 1e-200])
@pytest.mark.parametrize("depth", [3, 20])
def test_landing_from_a_start_of_any_size(depth, alpha):
    """The follower keeps α (1 − 1.1^{−p})^{−1/p}, p = 1 − 2/L, once that is small."""
    pairs, power = [[1.1 * alpha, alpha], [0.2, 0.1]], 1 - 2 / depth
    ends = flow_landing([depth] * 2, 1.0, pairs)[0]
    assert ends.sum() == pytest.approx(1, rel=1e-12)
    follower = alpha * (1 - 1.1**-power) ** (-1 / power)
    assert ends[1] == pytest.approx(follower, rel=1e-9 + 2 * follower**power)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: flow_potential([3, 3], [0.1, 0.0]), "strengths must be finite and positive"),
        (lambda: flow_potential([3, 3], [0.1, 0.1, 0.1]), "one entry per pathway"),
        (lambda: flow_landing([1, 3], 1.0, [0.1, 0.1]), "depths must be at least 2"),
        (lambda: flow_landing([3, 3], 0.0, [0.1, 0.1]), "target must be finite and positive"),
        (lambda: flow_landing([3, 3], 1.0, [0.1, np.nan]), "strengths must be finite"),
    ],
)
def test_potential_and_landing_refuse_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
