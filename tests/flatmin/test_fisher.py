from types import SimpleNamespace

import pytest
import torch
from cases import NAMES, build, evaluated, fisher, jacobian, parts, randn, seeded, size
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from flatmin.fisher import FisherOperator


@pytest.mark.parametrize("name", NAMES)
def test_fisher_product_is_brute_force(name):
    case = evaluated(name)
    expected = fisher(case.model, case.inputs)
    case.model.train()  # evaluation mode is the operator's own affair
    operator = FisherOperator(case.model, case.inputs)
    assert operator.size == len(expected)
    for seed in range(3):
        v = randn(operator.size, seed=seed)
        torch.testing.assert_close(operator @ v, expected @ v, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(operator.quadratic(v), v @ expected @ v, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_gaussian_product_is_brute_force(name):
    case = evaluated(name)
    jac = jacobian(case.model, case.inputs).flatten(0, 1)
    operator, v = FisherOperator(case.model, case.inputs, divergence="gaussian"), randn(jac.size(1))
    torch.testing.assert_close(operator @ v, jac.T @ (jac @ v) / 8, rtol=1e-10, atol=1e-12)


def test_gaussian_outputs_of_any_shape():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Unflatten(1, (2, 2))).double()
    x = randn(5, 3)
    jac = jacobian(model, x).flatten(0, 2)
    operator, v = FisherOperator(model, x, divergence="gaussian"), randn(16)
    torch.testing.assert_close(operator @ v, jac.T @ (jac @ v) / 5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_fisher_of_chunks_is_that_of_the_whole(name):
    case = build(name)
    v = randn(size(case.model))
    whole = FisherOperator(case.model, case.inputs)
    chunked = FisherOperator(case.model, parts(case.inputs, [1, 5, 2]))
    torch.testing.assert_close(chunked @ v, whole @ v, rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(chunked.quadratic(v), whole.quadratic(v), rtol=1e-11, atol=1e-14)


def test_loader_of_labelled_examples():
    case = build("mlp")
    data = torch.utils.data.TensorDataset(case.inputs, case.targets)
    loader = torch.utils.data.DataLoader(data, batch_size=3)
    v = randn(size(case.model))
    expected = FisherOperator(case.model, case.inputs) @ v
    torch.testing.assert_close(FisherOperator(case.model, loader) @ v, expected)


def test_outputs_with_logits():
    class Wrapped(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, x):
            return SimpleNamespace(logits=self.model(x))

    case = build("mlp")
    v = randn(size(case.model))
    expected = FisherOperator(case.model, case.inputs) @ v
    assert torch.equal(FisherOperator(Wrapped(case.model), case.inputs) @ v, expected)


def test_fisher_follows_the_parameters():
    case = evaluated("mlp")
    operator, v = FisherOperator(case.model, case.inputs), randn(size(case.model))
    before = operator @ v
    with torch.no_grad():
        case.model[0].weight.mul_(2)
    assert not torch.allclose(operator @ v, before)
    torch.testing.assert_close(operator @ v, fisher(case.model, case.inputs) @ v)


def test_fisher_of_a_saturated_network_keeps_its_digits():
    """At p ≈ 1 − 1e-9 the variance of the outputs would be lost in float32."""
    model = nn.Linear(1, 2, bias=False)
    nn.init.constant_(model.weight, 0.0)
    with torch.no_grad():
        model.weight[0] = 20.0
    p = torch.tensor(20.0, dtype=torch.float64).sigmoid()
    quadratic = FisherOperator(model, torch.ones(1, 1)).quadratic(torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(quadratic, p * (1 - p), rtol=1e-5, atol=0)


def network(seed):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(randn(*p.shape, seed=seed + i))
    return model


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 6), st.floats(-3, 3))
def test_fisher_is_symmetric_positive_and_blind_to_order_and_shift(seed, n, shift):
    model = network(seed)
    x, a, b = randn(n, 3, seed=seed), randn(31, seed=seed + 1), randn(31, seed=seed + 2)
    operator = FisherOperator(model, x)
    torch.testing.assert_close(a @ (operator @ b), b @ (operator @ a), rtol=1e-9, atol=1e-12)
    assert operator.quadratic(a) >= 0
    shuffled = FisherOperator(model, x[torch.randperm(n, generator=seeded(seed))])
    torch.testing.assert_close(shuffled @ a, operator @ a, rtol=1e-9, atol=1e-12)
    before = operator @ a
    with torch.no_grad():
        model[-1].bias += shift
    torch.testing.assert_close(operator @ a, before, rtol=1e-9, atol=1e-12)


def test_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Linear(3, 2), nn.Unflatten(1, (2, 1)))
    with pytest.raises(ValueError, match="logits must be"):
        FisherOperator(model, torch.zeros(4, 3)) @ torch.zeros(8)
    assert all(module.training for module in model.modules())


def test_errors_of_a_product():
    case = build("mlp")
    v = randn(size(case.model))
    for inputs, vector, message in [
        (case.inputs, v[1:], r"vector must be \(75,\), got \(74,\)"),
        (case.inputs[:0], v, "must not be empty"),
        ([], v, "no batch"),
    ]:
        operator = FisherOperator(case.model, inputs)
        for multiply in (operator.__matmul__, operator.quadratic):
            with pytest.raises(ValueError, match=message):
                multiply(vector)


def test_training_mode_has_the_statistics_of_the_batch():
    case = build("conv")
    expected, v = fisher(case.model.train(), case.inputs), randn(size(case.model))
    case.model.eval()
    operator = FisherOperator(case.model, case.inputs, training=True)
    torch.testing.assert_close(operator @ v, expected @ v, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(operator.quadratic(v), v @ expected @ v, rtol=1e-8, atol=1e-10)
    assert not any(module.training for module in case.model.modules())
