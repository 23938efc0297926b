import curvlinops
import pytest
import torch
from cases import (
    NAMES,
    build,
    evaluated,
    fisher,
    flat,
    outputs_at,
    parts,
    randn,
    seeded,
    size,
    trainable,
)
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from flatmin.curvature import (
    FisherOperator,
    fisher_trace,
    hessian_trace,
    top_fisher_eigenpairs,
    top_hessian_eigenpairs,
)


def hessian(model, inputs, targets, loss_fn):
    theta = flat(trainable(model).values())
    with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no second derivative
        return torch.autograd.functional.hessian(
            lambda v: loss_fn(outputs_at(model, inputs, v), targets), theta
        )


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_products_are_those_of_curvlinops(name):
    case = evaluated(name)
    batches = list(zip(case.inputs.split([3, 5]), case.targets.split([3, 5]), strict=True))
    loss_fn, params = nn.CrossEntropyLoss(), list(case.model.parameters())
    v = randn(size(case.model))
    expected = curvlinops.GGNLinearOperator(case.model, loss_fn, params, batches) @ v
    product = FisherOperator(case.model, case.inputs) @ v
    torch.testing.assert_close(product, expected, rtol=1e-10, atol=1e-12)
    hessian_operator = curvlinops.HessianLinearOperator(case.model, loss_fn, params, batches)
    top = top_hessian_eigenpairs(case.model, loss_fn, case.inputs, case.targets, tol=1e-9)
    vector = top.eigenvectors[0]
    torch.testing.assert_close(hessian_operator @ vector, top.eigenvalues * vector)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [1, 4])
def test_top_fisher_eigenpairs(name, k):
    case = evaluated(name)
    matrix = fisher(case.model, case.inputs)
    top = top_fisher_eigenpairs(case.model, case.inputs, k, tol=1e-9)
    values = torch.linalg.eigvalsh(matrix).flip(0)[:k]
    torch.testing.assert_close(top.eigenvalues, values, rtol=1e-8, atol=1e-12)
    assert top.eigenvectors.shape == (k, len(matrix))
    torch.testing.assert_close(
        top.eigenvectors @ top.eigenvectors.T, torch.eye(k, dtype=torch.float64)
    )
    errors = top.eigenvectors @ matrix - top.eigenvalues[:, None] * top.eigenvectors
    torch.testing.assert_close(top.residuals, errors.norm(dim=1), rtol=1e-3, atol=1e-12)
    assert top.converged is True


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_top_hessian_eigenpairs(name, reduction):
    case = evaluated(name)
    loss_fn = nn.CrossEntropyLoss(reduction=reduction, label_smoothing=0.1)
    matrix = hessian(case.model, case.inputs, case.targets, loss_fn)
    case.model.train()
    sizes = [2, 6]
    top = top_hessian_eigenpairs(
        case.model,
        loss_fn,
        parts(case.inputs, sizes),
        list(case.targets.split(sizes)),
        3,
        tol=1e-9,
    )
    values, vectors = torch.linalg.eigh(matrix)
    assert values[0] < 0, "the test should tell the largest from the largest in size"
    torch.testing.assert_close(top.eigenvalues, values.flip(0)[:3], rtol=1e-7, atol=1e-10)
    overlap = (top.eigenvectors[0] @ vectors[:, -1]).abs()
    torch.testing.assert_close(overlap, torch.ones_like(overlap))
    assert top.converged


def test_hessian_at_interpolation_is_the_fisher_matrix():
    """Where the labels are drawn from the model the residual term has mean zero: here exactly."""
    case = build("mlp")
    soft = case().softmax(1).detach()
    loss_fn = nn.CrossEntropyLoss()
    top = top_hessian_eigenpairs(case.model, loss_fn, case.inputs, soft, 2, tol=1e-9)
    expected = top_fisher_eigenpairs(case.model, case.inputs, 2, tol=1e-9)
    torch.testing.assert_close(top.eigenvalues, expected.eigenvalues, rtol=1e-7, atol=0)


@pytest.mark.parametrize("name", ["mlp", "conv", "shared-dict"])
def test_traces_within_their_errors(name):
    case = evaluated(name)
    loss_fn = nn.CrossEntropyLoss()
    for estimate, matrix in (
        (fisher_trace(case.model, case.inputs, probes=100), fisher(case.model, case.inputs)),
        (
            hessian_trace(case.model, loss_fn, case.inputs, case.targets, probes=100),
            hessian(case.model, case.inputs, case.targets, loss_fn),
        ),
    ):
        trace = matrix.trace().item()
        # Of signs v, Var vᵀAv = 2 Σ_{i≠j} A_ij².
        variance = 2 * (matrix.square().sum() - matrix.diagonal().square().sum()).item()
        assert estimate.standard_error == pytest.approx((variance / 100) ** 0.5, rel=0.5)
        assert abs(estimate.value - trace) < 4 * (variance / 100) ** 0.5


