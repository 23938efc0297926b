"""The logistic probe: at its minimum, with the penalty that a split chooses, blind to the test."""

import pytest
import torch
from torch import nn

from flatlab import probe
from flatlab.probe import PENALTIES, logistic_probe, regression
from flatlab.streams import stream

X = torch.randn(60, 5, generator=stream("x"), dtype=torch.float64)
Y = (X[:, 0] + 0.5 * torch.randn(60, generator=stream("noise"), dtype=torch.float64) > 0).long()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_regression_is_at_its_minimum(penalty):
    """Where the gradient, written out, is zero."""
    weights = regression(X, Y, penalty)
    error = (X @ weights[:-1] + weights[-1]).softmax(1) - nn.functional.one_hot(Y, 2)
    assert (X.T @ error / 60 + penalty * weights[:-1]).abs().max() < 1e-4
    assert error.mean(0).abs().max() < 1e-4


def test_the_penalty_is_what_the_last_fifth_wants(monkeypatch):
    chosen = []

    def told(features, labels, penalty):
        chosen.append((len(labels), penalty))
        right = torch.zeros(6, 2, dtype=torch.float64)
        if penalty == 1e-2:
            right[0, 1] = 1
        return right

    monkeypatch.setattr(probe, "regression", told)
    clear = (X[:, 0] > 0).long()
    logistic_probe(nn.Identity(), (X, clear), (X, clear))
    assert chosen == [*((48, p) for p in PENALTIES), (60, 1e-2)]


def test_features_are_standardised_and_tests_unseen():
    train, test = (X[:40], Y[:40]), (X[40:], Y[40:])
    found = logistic_probe(nn.Identity(), train, test)
    scales = torch.tensor([1e3, 1.0, 1e-3, 1.0, 1.0], dtype=torch.float64)
    assert (
        logistic_probe(nn.Identity(), (X[:40] * scales + 7, Y[:40]), (X[40:] * scales + 7, Y[40:]))
        == found
    )
    single = [
        logistic_probe(nn.Identity(), train, (x[None], y[None])) for x, y in zip(*test, strict=True)
    ]
    assert sum(single) / len(single) == pytest.approx(found)
