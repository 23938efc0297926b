"""What may tell how well a trained network generalises, measured on a few images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from flatlab.run import Record
from flatmin.curvature import (
    fisher_trace,
    hessian_trace,
    top_fisher_eigenpairs,
    top_hessian_eigenpairs,
)
from flatmin.inconsistency import local_inconsistency

PROBES = 20  # random vectors of a trace
RADII = (0.1, 0.01)  # of S: where the divergence is far from its second order, and where it is not


def mean_loss(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Mean cross-entropy over all examples, in nats.

    Args:
        model: in evaluation mode.
        batches: images (n, …) and labels (n,).

    Example:
        >>> x, y = torch.zeros(3, 2), torch.tensor([0, 1, 1])
        >>> round(mean_loss(nn.Identity(), [(x[:1], y[:1]), (x[1:], y[1:])]), 4)
        0.6931
    """
    total = count = 0.0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with torch.no_grad():
        for x, y in batches:
            logits = model(x.to(device))
            total += float(cross_entropy(logits, y.to(device), reduction="sum"))
            count += len(y)
    return total / count


def predictors(
    model: nn.Module, unlabelled: Sequence[Tensor], labelled: Sequence[tuple[Tensor, Tensor]]
) -> Record:
    """S at two radii, the Fisher matrix, the Hessian, and the size of the weights.

    S with K = 10 steps; a largest eigenvalue to one per cent; a trace from 20 random vectors. The
    images are taken batch by batch: a second derivative keeps several times what a step does.

    Args:
        model: in evaluation mode.
        unlabelled: batches of images (n, …), of S and F.
        labelled: batches of images (n, …) and labels (n,), of H.

    Returns:
        ``{"S_0.1", "S_0.01", "lambda_max(F)", "Tr F", "lambda_max(H)", "Tr H", "theta2"}``, the
        last ‖θ‖²; NaN for an eigenvalue that was not found and whatever a diverged network has not.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 2])
        >>> found = predictors(nn.Linear(3, 3), [x], [(x, y)])
        >>> found["S_0.1"] / found["S_0.01"] > 50  # as ρ²
        True
    """
    images, labels = [x for x, _ in labelled], [y for _, y in labelled]
    found = {
        f"S_{rho}": local_inconsistency(model, unlabelled, rho=rho, steps=10).value for rho in RADII
    }
    names = ("lambda_max(F)", "Tr F", "lambda_max(H)", "Tr H")
    found |= dict.fromkeys(names, math.nan)
    with suppress(FloatingPointError):  # a network that diverged has none
        tops = {
            "lambda_max(F)": top_fisher_eigenpairs(model, unlabelled, tol=1e-2),
            "lambda_max(H)": top_hessian_eigenpairs(model, cross_entropy, images, labels, tol=1e-2),
        }
        found |= {name: float(t.eigenvalues[0]) for name, t in tops.items() if t.converged}
        found["Tr F"] = fisher_trace(model, unlabelled, probes=PROBES).value
        found["Tr H"] = hessian_trace(model, cross_entropy, images, labels, probes=PROBES).value
    return found | {"theta2": sum(float(p.detach().square().sum()) for p in model.parameters())}
