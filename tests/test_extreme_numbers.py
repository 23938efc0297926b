"""Numbers at the edge of what they can be, against mpmath with fifty digits and against float64."""

import math

import mpmath
import pytest
import torch
from torch import nn

from flatmin.divergences import divergence_named
from flatmin.inconsistency import local_inconsistency, worst_case_perturbation
from flatmin.optim import IAMD, IAMS, SAM
from flatmin.penalty import InconsistencyPenalty

CE = nn.functional.cross_entropy
X, Y = torch.linspace(-1, 1, 32).reshape(8, 4), torch.arange(8) % 3

LOGITS = {
    "as usual": ([0.3, -1.2, 0.5], [0.1, -1.0, 0.9]),
    "saturated": ([40.0, 0.0, -3.0], [39.0, 1.0, -2.0]),
    "ten thousand": ([1e4, 0.0, -1e4], [1e4 - 1, 2.0, -1e4]),
    "ten thousand, turned": ([1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]),
    "the same": ([1e4, -3.0, 2.0], [1e4, -3.0, 2.0]),
    "shifted": ([1.0, 2.0, 3.0], [1e4 + 1, 1e4 + 2, 1e4 + 3]),
    "hardly apart": ([0.1, 0.2, 0.3], [0.1 + 1e-7, 0.2, 0.3 - 1e-7]),
    "two classes": ([700.0, -700.0], [699.0, -699.0]),
}


def softmax(values):
    weights = [mpmath.exp(v) for v in values]
    return [w / mpmath.fsum(weights) for w in weights]


def exactly(name, f, moved):
    """The divergence of one example, in the digits of mpmath's context."""
    f, moved = ([mpmath.mpf(float(v)) for v in values] for values in (f, moved))
    if name == "gaussian":
        return mpmath.fsum((a - b) ** 2 for a, b in zip(f, moved, strict=True)) / 2
    if name == "bernoulli":
        pairs = [(softmax([0, a]), softmax([0, b])) for a, b in zip(f, moved, strict=True)]
    else:
        pairs = [(softmax(f), softmax(moved))]
    return mpmath.fsum(
        p * (mpmath.log(p) - mpmath.log(q)) for ps, qs in pairs for p, q in zip(ps, qs, strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian"])
@pytest.mark.parametrize("which", LOGITS)
def test_a_divergence_is_that_of_its_rounded_logits(which, name, dtype):
    f, moved = (torch.tensor([v], dtype=dtype) for v in LOGITS[which])
    with mpmath.workdps(50):
        expected = float(exactly(name, f[0].tolist(), moved[0].tolist()))
    found = float(divergence_named(name).total(f, moved))
    assert found == pytest.approx(expected, rel=1e-7, abs=1e-15 * max(1.0, f.abs().max().item()))
    assert found >= -1e-15
    slope = divergence_named(name).slope(f, moved)
    assert slope.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 1e2, 1e4])
def test_s_of_saturated_logits_is_that_of_float64(scale):
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.mul_(scale)
    single = local_inconsistency(model, X, rho=0.1, steps=20)
    double = local_inconsistency(model.double(), X.double(), rho=0.1, steps=20)
    assert math.isfinite(single.value)
    assert single.value == pytest.approx(double.value, rel=1e-3, abs=1e-30)


