"""The pair Hessian against automatic differentiation, the exponent against a disturbed network."""

import numpy as np
import pytest
import torch

from flatmin.pathways import MultiPathway, floquet_exponent, pair_hessian, simulate_modes, theory


def network_hessian(depths, strengths, targets):
    """Hessian in the off-diagonal entries of a width-two network, by automatic differentiation."""
    strengths, targets = (torch.tensor(x, dtype=torch.float64) for x in (strengths, targets))
    layers = [
        torch.diag(row ** (1 / depth)).repeat(depth, 1, 1)
        for depth, row in zip(depths, strengths.T, strict=True)
    ]

    def loss(entries):
        first, second, total = *entries.reshape(2, -1), -torch.diag(targets)
        for stack in layers:
            path = torch.eye(2).double()
            for layer in stack:
                off = torch.zeros(2, 2).double()
                off = off.index_put((torch.tensor(0), torch.tensor(1)), first[0])
                off = off.index_put((torch.tensor(1), torch.tensor(0)), second[0])
                first, second, path = first[1:], second[1:], (layer + off) @ path
            total = total + path
        return total.square().sum() / 2

    return torch.func.hessian(loss)(torch.zeros(2 * sum(depths)).double()).numpy()


@pytest.mark.parametrize(
    ("depths", "strengths", "targets"),
    [
        ([3, 5], [[0.7, 0.4], [0.2, 0.5]], [1.0, 0.9]),
        ([4], [[1.2], [0.7]], [1.0, 0.8]),
        ([1, 2, 3], [[0.1, 0.2, 0.3], [0.3, 0.2, 0.6]], [0.9, 1.3]),
    ],
)
def test_pair_hessian_is_that_of_the_network(depths, strengths, targets):
    expected = network_hessian(depths, strengths, targets)
    np.testing.assert_allclose(pair_hessian(depths, strengths, targets), expected, atol=1e-12)


def test_at_zero_loss_it_has_the_cross_mode_eigenvalues():
    depths, strengths = [3, 6], np.array([[0.7, 0.3], [0.2, 0.5]])
    values = np.linalg.eigvalsh(pair_hessian(depths, strengths, strengths.sum(1)))
    table = theory.cross_mode_sharpness(depths, strengths)
    np.testing.assert_allclose(values[-2:], [table[0, 1]] * 2, rtol=1e-12)
    np.testing.assert_allclose(values[:-2], 0, atol=1e-12)


@pytest.mark.parametrize("phase", [1, 0])
def test_a_disturbed_network_grows_at_that_rate(phase):
    """One path swings with period two in both modes, in phase or against it."""
    depth, rate = 6, 0.36
    run = simulate_modes([depth], 1.0, rate, [[1.1], [0.9]], 2000 + phase, 1).strengths[..., -1, 0]
    later = simulate_modes([depth], 1.0, rate, [[1.1]], 2001 - phase, 1).strengths[0, -1, 0]
    start = torch.stack((run[0], later))
    network = MultiPathway([depth], 2)
    generator = torch.Generator().manual_seed(0)
    weight = network.weights[0]
    goal = torch.eye(2).double()
    noise = 1e-9 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    noise -= torch.diag_embed(noise.diagonal(dim1=1, dim2=2))
    with torch.no_grad():
        weight.copy_(torch.diag(start ** (1 / depth)) + noise)
    sizes = []
    for step in range(121):
        if step in (60, 120):
            sizes.append((weight - torch.diag_embed(weight.diagonal(dim1=1, dim2=2))).norm().item())
        (slope,) = torch.autograd.grad(network.loss(goal), weight)
        with torch.no_grad():
            weight -= rate * slope
    exponent = floquet_exponent([depth], start[:, None].numpy(), [1.0, 1.0], rate)
    assert np.log(sizes[1] / sizes[0]) / 60 == pytest.approx(exponent, abs=2e-3)


def test_a_run_at_rest_is_neutral_below_the_edge():
    assert floquet_exponent([4, 4], [[0.7, 0.3], [0.5, 0.3]], [1.0, 0.8], 0.3) == pytest.approx(0)


def test_one_mode_at_the_edge_keeps_the_set_and_two_do_not():
    """The first run is that of the chapter on the set, far above the edge of its first mode."""
    run = simulate_modes([3, 5], [1.0, 0.7], 0.8, [0.03, 0.02], 600).strengths
    one = [floquet_exponent([3, 5], run[:, t], [1.0, 0.7], 0.8) for t in range(200, 600, 50)]
    assert np.ptp(run[0, 500:].sum(-1).numpy()) > 0.1
    assert max(one) < 1e-3
    run = simulate_modes([6, 6], [1.0, 0.97], 0.38, [0.03, 0.005], 400).strengths
    two = [floquet_exponent([6, 6], run[:, t], [1.0, 0.97], 0.38) for t in range(100, 400, 50)]
    assert min(two) > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3, 3], [[0.5, 0.5]], [1.0, 1.0]), r"strengths of shape \(2, pathways\)"),
        ((3, [[0.5], [0.5]], [1.0, 1.0]), r"depths of shape \(pathways,\)"),
        (([[3]], [[0.5], [0.5]], [1.0, 1.0]), r"depths of shape \(pathways,\)"),
        (([3], [[0.5], [0.5]], [1.0, 1.0, 1.0]), "two targets"),
        (([3], [[0.5], [0.5]], [1.0, 0.0]), "targets must be finite and positive, got 0"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pair_hessian(*arguments)


@pytest.mark.parametrize("step_size", [-0.1, np.nan])
def test_the_exponent_needs_a_step_of_positive_size(step_size):
    with pytest.raises(ValueError, match="step_size must be finite and not negative"):
        floquet_exponent([3], [[0.5], [0.5]], [1.0, 1.0], step_size)


def test_a_step_just_past_zero_is_refused():
    # At σ = 8 a layer is 2 and the residual 7: a step of 1/14 takes it to zero.
    with pytest.raises(ValueError, match=r"step_size 0\.0715 takes a layer below zero"):
        floquet_exponent([3], [[8.0], [1.0]], [1.0, 1.0], 0.0715)
    floquet_exponent([3], [[8.0], [1.0]], [1.0, 1.0], 0.0714)
