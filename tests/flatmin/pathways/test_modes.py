"""The scalar recursion against a loop, the matrix network and closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flatmin.pathways import MultiPathway, simulate_modes, theory, train


def plain_loop(depths, target, step_size, init, steps):
    """The recursion as the paper writes it, one run: the layer values after every step."""
    depth = np.array(depths)
    s = np.array(init) ** (1 / depth)
    values = [s]
    for _ in range(steps):
        s = s - step_size * s ** (depth - 1) * (np.sum(s**depth) - target)
        values.append(s)
    return np.stack(values)


@settings(deadline=None, max_examples=60)
@given(
    depths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    target=st.floats(0.1, 2.0),
    fraction=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**31),
)
def test_agrees_with_the_plain_loop(depths, target, fraction, seed):
    init = np.random.default_rng(seed).uniform(0.01, 0.3, len(depths))
    split = theory.single_path_sharpness(depths, target + init.sum())
    step_size = fraction / split.sum()  # below the edge of stability wherever the run goes
    history = simulate_modes(depths, target, step_size, init, 200)
    expected = plain_loop(depths, target, step_size, init, 200) ** np.array(depths)
    np.testing.assert_allclose(history.strengths, expected, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(
        history.loss, (expected.sum(-1) - target) ** 2 / 2, rtol=1e-9, atol=1e-20
    )


@pytest.mark.parametrize("depths", [(3, 3), (6, 6, 6), (3, 5, 7), (2, 4)])
def test_agrees_with_the_matrix_network_over_1000_steps(depths):
    generator = torch.Generator().manual_seed(3)
    frames = [
        torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    ]
    values = torch.tensor([1.0, 0.6, 0.3], dtype=torch.float64)
    target = frames[0] * values @ frames[1].T
    init = 0.05 + 0.1 * torch.rand(3, len(depths), generator=generator, dtype=torch.float64)
    step_size = 0.9 * float(np.min(2 / theory.single_path_sharpness(depths, 1.0)))
    network = MultiPathway(depths, 3).start_aligned(target, init, generator)
    slow = train(network, target, step_size, 1000, record_every=50, sharpness=False)
    fast = simulate_modes(depths, values, step_size, init, 1000, record_every=50)
    torch.testing.assert_close(slow.strengths, fast.strengths.movedim(0, 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(slow.loss, fast.loss.sum(0), rtol=0, atol=1e-10)
    assert torch.equal(slow.steps, fast.steps)


def test_a_single_layer_contracts_geometrically():
    history = simulate_modes([1], 1.0, [0.1, 0.5], [0.0], 30)
    expected = 1 - (1 - torch.tensor([[0.1], [0.5]], dtype=torch.float64)) ** history.steps
    torch.testing.assert_close(history.strengths[..., 0], expected, rtol=1e-13, atol=1e-14)


def test_step_sizes_of_the_digest_stop_where_it_says():
    step_size = torch.tensor([0.05, 0.12, 0.14, 0.16, 0.18], dtype=torch.float64)
    end = simulate_modes([20, 20], 1.0, step_size, [0.011, 0.01], 40_000, 40_000).strengths[:, -1]
    expected = torch.tensor([0.861, 0.846, 0.805, 0.710, 0.592], dtype=torch.float64)
    torch.testing.assert_close(end[:, 0], expected, rtol=0, atol=6e-4)
    sharpness = theory.mode_sharpness([20, 20], end)
    assert np.all(sharpness < 2 / step_size.numpy() + 1e-6)


def test_everything_broadcasts_depths_included():
    depths = torch.tensor([[3, 3], [5, 5], [3, 7]])  # (3, pathways)
    target = torch.tensor([1.0, 0.5]).double()[:, None]  # (2, 1)
    step_size = torch.linspace(0.01, 0.1, 4).double()[:, None, None]  # (4, 1, 1)
    init = [0.2, 0.1]
    history = simulate_modes(depths, target, step_size, init, 20, record_every=7)
    assert history.strengths.shape == (4, 2, 3, 4, 2)
    assert history.loss.shape == (4, 2, 3, 4)
    assert history.flipped_at.shape == history.diverged_at.shape == (4, 2, 3)
    for e, t, d in np.ndindex(4, 2, 3):
        one = simulate_modes(depths[d], target[t, 0], step_size[e, 0, 0], init, 20, record_every=7)
        torch.testing.assert_close(history.strengths[e, t, d], one.strengths, rtol=0, atol=0)


def test_a_batch_beyond_one_piece_equals_its_parts():
    step_size = torch.linspace(0.01, 0.1, 10_001, dtype=torch.float64)
    whole = simulate_modes([4, 4], 1.0, step_size, [0.2, 0.1], 30, 30)
    part = simulate_modes([4, 4], 1.0, step_size[-3:], [0.2, 0.1], 30, 30)
    assert torch.equal(whole.strengths[-3:], part.strengths)


@pytest.mark.parametrize(
    ("steps", "every", "kept"),
    [
        (10, 1, [*range(11)]),
        (10, 4, [0, 4, 8, 10]),
        (10, 5, [0, 5, 10]),
        (10, 99, [0, 10]),
        (0, 1, [0]),
    ],
)
def test_keeps_what_was_asked_for(steps, every, kept):
    history = simulate_modes([3, 3], 1.0, 0.1, [0.2, 0.1], steps, every)
    assert history.steps.tolist() == kept
    full = simulate_modes([3, 3], 1.0, 0.1, [0.2, 0.1], max(steps, 1))
    assert torch.equal(history.strengths, full.strengths[kept])


@pytest.mark.parametrize("depths", [(4, 4), (5, 5), (2, 2), (3, 6)])
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_says_when_a_run_flips_or_diverges(depths):
    step_size = np.linspace(0.05, 12.0, 150)
    steps = 20  # in a chaotic run rounding decides the events of later steps
    history = simulate_modes(depths, 1.0, step_size, [0.2, 0.1], steps, steps)
    for run, eta in enumerate(step_size):
        values = plain_loop(depths, 1.0, eta, [0.2, 0.1], steps)
        residual = np.sum(values ** np.array(depths), -1) - 1.0
        negative, lost = (values < 0).any(-1), ~np.isfinite(residual)
        assert history.flipped_at[run] == (negative.argmax() if negative.any() else -1)
        assert history.diverged_at[run] == (lost.argmax() if lost.any() else -1)
    for event in (history.flipped_at, history.diverged_at):
        assert (event >= 0).any()
        assert (event < 0).any()


def test_neither_zero_nor_what_follows_a_divergence_is_a_change_of_sign():
    history = simulate_modes([3, 3], 1.0, [0.1, 1e200], [0.2, 0.0], 5)
    assert history.flipped_at.tolist() == [-1, -1]
    assert history.diverged_at.tolist() == [-1, 1]


def test_a_diverging_run_leaves_its_neighbours_alone():
    both = simulate_modes([3, 3], 1.0, [0.1, 9.0], [0.2, 0.1], 100, 100)
    one = simulate_modes([3, 3], 1.0, [0.1], [0.2, 0.1], 100, 100)
    assert both.diverged_at[0] == -1
    assert both.diverged_at[1] > 0
    assert torch.equal(both.strengths[:1], one.strengths)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depths": [0, 3]}, "depths must be at least 1"),
        ({"depths": [2.5, 3]}, "depths must be whole numbers"),
        ({"depths": [float("nan"), 3]}, "depths must be whole numbers"),
        ({"depths": []}, "at least one pathway"),
        ({"depths": 3}, "one entry per pathway"),
        ({"init": [0.1, 0.1, 0.1]}, "one entry per pathway"),
        ({"init": [0.1, -0.1]}, "init must be finite and not negative"),
        ({"init": [0.1, float("nan")]}, "init must be finite"),
        ({"target": -1.0}, "target must be finite and not negative"),
        ({"target": float("nan")}, "target must be finite"),
        ({"step_size": float("inf")}, "step_size must be finite"),
        ({"target": [1.0, 1.0], "step_size": [0.1, 0.1, 0.1]}, "do not broadcast"),
        ({"steps": -1}, "steps=-1"),
        ({"record_every": 0}, "record_every=0"),
    ],
)
def test_refuses_bad_input(change, message):
    good = {"depths": [3, 3], "target": 1.0, "step_size": 0.1, "init": [0.2, 0.1], "steps": 5}
    with pytest.raises(ValueError, match=message):
        simulate_modes(**(good | change))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_runs_where_the_start_lies():
    init = torch.tensor([0.2, 0.1], dtype=torch.float64)
    step_size = torch.linspace(0.01, 0.1, 50, dtype=torch.float64)
    there = simulate_modes([3, 5], 1.0, step_size, init.cuda(), 50)
    here = simulate_modes([3, 5], 1.0, step_size, init, 50)
    assert there.strengths.is_cuda
    torch.testing.assert_close(there.strengths.cpu(), here.strengths, rtol=1e-12, atol=1e-12)
