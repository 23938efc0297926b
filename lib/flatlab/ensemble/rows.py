"""Where an ensemble climbs: each row of θ (models, m) by itself, and yet all in one pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from flatmin._tangent import noise, pullback
from flatmin.directions import Tangent
from flatmin.divergences import Divergence


class Rows:
    """The rows of θ as a :class:`flatmin.directions.Space`; a tangent is one matrix (models, m).

    Args:
        theta: (models, m).
        forward: weights (models, m) ↦ outputs (models, n, …).
        rho: radius ρ, (models, 1).
        generators: sources of noise and labels, one for each model, or one for the noise of all.
        weights: which of the m numbers ASAM scales, (m,); needed for nothing else.

    Attributes:
        theta: the parameters, from which a gradient can be taken.
    """

    def __init__(
        self,
        theta: Tensor,
        forward: Callable[[Tensor], Tensor],
        *,
        rho: Tensor,
        generators: Sequence[Generator],
        weights: Tensor | None = None,
    ) -> None:
        self.theta = theta.detach().requires_grad_()
        self._at, self._forward, self._rho = self.theta, forward, rho
        self._generators, self._weights = generators, weights

    def noise(self, sigma: float) -> Tangent:
        """δ₀ ~ N(0, (σ²/m) I), one from each generator."""
        like = [self.theta.detach()[0]]
        drawn = [noise(like, sigma, generator)[0] for generator in self._generators]
        return [torch.stack(drawn).expand_as(self.theta)]

    def outputs_at(self, delta: Tangent) -> Tensor:
        """f(x, θ + δ) with its graph."""
        self._at = (self.theta.detach() + delta[0]).requires_grad_()
        return self._forward(self._at)

    def pullback(self, outputs: Tensor, cotangent: Tensor) -> Tangent:
        """Each model's Jᵀ times its cotangent, where the outputs were last computed."""
        return pullback(outputs, [self._at], cotangent)

    def onto_ball(self, gradient: Tangent) -> Tangent:
        """Each row scaled to norm ρ; zero where its norm is 0 or not finite."""
        norm = gradient[0].norm(dim=1, keepdim=True)
        good = (norm > 0) & norm.isfinite()
        return [torch.where(good, gradient[0] * (self._rho / norm), 0)]

    def score(self, divergence: Divergence, outputs: Tensor) -> Tensor:
        """∂ log p(y | f)/∂f for labels y that each model draws from its own outputs."""
        pairs = zip(outputs, self._generators, strict=True)
        return torch.stack([divergence.score(row, generator) for row, generator in pairs])

    def scales(self) -> Tangent:
        """ASAM's T = |w| + 0.01 of weights and 1 of biases."""
        assert self._weights is not None
        return [torch.where(self._weights, self.theta.detach().abs() + 0.01, 1)]
