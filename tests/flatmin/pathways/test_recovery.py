"""The recovery limit against the recursion itself, a grid of starts, and more than two pathways."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from flatmin.pathways import recovery_ratio, simulate_modes, theory
from flatmin.pathways.recovery import _difference_kept

pytestmark = pytest.mark.filterwarnings("error")


def differences(depth, strengths):
    """u_k − u_h of all pairs, u = σ^{2/L − 1}: (..., pathways, pathways)."""
    u = strengths ** (2 / depth - 1)
    return u[..., None, :] - u[..., None]


@pytest.mark.parametrize(
    ("depth", "gamma", "leader", "follower"),
    [(3, 3.4, 0.6, 0.01), (4, 2.5, 0.3, 0.2), (20, 4.2, 0.65, 0.025), (21, 4.6, 0.65, 0.025)],
)
def test_difference_kept_is_that_of_two_steps_of_the_recursion(depth, gamma, leader, follower):
    run = simulate_modes([depth] * 2, 1.0, gamma / depth, [leader, follower], 2)
    z = differences(depth, run.strengths.numpy())[:, 0, 1]
    assert _difference_kept(gamma, depth, leader, follower) == pytest.approx(z[2] / z[0], rel=1e-9)


def test_a_change_of_sign_keeps_nothing():
    assert _difference_kept(8.0, 20, 0.65, 0.02) == -math.inf


def grid(depth, gamma, count=100):
    """The least z''/z over a grid of starts."""
    follower = np.geomspace(1e-4, 0.4, count)
    leader = follower + np.linspace(0.01, 0.99, count)[:, None] * (1 - 2 * follower)
    pairs = np.stack(np.broadcast_arrays(leader, follower), -1)
    run = simulate_modes([depth] * 2, 1.0, gamma / depth, pairs, 2)
    z = differences(depth, np.maximum(run.strengths.numpy(), 1e-300))[..., 0, 1]
    return np.where(run.flipped_at.numpy() >= 0, -np.inf, z[..., 2] / z[..., 0]).min()


@pytest.mark.parametrize("depth", [3, 4, 7, 20, 300])
def test_the_limit_is_where_a_grid_of_starts_first_reverses_a_difference(depth):
    limit = float(recovery_ratio(depth))
    assert grid(depth, 0.999 * limit) > -1
    assert grid(depth, 1.001 * limit) < -1


@pytest.mark.parametrize("depth", [3, 20, 300])
def test_beyond_the_limit_some_start_is_always_set_back(depth):
    for gamma in np.linspace(1.01 * float(recovery_ratio(depth)), 10, 6):
        assert grid(depth, gamma, 50) < -1


@pytest.mark.parametrize("depth", [3, 8, 100])
def test_at_the_limit_the_worst_start_is_turned_round_exactly(depth):
    limit = float(recovery_ratio(depth))

    def kept(logs):
        return _difference_kept(limit, depth, *np.exp(logs))

    worst = minimize(kept, np.log([0.65, 0.025]), method="Nelder-Mead", tol=1e-10)
    assert worst.fun == pytest.approx(-1, abs=1e-8)
    assert np.exp(worst.x).sum() < 1


@pytest.mark.parametrize("pathways", [3, 5])
@pytest.mark.parametrize("depth", [3, 6, 50])
def test_more_pathways_are_set_back_no_further(depth, pathways):
    rng = np.random.default_rng(depth + pathways)
    start = 10 ** rng.uniform(-4, 0, (4_000, pathways))
    start *= rng.uniform(0.1, 1, (len(start), 1)) / start.sum(1, keepdims=True)
    # Half of them near the worst two pathways, with the others beside them.
    start[::2, :2] = [0.64, 0.022] * np.exp(0.3 * rng.normal(size=(2_000, 2)))
    start[::2, 2:] = 10 ** rng.uniform(-5, -1.5, (2_000, pathways - 2))
    start = start[start.sum(1) <= 1]
    gamma = 0.99 * float(recovery_ratio(depth))
    run = simulate_modes([depth] * pathways, 1.0, gamma / depth, start, 2)
    z = differences(depth, run.strengths.numpy())
    ahead = z[:, 0] > 1e-6  # pairs in their order at the start
    assert (z[:, 2] / np.where(ahead, z[:, 0], 1))[ahead].min() > -1
    assert (z[:, 2] <= z[:, 0] * (1 + 1e-9))[ahead].all()


def test_it_tends_to_a_constant_below_the_limit_of_sign():
    depths = np.array([3, 4, 5, 8, 20, 100, 1000, 10**6])
    limit = recovery_ratio(depths)
    assert (np.diff(limit) > 0).all()
    assert (limit < theory.wcr_ratio(depths)).all()
    assert limit[-1] == pytest.approx(4.4003, abs=1e-4)
    assert limit[-1] - limit[-2] == pytest.approx(2.5 / 1000, rel=0.02)  # the approach is 1/L


@pytest.mark.parametrize("depth", [2, 3.5, []])
def test_a_depth_without_a_limit_is_refused(depth):
    with pytest.raises(ValueError, match="depths"):
        recovery_ratio(depth)
