from functools import partial

import pytest
import torch
from cases import build, evaluated, flat, outputs_at, parts, randn, size, trainable
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import cross_entropy

from flatmin.curvature import top_hessian_eigenpairs
from flatmin.hessian import HessianOperator


def test_errors_of_the_hessian():
    case = build("mlp")
    x, y, loss_fn = case.inputs, case.targets, nn.CrossEntropyLoss()
    for inputs, targets, loss, message in [
        ([x, x], y, loss_fn, "inputs hold 2 batches, but targets 1"),
        ([], [], loss_fn, "no batch"),
        (x[:0], y[:0], loss_fn, "must not be empty"),
        (x, y, nn.CrossEntropyLoss(reduction="none"), "reduction 'mean' or 'sum'"),
        (x, y, partial(cross_entropy, reduction="none"), "reduction 'mean' or 'sum'"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_hessian_eigenpairs(case.model, loss, inputs, targets)


@pytest.mark.parametrize("name", ["mlp", "shared-dict"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", [nn.CrossEntropyLoss, partial(partial, cross_entropy)])
def test_product_and_form_are_brute_force(name, kind, reduction):
    case, loss_fn = evaluated(name), kind(reduction=reduction)
    theta = flat(trainable(case.model).values())
    with sdpa_kernel(SDPBackend.MATH):
        matrix = torch.autograd.functional.hessian(
            lambda v: loss_fn(outputs_at(case.model, case.inputs, v), case.targets), theta
        )
    v = randn(size(case.model))
    sizes = [1, 5, 2]
    for inputs, targets in (
        (case.inputs, case.targets),
        (parts(case.inputs, sizes), list(case.targets.split(sizes))),
    ):
        operator = HessianOperator(case.model, loss_fn, inputs, targets)
        torch.testing.assert_close(operator @ v, matrix @ v, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(operator.quadratic(v), v @ matrix @ v)


def test_targets_with_an_axis_more_weigh_by_their_number():
    """Tokens (n, T) of batches of unequal length count alike."""
    model, x = nn.Linear(4, 3).double(), randn(12, 4)
    y = torch.arange(12) % 3

    def tokens(z, y):
        return cross_entropy(z.flatten(0, 1), y.flatten())

    whole = HessianOperator(model, tokens, x[None], y[None])
    stream = [x[None, :9], x[9:].view(3, 1, 4)], [y[None, :9], y[9:].view(3, 1)]
    v = randn(15)
    torch.testing.assert_close(HessianOperator(model, tokens, *stream) @ v, whole @ v)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]).double()), None),
        (nn.CrossEntropyLoss(ignore_index=2), None),
        (cross_entropy, torch.tensor([0, 1, -100, 2, 1, 0, -100, -100])),
        (partial(cross_entropy, weight=torch.tensor([1.0, 2.0, 3.0]).double()), None),
        (partial(partial(cross_entropy, label_smoothing=0.1), ignore_index=2), None),
        (partial(nn.CrossEntropyLoss(ignore_index=2)), None),
    ],
)
def test_a_mean_that_batches_would_falsify_is_refused(loss, targets):
    case = evaluated("mlp")
    y = torch.arange(8) % 3 if targets is None else targets
    top = top_hessian_eigenpairs(case.model, loss, case.inputs, y)  # one batch is no problem
    assert top.converged
    with pytest.raises(ValueError, match="give one batch, or a loss_fn with reduction='sum'"):
        HessianOperator(case.model, loss, list(case.inputs.split(4)), list(y.split(4)))
    weight, ignored = torch.tensor([1.0, 2.0, 3.0]).double(), 2 if targets is None else -100
    for summed in (
        nn.CrossEntropyLoss(weight=weight, ignore_index=ignored, reduction="sum"),
        partial(cross_entropy, weight=weight, ignore_index=ignored, reduction="sum"),
    ):
        v = randn(size(case.model))
        whole = HessianOperator(case.model, summed, case.inputs, y) @ v
        halves = HessianOperator(case.model, summed, list(case.inputs.split(3)), list(y.split(3)))
        torch.testing.assert_close(halves @ v, whole)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.HingeEmbeddingLoss(margin=9.0),
        lambda z, y: -z[:, 0].mean(),
        lambda z, y: (9 - z * y).clamp_min(0).mean(),
    ],
)
def test_a_loss_that_is_linear_in_the_outputs_has_no_curvature_in_the_last_layer(loss_fn, depth):
    layers = [nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)][-1 if depth == 1 else 0 :]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(*layers).double()
        x = torch.randn(8, 5 if depth == 2 else 4).double()
    y = torch.ones(8, 3).double()
    y[::2] = -1
    theta, v = flat(trainable(model).values()), randn(size(model))
    matrix = torch.autograd.functional.hessian(lambda t: loss_fn(outputs_at(model, x, t), y), theta)
    operator = HessianOperator(model, loss_fn, [x[:3], x[3:]], [y[:3], y[3:]])
    torch.testing.assert_close(operator @ v, matrix @ v)
    assert bool(matrix.any()) == (depth == 2)


def test_some_of_the_parameters_give_a_block():
    case, loss_fn = evaluated("mlp"), nn.CrossEntropyLoss()
    whole = HessianOperator(case.model, loss_fn, case.inputs, case.targets)
    part = HessianOperator(
        case.model, loss_fn, case.inputs, case.targets, params=case.model[2].parameters()
    )
    v = randn(27)
    padded = torch.cat([torch.zeros(48).double(), v])
    torch.testing.assert_close(part @ v, (whole @ padded)[48:])
