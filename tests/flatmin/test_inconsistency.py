import copy
import math
from types import SimpleNamespace

import pytest
import torch
from cases import (
    NAMES,
    algorithm_1,
    build,
    draw,
    evaluated,
    fisher,
    flat,
    jacobian,
    outputs_at,
    seeded,
    trainable,
    value_at,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from flatmin import inconsistency
from flatmin.divergences import divergence_named
from flatmin.inconsistency import local_inconsistency, worst_case_perturbation
from flatmin.penalty import InconsistencyPenalty

# Against brute force


@pytest.mark.parametrize("name", NAMES)
def test_exact_first_step_is_the_written_out_fisher_product(name):
    case = evaluated(name)
    expected = fisher(case.model, case.inputs) @ draw(case.model)
    delta = worst_case_perturbation(case.model, case.inputs, rho=0.3, steps=1, generator=seeded())
    torch.testing.assert_close(delta, 0.3 * expected / expected.norm(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_finite_noise_is_algorithm_1(name):
    case = evaluated(name)
    deltas = algorithm_1(case, rho=0.3, steps=3, sigma=0.2)
    found = local_inconsistency(
        case.model, case.inputs, rho=0.3, steps=3, sigma=0.2, generator=seeded()
    )
    torch.testing.assert_close(found.delta, deltas[-1], rtol=1e-7, atol=1e-10)
    values = torch.stack([value_at(case, d) for d in deltas[1:]]).detach()
    torch.testing.assert_close(found.history, values[None], rtol=1e-9, atol=0)
    assert found.value == found.history[0, -1]


@pytest.mark.parametrize("name", NAMES)
def test_many_steps_find_the_top_eigenvector_of_the_fisher_matrix(name):
    case, rho = evaluated(name), 1e-3
    values, vectors = torch.linalg.eigh(fisher(case.model, case.inputs))
    found = local_inconsistency(case.model, case.inputs, rho=rho, steps=150)
    assert found.converged
    assert found.value == pytest.approx(0.5 * rho**2 * float(values[-1]), rel=0.01)
    assert abs(float(vectors[:, -1] @ found.delta)) == pytest.approx(rho, rel=0.01)


def test_gaussian_divergence_is_half_the_squared_distance():
    case, rho = evaluated("mlp"), 1e-3
    jac = jacobian(case.model, case.inputs)
    top = torch.linalg.eigvalsh(torch.einsum("nca,ncb->ab", jac, jac) / len(jac))[-1]
    found = local_inconsistency(case.model, case.inputs, rho=rho, steps=60, divergence="gaussian")
    assert found.value == pytest.approx(0.5 * rho**2 * float(top), rel=0.01)


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian"])
def test_slope_and_curvature_are_the_derivatives_of_the_divergence(name):
    d = divergence_named(name)
    f, moved, u = torch.randn(3, 4, 5, generator=seeded(), dtype=torch.float64)
    slope = torch.func.grad(lambda g: d.total(f, g))
    torch.testing.assert_close(d.slope(f, moved), slope(moved))
    torch.testing.assert_close(d.curvature(f, u), torch.func.jvp(slope, (f,), (u,))[1])


def test_outputs_at_moves_the_outputs_and_not_the_model():
    case = evaluated("frozen")
    before, delta = copy.deepcopy(case.model.state_dict()), draw(case.model)
    moved = inconsistency.outputs_at(case.model, case.inputs, delta)
    theta = flat(trainable(case.model).values())
    torch.testing.assert_close(moved, outputs_at(case.model, case.inputs, theta + delta))
    torch.testing.assert_close(case.model.state_dict(), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match="delta must be"):
        inconsistency.outputs_at(case.model, case.inputs, delta[1:])


# Properties

RADII = st.floats(1e-3, 0.1)
SEEDS = st.integers(0, 2**31)


class Logits(nn.Module):
    """A small network of given weights, each row of logits shifted by a constant of its own."""

    def __init__(self, seed: int, shift: float = 0.0):
        super().__init__()
        self.shift = shift
        weights = 1.5 * torch.randn(4, 9, generator=seeded(seed), dtype=torch.float64)
        self.inner, self.outer = nn.Parameter(weights[:, :5]), nn.Parameter(weights[:3].T)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.arange(len(x), dtype=x.dtype)[:, None]
        return torch.tanh(x @ self.inner) @ self.outer[:5] + self.shift * rows


def examples(seed: int) -> Tensor:
    return torch.randn(6, 4, generator=seeded(seed), dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(SEEDS, RADII)
def test_is_positive_and_grows_with_the_radius(seed, rho):
    small, large = (
        local_inconsistency(Logits(seed), examples(seed + 1), rho=r, steps=30).value
        for r in (rho, 1.5 * rho)
    )
    assert 0 <= small < large


@settings(max_examples=25, deadline=None)
@given(SEEDS, RADII, st.floats(-30, 30))
def test_ignores_a_shift_of_the_logits_and_the_order_of_the_examples(seed, rho, shift):
    x = examples(seed + 1)
    plain = local_inconsistency(Logits(seed), x, rho=rho)
    shifted = local_inconsistency(Logits(seed, shift), x, rho=rho)
    permuted = local_inconsistency(Logits(seed), x.flip(0), rho=rho)
    assert shifted.value == pytest.approx(plain.value, rel=1e-6)
    assert permuted.value == pytest.approx(plain.value, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.floats(1e-4, 1e-3), st.integers(1, 4))
def test_is_bounded_by_half_rho_squared_lambda_max(seed, rho, steps):
    model, x = Logits(seed), examples(seed + 1)
    top = float(torch.linalg.eigvalsh(fisher(model, x))[-1])
    value = local_inconsistency(model, x, rho=rho, steps=steps).value
    assert 0 <= value <= 0.5 * rho**2 * top * (1 + 30 * rho)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_more_restarts_never_find_less(seed):
    found = local_inconsistency(
        Logits(seed), examples(seed), rho=0.1, steps=1, restarts=5, generator=seeded(seed)
    )
    assert found.history.shape == (5, 1)
    assert found.value == found.history.max()
    assert not found.converged
    assert float(found.delta.norm()) == pytest.approx(0.1)


# Inputs


@pytest.mark.parametrize("sigma", [None, 0.5])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_stream_of_unequal_batches_counts_every_example_alike(sigma, labelled):
    case = evaluated("conv")
    whole = local_inconsistency(case.model, case.inputs, rho=0.2, sigma=sigma)
    tensors = (case.inputs, case.targets) if labelled else (case.inputs,)
    loader = DataLoader(TensorDataset(*tensors), batch_size=3)  # 3, 3, 2
    streamed = local_inconsistency(case.model, loader, rho=0.2, sigma=sigma)
    torch.testing.assert_close(streamed.delta, whole.delta, rtol=1e-9, atol=1e-12)
    assert streamed.value == pytest.approx(whole.value, rel=1e-9)


def test_batches_of_a_stream_may_be_tuples_and_dicts():
    case = evaluated("shared-tuple")
    whole = local_inconsistency(case.model, case.inputs, rho=0.2).value
    halves = [tuple(t[:4] for t in case.inputs), tuple(t[4:] for t in case.inputs)]
    named = [dict(zip("xy", half, strict=True)) for half in halves]
    for stream in (halves, named):
        assert local_inconsistency(case.model, stream, rho=0.2).value == pytest.approx(whole)


def test_outputs_may_be_held_as_logits():
    case = evaluated("mlp")

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = case.model

        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(logits=self.inner(x), loss=None)

    plain = local_inconsistency(case.model, case.inputs, rho=0.1).value
    assert local_inconsistency(Wrapped(), {"x": case.inputs}, rho=0.1).value == plain


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_channels_last_is_measured_alike(sigma):
    case, last = evaluated("conv"), evaluated("conv")
    last.model.to(memory_format=torch.channels_last)
    assert not last.model[3].weight.is_contiguous()
    x = last.inputs.contiguous(memory_format=torch.channels_last)
    found, expected = (
        local_inconsistency(model, inputs, rho=0.2, sigma=sigma, restarts=2)
        for model, inputs in ((last.model, x), (case.model, case.inputs))
    )
    torch.testing.assert_close(found.history, expected.history, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.delta, expected.delta, rtol=1e-7, atol=1e-10)
    alone = worst_case_perturbation(last.model, x, rho=0.2, sigma=sigma)
    moved, plain = (inconsistency.outputs_at(c.model, case.inputs, alone) for c in (last, case))
    torch.testing.assert_close(moved, plain)


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_inference_mode_around_it_changes_nothing(sigma):
    case = evaluated("conv")
    plain = local_inconsistency(case.model, case.inputs, rho=0.2, sigma=sigma)
    penalty = InconsistencyPenalty(case.model, rho=0.2)(case.inputs)
    with torch.inference_mode():  # as Lightning validates
        x = case.inputs.clone()
        found = local_inconsistency(case.model, x, rho=0.2, sigma=sigma)
        value = InconsistencyPenalty(case.model, rho=0.2)(x, case.model(x))
    torch.testing.assert_close(found.delta, plain.delta, rtol=0, atol=0)
    assert found.value == plain.value
    assert value == penalty


def test_a_compiled_model_takes_the_noise_form():
    case = evaluated("mlp")
    compiled = torch.compile(case.model, backend="aot_eager")
    plain, fast = (
        local_inconsistency(m, case.inputs, rho=0.1, sigma=0.1).value
        for m in (case.model, compiled)
    )
    assert fast == pytest.approx(plain, rel=1e-9)


# Errors and edges


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 0}, "rho must be positive and finite, got 0"),
        ({"rho": math.nan}, "rho must be"),
        ({"rho": math.inf}, "rho must be"),
        ({"steps": 0}, "steps must be an integer >= 1, got 0"),
        ({"steps": 1.5}, "steps must be"),
        ({"sigma": 0}, "sigma must be positive and finite, got 0"),
        ({"divergence": "kl"}, "divergence must be one of .*got 'kl'"),
        ({"restarts": 0}, "restarts must be an integer >= 1, got 0"),
        ({"restarts": 1.5}, "restarts must be an integer >= 1, got 1.5"),
        ({"beta": -1}, "beta must be non-negative and finite, got -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    case = build("mlp")
    arguments = {"rho": 0.1, **arguments}
    functions = [
        lambda: InconsistencyPenalty(case.model, **arguments),
        lambda: local_inconsistency(case.model, case.inputs, **arguments),
        lambda: worst_case_perturbation(case.model, case.inputs, **arguments),
    ]
    if "beta" in arguments:
        functions = functions[:1]
    elif "restarts" in arguments:
        functions = functions[1:2]
    for function in functions:
        with pytest.raises(ValueError, match=message):
            function()


def test_inputs_and_outputs_are_checked():
    case = build("mlp")
    model, x = case.model, case.inputs
    with pytest.raises(ValueError, match="no trainable parameter"):
        local_inconsistency(nn.ReLU(), x, rho=0.1)
    with pytest.raises(ValueError, match="no trainable parameter"):
        InconsistencyPenalty(nn.ReLU(), rho=0.1)
    with pytest.raises(ValueError, match="must not be empty"):
        local_inconsistency(model, x[:0], rho=0.1)
    with pytest.raises(ValueError, match="at least one batch"):
        local_inconsistency(model, [], rho=0.1)
    with pytest.raises(ValueError, match="read only once"):
        local_inconsistency(model, iter([x]), rho=0.1)
    with pytest.raises(ValueError, match=r"C >= 2 .*got \(8, 1\).*bernoulli"):
        local_inconsistency(nn.Linear(5, 1).double(), x, rho=0.1)
    with pytest.raises(ValueError, match="must not be empty"):
        InconsistencyPenalty(model, rho=0.1)(x[:0])
    with pytest.raises(TypeError, match=r"must return a tensor, .*got tuple"):
        local_inconsistency(nn.RNN(5, 2).double(), x[None], rho=0.1)


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_outputs_that_are_not_finite_give_nan_and_no_perturbation(sigma):
    case = build("mlp")
    case.inputs[0, 0] = math.nan
    found = local_inconsistency(case.model, case.inputs, rho=0.1, sigma=sigma)
    assert math.isnan(found.value)
    assert not found.converged
    assert not found.delta.any()


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_outputs_that_do_not_move_give_zero(sigma):
    model = nn.Linear(3, 2, bias=False)
    x = torch.zeros(4, 3)
    found = local_inconsistency(model, x, rho=0.1, sigma=sigma)
    assert found.value == 0
    assert not found.delta.any()
    penalty = InconsistencyPenalty(model, rho=0.1)(x)
    penalty.backward()
    assert penalty == 0
    assert not model.weight.grad.any()
