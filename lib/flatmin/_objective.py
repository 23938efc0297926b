"""Algorithm 1 of Kim et al. 2026, on one batch or a stream of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flatmin._check import check_climb, check_rho
from flatmin._function import same_randomness
from flatmin._tangent import mean, noise, over_ranks, points, pullback, unit
from flatmin.fisher import FisherOperator


@dataclass
class Objective:
    """E_x D( f(x, θ) ‖ f(x, θ + δ) ) as a function of δ, over one batch or a stream of them."""

    fisher: FisherOperator
    rho: float
    steps: int
    sigma: float | None
    generator: torch.Generator
    reference: Tensor | None = None

    def __post_init__(self) -> None:
        check_rho(self.rho)
        check_climb(self.steps, 1.0 if self.sigma is None else self.sigma)

    def climb(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """δ_K, the values at δ₁ … δ_{K−1} met on the way, and the norms of the K gradients.

        A gradient that is zero or not finite has no direction: δ stays, at θ if it is the first.
        """
        sigma = 1.0 if self.sigma is None else self.sigma
        delta = noise(self.fisher.function.params, sigma, self.generator)
        values: list[Tensor] = []
        norms: list[Tensor] = []
        for step in range(self.steps):
            if step == 0 and self.sigma is None:
                gradient = self.fisher_product(delta)
            else:
                value, gradient = self.sweep(delta)
                values += [value] if step > 0 else []
            norms.append(unit(gradient))
            torch._foreach_mul_(gradient, self.rho)
            if step > 0:
                found, pairs = points(norms[-1]), zip(gradient, delta, strict=True)
                gradient = [torch.where(found, g, d) for g, d in pairs]
            delta = gradient
        return delta, values, norms

    def fisher_product(self, delta: list[Tensor]) -> list[Tensor]:
        """The product n Fδ, the gradient's limit for small δ."""
        product = [torch.zeros_like(d) for d in delta]
        with same_randomness(delta):
            for f, term in self.fisher.terms(delta):
                torch._foreach_add_(product, term)
                self.reference = f if self.fisher.batches.single else None
        return over_ranks(product) if self.fisher.sync else product

    def sweep(self, delta: list[Tensor], *, climb: bool = True) -> tuple[Tensor, list[Tensor]]:
        """The value at δ and, if climbing, n times the gradient."""
        function, divergence = self.fisher.function, self.fisher.divergence
        gradient = [torch.zeros_like(d) for d in delta]
        weights = function.moved(delta)
        total, examples = torch.zeros((), device=delta[0].device), 0
        with same_randomness(weights):
            for batch in self.fisher.batches:
                f = self._at_theta(batch)
                examples += divergence.count(f)
                with torch.set_grad_enabled(climb), function.at(weights):
                    with same_randomness(weights):
                        outputs = function(batch)
                    moved = outputs.detach()
                    if climb:
                        slope = pullback(outputs, weights, divergence.slope(f, moved))
                        torch._foreach_add_(gradient, slope)
                    del outputs
                total = total + divergence.total(f, moved)
        gradient = over_ranks(gradient) if climb and self.fisher.sync else gradient
        return mean(total, examples, self.fisher.sync), gradient

    def _at_theta(self, batch: Any) -> Tensor:
        """f(x, θ): of a stream computed again for every sweep, as it may come in another order."""
        if self.reference is not None:
            return self.reference
        function = self.fisher.function
        with torch.no_grad(), same_randomness(function.params), function.at(function.params):
            f = function(batch)
        self.reference = f if self.fisher.batches.single else None
        return f