@pytest.mark.parametrize("name", ["conv", "dropout", "attention"])
def test_nothing_is_left_behind(name):
    case = build(name)
    case.model[0].eval() if name == "conv" else None  # a mixture of modes comes back as it was
    flags = [module.training for module in case.model.modules()]
    state = {key: value.clone() for key, value in case.model.state_dict().items()}
    rng = torch.get_rng_state()
    loss_fn = nn.CrossEntropyLoss()
    top_fisher_eigenpairs(case.model, case.inputs)
    top_hessian_eigenpairs(case.model, loss_fn, case.inputs, case.targets)
    fisher_trace(case.model, case.inputs, probes=2)
    hessian_trace(case.model, loss_fn, case.inputs, case.targets, probes=2)
    assert [module.training for module in case.model.modules()] == flags
    assert all(torch.equal(v, state[k]) for k, v in case.model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in case.model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("name", ["conv", "attention", "shared-dict"])
def test_inference_mode_around_it_changes_nothing(name, around):
    case, loss = evaluated(name), nn.CrossEntropyLoss()
    outputs = (
        case.model(**case.inputs) if isinstance(case.inputs, dict) else case.model(case.inputs)
    )
    y, v = torch.arange(len(outputs)) % outputs.shape[1], randn(size(case.model))

    def found(inputs, y, v):
        fisher = FisherOperator(case.model, inputs)
        yield fisher @ v
        yield fisher.quadratic(v)
        yield top_fisher_eigenpairs(case.model, inputs).eigenvalues
        yield torch.tensor(fisher_trace(case.model, inputs, probes=3).value)
        yield top_hessian_eigenpairs(case.model, loss, inputs, y).eigenvalues
        yield torch.tensor(hessian_trace(case.model, loss, inputs, y, probes=3).value)

    plain = list(found(case.inputs, y, v))
    with around():  # as Lightning validates
        inputs, y, v = tree_map(torch.clone, (case.inputs, y, v))
        inside = list(found(inputs, y, v))
    torch.testing.assert_close(inside, plain, rtol=0, atol=0)


def test_generator_decides():
    case = build("mlp")
    first = fisher_trace(case.model, case.inputs, probes=5)
    assert fisher_trace(case.model, case.inputs, probes=5) == first
    other = fisher_trace(case.model, case.inputs, probes=5, generator=seeded(1))
    assert other != first


def test_float32_is_close_to_float64():
    single, double = build("conv", torch.float32), build("conv", torch.float64)
    top = top_fisher_eigenpairs(single.model, single.inputs)
    reference = top_fisher_eigenpairs(double.model, double.inputs)
    torch.testing.assert_close(top.eigenvalues, reference.eigenvalues, rtol=1e-4, atol=0)
    assert top.converged


def test_channels_last():
    case = evaluated("conv")
    matrix = fisher(case.model, case.inputs)
    case.model.to(memory_format=torch.channels_last)
    operator, v = FisherOperator(case.model, case.inputs), randn(len(matrix))
    torch.testing.assert_close(operator @ v, matrix @ v)
    top = top_hessian_eigenpairs(case.model, nn.CrossEntropyLoss(), case.inputs, case.targets)
    assert top.converged


def test_a_residual_above_the_tolerance_is_reported():
    case = build("conv", torch.float32)
    assert not top_fisher_eigenpairs(case.model, case.inputs, tol=1e-12).converged


def test_not_enough_restarts_is_reported(monkeypatch):
    from flatmin import curvature

    original = curvature.eigsh
    monkeypatch.setattr(curvature, "eigsh", lambda *a, **o: original(*a, **(o | {"maxiter": 1})))
    case = build("conv")
    top = top_fisher_eigenpairs(case.model, case.inputs, 3, tol=1e-14)
    assert not top.converged
    assert len(top.eigenvalues) == len(top.eigenvectors) == len(top.residuals) < 3


def test_errors_name_the_argument():
    case = build("mlp")
    model, x = case.model, case.inputs
    for wrong, message in [
        (lambda: top_fisher_eigenpairs(model, x, 0), "k must be from 1 to m - 1 = 74, not 0"),
        (lambda: top_fisher_eigenpairs(model, x, 75), "k must be from 1"),
        (lambda: top_fisher_eigenpairs(model, x, tol=0.0), "tol must lie between"),
        (lambda: fisher_trace(model, x, probes=1), "probes must be an integer, at least 2, not 1"),
        (lambda: FisherOperator(model, x, divergence="kl"), "divergence must be .* got 'kl'"),
        (lambda: FisherOperator(model, iter([x])), "inputs can be read only once"),
        (lambda: FisherOperator(model.requires_grad_(False), x), "no trainable parameter"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_not_finite_is_an_error():
    case = build("mlp")
    with torch.no_grad():
        case.model[0].weight[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        top_fisher_eigenpairs(case.model, case.inputs)


def test_constant_outputs_have_no_curvature():
    model = nn.Sequential(nn.Linear(3, 2), nn.Hardtanh(5, 6)).double()
    top = top_fisher_eigenpairs(model, torch.zeros(4, 3, dtype=torch.float64))
    assert top.eigenvalues.tolist() == [0.0]
    assert top.residuals.tolist() == [0.0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_gpu():
    case = build("conv")
    x, y, loss_fn = case.inputs, case.targets, nn.CrossEntropyLoss()
    expected = top_fisher_eigenpairs(case.model, x, 2, tol=1e-8)
    hessian_expected = top_hessian_eigenpairs(case.model, loss_fn, x, y, tol=1e-8)
    case.model.cuda()
    top = top_fisher_eigenpairs(case.model, [x[:3], x[3:]], 2, tol=1e-8)  # moved batch by batch
    assert top.eigenvectors.is_cuda
    torch.testing.assert_close(top.eigenvalues.cpu(), expected.eigenvalues, rtol=1e-6, atol=0)
    top = top_hessian_eigenpairs(case.model, loss_fn, x, y.cuda(), tol=1e-8)
    torch.testing.assert_close(
        top.eigenvalues.cpu(), hessian_expected.eigenvalues, rtol=1e-6, atol=0
    )
    trace = fisher_trace(case.model, x, probes=50)
    assert abs(trace.value) < 1e3
