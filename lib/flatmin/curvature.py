"""Eigenvalues and traces of a network's curvature, by products with vectors only.

The matrix is any :class:`Operator` of size m: the Fisher matrix F(θ) of
:class:`flatmin.fisher.FisherOperator`, or the Hessian H(θ) of a loss,
:class:`flatmin.hessian.HessianOperator`.
A vector is a tensor (m,): the parameters that require a gradient, or those of ``params``, flattened
in their order. Curvature is that of the model in evaluation mode; the model itself is left as it
was. It may be asked for in ``torch.no_grad`` and ``torch.inference_mode``, too. Where several
processes have a part of the inputs each, all of them call :func:`top_eigenpairs` or :func:`trace`
of a Fisher operator with ``sync=True``, and find the same.

Everywhere here a *batch* is what the model is called with: a tensor ``x`` for ``model(x)``, a tuple
for ``model(*batch)``, a dict for ``model(**batch)``. Where a batch can stand, so can a list or
another re-iterable of batches, over which the mean is taken: it bounds the memory. Of a batch that
is itself a list, as a ``DataLoader`` makes of labelled examples, the first element counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Generator, Tensor, nn

from flatmin._check import real, require, whole
from flatmin._function import Outputs, Progress
from flatmin._tangent import generator_of
from flatmin.divergences import DivergenceName
from flatmin.fisher import FisherOperator
from flatmin.hessian import HessianOperator

__all__ = [
    "EigenPairs",
    "Operator",
    "TraceEstimate",
    "fisher_trace",
    "hessian_trace",
    "top_eigenpairs",
    "top_fisher_eigenpairs",
    "top_hessian_eigenpairs",
    "trace",
]


class Operator(Protocol):
    """A symmetric matrix A, (m, m), known by its products.

    Attributes:
        size: m.
        like: a tensor of the dtype and on the device that vectors are to have.
    """

    size: int
    like: Tensor

    def __matmul__(self, vector: Tensor) -> Tensor:
        """A v, (m,), for v (m,)."""

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ A v, a scalar, for v (m,)."""


@dataclass(frozen=True, eq=False)
class EigenPairs:
    """The algebraically largest eigenvalues of a symmetric matrix and their eigenvectors.

    Attributes:
        eigenvalues: (k,), float64, largest first.
        eigenvectors: (k, m), float64, one unit vector per row.
        residuals: (k,), ‖A v − λ v‖₂: an eigenvalue of A lies within this distance of λ.
        converged: whether all k were found with residuals of at most ``tol`` times the largest
            eigenvalue. Pairs that the solver gave up are left out.
    """

    eigenvalues: Tensor
    eigenvectors: Tensor
    residuals: Tensor
    converged: bool


@dataclass(frozen=True)
class TraceEstimate:
    """Hutchinson's estimate of a trace.

    Attributes:
        value: the mean of vᵀ A v over random signs v.
        standard_error: of that mean.
    """

    value: float
    standard_error: float


def top_eigenpairs(
    operator: Operator, k: int = 1, *, tol: float = 1e-3, generator: Generator | None = None
) -> EigenPairs:
    """The k algebraically largest eigenvalues of a symmetric matrix, by ARPACK's restarted Lanczos.

    Args:
        operator: the matrix.
        k: how many, from 1 to m − 1.
        tol: accuracy of the eigenvalues, relative.
        generator: source of the first vector; by default the same vector in every call.

    Raises:
        ValueError: ``k`` or ``tol`` out of range.
        FloatingPointError: the product with a vector is not finite.

    Examples:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> F = FisherOperator(nn.Linear(2, 1, bias=False), x, divergence="gaussian")
        >>> top = top_eigenpairs(F)
        >>> top.eigenvalues, top.eigenvectors.abs().round(decimals=3), top.converged
        (tensor([4.5000], dtype=torch.float64), tensor([[1., 0.]], dtype=torch.float64), True)
    """
    m, like = operator.size, operator.like
    require(1 <= whole(k) < m, f"k must be from 1 to m - 1 = {m - 1}, not {k!r:.80}")
    require(0 < real(tol) < 1, f"tol must lie between 0 and 1, not {tol!r:.80}")

    def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        out = (operator @ torch.from_numpy(vector.reshape(m)).to(like)).double().cpu().numpy()
        if not np.isfinite(out).all():
            raise FloatingPointError("the product of the matrix with a vector is not finite")
        return out

    generator = generator_of([like], generator)
    start = torch.randn(m, generator=generator, device=like.device).cpu().double().numpy()
    matrix = LinearOperator((m, m), matvec, dtype=np.float64)
    # The few eigenvalues wanted stand out: a small Krylov space finds them in the fewest products.
    krylov = min(m, max(2 * k + 1, k + 5))
    try:
        values, vectors = eigsh(matrix, k, which="LA", v0=start, ncv=krylov, tol=tol, maxiter=300)
    except ArpackNoConvergence as stopped:
        values, vectors = stopped.eigenvalues, stopped.eigenvectors
    except ArpackError:
        if matvec(start).any():
            raise
        values, vectors = np.zeros(k), np.eye(m, k)  # the zero matrix, on which ARPACK fails
    order = values.argsort()[::-1]
    values, vectors = values[order], vectors.T[order]
    errors = [np.linalg.norm(matvec(v) - w * v) for w, v in zip(values, vectors, strict=True)]
    return EigenPairs(
        eigenvalues=torch.tensor(values, device=like.device),
        eigenvectors=torch.tensor(vectors, device=like.device),
        residuals=torch.tensor(errors, device=like.device, dtype=torch.float64),
        converged=len(values) == k and bool(max(errors) <= tol * max(abs(values))),
    )


