"""Directions to climb in before a step: where δ with ‖δ‖₂ = ρ points.

========================  ==============================================  =====================
object                    δ                                               used by
========================  ==============================================  =====================
:class:`Loss`             ρ g/‖g‖,  g = ∇L(θ)                             SAM (Foret et al. 2021)
:class:`Adaptive`         ρ T² g/‖T g‖                                    ASAM (Kwon et al. 2021)
:class:`Algorithm1`       δ_K of Algorithm 1 (Kim et al. 2026)            IAM-S, IAM-D
:class:`Score`            ρ s/‖s‖,  s the mean score of drawn labels      IAM at SAM's price
:class:`Random`           ρ ε/‖ε‖,  ε ~ N(0, I)                           the control
========================  ==============================================  =====================

A direction knows neither optimizers nor networks: what it needs of them is a :class:`Space`, of
which there are two, the parameters of one model (:mod:`flatmin.optim`) and the rows of a matrix of
models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from flatmin._check import check_climb
from flatmin._tangent import SIGMA
from flatmin.divergences import Divergence, DivergenceName, divergence_named

Tangent: TypeAlias = list[Tensor]


class Space(Protocol):
    """Where a direction is sought: the parameters θ, the radius ρ, and passes of the network."""

    def noise(self, sigma: float) -> Tangent:
        """δ₀ ~ N(0, (σ²/m) I)."""

    def outputs_at(self, delta: Tangent) -> Tensor:
        """f(x, θ + δ) with its graph."""

    def pullback(self, outputs: Tensor, cotangent: Tensor) -> Tangent:
        """Jᵀ times the cotangent, J the Jacobian of these outputs where they were computed."""

    def onto_ball(self, gradient: Tangent) -> Tangent:
        """Scale to norm ρ, perhaps in place; zero where the norm is 0 or not finite."""

    def score(self, divergence: Divergence, outputs: Tensor) -> Tensor:
        """∂ log p(y | f)/∂f for labels y drawn from the outputs."""

    def scales(self) -> Tangent:
        """ASAM's T = |w| + 0.01 of weights and 1 of biases, as new tensors."""


class Direction(Protocol):
    """From the pass at θ to δ.

    Attributes:
        by_loss: whether the pass at θ is to give the loss, not the outputs.
        from_theta: whether its graph is needed.
    """

    by_loss: ClassVar[bool]
    from_theta: ClassVar[bool]

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """Find δ.

        Args:
            reference: the outputs f(x, θ), or the loss L(θ).
            space: where.
        """


@dataclass(frozen=True)
class Loss:
    """Up the loss: δ = ρ g/‖g‖ with g = ∇L(θ) (Foret et al. 2021, equation 2)."""

    by_loss: ClassVar[bool] = True
    from_theta: ClassVar[bool] = True

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """δ from the loss at θ."""
        return space.onto_ball(space.pullback(reference, torch.ones_like(reference)))


@dataclass(frozen=True)
class Adaptive:
    """Up the loss, measured relative to the weights (Kwon et al. 2021, equation 9).

    δ = ρ T² g/‖T g‖ with T = |w| + 0.01 on weights and 1 on biases, so ‖T⁻¹ δ‖ = ρ.
    """

    by_loss: ClassVar[bool] = True
    from_theta: ClassVar[bool] = True

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """δ from the loss at θ."""
        scales = space.scales()
        gradient = space.pullback(reference, torch.ones_like(reference))
        torch._foreach_mul_(gradient, scales)
        delta = space.onto_ball(gradient)
        torch._foreach_mul_(delta, scales)
        return delta


@dataclass(frozen=True)
class Algorithm1:
    """Where the outputs move most: δ_K of Algorithm 1 of Kim et al. 2026.

    δ₀ ~ N(0, (σ²/m) I), then K times δ ← ρ g/‖g‖ with g = ∇_δ E_x D( f(x, θ) ‖ f(x, θ + δ) ).

    Attributes:
        steps: K ≥ 1.
        sigma: σ > 0.
        divergence: D.

    Raises:
        ValueError: an argument out of range.
    """

    by_loss: ClassVar[bool] = False
    from_theta: ClassVar[bool] = False
    steps: int = 1
    sigma: float = SIGMA
    divergence: DivergenceName = "categorical"

    def __post_init__(self) -> None:
        check_climb(self.steps, self.sigma)
        divergence_named(self.divergence)

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """δ from the outputs at θ."""
        divergence, delta = divergence_named(self.divergence), space.noise(self.sigma)
        for _ in range(self.steps):
            outputs = space.outputs_at(delta)
            slope = divergence.slope(reference.detach(), outputs.detach())
            delta = space.onto_ball(space.pullback(outputs, slope))
        return delta


@dataclass(frozen=True)
class Score:
    """Along the mean of ∇ log f(x, θ)_y over a batch, under labels y drawn from f(x, θ).

    Its covariance is F/n: half a step of Algorithm 1, for one backward pass.

    Attributes:
        divergence: names the distribution of the labels.

    Raises:
        ValueError: an unknown divergence.
    """

    by_loss: ClassVar[bool] = False
    from_theta: ClassVar[bool] = True
    divergence: DivergenceName = "categorical"

    def __post_init__(self) -> None:
        divergence_named(self.divergence)

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """δ from the outputs at θ."""
        score = space.score(divergence_named(self.divergence), reference.detach())
        return space.onto_ball(space.pullback(reference, score))


@dataclass(frozen=True)
class Random:
    """Anywhere: the control that every claim for a direction needs."""

    by_loss: ClassVar[bool] = False
    from_theta: ClassVar[bool] = False

    def __call__(self, reference: Tensor, space: Space) -> Tangent:
        """δ, whatever the outputs."""
        return space.onto_ball(space.noise(1.0))
