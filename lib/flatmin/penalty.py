"""Inconsistency as a penalty: β S_ρ of a batch, to add to any loss under any optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from flatmin._check import check_beta, check_climb, check_rho, require
from flatmin._function import (
    Batch,
    Function,
    Outputs,
    on_device,
    same_randomness,
    steady_attention,
)
from flatmin._tangent import SIGMA, KnownGradient, generator_of, noise, pullback, unit
from flatmin.divergences import DivergenceName, divergence_named

__all__ = ["InconsistencyPenalty"]


class InconsistencyPenalty:
    """β S_ρ(θ) of a batch, to add to any loss under any optimizer: IAM-D of Kim et al. 2026.

    The penalty is β E_x KL( f(x, θ) ‖ f(x, θ + δ_K) ), differentiable through both sides, with δ_K
    of Algorithm 1 held fixed. Given the logits that the loss was computed from, a training step
    takes (K + 2) forward and as many backward passes, all but one of these in the call, and holds
    two graphs; :class:`flatmin.optim.IAMD` gives the same update with one graph at a time and one
    forward more. Where the logits are most of the memory, as with a large vocabulary, the penalty
    takes 5/4 of a plain step: its gradient by the logits has to wait for that of the loss. IAMD's
    closure gives up its logits instead (``benchmarks/vocabulary.py``, at 1,024 tokens of 50,257:
    1.27 and 1.05).

    The loop around it stays as it is: autocast and ``GradScaler`` (its own backward passes scale
    themselves, so that half precision does not underflow), accumulation, clipping, any closure.
    Where dropout is active, leave ``logits`` out: the penalty then computes f(x, θ) itself, and one
    mask serves all its passes. Batch-norm statistics move only in the pass that yields the logits.
    For a model wrapped in ``DistributedDataParallel`` give the wrapper's logits to the call: every
    rank climbs on its own examples.

    Attributes:
        rho, beta, steps, sigma: ρ, β, K and σ, may be changed between steps.

    Args:
        model: the network f(·, θ), in the mode that training puts it in.
        rho: radius ρ > 0.
        beta: weight β ≥ 0.
        steps: K ≥ 1.
        sigma: size σ > 0 of the noise δ₀ ~ N(0, (σ²/m) I); how well it does in bfloat16 shows the
            table at :func:`flatmin.inconsistency.worst_case_perturbation`.
        divergence: "categorical" for logits (…, C), "bernoulli" for logits of yes or no (n, …),
            "gaussian" for regression outputs (n, …).
        outputs: ``(what the model returns, batch) -> tensor``, by default its tensor or logits.
        generator: source of the noise, on the model's device; by default one seeded with 0.

    Raises:
        ValueError: an argument out of range, no trainable parameter; when called, an empty batch,
            outputs of a shape that the divergence is not defined for, or logits without their graph
            where gradients are enabled.
        NotImplementedError: parameters sharded over processes.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> penalty = InconsistencyPenalty(model, rho=0.1, beta=1.0)
        >>> x, y = torch.ones(8, 4), torch.zeros(8, dtype=torch.long)
        >>> logits = model(x)
        >>> loss = torch.nn.functional.cross_entropy(logits, y) + penalty(x, logits)
        >>> loss.backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        rho: float,
        beta: float = 1.0,
        steps: int = 1,
        sigma: float = SIGMA,
        divergence: DivergenceName = "categorical",
        outputs: Outputs | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.model, self.rho, self.beta = model, rho, beta
        self.steps, self.sigma = steps, sigma
        self._check()
        self._divergence, self._outputs = divergence_named(divergence), outputs
        self.generator = generator_of(Function(model).params, generator)

    def __call__(self, inputs: Batch, logits: Any = None) -> Tensor:
        """Compute β S_ρ of one batch.

        Args:
            inputs: one batch, labels not needed: it may hold unlabelled examples.
            logits: f(x, θ) of these inputs with its graph, or what the model returned with it;
                computed here if left out. In ``torch.no_grad`` no graph is needed.

        Returns:
            A scalar, at least in float32; like a loss, NaN if outputs are not finite.
        """
        self._check()
        function, divergence = Function(self.model, outputs=self._outputs), self._divergence
        params = function.params
        batch = on_device(inputs, params[0].device)
        # Every pass but the last repeats its randomness; with logits given, that one was the last.
        last: AbstractContextManager[None] = nullcontext()
        if logits is None:
            with same_randomness(params), steady_attention():
                f = function(batch)
        else:
            f, last = function.select(logits, batch), same_randomness(params)
            # Without it the gradient through f(x, θ) would be missing, in silence.
            require(
                f.requires_grad or not torch.is_grad_enabled(),
                "logits must come with their graph where gradients are enabled: give those that the"
                " loss is computed from, not detached, or leave them out",
            )
        n = divergence.count(f)
        delta = noise(params, self.sigma, self.generator)
        for step in range(self.steps + 1):
            randomness = last if step == self.steps else same_randomness(params)
            with torch.inference_mode(False), torch.enable_grad(), randomness, steady_attention():
                weights = function.moved(delta)
                with function.at(weights):
                    outputs = function(batch)
                    moved = outputs.detach()
                    gradient = pullback(outputs, weights, divergence.slope(f.detach(), moved))
                del outputs
            if step < self.steps:
                unit(gradient)
                torch._foreach_mul_(gradient, self.rho)
                delta = gradient
        total: Tensor = KnownGradient.apply(divergence.total(f, moved), gradient, *params)
        return self.beta * (total / n).to(torch.promote_types(f.dtype, torch.float32))

    def _check(self) -> None:
        check_rho(self.rho)
        check_beta(self.beta)
        check_climb(self.steps, self.sigma)

    def state_dict(self) -> dict[str, Tensor]:
        """The state of the noise, for a checkpoint; ρ and β are the loop's own."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Go on with the noise of :meth:`state_dict`.

        Raises:
            ValueError: not such a state.
        """
        held = [*state_dict]
        require(held == ["generator"], f"state_dict must hold 'generator' alone, got {held}")
        self.generator.set_state(state_dict["generator"].cpu())
