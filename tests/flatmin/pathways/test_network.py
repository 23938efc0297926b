"""The matrix network against its definition, its starts, and the explicit Hessian."""

import numpy as np
import pytest
import torch

from flatmin.pathways import MultiPathway, theory, train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def explicit_sharpness(network, target, inputs=None):
    names = [name for name, _ in network.named_parameters()]
    values = tuple(weight.detach() for weight in network.weights)
    sizes = [value.numel() for value in values]

    class Loss(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self):
            return self.network.loss(target, inputs)

    def loss(vector):
        parts = [p.reshape(v.shape) for p, v in zip(vector.split(sizes), values, strict=True)]
        named = {f"network.{name}": part for name, part in zip(names, parts, strict=True)}
        return torch.func.functional_call(Loss(), named, ())

    flat = torch.cat([value.reshape(-1) for value in values])
    return float(torch.linalg.eigvalsh(torch.func.hessian(loss)(flat))[-1])


def test_path_maps_are_products_from_input_to_output():
    network = MultiPathway([1, 2, 4], 3).start_random(1.0, generator())
    for weight, path_map in zip(network.weights, network.path_maps(), strict=True):
        expected = np.eye(3)
        for layer in weight.detach().numpy():
            expected = layer @ expected
        np.testing.assert_allclose(path_map.detach(), expected, atol=1e-14)
    inputs = randn(5, 3, seed=1)
    expected = sum(inputs @ path_map.T for path_map in network.path_maps())
    torch.testing.assert_close(network(inputs), expected)


def test_tanh_pathways_and_their_two_linear_maps():
    network = MultiPathway([1, 3], 2, torch.tanh).start_random(1.0, generator())
    inputs = randn(6, 2, seed=1)
    (shallow,), (a, b, c) = network.weights
    expected = inputs @ shallow.T + torch.tanh(torch.tanh(inputs @ a.T) @ b.T) @ c.T
    torch.testing.assert_close(network(inputs), expected)

    jacobian = torch.func.jacrev(lambda x: network(x[None])[0])(torch.zeros(2).double())
    torch.testing.assert_close(network.path_maps().sum(0), jacobian)
    fitted = network.path_maps(inputs)
    left_over = network.pathway_outputs(inputs) - inputs @ fitted.mT
    torch.testing.assert_close(inputs.T @ left_over, torch.zeros(2, 2, 2).double())
    torch.testing.assert_close(
        network.path_maps(1e-4 * inputs), network.path_maps(), atol=1e-6, rtol=0
    )


def test_a_linear_network_fits_itself_on_any_inputs():
    network = MultiPathway([2, 3], 3).start_random(1.0, generator())
    torch.testing.assert_close(network.path_maps(randn(20, 3)), network.path_maps())


def test_balanced_start():
    network = MultiPathway([2, 5], 3).start_balanced([0.3, 0.0])
    expected = torch.stack([0.3 * torch.eye(3), torch.zeros(3, 3)]).double()
    torch.testing.assert_close(network.path_maps(), expected)
    assert torch.equal(network.weights[0][0], network.weights[0][1])


def test_aligned_start_has_the_strengths_asked_for_and_nothing_else():
    target, strengths = randn(3, 3), 0.1 + torch.rand(3, 2, generator=generator()).double()
    network = MultiPathway([3, 6], 3).start_aligned(target, strengths, generator(4))
    torch.testing.assert_close(network.strengths(target), strengths)
    left, _, right = torch.linalg.svd(target)
    rotated = left.T @ network.path_maps() @ right.T
    torch.testing.assert_close(rotated, torch.diag_embed(strengths.T), atol=1e-13, rtol=0)
    for weight, values, depth in zip(network.weights, strengths.T, (3, 6), strict=True):
        expected = (values ** (1 / depth)).sort().values.expand(depth, -1)
        torch.testing.assert_close(torch.linalg.svdvals(weight).flip(-1), expected)


def test_random_start_repeats_and_has_its_scale():
    first = MultiPathway([4], 40).start_random(0.5, generator(1))
    again = MultiPathway([4], 40).start_random(0.5, generator(1))
    assert torch.equal(first.weights[0], again.weights[0])
    assert first.weights[0].std().item() == pytest.approx(0.5 / 40**0.5, rel=0.05)


def test_loss_of_white_inputs_is_the_frobenius_distance():
    network = MultiPathway([2, 3], 3).start_random(1.0, generator())
    target = randn(3, 3, seed=2)
    white = 7**0.5 * torch.linalg.qr(randn(7, 3, seed=3)).Q
    torch.testing.assert_close(network.loss(target), network.loss(target, white))
    tanh = MultiPathway([2, 3], 3, torch.tanh).start_random(1.0, generator())
    scaled_basis = 3**0.5 * torch.eye(3).double()
    torch.testing.assert_close(tanh.loss(target), tanh.loss(target, scaled_basis))


