import pytest
from cases import build
from torch import nn

from flatmin.curvature import top_hessian_eigenpairs


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
