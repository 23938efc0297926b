"""The Fisher matrix and the Hessian of a network, by products with vectors only.

    F(θ) = (1/n) Σ_x J(x)ᵀ (diag p − p pᵀ) J(x),    J = ∂z/∂θ,  p = softmax z

needs no label (Kim et al. 2026, Section 3); H(θ) is the Hessian of a loss. With m trainable
parameters a vector is a tensor (m,): the parameters that require a gradient, flattened in the order
of ``model.parameters()``. Curvature is that of the model in evaluation mode; the model itself is
left as it was. It may be asked for in ``torch.no_grad`` and ``torch.inference_mode``, too.

Everywhere here a *batch* is what the model is called with: a tensor ``x`` for ``model(x)``, a tuple
for ``model(*batch)``, a dict for ``model(**batch)``. Where a batch can stand, so can a list or
another re-iterable of batches, over which the mean is taken: it bounds the memory. Of a batch that
is itself a list, as a ``DataLoader`` makes of labelled examples, the first element counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Generator, Tensor, nn
from torch.autograd import forward_ad
from torch.backends import mha
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map_only

__all__ = [
    "EigenPairs",
    "FisherOperator",
    "TraceEstimate",
    "fisher_trace",
    "hessian_trace",
    "top_fisher_eigenpairs",
    "top_hessian_eigenpairs",
]


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


class FisherOperator:
    """F(θ) as a linear operator: ``F @ v`` costs a forward pass on dual numbers and a backward one.

    θ is read anew for every product.

    Args:
        model: network that returns logits (n, C), as a tensor or as ``.logits``.
        inputs: a batch, or a re-iterable of batches.
        divergence: "categorical" for the Fisher matrix of softmax outputs; "gaussian" for that of
            regression with unit variance, JᵀJ / n, where outputs may have any shape (n, …).

    Attributes:
        size: m, the number of trainable parameters.

    Raises:
        ValueError: no trainable parameter, an unknown divergence, inputs that can be read once
            only; on multiplying also for an empty batch or logits that are not (n, C).

    Examples:
        >>> model = nn.Linear(2, 1, bias=False)
        >>> F = FisherOperator(model, torch.tensor([[3.0, 0.0], [0.0, 1.0]]), divergence="gaussian")
        >>> F @ torch.tensor([1.0, 2.0])     # F = JᵀJ / n = diag(4.5, 0.5)
        tensor([4.5000, 1.0000])
        >>> F.quadratic(torch.tensor([1.0, 2.0]))
        tensor(6.5000, dtype=torch.float64)
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        divergence: Literal["categorical", "gaussian"] = "categorical",
    ) -> None:
        if divergence not in ("categorical", "gaussian"):
            raise ValueError(f"divergence must be 'categorical' or 'gaussian', not {divergence!r}")
        if isinstance(inputs, Iterator):
            raise ValueError("inputs can be read only once: give a list or a DataLoader instead")
        self._model, self._inputs, self._divergence = model, inputs, divergence
        self._params = _trainable(model)
        self.size = sum(p.numel() for p in self._params.values())

    def __matmul__(self, vector: Tensor) -> Tensor:
        """F v, (m,), for v (m,)."""
        with _evaluated(self._model), torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in self._params.values()]
            total, n = torch.zeros_like(vector), 0
            for z, tangent in self._pushed(leaves, vector):
                cotangent = self._output_product(z.detach(), tangent.detach()).to(z)
                total += _flat(_pullback(z, leaves, cotangent))
                n += len(z)
        return total / n

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ F v, a float64 scalar, for v (m,): the forward pass alone."""
        with _evaluated(self._model), torch.no_grad():
            leaves = [p.detach() for p in self._params.values()]
            total, n = torch.zeros((), device=vector.device), 0
            for z, tangent in self._pushed(leaves, vector):
                total = total + (_wide(tangent) * self._output_product(z, tangent)).sum()
                n += len(z)
        return total / n

    def _output_product(self, z: Tensor, u: Tensor) -> Tensor:
        """(diag p − p pᵀ) u, or u for a gaussian, (n, …); p nears 0 and 1, hence float64."""
        u = _wide(u)
        if self._divergence == "gaussian":
            return u
        p = _wide(z).softmax(1)
        return p * (u - (p * u).sum(1, keepdim=True))

    def _pushed(self, leaves: list[Tensor], vector: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """z(x, leaves) and J v, both (n, …), for every batch."""
        if vector.shape != (self.size,):
            raise ValueError(f"a vector must have shape ({self.size},), not {tuple(vector.shape)}")
        tangents = _like(leaves, vector)
        for batch in _batches(self._inputs, leaves[0].device):
            with forward_ad.dual_level():
                duals = map(forward_ad.make_dual, leaves, tangents)
                out = _call(self._model, batch, dict(zip(self._params, duals, strict=True)))
                z, tangent = forward_ad.unpack_dual(out)  # type: ignore[no-untyped-call]
            if self._divergence == "categorical" and z.ndim != 2:
                raise ValueError(f"logits must have shape (n, C), not {tuple(z.shape)}")
            yield z, torch.zeros_like(z) if tangent is None else tangent


def top_fisher_eigenpairs(
    model: nn.Module,
    inputs: Any,
    k: int = 1,
    *,
    divergence: Literal["categorical", "gaussian"] = "categorical",
    tol: float = 1e-3,
    generator: Generator | None = None,
) -> EigenPairs:
    """The k largest eigenvalues of the Fisher matrix F(θ), by ARPACK's restarted Lanczos method.

    Args:
        model: network that returns logits (n, C), as a tensor or as ``.logits``.
        inputs: a batch, or a re-iterable of batches.
        k: how many, from 1 to m − 1.
        divergence: see :class:`FisherOperator`.
        tol: accuracy of the eigenvalues, relative.
        generator: source of the first vector; by default the same vector in every call.

    Raises:
        ValueError: as :class:`FisherOperator`, or ``k`` or ``tol`` out of range.
        FloatingPointError: the product with a vector is not finite.

    Examples:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> top = top_fisher_eigenpairs(nn.Linear(2, 1, bias=False), x, divergence="gaussian")
        >>> top.eigenvalues, top.eigenvectors.abs().round(decimals=3), top.converged
        (tensor([4.5000], dtype=torch.float64), tensor([[1., 0.]], dtype=torch.float64), True)
    """
    fisher = FisherOperator(model, inputs, divergence=divergence)
    return _top_eigenpairs(fisher.__matmul__, _theta(model), k, tol, generator)


def top_hessian_eigenpairs(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    k: int = 1,
    *,
    tol: float = 1e-3,
    generator: Generator | None = None,
) -> EigenPairs:
    """The k algebraically largest eigenvalues of the Hessian H(θ) of a loss, by ARPACK.

    A product is a gradient of a gradient, in reverse mode both times: slower than forward over
    reverse mode, but right for layer norm too, whose derivatives PyTorch 2.14 gets wrong under
    ``torch.func.jvp`` of ``torch.func.jacrev``.

    Args:
        model: see :func:`top_fisher_eigenpairs`.
        loss_fn: ``(logits, targets) -> scalar``, the mean over a batch, or its sum if
            ``loss_fn.reduction`` says so.
        inputs: a batch, or a re-iterable of batches.
        targets: its targets (n, …), or a list of as many targets as there are batches.
        k: how many, from 1 to m − 1.
        tol: accuracy of the eigenvalues, relative.
        generator: source of the first vector; by default the same vector in every call.

    Raises:
        ValueError: an argument out of range, or inputs and targets of different lengths.
        FloatingPointError: the product with a vector is not finite.

    Examples:
        >>> x, y = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
        >>> top_hessian_eigenpairs(nn.Linear(2, 1, bias=False), nn.MSELoss(), x, y).eigenvalues
        tensor([9.0000], dtype=torch.float64)
    """
    product = _hessian_product(model, loss_fn, inputs, targets)
    return _top_eigenpairs(product, _theta(model), k, tol, generator)


def fisher_trace(
    model: nn.Module,
    inputs: Any,
    *,
    divergence: Literal["categorical", "gaussian"] = "categorical",
    probes: int = 100,
    generator: Generator | None = None,
) -> TraceEstimate:
    """Estimates tr F(θ) (Hutchinson 1989), each probe at the price of a forward pass.

    Args:
        model: see :func:`top_fisher_eigenpairs`.
        inputs: a batch, or a re-iterable of batches.
        divergence: see :class:`FisherOperator`.
        probes: number of random vectors, at least 2; the error falls with its square root.
        generator: source of the vectors; by default the same ones in every call.

    Raises:
        ValueError: as :class:`FisherOperator`, or ``probes`` below 2.

    Examples:
        >>> x = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
        >>> fisher_trace(nn.Linear(2, 1, bias=False), x, divergence="gaussian")
        TraceEstimate(value=5.0, standard_error=0.0)
    """
    fisher = FisherOperator(model, inputs, divergence=divergence)
    return _trace(fisher.quadratic, _theta(model), probes, generator)


def hessian_trace(
    model: nn.Module,
    loss_fn: Callable[[Tensor, Any], Tensor],
    inputs: Any,
    targets: Any,
    *,
    probes: int = 100,
    generator: Generator | None = None,
) -> TraceEstimate:
    """Estimates tr H(θ) of a loss (Hutchinson 1989).

    Args:
        model: see :func:`top_hessian_eigenpairs`, as for the next three.
        loss_fn: the loss.
        inputs: a batch, or a re-iterable of batches.
        targets: its targets, or a list of them.
        probes: number of random vectors, at least 2; the error falls with its square root.
        generator: source of the vectors; by default the same ones in every call.

    Raises:
        ValueError: as :func:`top_hessian_eigenpairs`, or ``probes`` below 2.

    Examples:
        >>> x, y = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.zeros(2, 1)
        >>> hessian_trace(nn.Linear(2, 1, bias=False), nn.MSELoss(), x, y)
        TraceEstimate(value=10.0, standard_error=0.0)
    """
    product = _hessian_product(model, loss_fn, inputs, targets)
    return _trace(lambda v: v @ product(v), _theta(model), probes, generator)


def _top_eigenpairs(
    product: Callable[[Tensor], Tensor],
    theta: Tensor,
    k: int,
    tol: float,
    generator: Generator | None,
) -> EigenPairs:
    m = len(theta)
    if not 1 <= k < m:
        raise ValueError(f"k must be from 1 to m - 1 = {m - 1}, not {k}")
    if not 0 < tol < 1:
        raise ValueError(f"tol must lie between 0 and 1, not {tol}")

    def matvec(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        out = product(torch.from_numpy(vector.reshape(m)).to(theta)).double().cpu().numpy()
        if not np.isfinite(out).all():
            raise FloatingPointError("the product of the matrix with a vector is not finite")
        return out

    draw = torch.randn(m, generator=generator or _seeded(theta), device=theta.device)
    start = draw.cpu().double().numpy()
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
        eigenvalues=torch.tensor(values, device=theta.device),
        eigenvectors=torch.tensor(vectors, device=theta.device),
        residuals=torch.tensor(errors, device=theta.device, dtype=torch.float64),
        converged=len(values) == k and bool(max(errors) <= tol * max(abs(values))),
    )


def _trace(
    quadratic: Callable[[Tensor], Tensor], theta: Tensor, probes: int, generator: Generator | None
) -> TraceEstimate:
    if probes < 2:
        raise ValueError(f"probes must be at least 2, not {probes}")
    generator = generator or _seeded(theta)
    forms = []
    for _ in range(probes):
        heads = torch.randint(2, theta.shape, generator=generator, device=theta.device)
        forms.append(_wide(quadratic((2 * heads - 1).to(theta))))
    samples = torch.stack(forms)
    return TraceEstimate(float(samples.mean()), float(samples.std()) / sqrt(probes))


def _hessian_product(
    model: nn.Module, loss_fn: Callable[[Tensor, Any], Tensor], inputs: Any, targets: Any
) -> Callable[[Tensor], Tensor]:
    params = _trainable(model)
    device = next(iter(params.values())).device
    batches, labels = list(_batches(inputs, device)), list(_batches(targets, device))
    if len(batches) != len(labels):
        raise ValueError(f"inputs hold {len(batches)} batches, but targets {len(labels)}")
    reduction = getattr(loss_fn, "reduction", "mean")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"loss_fn must have reduction 'mean' or 'sum', not {reduction!r}")

    def product(vector: Tensor) -> Tensor:
        with _evaluated(model), torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in params.values()]
            vectors = _like(leaves, vector)
            total, n = torch.zeros_like(vector), 0
            for batch, target in zip(batches, labels, strict=True):
                logits = _call(model, batch, dict(zip(params, leaves, strict=True)))
                slope = _pullback(loss_fn(logits, target), leaves, create_graph=True)
                weight = len(logits) if reduction == "mean" else 1
                total += weight * _flat(_pullback(slope, leaves, vectors))
                n += len(logits)
        return total / n if reduction == "mean" else total

    return product


def _pullback(
    outputs: Any, leaves: list[Tensor], cotangents: Any = None, create_graph: bool = False
) -> tuple[Tensor, ...]:
    """torch.autograd.grad, zero for the leaves that the outputs do not depend on."""
    options = {"allow_unused": True, "materialize_grads": True, "create_graph": create_graph}
    return torch.autograd.grad(outputs, leaves, cotangents, **options)


def _like(leaves: list[Tensor], vector: Tensor) -> list[Tensor]:
    """The vector in pieces that have the shapes of the leaves."""
    pieces = torch.split(_moved(vector, vector.device), [p.numel() for p in leaves])
    return [v.view_as(p).to(p) for v, p in zip(pieces, leaves, strict=True)]


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _call(model: nn.Module, batch: Any, params: dict[str, Tensor]) -> Tensor:
    """The model's logits on one batch, with ``params`` in place of its own."""
    args = batch if isinstance(batch, tuple) else () if isinstance(batch, Mapping) else (batch,)
    kwargs = dict(batch) if isinstance(batch, Mapping) else {}
    out: Any = functional_call(model, params, args, kwargs)
    logits: Tensor = out if isinstance(out, Tensor) else cast("Tensor", out.logits)
    if len(logits) == 0:
        raise ValueError("inputs hold an empty batch")
    return logits


