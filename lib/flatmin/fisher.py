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

from flatmin._check import check_sync, require
from flatmin._function import Batches, Function, Outputs, Progress, same_randomness
from flatmin._tangent import mean, pullback
from flatmin.divergences import DivergenceName, divergence_named

__all__ = ["FisherOperator"]


class FisherOperator:
    """F(θ) as a linear operator.

    ``F @ v`` costs a forward pass on dual numbers, a plain forward and a backward pass; the
    quadratic form the first alone. θ is read anew for every product. The model is left as it was:
    weights, ``.grad``, buffers, training flags, and the global random state.

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
        sync: F of the examples of all processes together, each of which has some of them as its
            inputs and takes part in every product.

    Attributes:
        size: m.
        like: an empty tensor of the parameters' dtype and device.

    Raises:
        ValueError: no trainable parameter, an unknown divergence, inputs that can be read once
            only, ``sync`` without a process group; on multiplying also for an empty batch, outputs
            that are complex or of a wrong shape, or a vector that is complex where no parameter is
            or not (m,).

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
        sync: bool = False,
    ) -> None:
        check_sync(sync)
        self.divergence, self.training = divergence_named(divergence), training
        self.function = Function(model, params, outputs)
        self.size = self.function.size
        self.like = self.function.params[0].detach().new_empty(0)
        self.batches, self.sync = Batches(inputs, self.like.device, progress), sync

    def __matmul__(self, vector: Tensor) -> Tensor:
        """F v, (m,), for v (m,)."""
        with self.function.measured(self.training):
            tangents, n = self.function.split(vector), 0
            product = torch.zeros_like(vector, device=self.like.device)
            for outputs, term in self.terms(tangents):
                product += torch.cat([t.reshape(-1) for t in term])
                n += self.divergence.count(outputs)
        return mean(product, n, self.sync)

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ F v, a float64 scalar, for v (m,): the pass on dual numbers alone."""
        with self.function.measured(self.training):
            form, n = torch.zeros((), device=self.like.device), 0
            tangents = self.function.split(vector)
            for batch in self.batches:
                outputs, u = self._pushed(batch, tangents)
                form = form + self.divergence.quadratic(outputs, u)
                n += self.divergence.count(outputs)
        return mean(form, n, self.sync)

    def terms(self, tangents: list[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
        """f(x, θ) of every batch, and its part of n F v, at least in float32.

        To be called in ``function.measured()``, for v in the shapes of the parameters.
        """
        leaves = self.function.leaves()
        for batch in self.batches:
            u = self._pushed(batch, tangents)[1]
            # Not the outputs just found: a checkpointed layer would have to repeat the dual pass.
            with same_randomness(leaves), self.function.at(leaves):
                outputs = self.function(batch)
                f = outputs.detach()
                term = pullback(outputs, leaves, self.divergence.curvature(f, u))
            del outputs
            yield f, term

    def _pushed(self, batch: Any, tangents: list[Tensor]) -> tuple[Tensor, Tensor]:
        """f(x, θ) and J v, shaped alike."""
        params = self.function.params
        pairs = zip(params, tangents, strict=True)
        # The fused attention kernels have no forward-mode derivative.
        with torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
            duals = [forward_ad.make_dual(p.detach(), v.to(p.dtype)) for p, v in pairs]  # type: ignore[no-untyped-call]
            with same_randomness(params), self.function.at(duals):
                primal, u = forward_ad.unpack_dual(self.function(batch))  # type: ignore[no-untyped-call]
        require(u is not None, "the outputs do not depend on any trainable parameter")
        return primal, u
