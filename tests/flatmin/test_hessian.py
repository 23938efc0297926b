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
    ]:
        with pytest.raises(ValueError, match=message):
            top_hessian_eigenpairs(case.model, loss, inputs, targets)


@pytest.mark.parametrize("name", ["mlp", "shared-dict"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_product_and_form_are_brute_force(name, reduction):
    case, loss_fn = evaluated(name), nn.CrossEntropyLoss(reduction=reduction)
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
    ],
)
def test_a_mean_that_batches_would_falsify_is_refused(loss, targets):
    case = evaluated("mlp")
    y = torch.arange(8) % 3 if targets is None else targets
    top = top_hessian_eigenpairs(case.model, loss, case.inputs, y)  # one batch is no problem
    assert top.converged
    with pytest.raises(ValueError, match="give one batch, or a loss_fn with reduction='sum'"):
        HessianOperator(case.model, loss, list(case.inputs.split(4)), list(y.split(4)))
    summed = nn.CrossEntropyLoss(
        weight=getattr(loss, "weight", None),
        ignore_index=getattr(loss, "ignore_index", -100),
        reduction="sum",
    )
    v = randn(size(case.model))
    whole = HessianOperator(case.model, summed, case.inputs, y) @ v
    halves = HessianOperator(case.model, summed, list(case.inputs.split(4)), list(y.split(4))) @ v
    torch.testing.assert_close(halves, whole)


def test_some_of_the_parameters_give_a_block():
    case, loss_fn = evaluated("mlp"), nn.CrossEntropyLoss()
    whole = HessianOperator(case.model, loss_fn, case.inputs, case.targets)
    part = HessianOperator(
        case.model, loss_fn, case.inputs, case.targets, params=case.model[2].parameters()
    )
    v = randn(27)
    padded = torch.cat([torch.zeros(48).double(), v])
    torch.testing.assert_close(part @ v, (whole @ padded)[48:])