def trace(
    operator: Operator, *, probes: int = 100, generator: Generator | None = None
) -> TraceEstimate:
    """Estimates the trace of a symmetric matrix (Hutchinson 1989).

    Args:
        operator: the matrix.
        probes: number of random vectors, at least 2; the error falls with its square root.
        generator: source of the vectors; by default the same ones in every call.

    Raises:
        ValueError: ``probes`` below 2.

    Examples:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> trace(FisherOperator(nn.Linear(2, 1, bias=False), x, divergence="gaussian"))
        TraceEstimate(value=5.0, standard_error=0.0)
    """
    require(whole(probes) >= 2, f"probes must be an integer, at least 2, not {probes!r:.80}")
    like = operator.like
    generator = generator_of([like], generator)
    forms = []
    for _ in range(probes):
        heads = torch.randint(2, (operator.size,), generator=generator, device=like.device)
        form = operator.quadratic((2 * heads - 1).to(like))
        forms.append(form if form.device.type == "mps" else form.double())
    samples = torch.stack(forms)
    return TraceEstimate(float(samples.mean()), float(samples.std()) / sqrt(probes))


def top_fisher_eigenpairs(
    model: nn.Module,
    inputs: Any,
    k: int = 1,
    *,
    divergence: DivergenceName = "categorical",
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    progress: Progress | None = None,
    tol: float = 1e-3,
    generator: Generator | None = None,
) -> EigenPairs:
    """The k largest eigenvalues of the Fisher matrix F(θ): :func:`top_eigenpairs` of it.

    Args:
        model: see :class:`flatmin.fisher.FisherOperator`, as for what is not told here.
        inputs: a batch, or a re-iterable of batches.
        k: how many, from 1 to m − 1.
        divergence: names D.
        params: the coordinates of θ.
        outputs: picks the outputs.
        progress: wraps a stream.
        tol: accuracy of the eigenvalues, relative.
        generator: source of the first vector.

    Raises:
        ValueError: as :class:`flatmin.fisher.FisherOperator`, or ``k`` or ``tol`` out of range.
        FloatingPointError: the product with a vector is not finite.
    """
    fisher = FisherOperator(
        model, inputs, divergence=divergence, params=params, outputs=outputs, progress=progress
    )
    return top_eigenpairs(fisher, k, tol=tol, generator=generator)


def top_hessian_eigenpairs(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    k: int = 1,
    *,
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    tol: float = 1e-3,
    generator: Generator | None = None,
) -> EigenPairs:
    """The k algebraically largest eigenvalues of the Hessian H(θ): :func:`top_eigenpairs` of it.

    Args:
        model: see :class:`flatmin.hessian.HessianOperator`, as for what is not told here.
        loss_fn: the loss.
        inputs: a batch, or a re-iterable of batches.
        targets: its targets, or a list of them.
        k: how many, from 1 to m − 1.
        params: the coordinates of θ.
        outputs: picks the outputs.
        tol: accuracy of the eigenvalues, relative.
        generator: source of the first vector.

    Raises:
        ValueError: as :class:`flatmin.hessian.HessianOperator`, or ``k`` or ``tol`` out of range.
        FloatingPointError: the product with a vector is not finite.
    """
    hessian = HessianOperator(model, loss_fn, inputs, targets, params=params, outputs=outputs)
    return top_eigenpairs(hessian, k, tol=tol, generator=generator)


def fisher_trace(
    model: nn.Module,
    inputs: Any,
    *,
    divergence: DivergenceName = "categorical",
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    progress: Progress | None = None,
    probes: int = 100,
    generator: Generator | None = None,
) -> TraceEstimate:
    """Estimates tr F(θ), each probe at the price of a forward pass: :func:`trace` of it.

    Args:
        model: see :class:`flatmin.fisher.FisherOperator`, as for what is not told here.
        inputs: a batch, or a re-iterable of batches.
        divergence: names D.
        params: the coordinates of θ.
        outputs: picks the outputs.
        progress: wraps a stream.
        probes: number of random vectors, at least 2.
        generator: source of the vectors.

    Raises:
        ValueError: as :class:`flatmin.fisher.FisherOperator`, or ``probes`` below 2.
    """
    fisher = FisherOperator(
        model, inputs, divergence=divergence, params=params, outputs=outputs, progress=progress
    )
    return trace(fisher, probes=probes, generator=generator)


def hessian_trace(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    *,
    params: Iterable[Tensor] | None = None,
    outputs: Outputs | None = None,
    probes: int = 100,
    generator: Generator | None = None,
) -> TraceEstimate:
    """Estimates tr H(θ) of a loss: :func:`trace` of it.

    Args:
        model: see :class:`flatmin.hessian.HessianOperator`, as for what is not told here.
        loss_fn: the loss.
        inputs: a batch, or a re-iterable of batches.
        targets: its targets, or a list of them.
        params: the coordinates of θ.
        outputs: picks the outputs.
        probes: number of random vectors, at least 2.
        generator: source of the vectors.

    Raises:
        ValueError: as :class:`flatmin.hessian.HessianOperator`, or ``probes`` below 2.
    """
    hessian = HessianOperator(model, loss_fn, inputs, targets, params=params, outputs=outputs)
    return trace(hessian, probes=probes, generator=generator)