@pytest.mark.parametrize("activation", [None, torch.tanh])
@pytest.mark.parametrize(("depths", "width"), [([1], 1), ([2, 2], 1), ([3, 3], 2), ([2, 4, 5], 2)])
def test_sharpness_is_the_top_of_the_explicit_hessian(depths, width, activation):
    network = MultiPathway(depths, width, activation).start_random(1.0, generator(5))
    target, inputs = randn(width, width, seed=6), randn(9, width, seed=7)
    for data in (None, inputs):
        expected = explicit_sharpness(network, target, data)
        assert network.sharpness(target, data) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("depths", [[5, 5], [3, 5, 7]])
def test_sharpness_at_a_solution_is_the_closed_form(depths):
    values = torch.tensor([1.0, 0.5], dtype=torch.float64)
    shares = torch.tensor([0.6, 0.3, 0.1][: len(depths)], dtype=torch.float64)
    strengths = values[:, None] * shares / shares.sum()
    target = torch.diag(values)
    network = MultiPathway(depths, 2).start_aligned(target, strengths, generator(1))
    expected = theory.mode_sharpness(depths, strengths).max()
    assert network.sharpness(target) == pytest.approx(expected, rel=1e-9)


def test_sharpness_of_a_flat_point_is_zero():
    assert MultiPathway([3, 3], 2).start_balanced([0, 0]).sharpness(torch.eye(2).double()) == 0.0


def test_training_is_gradient_descent_with_a_schedule():
    target, inputs = randn(3, 3, seed=2), randn(8, 3, seed=3)
    one = MultiPathway([2, 3], 3, torch.tanh).start_random(1.0, generator())
    two = MultiPathway([2, 3], 3, torch.tanh).start_random(1.0, generator())

    def warm_up(step):
        return 0.01 * min(1, (step + 1) / 5)

    history = train(one, target, warm_up, 12, inputs=inputs, record_every=5)
    optimiser = torch.optim.SGD(two.parameters(), lr=1.0)
    losses = []
    for step in range(13):
        optimiser.param_groups[0]["lr"] = warm_up(step)
        optimiser.zero_grad()
        loss = two.loss(target, inputs)
        losses.append(loss.item())
        if step < 12:
            loss.backward()
            optimiser.step()
    for mine, theirs in zip(one.weights, two.weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-14)
    assert history.steps.tolist() == [0, 5, 10, 12]
    expected = torch.tensor(losses, dtype=torch.float64)[history.steps]
    torch.testing.assert_close(history.loss, expected)
    torch.testing.assert_close(
        history.step_size, torch.tensor([0.002, 0.01, 0.01, 0.01]).double(), rtol=1e-7, atol=0
    )
    torch.testing.assert_close(history.strengths[-1], one.strengths(target, inputs))
    assert history.sharpness[-1] == pytest.approx(one.sharpness(target, inputs))


def test_training_stops_once_it_diverged():
    network = MultiPathway([3, 3], 1).start_balanced([0.5, 0.2])
    history = train(network, torch.ones(1, 1).double(), 20.0, 1000, record_every=100)
    assert not history.loss[-1].isfinite()
    assert history.steps.tolist() == [0, 100]
    plain = train(network, torch.ones(1, 1).double(), 0.0, 1, sharpness=False)
    assert plain.sharpness.numel() == 0


def test_training_on_inputs_may_end_in_nan():
    network = MultiPathway([3, 3], 4, torch.tanh).start_balanced([0.3, 0.2])
    eye = torch.eye(4, dtype=torch.float64)
    history = train(network, eye, 400.0, 1000, inputs=eye, record_every=1000)
    assert history.loss.isnan().tolist() == [False, True]
    assert history.strengths[-1].isnan().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiPathway([0], 2), "depths must be at least 1"),
        (lambda: MultiPathway([], 2), "at least one pathway"),
        (lambda: MultiPathway([3], 0), "width must be at least 1"),
        (lambda: MultiPathway([3, 3], 2).start_balanced([0.1]), "each of 2 pathways"),
        (lambda: MultiPathway([3, 3], 2).start_balanced([0.1, -0.1]), "init must be finite"),
        (lambda: MultiPathway([3], 2).strengths(torch.eye(3).double()), "target must have shape"),
        (lambda: MultiPathway([3], 2).loss(torch.eye(3).double()), "target must have shape"),
        (
            lambda: MultiPathway([3], 2).start_aligned(
                torch.eye(2).double(), [[1.0, 1.0]], generator()
            ),
            "strengths must have shape",
        ),
        (lambda: train(MultiPathway([3], 1), torch.ones(1, 1).double(), -0.1, 5), "step_size must"),
        (lambda: train(MultiPathway([3], 1), torch.ones(1, 1).double(), 0.1, -5), "steps=-5"),
    ],
)
def test_refuses_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_trains_on_a_gpu():
    target = torch.diag(torch.tensor([1.0, 0.5])).double()
    here = train(MultiPathway([3, 3], 2).start_balanced([0.2, 0.1]), target, 0.1, 50)
    there = train(MultiPathway([3, 3], 2).start_balanced([0.2, 0.1]).cuda(), target.cuda(), 0.1, 50)
    torch.testing.assert_close(here.strengths, there.strengths, rtol=1e-10, atol=1e-12)
