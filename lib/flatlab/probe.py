"""Multinomial logistic regression on frozen features, to its minimum."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import LBFGS

from flatlab.loops import outputs

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
Pair = tuple[Tensor, Tensor]


def logistic_probe(encoder: nn.Module, train: Pair, test: Pair) -> float:
    """The test error of a logistic regression on frozen features, its penalty tuned.

    Features are standardised by the mean and deviation of the training ones. Of ``PENALTIES`` that
    one is taken which errs least on the last fifth of the training examples, learning from the
    others; of two that err alike, the larger. The regression then learns from all of them.

    Args:
        encoder: images (n, …) to features (n, …); not changed.
        train: images and labels of the regression's training.
        test: images and labels of the error.

    Returns:
        The fraction of ``test`` classified wrong.

    Example:
        >>> x = torch.linspace(-1, 1, 50)[:, None][torch.randperm(50)]
        >>> logistic_probe(nn.Identity(), (x, (x[:, 0] > 0).long()), (x[:9], (x[:9, 0] > 0).long()))
        0.0
    """
    features, labels = outputs(encoder, train[0]).flatten(1), train[1]
    mean, scale = features.mean(0), features.std(0).clamp(min=1e-6)
    features = (features - mean) / scale
    held_out = (outputs(encoder, test[0]).flatten(1) - mean) / scale
    kept = len(labels) - len(labels) // 5
    first, last = (features[:kept], labels[:kept]), (features[kept:], labels[kept:])
    best = min(PENALTIES, key=lambda penalty: _wrong(regression(*first, penalty), *last))
    return _wrong(regression(features, labels, best), held_out, test[1])


def regression(features: Tensor, labels: Tensor, penalty: float) -> Tensor:
    """The weights that minimise the mean cross-entropy plus ½ penalty · ‖all but the biases‖².

    Args:
        features: (n, d).
        labels: (n,) in 0…C − 1.
        penalty: > 0.

    Returns:
        (d + 1, C), the last row the biases.
    """
    weights = features.new_zeros(features.shape[1] + 1, int(labels.max()) + 1, requires_grad=True)
    search = {"line_search_fn": "strong_wolfe", "tolerance_change": 1e-12}
    optimizer = LBFGS([weights], max_iter=300, tolerance_grad=1e-5, history_size=20, **search)  # type: ignore[arg-type]

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(_logits(weights, features), labels)
        loss = loss + penalty / 2 * weights[:-1].square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weights.detach()


def _logits(weights: Tensor, features: Tensor) -> Tensor:
    return features @ weights[:-1] + weights[-1]


def _wrong(weights: Tensor, features: Tensor, labels: Tensor) -> float:
    return float((_logits(weights, features).argmax(1) != labels).double().mean())
