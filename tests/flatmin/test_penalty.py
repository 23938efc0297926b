import math

import pytest
import torch
from cases import (
    NAMES,
    Counted,
    algorithm_1,
    build,
    flat,
    kl,
    outputs_at,
    seeded,
    trainable,
    value_at,
)
from torch import Tensor, nn

from flatmin import inconsistency
from flatmin.inconsistency import worst_case_perturbation
from flatmin.penalty import InconsistencyPenalty


def penalty_by_hand(case, delta: Tensor, beta: float, both_sides: bool = True) -> Tensor:
    """The gradient of β KL( f(θ) ‖ f(θ + δ) ) with δ fixed."""

    def objective(theta: Tensor) -> Tensor:
        z = outputs_at(case.model, case.inputs, theta)
        z = z if both_sides else z.detach()
        return beta * kl(z, outputs_at(case.model, case.inputs, theta + delta))

    return torch.func.grad(objective)(flat(trainable(case.model).values()))


def gradient(case, loss: Tensor) -> Tensor:
    return flat(torch.autograd.grad(loss, [*trainable(case.model).values()]))


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "dropout"])
def test_penalty_and_its_gradient_through_both_sides(name, steps, reuse):
    case, beta, sigma = build(name), 2.0, 0.2
    delta = algorithm_1(case, 0.3, steps, sigma)[-1]
    penalty = InconsistencyPenalty(
        case.model, rho=0.3, beta=beta, steps=steps, sigma=sigma, generator=seeded()
    )
    value = penalty(case.inputs, case() if reuse else None)
    expected = beta * value_at(case, delta)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=0)
    found = gradient(case, value)
    torch.testing.assert_close(found, penalty_by_hand(case, delta, beta), rtol=1e-6, atol=1e-9)
    one_side = penalty_by_hand(case, delta, beta, both_sides=False)
    assert torch.cosine_similarity(found, one_side, dim=0) < 0.99


def test_penalty_of_regression_outputs():
    case = build("mlp")
    penalty = InconsistencyPenalty(case.model, rho=0.1, divergence="gaussian")
    delta = worst_case_perturbation(
        case.model, case.inputs, rho=0.1, steps=1, sigma=penalty.sigma, divergence="gaussian"
    )
    moved = inconsistency.outputs_at(case.model, case.inputs, delta)
    expected = 0.5 * (moved - case()).square().sum(1).mean()
    torch.testing.assert_close(penalty(case.inputs), expected)


@pytest.mark.parametrize("steps", [1, 2])
def test_penalty_takes_k_plus_2_passes_each_way(steps):
    case = build("conv")
    model = Counted(case.model)
    logits = model(case.inputs)
    penalty = InconsistencyPenalty(model, rho=0.1, steps=steps)
    loss = nn.functional.cross_entropy(logits, case.targets) + penalty(case.inputs, logits)
    loss.backward()
    assert (model.forwards, model.backwards) == (steps + 2, steps + 2)


@pytest.mark.parametrize("reuse", [False, True])
def test_penalty_moves_batch_statistics_once_and_touches_no_grad(reuse):
    case, twin = build("conv"), build("conv")
    twin()
    InconsistencyPenalty(case.model, rho=0.1, steps=2)(case.inputs, case() if reuse else None)
    torch.testing.assert_close(case.model.state_dict(), twin.model.state_dict(), rtol=0, atol=0)
    assert all(p.grad is None for p in case.model.parameters())


def test_penalty_draws_one_mask_from_the_global_state():
    case = build("dropout")
    penalty = InconsistencyPenalty(case.model, rho=1e-4)
    start = torch.get_rng_state()
    case()
    after_one_pass = torch.get_rng_state()
    torch.set_rng_state(start)
    assert 0 < penalty(case.inputs) < 1e-7
    assert torch.equal(torch.get_rng_state(), after_one_pass)


def test_logits_without_their_graph_are_refused_where_a_gradient_is_wanted():
    """The gradient through f(x, θ) would be missing, and nobody would see it."""
    case = build("mlp")
    penalty = InconsistencyPenalty(case.model, rho=0.1)
    noise = penalty.generator.get_state()
    with torch.no_grad():
        logits = case()
    for cut in (logits, case().detach()):
        with pytest.raises(ValueError, match="logits must come with their graph"):
            penalty(case.inputs, cut)
    assert torch.equal(penalty.generator.get_state(), noise)
    with torch.no_grad():
        value = penalty(case.inputs, logits)
    assert value == InconsistencyPenalty(case.model, rho=0.1)(case.inputs, case())


def test_penalty_with_given_logits_consumes_no_randomness():
    case = build("dropout")
    logits = case()
    before = torch.get_rng_state()
    InconsistencyPenalty(case.model, rho=0.1)(case.inputs, logits)
    assert torch.equal(torch.get_rng_state(), before)


def test_rho_and_beta_may_change_between_steps():
    case = build("mlp")

    def value(scale: float) -> Tensor:
        penalty = InconsistencyPenalty(case.model, rho=0.1, beta=1.0)
        penalty.rho *= scale
        penalty.beta *= scale
        return penalty(case.inputs)

    assert 4 < float(value(2) / value(1)) < 12  # β ρ², doubled each
    with pytest.raises(ValueError, match=r"rho must be positive and finite, got -0\.1"):
        value(-1)


# State


def test_a_run_goes_on_with_the_noise_of_its_checkpoint(tmp_path):
    case = build("mlp")
    penalty = InconsistencyPenalty(case.model, rho=0.1)
    penalty(case.inputs)
    torch.save(penalty.state_dict(), tmp_path / "state.pt")
    expected = [penalty(case.inputs) for _ in range(2)]
    fresh = InconsistencyPenalty(case.model, rho=0.1)
    assert fresh(case.inputs) != expected[0]
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [fresh(case.inputs) for _ in range(2)] == expected


@pytest.mark.parametrize("state", [{}, {"generator": torch.zeros(0, dtype=torch.uint8), "rho": 1}])
def test_another_state_is_refused_and_changes_nothing(state):
    penalty = InconsistencyPenalty(build("mlp").model, rho=0.1)
    before = penalty.generator.get_state()
    with pytest.raises(ValueError, match="state_dict must hold 'generator' alone, got"):
        penalty.load_state_dict(state)
    assert torch.equal(penalty.generator.get_state(), before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("rho", -0.1, r"rho must be positive and finite, got -0\.1"),
        ("beta", math.nan, "beta must be non-negative and finite, got nan"),
        ("steps", 0, "steps must be an integer >= 1, got 0"),
        ("steps", -1, "steps must be an integer >= 1, got -1"),
        ("sigma", math.nan, "sigma must be positive and finite, got nan"),
        ("sigma", 0.0, r"sigma must be positive and finite, got 0\.0"),
        ("sigma", -1, "sigma must be positive and finite, got -1"),
    ],
)
def test_what_was_set_is_checked_at_every_call(name, value, message):
    penalty = InconsistencyPenalty(build("mlp").model, rho=0.1)
    noise = penalty.generator.get_state()
    setattr(penalty, name, value)
    with pytest.raises(ValueError, match=message):
        penalty(build("mlp").inputs)
    assert torch.equal(penalty.generator.get_state(), noise)