def _batches(inputs: Any, device: torch.device) -> Iterator[Any]:
    """The batches of inputs, on the device."""
    empty = True
    for batch in [inputs] if isinstance(inputs, Tensor | tuple | Mapping) else inputs:
        content = batch[0] if isinstance(batch, list) else batch
        yield tree_map_only(Tensor, lambda t: _moved(t, device), content)
        empty = False
    if empty:
        raise ValueError("inputs hold no batch")


def _moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, and such that autograd takes it."""
    with torch.inference_mode(False):
        moved = tensor.to(device)
        return moved.clone() if moved.is_inference() else moved


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    params = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not params:
        raise ValueError("model has no trainable parameter")
    return params


def _theta(model: nn.Module) -> Tensor:
    return _flat(_trainable(model).values()).detach()


@contextmanager
def _evaluated(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while, whatever is around it, and attention that has derivatives."""
    flags = [(module, module.training) for module in model.modules()]
    fastpath = mha.get_fastpath_enabled()
    model.eval()
    mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.inference_mode(False):
            yield
    finally:
        mha.set_fastpath_enabled(fastpath)
        for module, flag in flags:
            module.training = flag


def _seeded(like: Tensor) -> Generator:
    return Generator(like.device).manual_seed(0)


def _wide(outputs: Tensor) -> Tensor:
    return outputs if outputs.device.type == "mps" else outputs.double()