@pytest.mark.parametrize("sigma", [None, 0.1])
def test_constant_outputs_have_no_inconsistency(sigma):
    class Constant(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 0 + torch.tensor([1e4, 0.0, -1e4])

    model = Constant(4, 3)
    found = local_inconsistency(model, X, rho=0.1, sigma=sigma)
    assert (found.value, float(found.delta.abs().max()), found.converged) == (0.0, 0.0, False)
    penalty = InconsistencyPenalty(model, rho=0.1)(X)
    penalty.backward()
    assert float(penalty.detach()) == 0.0
    assert all(not p.grad.any() for p in model.parameters())
    optimizer = IAMS(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)
    optimizer.step(lambda: (CE(model(X), Y), model(X)))
    assert int(optimizer.stayed) == 1
    assert all(p.isfinite().all() for p in model.parameters())


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


@pytest.mark.parametrize("rho", [1e19, 1e20, 1e30, 3e38])
def test_a_climb_whose_gradient_overflows_keeps_its_perturbation(rho):
    """The norm of the second gradient is no float32: δ₂ stays, and its value with it."""
    found = local_inconsistency(small_net(), X, rho=rho)
    assert float(found.delta.double().norm()) == pytest.approx(rho, rel=1e-5)
    assert found.value == found.history[0, 1] == found.history[0, 2] > 0
    assert not found.converged
    two = local_inconsistency(small_net(), X, rho=rho, steps=2)
    assert (two.value, two.history.tolist()) == (found.value, found.history[:, :2].tolist())
    delta = worst_case_perturbation(small_net(), X, rho=rho)
    assert torch.equal(delta, found.delta)


def test_a_climb_into_a_plateau_keeps_its_perturbation():
    """At θ + δ₁ no unit is active, so that no gradient says where to go on."""

    class Plateau(nn.Linear):
        def forward(self, x):
            return super().forward(x).clamp(-1, 1)

    found = local_inconsistency(Plateau(4, 3), X, rho=1e3, steps=5)
    assert float(found.delta.norm()) == pytest.approx(1e3)
    assert found.value == found.history[0, -1] > 0.1
    assert not found.converged


@pytest.mark.parametrize("sigma", [1e300, 1e38])
def test_a_noise_without_measure_is_no_zero(sigma):
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    found = local_inconsistency(model, X, rho=0.1, sigma=sigma, restarts=2)
    assert math.isnan(found.value)
    assert found.history.isnan().all()
    assert not found.delta.any()
    assert not found.converged


@pytest.mark.parametrize("rho", [1e-30, 1e10, 1e20, 1e30, 3e38])
@pytest.mark.parametrize("kind", [SAM, IAMS, IAMD])
def test_a_radius_without_measure_takes_a_finite_step_or_a_counted_none(kind, rho):
    model = small_net()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = kind(model.parameters(), torch.optim.SGD, rho=rho, lr=0.1)

    def closure():
        logits = model(X)
        return CE(logits, Y), logits

    loss = optimizer.step(closure)
    assert loss.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert moved != bool(optimizer.skipped)


@pytest.mark.parametrize("kind", [IAMS, IAMD])
def test_classes_that_are_masked_by_minus_infinity_skip_a_step_and_say_so(kind):
    torch.manual_seed(0)
    model, mask = nn.Linear(4, 3), torch.tensor([0.0, 0.0, -math.inf])
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = kind(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1)

    def closure():
        logits = model(X) + mask
        return CE(logits, Y % 2), logits

    assert optimizer.step(closure).isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert moved != bool(optimizer.skipped)
    assert math.isnan(
        local_inconsistency(model, X, rho=0.1, outputs=lambda out, _: out + mask).value
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [SAM, IAMS, IAMD])
def test_half_precision_steps_in_the_direction_of_float32(kind, dtype):
    updates = []
    for kept in (torch.float32, dtype):  # float64 would draw other noise
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype).to(kept)
        before = nn.utils.parameters_to_vector(model.parameters()).double()
        noise = torch.Generator().manual_seed(1)
        rest = {} if kind is SAM else {"generator": noise}
        optimizer = kind(model.parameters(), torch.optim.SGD, rho=0.3, lr=0.5, **rest)
        x = X.to(dtype).to(kept)

        def closure(model=model, x=x):
            logits = model(x)
            return CE(logits.float() if logits.dtype == dtype else logits, Y), logits

        optimizer.step(closure)
        after = nn.utils.parameters_to_vector(model.parameters()).double()
        updates.append((after - before).detach())
    assert torch.cosine_similarity(*updates, dim=0) > 0.95
