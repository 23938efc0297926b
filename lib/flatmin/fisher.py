"""The Fisher matrix of a network, by its products with vectors.

    F(θ) = (1/n) Σ_x J(x)ᵀ D″ J(x),    J = ∂f/∂θ

with D″ the second derivative of a divergence at f(x, θ), diag p − p pᵀ for softmax outputs: it
needs no label (Kim et al. 2026, Section 3). A vector is a tensor (m,).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from flatmin._check import require
from flatmin._function import Batches, Function, Outputs, Progress, same_randomness
from flatmin._tangent import pullback
from flatmin.divergences import DivergenceName, divergence_named

__all__ = ["FisherOperator"]


class FisherOperator:
    """F(θ) as a linear operator: ``F @ v`` costs a forward pass on dual numbers and a backward one.

    θ is read anew for every product. The model is left as it was: weights, ``.grad``, buffers,
    training flags, and the global random state.

    Args:
        model: network f(·, θ), see :mod:`flatmin.inconsistency`.
        inputs: a batch, or a re-iterable of batches.
        divergence: "categorical" for softmax outputs, "bernoulli" for sigmoid outputs, "gaussian"
            for regression with unit variance, where F = JᵀJ / n.
        training: in training mode (batch statistics; the same dropout mask in all products) instead
            of evaluation mode.
        params: the parameters that make up θ, by default all trainable ones: those of a module
            give F's block.
        outputs: ``(what the model returns, batch) -> tensor``, by default its tensor or logits.
        progress: wraps the stream in every pass over it, such as ``tqdm.tqdm``.

    Attributes:
        size: m.
        like: an empty tensor of the parameters' dtype and device.

    Raises:
        ValueError: no trainable parameter, an unknown divergence, inputs that can be read once
            only; on multiplying also for an empty batch, or outputs of a wrong shape.

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
        divergence: DivergenceName = "categorical",
        training: bool = False,
        params: Iterable[Tensor] | None = None,
        outputs: Outputs | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.divergence, self.training = divergence_named(divergence), training
        self.function = Function(model, params, outputs)
        self.size = self.function.size
        self.like = self.function.params[0].detach().new_empty(0)
        self.batches = Batches(inputs, self.like.device, progress)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """F v, (m,), for v (m,)."""
        product, n = self.total(self.function.split(vector))
        return torch.cat([p.reshape(-1) for p in product]).to(vector) / n

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ F v, a float64 scalar, for v (m,): the forward pass alone."""
        tangents = self.function.split(vector)
        with self.function.measured(self.training), torch.no_grad():
            form, n = torch.zeros((), device=self.like.device), 0
            for outputs, u in self._pushed(self.function.leaves(), tangents):
                form = form + self.divergence.quadratic(outputs, u)
                n += self.divergence.count(outputs)
        return form / n

    def total(self, tangents: list[Tensor]) -> tuple[list[Tensor], int]:
        """N F v for v in the shapes of the parameters, at least in float32, and n."""
        function = self.function
        with function.measured(self.training):
            leaves, n = function.leaves(), 0
            product = [torch.zeros_like(v, dtype=_wide(v)) for v in tangents]
            for outputs, u in self._pushed(leaves, tangents):
                n += self.divergence.count(outputs)
                cotangent = self.divergence.curvature(outputs.detach(), u)
                with function.at(leaves):
                    torch._foreach_add_(product, pullback(outputs, leaves, cotangent))
        return product, n

    def _pushed(
        self, leaves: list[Tensor], tangents: list[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """f(x, θ) and J v, shaped alike, for every batch."""
        for batch in self.batches:
            # The fused attention kernels have no forward-mode derivative.
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                pairs = zip(leaves, tangents, strict=True)
                duals = [forward_ad.make_dual(w, v.to(w.dtype)) for w, v in pairs]  # type: ignore[no-untyped-call]
                with same_randomness(leaves), self.function.at(duals):
                    outputs = self.function(batch)
                primal, tangent = forward_ad.unpack_dual(outputs)  # type: ignore[no-untyped-call]
            require(tangent is not None, "the outputs do not depend on any trainable parameter")
            yield primal, tangent.detach()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
