"""Algorithm 1 as it runs: what it leaves alone, its precision, its passes."""

import copy

import pytest
import torch
from cases import Counted, build, draw, evaluated, fisher, randn, seeded
from torch import Tensor, nn
from torch.utils.data import DataLoader

from flatmin._objective import Objective
from flatmin._tangent import pullback
from flatmin.inconsistency import local_inconsistency, worst_case_perturbation

# What stays as it was


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["conv", "dropout"])
def test_measuring_leaves_no_trace(name, training):
    case = build(name)
    case.model[0].eval()  # flags of single layers are kept too
    nn.functional.cross_entropy(case(), case.targets).backward()
    flags = [m.training for m in case.model.modules()]
    state = copy.deepcopy(case.model.state_dict())
    grads = [p.grad for p in case.model.parameters()]
    copies = [g.clone() for g in grads]
    random = torch.get_rng_state()

    loader = DataLoader(case.inputs, batch_size=4, shuffle=True, generator=seeded())
    for inputs in (case.inputs, loader):
        local_inconsistency(case.model, inputs, rho=0.1, training=training)
        with torch.no_grad():
            worst_case_perturbation(case.model, inputs, rho=0.1, sigma=0.1, training=training)

    assert [m.training for m in case.model.modules()] == flags
    torch.testing.assert_close(case.model.state_dict(), state, rtol=0, atol=0)
    assert all(p.grad is g for p, g in zip(case.model.parameters(), grads, strict=True))
    torch.testing.assert_close(grads, copies, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_mode_is_restored_after_an_error():
    case = build("mlp")
    with pytest.raises(RuntimeError):
        local_inconsistency(case.model, case.inputs[:, :2], rho=0.1)
    assert case.model.training


@pytest.mark.parametrize("sigma", [None, 1e-3])
def test_dropout_uses_one_mask_for_both_sides(sigma):
    case = build("dropout")
    small = local_inconsistency(case.model, case.inputs, rho=1e-4, sigma=sigma, training=True).value
    assert 0 < small < 1e-7  # of order ρ²; two masks would leave a KL of order 0.1


def test_training_mode_measures_with_batch_statistics():
    case = build("conv")
    case.model.train()
    expected = fisher(case.model, case.inputs) @ draw(case.model)
    delta = worst_case_perturbation(
        case.model, case.inputs, rho=1, steps=1, training=True, generator=seeded()
    )
    torch.testing.assert_close(delta, expected / expected.norm(), rtol=1e-8, atol=1e-10)


# Precision


def test_exact_form_holds_its_direction_in_bfloat16_where_small_noise_does_not():
    case, halved = evaluated("mlp", torch.float32), evaluated("mlp", torch.bfloat16)

    def cosine(sigma: float | None) -> float:
        exact, rough = (
            worst_case_perturbation(c.model, c.inputs, rho=1, steps=1, sigma=s, generator=seeded())
            for c, s in ((case, None), (halved, sigma))
        )
        assert rough.dtype == torch.float32
        return float(exact @ rough)

    assert cosine(None) > 0.99
    assert cosine(1e-3) < 0.9


def test_measuring_switches_autocast_off():
    case = evaluated("mlp", torch.float32)
    plain = local_inconsistency(case.model, case.inputs, rho=0.1).value
    with torch.autocast("cpu", torch.bfloat16):
        assert local_inconsistency(case.model, case.inputs, rho=0.1).value == plain


def test_pulling_back_does_not_underflow_in_half_precision():
    w = torch.zeros(3, dtype=torch.float16, requires_grad=True)
    cotangent = torch.tensor([[1e-6, -2e-6, 0.0]], dtype=torch.float64).repeat(2, 1)
    (g,) = pullback(1e-3 * w.expand(2, 3), [w], cotangent)
    assert g.dtype == torch.float32
    torch.testing.assert_close(g, torch.tensor([2e-9, -4e-9, 0.0]), rtol=1e-2, atol=0)


def test_two_weights_that_are_added_are_pulled_back_to_tensors_of_their_own():
    a, b, c = (randn(*shape).requires_grad_() for shape in ((3, 4), (3, 4), (3,)))
    x, cotangent = randn(6, 4, seed=1), randn(6, 3, seed=2)
    found = pullback(x @ (a + b).T + c, [a, b, c], cotangent.clone())
    expected = [cotangent.T @ x, cotangent.T @ x, cotangent.sum(0)]
    torch.testing.assert_close(found, expected)
    found[0].zero_()
    torch.testing.assert_close(found[1], expected[1])


def test_a_tiny_divergence_does_not_cancel_in_float32():
    case, single = evaluated("mlp"), evaluated("mlp", torch.float32)
    a, b = (
        local_inconsistency(c.model, c.inputs, rho=1e-3, steps=60).value for c in (case, single)
    )
    assert a < 1e-6
    assert b == pytest.approx(a, rel=0.02)


# Passes and memory


@pytest.mark.parametrize(("sigma", "forwards"), [(None, 5), (0.1, 5)])
def test_three_steps_take_five_forward_passes(sigma, forwards):
    case = evaluated("mlp")
    model = Counted(case.model)
    local_inconsistency(model, case.inputs, rho=0.1, steps=3, sigma=sigma)
    assert (model.forwards, model.backwards) == (forwards, 3)
    model.forwards = 0
    local_inconsistency(model, case.inputs, rho=0.1, steps=3, restarts=2, sigma=sigma)
    assert model.forwards == (10 if sigma is None else 9)  # the reference serves all restarts
    model.forwards = 0
    local_inconsistency(model, [case.inputs], rho=0.1, steps=3, sigma=sigma)
    assert model.forwards == 8  # of a stream it is computed again


def test_a_stream_may_come_in_another_order_each_time():
    case = evaluated("mlp")
    loader = DataLoader(case.inputs, batch_size=4, shuffle=True, generator=seeded())
    whole = local_inconsistency(case.model, case.inputs, rho=0.1)
    found = local_inconsistency(case.model, loader, rho=0.1)
    torch.testing.assert_close(found.history, whole.history, rtol=1e-9, atol=0)


# Weights that are shared, added, or coarse


def test_two_parameters_that_are_added_each_get_their_gradient():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Parameter(randn(3, 4, seed=1)), nn.Parameter(randn(3, 4, seed=2))

        def forward(self, x):
            return x @ (self.a + self.b).T

    model, x, rho = Sum().double(), randn(6, 4), 1e-3
    values = torch.linalg.eigvalsh(fisher(model, x))
    for sigma in (None, 0.1):
        found = local_inconsistency(model, x, rho=rho, steps=100, sigma=sigma)
        assert found.value == pytest.approx(0.5 * rho**2 * float(values[-1]), rel=0.01)
        assert float(found.delta.norm()) == pytest.approx(rho, rel=1e-6)
        halves = found.delta.split(12)
        torch.testing.assert_close(*halves)


@pytest.mark.parametrize(
    ("dtype", "scale", "sigma"),
    [(torch.bfloat16, 1e3, None), (torch.float16, 1e3, None), (torch.float32, 1.0, 1e-9)],
)
def test_a_climb_that_rounding_has_swallowed_is_not_called_converged(dtype, scale, sigma):
    case = evaluated("mlp", dtype)
    with torch.no_grad():
        for p in case.model[0].parameters():
            p.mul_(0).add_(scale)
        for p in case.model[2].parameters():
            p.add_(scale)
    assert fisher(case.model.double(), case.inputs.double()).trace() > 0
    case.model.to(dtype)
    found = local_inconsistency(case.model, case.inputs, rho=1e-4, sigma=sigma)
    assert found.value == 0
    assert not found.converged


@pytest.mark.parametrize(("last", "expected"), [(1.009, True), (1.02, False), (0.98, False)])
def test_converged_is_a_change_of_at_most_one_percent(last, expected, monkeypatch):
    values = iter([1.0, last])

    def sweep(self, delta, *, climb=True):
        return torch.tensor(next(values)), [torch.ones_like(d) for d in delta]

    monkeypatch.setattr(Objective, "sweep", sweep)
    case = evaluated("mlp")
    assert local_inconsistency(case.model, case.inputs, rho=1, steps=2).converged is expected


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_every_pass_sees_the_same_order_and_draws_the_same_masks(sigma):
    seen = []

    class Drawing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.append((float(x[0, 0]), float(torch.rand(()))))
            return super().forward(x)

    stream = DataLoader(randn(8, 4), batch_size=3, shuffle=True)  # by the global random state
    local_inconsistency(Drawing(4, 3).double(), stream, rho=0.1, sigma=sigma, training=True)
    passes = [seen[i : i + 6] for i in range(0, len(seen), 6)]
    assert len(passes) == 4
    assert all(one == passes[0] for one in passes)
    assert len({draw for _, draw in passes[0]}) == 1
    assert len({x for x, _ in passes[0]}) == 3


def test_graphs_are_recorded_only_where_they_are_needed():
    recorded = []

    class Watching(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            recorded.append(torch.is_grad_enabled())
            return super().forward(x)

    local_inconsistency(Watching(4, 3).double(), randn(6, 4), rho=0.1, steps=1)
    assert recorded == [False, True, False]  # the dual pass, Jᵀ, and the value at δ
    recorded.clear()
    local_inconsistency(Watching(4, 3).double(), randn(6, 4), rho=0.1, steps=1, sigma=0.1)
    assert recorded == [False, True, False]  # the reference, the gradient, and the value at δ
